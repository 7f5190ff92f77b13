//! How much of the service one caller may take, so that nobody's load is another one's wait: requests are counted by address, token,
//! account and organization, each in its class, and told so in `RateLimit` headers; and each organization has so many requests under
//! way at once, which leaves connections to the database for the others. Planes themselves and probes are not counted.

mod address;
mod layer;
mod meters;
mod turns;

use std::time::Duration;

use axum::http::Method;

pub use address::Proxies;
pub use layer::{Ledger, counted, counted_of_services};
pub use meters::{Meters, Spent, Subject};
pub use turns::Turns;

use crate::refusal::Refusal;
use contract::problem::ProblemKind;

/// What a request is, as far as its price goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Looks.
    Read,
    /// Changes.
    Write,
    /// Brings a proof of who somebody is: a password, a code, somebody else's token.
    Proof,
    /// Exchanges a token for another.
    Exchange,
    /// Goes through to a data plane.
    Plane,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Read, Self::Write, Self::Proof, Self::Exchange, Self::Plane];

    /// The class of a request, by method and path. `None`: not counted.
    pub fn of(method: &Method, path: &str) -> Option<Self> {
        const PROOFS: [&str; 9] = [
            "/v1/accounts",
            "/v1/account/email",
            "/v1/sessions",
            "/v1/passkey-log-ins",
            "/v1/log-in",
            "/v1/password-resets",
            "/v1/device-logins",
            "/v1/tokens/revoke",
            "/v1/invitations/accept",
        ];
        let below = |base: &&str| {
            path.strip_prefix(*base)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        if path.starts_with("/o/") {
            return Some(Self::Plane);
        }
        if !path.starts_with("/v1/") {
            return None;
        }
        let safe = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
        Some(match () {
            () if safe => Self::Read,
            () if matches!(path, "/v1/access-tokens" | "/v1/token-exchange") => Self::Exchange,
            () if *method == Method::POST && PROOFS.iter().any(below) => Self::Proof,
            () => Self::Write,
        })
    }

    /// What it is called in a refusal.
    pub const fn what(self) -> &'static str {
        match self {
            Self::Read => "requests",
            Self::Write => "changes",
            Self::Proof => "log-ins and proofs",
            Self::Exchange => "exchanges of tokens",
            Self::Plane => "requests to data planes",
        }
    }
}

/// What may be taken in a minute, by class in the order of [`Class::ALL`]. All of a minute may be taken at once.
#[derive(Debug, Clone, Copy)]
pub struct PerMinute(pub [u32; 5]);

/// The limits.
#[derive(Debug, Clone)]
pub struct TrafficLimits {
    /// Of one address.
    pub address: PerMinute,
    /// Of one session or API token.
    pub token: PerMinute,
    /// Of one account or service account.
    pub account: PerMinute,
    /// Of one organization.
    pub organization: PerMinute,
    /// How many times as much callers on this machine may do: there they are one person, or the service's own operator.
    pub loopback_factor: u32,
    /// Requests of one organization under way at once.
    pub at_once: usize,
    /// How long a request waits for its turn among them.
    pub patience: Duration,
}

impl Default for TrafficLimits {
    fn default() -> Self {
        Self {
            address: PerMinute([1200, 300, 60, 300, 12_000]),
            token: PerMinute([900, 240, 60, 240, 12_000]),
            account: PerMinute([1500, 400, 60, 400, 24_000]),
            organization: PerMinute([6000, 1200, 600, 2400, 60_000]),
            loopback_factor: 100,
            at_once: 5,
            patience: Duration::from_secs(5),
        }
    }
}

fn slow_down(class: Class, of: &str) -> Refusal {
    Refusal::new(
        ProblemKind::SlowDown,
        format!("too many {} of {of} within a minute", class.what()),
    )
    .hint("wait as long as the header `Retry-After` says; `RateLimit` headers tell what is left")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_its_class_by_what_it_does() {
        for (method, path, expected) in [
            (Method::GET, "/v1/organizations", Some(Class::Read)),
            (Method::POST, "/v1/organizations", Some(Class::Write)),
            (Method::POST, "/v1/sessions", Some(Class::Proof)),
            (Method::POST, "/v1/accounts/verify", Some(Class::Proof)),
            (Method::DELETE, "/v1/sessions/tok_x", Some(Class::Write)),
            (Method::POST, "/v1/access-tokens", Some(Class::Exchange)),
            (Method::POST, "/v1/accountsx", Some(Class::Write)),
            (Method::PUT, "/o/acme/v1/files", Some(Class::Plane)),
            (Method::GET, "/healthz", None),
            (Method::GET, "/internal/v1/planes/x/policy", None),
        ] {
            assert_eq!(Class::of(&method, path), expected, "{method} {path}");
        }
    }
}
