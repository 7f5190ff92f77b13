//! Idempotency keys, as far as they are the same in every process: the header, what a key may be, the refusals, and an answer that is
//! given again. Where answers are kept, and whose they are, is each plane's own.

use axum::body::Bytes;
use axum::response::{IntoResponse, Response};
use chrono::Duration;
use contract::problem::ProblemKind;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use crate::http::ApiError;

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
const KEY_LENGTH_MAX: usize = 255;

/// For how long answers are kept.
pub const KEPT_FOR: Duration = Duration::hours(24);

/// The header of routes that keep their answers, for the document.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Header)]
pub struct KeyHeader {
    /// A name for this request, chosen by the caller, 1 to 255 visible characters: sent again with it within 24 hours, the same
    /// request gets the same answer, marked by `Idempotent-Replayed: true`, and does nothing a second time.
    #[param(rename = "idempotency-key", min_length = 1, max_length = 255, pattern = "^[!-~]+$")]
    #[expect(dead_code, reason = "it stands for the header in the document")]
    key: Option<String>,
}

/// The key of a request, if it has one.
///
/// # Errors
/// `malformed` for a key that is none, or for two of them.
pub fn key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let mut given = headers.get_all(KEY).iter();
    let Some(key) = given.next() else {
        return Ok(None);
    };
    let visible = |key: &&str| (1..=KEY_LENGTH_MAX).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic());
    match (key.to_str().ok().filter(visible), given.next()) {
        (Some(key), None) => Ok(Some(key.to_owned())),
        _ => Err(ApiError::new(
            ProblemKind::Malformed,
            format!("`Idempotency-Key` must be given once and have 1 to {KEY_LENGTH_MAX} visible ASCII characters"),
        )),
    }
}

/// The refusal while the same key is worked on.
pub fn in_progress() -> ApiError {
    ApiError::new(
        ProblemKind::RequestInProgress,
        "a request with this idempotency key is being worked on",
    )
    .hint("send it again in a moment, to get its answer")
}

/// The refusal of a key that was another request's.
pub fn reused() -> ApiError {
    ApiError::new(
        ProblemKind::IdempotencyKeyReused,
        "this idempotency key was sent with another request before",
    )
    .hint("choose a new key for a new request")
}

/// An answer that was given before, given again.
pub fn replayed(status: StatusCode, json: Bytes) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (REPLAYED, HeaderValue::from_static("true")),
    ];
    (status, headers, json).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(keys: &[&str]) -> Result<Option<String>, ApiError> {
        let mut headers = HeaderMap::new();
        for key in keys {
            headers.append(KEY, HeaderValue::from_bytes(key.as_bytes()).unwrap());
        }
        key(&headers)
    }

    #[test]
    fn a_key_is_one_word_of_visible_characters() {
        assert_eq!(parsed(&[]).unwrap(), None);
        let long = "k".repeat(255);
        for good in ["a", "0190-c0de", "!~", &long] {
            assert_eq!(parsed(&[good]).unwrap().as_deref(), Some(good));
        }
        for bad in ["", "a b", "ä", "a\tb", &format!("{long}k")] {
            assert!(parsed(&[bad]).is_err(), "{bad}");
        }
        assert!(parsed(&["a", "a"]).is_err());
    }
}
