//! By what a request is known: a bearer token, or, in browsers, a cookie. A cookie is sent along by pages of others too, so it counts
//! only for requests that this service's own pages make. Names with `__Host-` are bound by browsers to this host, to HTTPS (or this
//! machine) and to no parent domain, so no neighbour can set them.

use axum::http::StatusCode;
use axum::http::header::{self, HeaderMap, HeaderValue};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use chassis::http::{ApiError, Json};
use contract::api::SessionMade;
use contract::problem::ProblemKind;

use crate::refusal::Refusal;

/// The cookie of a session.
pub(crate) const SESSION: &str = "__Host-howdah-session";
/// The cookie that binds what was begun to the browser that began it.
pub(crate) const BROWSER: &str = "__Host-howdah-log-in";

/// A cookie for that many seconds; 0 removes it.
///
/// # Errors
/// Never for values of ours.
pub(crate) fn set(name: &str, value: &str, seconds: i64) -> Result<HeaderValue, Refusal> {
    let text = format!("{name}={value}; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age={seconds}");
    Ok(HeaderValue::from_str(&text).map_err(ApiError::internal)?)
}

/// The cookie of that name, if there is exactly one.
pub(crate) fn read<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let all = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let mut found = all
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .filter(|(n, _)| *n == name);
    let (_, value) = found.next()?;
    found.next().is_none().then_some(value)
}

/// The secret by which a request is known.
///
/// # Errors
/// `signed-out` when there is none, or its cookie comes from another one's page.
pub(crate) fn secret<'a>(parts: &'a Parts, public_url: &str) -> Result<&'a str, Refusal> {
    if parts.headers.contains_key(header::AUTHORIZATION) {
        return Ok(chassis::http::bearer(&parts.headers)?);
    }
    let Some(cookie) = read(&parts.headers, SESSION) else {
        return Ok(chassis::http::bearer(&parts.headers)?);
    };
    if is_own_page(&parts.headers, parts.method.is_safe(), public_url) {
        return Ok(cookie);
    }
    Err(Refusal::new(
        ProblemKind::SignedOut,
        "the session's cookie does not count for requests of other pages",
    )
    .hint("send `Authorization: Bearer …`, or ask from a page of this service at its own address"))
}

/// The answer to a log-in: the session, and its cookie too where a page of ours asked. No script can read that.
///
/// # Errors
/// Never for values of ours.
pub(crate) fn answer(made: SessionMade, headers: &HeaderMap, public_url: &str) -> Result<Response, Refusal> {
    let session = set(SESSION, &made.session_token, super::LIFETIME.num_seconds())?;
    let mut response = (StatusCode::CREATED, Json(made)).into_response();
    if headers.contains_key(header::ORIGIN) && is_own_page(headers, false, public_url) {
        response.headers_mut().append(header::SET_COOKIE, session);
    }
    Ok(response)
}

/// Whether a page of ours asks. `safe`: for something that changes nothing.
fn is_own_page(headers: &HeaderMap, safe: bool, public_url: &str) -> bool {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("unreadable"));
    let own = url::Url::parse(public_url).map(|url| url.origin().ascii_serialization());
    let origin = text("origin").map(|origin| own.is_ok_and(|own| own == origin));
    let fetched_here = matches!(text("sec-fetch-site"), None | Some("same-origin" | "none"));
    // Browsers name the origin with everything that can change something.
    fetched_here && origin.unwrap_or(safe)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, headers: &[(&str, &str)]) -> Parts {
        let mut builder = http::Request::builder().method(method).uri("/v1/account");
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_cookie_counts_for_own_pages_only_and_a_bearer_goes_before_it() {
        let own = "https://howdah.example";
        let cookie = ("cookie", "a=b; __Host-howdah-session=s; c=d");
        let allowed = |method: &str, more: &[(&str, &str)]| {
            let headers: Vec<(&str, &str)> = std::iter::once(cookie).chain(more.iter().copied()).collect();
            secret(&request(method, &headers), own).ok().map(str::to_owned)
        };
        let yes = Some("s".to_owned());
        assert_eq!(allowed("GET", &[]), yes);
        assert_eq!(allowed("GET", &[("sec-fetch-site", "same-origin")]), yes);
        assert_eq!(allowed("POST", &[("origin", own)]), yes);
        for refused in [
            allowed("POST", &[]),
            allowed("POST", &[("origin", "https://evil.example")]),
            allowed("POST", &[("origin", "null")]),
            allowed("POST", &[("origin", own), ("sec-fetch-site", "cross-site")]),
            allowed("GET", &[("sec-fetch-site", "cross-site")]),
            allowed("GET", &[("origin", "https://howdah.example.evil.example")]),
            allowed("DELETE", &[("sec-fetch-site", "same-site"), ("origin", own)]),
        ] {
            assert_eq!(refused, None);
        }
        assert_eq!(allowed("POST", &[("authorization", "Bearer t")]), Some("t".to_owned()));
        let twice = request(
            "GET",
            &[
                ("cookie", "__Host-howdah-session=s"),
                ("cookie", "__Host-howdah-session=t"),
            ],
        );
        assert!(secret(&twice, own).is_err());
    }
}
