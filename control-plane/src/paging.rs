//! Pages of lists: `limit` (at most 200, default 50) and an opaque `cursor`: the id of the last row that was shown, bound to
//! the list and to its caller (R15), so that it tells nothing to whom it is passed on and no list takes another one's.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use contract::api::Page;
use contract::problem::ProblemKind;
use serde::Deserialize;

use crate::call::Call;
use crate::mac;
use crate::refusal::Refusal;

const LIMIT_DEFAULT: u32 = 50;
const LIMIT_MAX: u32 = 200;
const TAG_BYTES: usize = 16;

/// The query parameters of a list.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// How many rows at most, 1 to 200.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// A checked request for a page.
#[derive(Debug, Clone)]
pub struct Window {
    /// Only rows whose key sorts behind this one.
    pub after: String,
    /// One more than the page holds, so that it is known whether there is more.
    pub fetch: i64,
    seal: Seal,
}

/// What makes the cursors of one list for one caller.
#[derive(Clone)]
struct Seal {
    key: [u8; 32],
    caller: String,
    list: String,
}

impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seal").field("list", &self.list).finish_non_exhaustive()
    }
}

impl Seal {
    fn tag(&self, position: &[u8]) -> [u8; TAG_BYTES] {
        let code = mac::sha256(&self.key, &[self.caller.as_bytes(), self.list.as_bytes(), position]);
        let mut tag = [0; TAG_BYTES];
        tag.copy_from_slice(&code[..TAG_BYTES]);
        tag
    }

    fn cursor(&self, position: &str) -> String {
        let tag = self.tag(position.as_bytes());
        URL_SAFE_NO_PAD.encode([tag.as_slice(), position.as_bytes()].concat())
    }

    fn position(&self, cursor: &str) -> Option<String> {
        let bytes = URL_SAFE_NO_PAD.decode(cursor).ok()?;
        let (tag, position) = bytes.split_at_checked(TAG_BYTES)?;
        (tag == self.tag(position)).then(|| String::from_utf8(position.to_vec()).ok())?
    }
}

impl PageQuery {
    /// Checks the parameters; `list` tells the list and what it is restricted to.
    ///
    /// # Errors
    /// When the limit is 0 or more than 200, or the cursor is not one that this list gave to this caller.
    pub fn window(&self, call: &Call, list: &str) -> Result<Window, Refusal> {
        self.sealed(Seal {
            key: call.app.cursor_key,
            caller: call.actor.principal().to_string(),
            list: list.to_owned(),
        })
    }

    fn sealed(&self, seal: Seal) -> Result<Window, Refusal> {
        let limit = self.limit.unwrap_or(LIMIT_DEFAULT);
        if !(1..=LIMIT_MAX).contains(&limit) {
            return Err(Refusal::new(
                ProblemKind::Malformed,
                format!("`limit` must be 1 to {LIMIT_MAX}, not {limit}"),
            ));
        }
        let after = match &self.cursor {
            None => String::new(),
            Some(cursor) => seal.position(cursor).ok_or_else(|| {
                Refusal::new(ProblemKind::Malformed, "`cursor` is not one that this list gave to you")
                    .hint("begin again without `cursor`")
            })?,
        };
        Ok(Window {
            after,
            fetch: i64::from(limit) + 1,
            seal,
        })
    }
}

impl Window {
    /// Makes the page of the rows that were fetched; `key` is what the list is sorted by.
    pub fn page<T>(&self, mut rows: Vec<T>, key: impl Fn(&T) -> String) -> Page<T> {
        let limit = usize::try_from(self.fetch - 1).unwrap_or(1);
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next_cursor = rows.last().filter(|_| more).map(|row| self.seal.cursor(&key(row)));
        Page {
            items: rows,
            next_cursor,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(caller: &str, list: &str, cursor: Option<String>) -> Result<Window, Refusal> {
        let query = PageQuery { limit: Some(2), cursor };
        query.sealed(Seal {
            key: [7; 32],
            caller: caller.to_owned(),
            list: list.to_owned(),
        })
    }

    #[test]
    fn a_cursor_leads_behind_the_last_row_of_its_page() {
        let page = window("ada", "teams", None)
            .unwrap()
            .page(vec!["a", "b", "c"], |s| (*s).to_owned());
        assert_eq!(page.items, ["a", "b"]);
        assert_eq!(window("ada", "teams", page.next_cursor).unwrap().after, "b");
    }

    #[test]
    fn the_last_page_has_no_cursor() {
        let page = window("ada", "teams", None)
            .unwrap()
            .page(vec!["a", "b"], |s| (*s).to_owned());
        assert!(page.next_cursor.is_none());
    }

    #[test]
    fn a_cursor_is_good_for_its_caller_and_its_list_only() {
        let first = window("ada", "teams", None).unwrap();
        let cursor = first.page(vec!["a", "b", "c"], |s| (*s).to_owned()).next_cursor;
        assert!(window("ada", "teams", cursor.clone()).is_ok());
        assert!(window("eve", "teams", cursor.clone()).is_err());
        assert!(window("ada", "grants", cursor).is_err());
        for made_up in ["%%%", "", "dGVhbV8xMjM"] {
            assert!(window("ada", "teams", Some(made_up.to_owned())).is_err(), "{made_up}");
        }
    }
}
