//! Cursors of lists: opaque, and bound to the caller and to the list (R15). One that was made for somebody else or for
//! another list is refused, so a cursor tells nothing to whom it is passed on.

use contract::api::Page;
use contract::policy::Principal;
use contract::problem::ProblemKind;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::call::Call;
use crate::failure::{Answer, Failure};

/// At most so many rows in one answer.
pub const LIMIT_MOST: u32 = 200;
const LIMIT_DEFAULT: u32 = 50;
const TAG_BYTES: usize = 16;

/// How many rows a list answers.
///
/// # Errors
/// `invalid` for 0 and for more than 200.
pub fn limit(asked: Option<u32>) -> Answer<usize> {
    let limit = asked.unwrap_or(LIMIT_DEFAULT);
    if limit == 0 || limit > LIMIT_MOST {
        return Err(Failure::invalid(format!(
            "`limit` must be 1 to {LIMIT_MOST}, not {limit}"
        )));
    }
    Ok(limit as usize)
}

fn tag(key: &[u8; 32], caller: Principal, list: &str, position: &[u8]) -> [u8; TAG_BYTES] {
    let mut hasher = blake3::Hasher::new_keyed(key);
    for part in [caller.to_string().as_bytes(), list.as_bytes(), position] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let mut tag = [0; TAG_BYTES];
    tag.copy_from_slice(&hasher.finalize().as_bytes()[..TAG_BYTES]);
    tag
}

impl Call {
    /// Makes a cursor of the last row's position in a list; `list` tells the list and its parameters.
    pub fn cursor<T: Serialize>(&self, list: &str, position: &T) -> Answer<String> {
        let position = serde_json::to_vec(position).map_err(Failure::internal)?;
        let tag = tag(&self.plane.cursor_key, self.claims().sub, list, &position);
        Ok(format!("{}{}", hex::encode(tag), hex::encode(position)))
    }

    /// Reads a cursor.
    ///
    /// # Errors
    /// `malformed` when it is not one that this list gave to this caller.
    pub fn position<T: DeserializeOwned>(&self, list: &str, cursor: Option<&str>) -> Answer<Option<T>> {
        let Some(cursor) = cursor else {
            return Ok(None);
        };
        let wrong = || {
            Failure::new(ProblemKind::Malformed, "the cursor was not given to you by this list")
                .hint("begin again without a cursor")
        };
        let bytes = hex::decode(cursor).map_err(|_| wrong())?;
        let (given, position) = bytes.split_at_checked(TAG_BYTES).ok_or_else(wrong)?;
        if given != tag(&self.plane.cursor_key, self.claims().sub, list, position) {
            return Err(wrong());
        }
        serde_json::from_slice(position).map(Some).map_err(|_| wrong())
    }

    /// Cuts a page out of rows of which one more than `limit` was asked for.
    ///
    /// # Errors
    /// When the cursor cannot be written.
    pub fn page<T, P: Serialize>(
        &self,
        list: &str,
        mut items: Vec<T>,
        limit: usize,
        position: impl Fn(&T) -> P,
    ) -> Answer<Page<T>> {
        let more = items.len() > limit;
        items.truncate(limit);
        let next_cursor = match items.last() {
            Some(last) if more => Some(self.cursor(list, &position(last))?),
            _ => None,
        };
        Ok(Page { items, next_cursor })
    }
}
