//! Whoever operates the installation: on this machine, and in possession of the secret that stands in its home for its owner alone,
//! or of a link that was made with it. Being on the machine is not enough: other users are too, and so is a page from elsewhere whose
//! name was made to lead here, which is why the name that the request is for counts as well.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use chrono::{DateTime, TimeDelta, Utc};
use contract::problem::ProblemKind;
use contract::token::{SecretToken, TokenKind};

use crate::app::App;
use crate::mac;
use crate::refusal::Refusal;

/// For how long a link shows the outbox.
const LINK_LIFETIME: TimeDelta = TimeDelta::minutes(10);
const FORWARDED: [&str; 3] = ["forwarded", "x-forwarded-for", "x-real-ip"];

/// Proof that somebody on this machine asks it by its own name.
pub(super) struct Here(());

impl FromRequestParts<Arc<App>> for Here {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _app: &Arc<App>) -> Result<Self, Refusal> {
        let address = parts
            .extensions
            .get::<ConnectInfo<SocketAddr>>()
            .map(|info| info.0.ip());
        let on_machine = address.is_some_and(|ip| ip.to_canonical().is_loopback());
        let forwarded = FORWARDED.iter().any(|name| parts.headers.contains_key(*name));
        let host = parts.uri.host().or_else(|| host(&parts.headers));
        if on_machine && !forwarded && host.is_some_and(is_own_name) {
            return Ok(Self(()));
        }
        Err(Refusal::not_found())
    }
}

/// Proof that whoever operates the installation asks.
pub(crate) struct Operator {
    /// Whether the secret itself was shown, not a link.
    pub(crate) holds_secret: bool,
}

impl FromRequestParts<Arc<App>> for Operator {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Refusal> {
        Here::from_request_parts(parts, app).await?;
        let shown = chassis::http::bearer(&parts.headers)?;
        let Some(operator) = &app.post.operator else {
            return Err(Refusal::not_found());
        };
        let token = shown.parse::<SecretToken>().ok();
        if token.is_some_and(|t| t.kind() == TokenKind::Operator && t.sha256() == *operator) {
            return Ok(Self { holds_secret: true });
        }
        if Links::of(app).fits(shown, app.environment.now()) {
            return Ok(Self { holds_secret: false });
        }
        Err(Refusal::new(
            ProblemKind::SignedOut,
            "that is not the secret of whoever operates this installation",
        )
        .hint("use `howdah outbox` as the user and with the HOWDAH_HOME that the service was started with"))
    }
}

fn host(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(header::HOST)?.to_str().ok()?;
    // `[::1]:7433`, `127.0.0.1:7433`, `localhost`.
    Some(match text.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => text.split(':').next().unwrap_or_default(),
    })
}

fn is_own_name(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    host.eq_ignore_ascii_case("localhost") || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Makes and checks what stands behind the `#` of a link: its end, and a code over it.
pub(super) struct Links {
    key: [u8; 32],
}

impl Links {
    pub(super) fn of(app: &App) -> Self {
        Self {
            key: app.vault.derive("outbox links"),
        }
    }

    /// A ticket, and its end.
    pub(super) fn make(&self, now: DateTime<Utc>) -> (String, DateTime<Utc>) {
        let end = now + LINK_LIFETIME;
        (format!("{}.{}", end.timestamp(), self.code(end.timestamp())), end)
    }

    fn code(&self, end: i64) -> String {
        hex::encode(mac::sha256(&self.key, &[&end.to_be_bytes()]))
    }

    fn fits(&self, ticket: &str, now: DateTime<Utc>) -> bool {
        let Some((end, code)) = ticket.split_once('.') else {
            return false;
        };
        let Ok(end) = end.parse::<i64>() else { return false };
        // Digests of the codes are compared, so that the time it takes tells nothing.
        let equal = mac::sha256(&self.key, &[code.as_bytes()]) == mac::sha256(&self.key, &[self.code(end).as_bytes()]);
        equal && now.timestamp() < end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_only_leads_here_is_not_this_machines() {
        for own in ["127.0.0.1", "localhost", "[::1]", "::1"] {
            assert!(is_own_name(own), "{own}");
        }
        for other in ["evil.example", "localhost.evil.example", "10.0.0.1", ""] {
            assert!(!is_own_name(other), "{other}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, "[::1]:7433".parse().unwrap());
        assert_eq!(host(&headers), Some("::1"));
        headers.insert(header::HOST, "evil.example:7433".parse().unwrap());
        assert_eq!(host(&headers), Some("evil.example"));
    }

    #[test]
    fn a_link_is_good_for_ten_minutes_and_cannot_be_made_longer() {
        let links = Links { key: [3; 32] };
        let now = DateTime::UNIX_EPOCH + TimeDelta::days(1);
        let (ticket, end) = links.make(now);
        assert!(links.fits(&ticket, now) && !links.fits(&ticket, end));
        let later = ticket.replacen(&end.timestamp().to_string(), &(end.timestamp() + 60).to_string(), 1);
        assert!(!links.fits(&later, now) && !links.fits("", now) && !links.fits("1.", now));
        assert!(!Links { key: [4; 32] }.fits(&ticket, now));
    }
}
