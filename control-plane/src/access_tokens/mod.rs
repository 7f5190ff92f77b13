//! Access tokens: a session or API token is exchanged for a JWT that one data plane verifies by itself. Asking for one
//! wakes the plane.

mod routes;

use chrono::{DateTime, Utc};
use contract::claims::{AccessClaims, plane_audience};
pub use routes::router;

use crate::authz::{Allowed, UsePlane};

/// How long an access token lives, seconds.
pub const LIFETIME_SECONDS: i64 = 600;

/// The claims of a token for the caller; it never outlives what it was exchanged from.
pub fn claims(allowed: &Allowed<UsePlane>, issuer: &str, now: DateTime<Utc>, jti: String) -> AccessClaims {
    let actor = allowed.actor();
    let iat = now.timestamp();
    AccessClaims {
        iss: issuer.to_owned(),
        aud: plane_audience(allowed.organization()),
        sub: actor.principal(),
        name: actor.name().to_owned(),
        org: allowed.organization(),
        role: allowed.role(),
        token: actor.token(),
        scopes: actor.scopes().to_vec(),
        ci: actor.ci().cloned().map(Box::new),
        iat,
        exp: (iat + LIFETIME_SECONDS).min(allowed.until().timestamp()),
        jti,
    }
}
