//! Entity tags of JSON (RFC 9110): what is read carries one; who names it in `If-None-Match` is told that nothing changed; who names
//! it in `If-Match` changes only what he has read.

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use hyper::body::Body as _;
use serde::Serialize;
use sha2::{Digest, Sha256};

use contract::problem::ProblemKind;

use crate::http::ApiError;

/// The header of routes that change only what the caller has read, for the document.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Header)]
pub struct IfMatch {
    /// The `ETag` of what the caller has read: what is another version by now is not changed, the answer is 412.
    #[param(rename = "if-match")]
    #[expect(dead_code, reason = "it stands for the header in the document")]
    tag: Option<String>,
}

/// Longer answers are streams, or nothing that anybody asks for again and again.
const TAGGED_BYTES_MAX: u64 = 4 << 20;

fn of(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    let digits: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("\"{digits}\"")
}

/// Whether a header names the tag, or any; `None` where there is no such header.
fn names(headers: &HeaderMap, header: &HeaderName, tag: &str) -> Option<bool> {
    let mut given = headers.get_all(header).iter().peekable();
    given.peek()?;
    let same = |one: &str| one == "*" || one.strip_prefix("W/").unwrap_or(one) == tag;
    Some(given.any(|value| {
        value
            .to_str()
            .is_ok_and(|list| list.split(',').any(|one| same(one.trim())))
    }))
}

/// Demands that what is about to be changed is still what the caller has read, if he says what that was; `None` = it is not there.
///
/// # Errors
/// `precondition-failed` when it is another version.
pub fn check_match<T: Serialize>(headers: &HeaderMap, current: Option<&T>) -> Result<(), ApiError> {
    let json = current
        .map(serde_json::to_vec)
        .transpose()
        .map_err(ApiError::internal)?;
    let holds = match &json {
        Some(json) => names(headers, &header::IF_MATCH, &of(json)),
        None => is_conditional(headers).then_some(false),
    };
    if holds == Some(false) {
        return Err(ApiError::new(
            ProblemKind::PreconditionFailed,
            "somebody has changed it since the version that `If-Match` names",
        )
        .hint("read it again, then repeat the change"));
    }
    Ok(())
}

/// Whether a change is to be made to what the caller has read alone.
#[must_use]
pub fn is_conditional(headers: &HeaderMap) -> bool {
    headers.contains_key(header::IF_MATCH)
}

/// The layer that gives JSON its tags, and answers 304 to who has it already.
pub async fn conditional(request: Request, next: Next) -> Response {
    let reads = request.method() == Method::GET;
    let tagged = reads || request.method() == Method::PATCH || request.method() == Method::PUT;
    let asked = request.headers().clone();
    let response = next.run(request).await;
    let is_json = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind == "application/json");
    let is_short = response
        .body()
        .size_hint()
        .exact()
        .is_some_and(|bytes| bytes <= TAGGED_BYTES_MAX);
    let has_tag = response.headers().contains_key(header::ETAG);
    if !tagged || !is_json || !is_short || has_tag || response.status() != StatusCode::OK {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let Ok(bytes) = body.collect().await.map(http_body_util::Collected::to_bytes) else {
        return ApiError::internal("an answer could not be read").into_response();
    };
    let tag = of(&bytes);
    let known = reads && names(&asked, &header::IF_NONE_MATCH, &tag) == Some(true);
    if let Ok(value) = HeaderValue::from_str(&tag) {
        parts.headers.insert(header::ETAG, value);
    }
    if known {
        parts.status = StatusCode::NOT_MODIFIED;
        parts.headers.remove(header::CONTENT_TYPE);
        parts.headers.remove(header::CONTENT_LENGTH);
        return Response::from_parts(parts, Body::empty());
    }
    Response::from_parts(parts, bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(values: &[&'static str]) -> HeaderMap {
        let values = values.iter().map(|value| HeaderValue::from_static(value));
        values.map(|value| (header::IF_MATCH, value)).collect()
    }

    #[test]
    fn a_change_is_made_to_what_was_read_or_not_at_all() {
        let current = serde_json::json!({ "a": 1 });
        let tag = of(br#"{"a":1}"#);
        assert!(check_match(&HeaderMap::new(), Some(&current)).is_ok());
        assert!(check_match(&given(&["*"]), Some(&current)).is_ok());
        for wrong in ["", "\"\"", "\"x\"", "x, y"] {
            let values = wrong.to_owned();
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_MATCH, HeaderValue::from_str(&values).unwrap());
            assert!(check_match(&headers, Some(&current)).is_err(), "{wrong}");
        }
        let mut headers = HeaderMap::new();
        headers.append(header::IF_MATCH, HeaderValue::from_static("\"x\""));
        headers.append(
            header::IF_MATCH,
            HeaderValue::from_str(&format!("\"y\", {tag}")).unwrap(),
        );
        assert!(check_match(&headers, Some(&current)).is_ok());
        assert!(check_match(&headers, Some(&serde_json::json!({ "a": 2 }))).is_err());
        // What is not there is nothing that anybody has read.
        let nothing: Option<&serde_json::Value> = None;
        assert!(check_match(&HeaderMap::new(), nothing).is_ok());
        assert!(check_match(&headers, nothing).is_err() && check_match(&given(&["*"]), nothing).is_err());
    }
}
