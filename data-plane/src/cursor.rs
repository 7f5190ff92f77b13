//! Cursors of lists: opaque, and bound to the caller and to the list (R15). One that was made for somebody else or for
//! another list is refused, so a cursor tells nothing to whom it is passed on.

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
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
const NONCE_BYTES: usize = 24;

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

/// Encrypts a position under the nonce that is its own keyed digest (as SIV does), for one caller and one list: it tells nothing to whom
/// has it, and cannot be made or changed by him.
fn sealed(key: &[u8; 32], (caller, list): (Principal, &str), position: &[u8]) -> Answer<Vec<u8>> {
    let mut hasher = blake3::Hasher::new_keyed(key);
    let (caller, list) = (caller.to_string(), list.as_bytes());
    for part in [caller.as_bytes(), list, position] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let mut nonce = [0; NONCE_BYTES];
    hasher.finalize_xof().fill(&mut nonce);
    let aad = bound_to(&caller, list);
    let payload = Payload {
        msg: position,
        aad: &aad,
    };
    let sealed = XChaCha20Poly1305::new(&Key::from(*key))
        .encrypt(&XNonce::from(nonce), payload)
        .map_err(Failure::internal)?;
    Ok([nonce.as_slice(), &sealed].concat())
}

fn opened(key: &[u8; 32], (caller, list): (Principal, &str), cursor: &[u8]) -> Option<Vec<u8>> {
    let (nonce, sealed) = cursor.split_first_chunk::<NONCE_BYTES>()?;
    let aad = bound_to(&caller.to_string(), list.as_bytes());
    let payload = Payload { msg: sealed, aad: &aad };
    XChaCha20Poly1305::new(&Key::from(*key))
        .decrypt(&XNonce::from(*nonce), payload)
        .ok()
}

fn bound_to(caller: &str, list: &[u8]) -> Vec<u8> {
    [caller.as_bytes(), &[0], list].concat()
}

impl Call {
    /// Makes a cursor of the last row's position in a list; `list` tells the list and its parameters.
    pub fn cursor<T: Serialize>(&self, list: &str, position: &T) -> Answer<String> {
        let position = serde_json::to_vec(position).map_err(Failure::internal)?;
        let cursor = sealed(&self.plane.cursor_key, (self.claims().sub, list), &position)?;
        Ok(hex::encode(cursor))
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
        let position = opened(&self.plane.cursor_key, (self.claims().sub, list), &bytes).ok_or_else(wrong)?;
        serde_json::from_slice(&position).map(Some).map_err(|_| wrong())
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
