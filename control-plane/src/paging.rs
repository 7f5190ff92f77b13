//! Pages of lists: `limit` (at most 200, default 50) and an opaque `cursor`, which is the id of the last row that was
//! shown and counts for its caller only because every list filters before it pages.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use contract::api::Page;
use contract::problem::ProblemKind;
use serde::Deserialize;

use crate::refusal::Refusal;

const LIMIT_DEFAULT: u32 = 50;
const LIMIT_MAX: u32 = 200;

/// The query parameters of a list.
#[derive(Debug, Default, Deserialize)]
pub struct PageQuery {
    limit: Option<u32>,
    cursor: Option<String>,
}

/// A checked request for a page.
#[derive(Debug, Clone)]
pub struct Window {
    /// Only rows whose key sorts behind this one.
    pub after: String,
    /// One more than the page holds, so that it is known whether there is more.
    pub fetch: i64,
}

impl PageQuery {
    /// Checks the parameters.
    ///
    /// # Errors
    /// When the limit is 0 or the cursor is not one of ours.
    pub fn window(&self) -> Result<Window, Refusal> {
        let limit = self.limit.unwrap_or(LIMIT_DEFAULT).min(LIMIT_MAX);
        if limit == 0 {
            return Err(Refusal::new(ProblemKind::Malformed, "`limit` must be at least 1"));
        }
        let after = match &self.cursor {
            None => String::new(),
            Some(cursor) => URL_SAFE_NO_PAD
                .decode(cursor)
                .ok()
                .and_then(|bytes| String::from_utf8(bytes).ok())
                .ok_or_else(|| {
                    Refusal::new(ProblemKind::Malformed, "`cursor` is not one that this list gave out")
                        .hint("begin again without `cursor`")
                })?,
        };
        Ok(Window {
            after,
            fetch: i64::from(limit) + 1,
        })
    }
}

impl Window {
    /// Makes the page of the rows that were fetched; `key` is what the list is sorted by.
    pub fn page<T>(&self, mut rows: Vec<T>, key: impl Fn(&T) -> String) -> Page<T> {
        let limit = usize::try_from(self.fetch - 1).unwrap_or(1);
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next_cursor = rows.last().filter(|_| more).map(|row| URL_SAFE_NO_PAD.encode(key(row)));
        Page {
            items: rows,
            next_cursor,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_leads_behind_the_last_row_of_its_page() {
        let first = PageQuery {
            limit: Some(2),
            cursor: None,
        };
        let page = first.window().unwrap().page(vec!["a", "b", "c"], |s| (*s).to_owned());
        assert_eq!(page.items, ["a", "b"]);
        let second = PageQuery {
            limit: Some(2),
            cursor: page.next_cursor,
        };
        assert_eq!(second.window().unwrap().after, "b");
    }

    #[test]
    fn the_last_page_has_no_cursor() {
        let query = PageQuery {
            limit: Some(2),
            cursor: None,
        };
        assert!(
            query
                .window()
                .unwrap()
                .page(vec!["a", "b"], |s| (*s).to_owned())
                .next_cursor
                .is_none()
        );
    }

    #[test]
    fn a_made_up_cursor_is_refused() {
        let query = PageQuery {
            limit: None,
            cursor: Some("%%%".to_owned()),
        };
        assert!(query.window().is_err());
    }
}
