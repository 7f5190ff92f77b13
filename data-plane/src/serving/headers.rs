//! What of a request's headers user code gets to see, and what of its answer's headers callers do. User code sees no token
//! and no cookie of ours; its own cookies stay those of its own address.

use contract::serving::{COOKIE, SECURE_COOKIE};
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue};

/// Headers of one connection (RFC 9110, 7.6.1) besides those of an upgrade.
const HOPS: [HeaderName; 6] = [
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    HeaderName::from_static("keep-alive"),
];

/// Headers of the request as user code sees them.
pub(super) fn inward(headers: &mut HeaderMap) {
    let upgrade = upgrade(headers);
    strip_hops(headers, upgrade);
    headers.remove(header::AUTHORIZATION);
    let ours: Vec<HeaderName> = headers
        .keys()
        .filter(|n| n.as_str().starts_with("howdah-"))
        .cloned()
        .collect();
    for name in ours {
        headers.remove(name);
    }
    if let Some(host) = headers.get("x-forwarded-host").cloned() {
        headers.insert(header::HOST, host);
    }
    let cookies: Vec<HeaderValue> = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| HeaderValue::from_str(&others(value.to_str().ok()?)?).ok())
        .collect();
    headers.remove(header::COOKIE);
    for value in cookies {
        headers.append(header::COOKIE, value);
    }
}

/// Headers of the answer as callers see them.
pub(super) fn outward(headers: &mut HeaderMap) {
    let upgrade = upgrade(headers);
    strip_hops(headers, upgrade);
    let cookies: Vec<HeaderValue> = headers
        .get_all(header::SET_COOKIE)
        .iter()
        .filter(|value| value.to_str().is_ok_and(may_be_set))
        .cloned()
        .collect();
    headers.remove(header::SET_COOKIE);
    for value in cookies {
        headers.append(header::SET_COOKIE, value);
    }
}

/// The protocol that a connection is to change to.
pub(super) fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let wants = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|word| word.trim().eq_ignore_ascii_case("upgrade"));
    headers.get(header::UPGRADE).filter(|_| wants).cloned()
}

fn strip_hops(headers: &mut HeaderMap, upgrade: Option<HeaderValue>) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOPS) {
        headers.remove(name);
    }
    headers.remove(header::CONNECTION);
    headers.remove(header::UPGRADE);
    if let Some(protocol) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, protocol);
    }
}

/// The cookies of a request that are not ours.
fn others(cookies: &str) -> Option<String> {
    let kept: Vec<&str> = cookies
        .split(';')
        .map(str::trim)
        .filter(|cookie| !cookie.is_empty() && !is_ours(cookie.split('=').next().unwrap_or_default()))
        .collect();
    (!kept.is_empty()).then(|| kept.join("; "))
}

fn is_ours(name: &str) -> bool {
    let name = name.trim();
    name == COOKIE || name == SECURE_COOKIE
}

/// A cookie of ours is ours to set, and one with a domain would reach the addresses of other services.
fn may_be_set(cookie: &str) -> bool {
    let mut parts = cookie.split(';');
    let ours = is_ours(parts.next().unwrap_or_default().split('=').next().unwrap_or_default());
    let wide = parts.any(|part| {
        let name = part.split('=').next().unwrap_or_default();
        name.trim().eq_ignore_ascii_case("domain")
    });
    !ours && !wide
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn user_code_sees_no_token_and_no_cookie_of_ours() {
        let mut all = headers(&[
            ("authorization", "Bearer x"),
            ("cookie", "howdah_service=s; mine=1; __Host-howdah_service=t"),
            ("cookie", "howdah_service=s"),
            ("howdah-epoch", "7"),
            ("howdah-services", "1"),
            ("x-forwarded-host", "s-1.localhost:7"),
            ("connection", "Upgrade, x-hop"),
            ("x-hop", "1"),
            ("upgrade", "websocket"),
            ("sec-websocket-key", "k"),
        ]);
        inward(&mut all);
        let mut left: Vec<String> = all
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        left.sort();
        assert_eq!(
            left,
            [
                "connection: upgrade",
                "cookie: mine=1",
                "host: s-1.localhost:7",
                "sec-websocket-key: k",
                "upgrade: websocket",
                "x-forwarded-host: s-1.localhost:7",
            ]
        );
    }

    #[test]
    fn user_code_sets_cookies_of_its_own_address_alone() {
        let mut all = headers(&[
            ("set-cookie", "mine=1; Path=/"),
            ("set-cookie", "wide=1; Domain=localhost"),
            ("set-cookie", "howdah_service=1"),
            ("transfer-encoding", "chunked"),
        ]);
        outward(&mut all);
        let left: Vec<_> = all.iter().map(|(_, value)| value.to_str().unwrap()).collect();
        assert_eq!(left, ["mine=1; Path=/"]);
    }
}
