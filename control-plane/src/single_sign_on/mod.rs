//! Log-in with another provider (OpenID Connect, code flow with PKCE). What was begun is bound to its browser by a cookie, and good
//! once. An identity is known by issuer and subject, never by its address: a new one makes an account only where the provider says that
//! the address was verified, and one whose address has an account already is let in only by that account's holder, from a session of
//! his or by a code that is mailed to him.

mod arrival;
mod provider;
pub mod queries;
mod routes;

pub use provider::Providers;
pub use queries::delete_expired;
pub use routes::router;

use chrono::Duration;

/// For how long a log-in at a provider may take.
const PATIENCE: Duration = Duration::minutes(10);
/// For how long the second factor is waited for.
const SECOND_FACTOR_PATIENCE: Duration = Duration::minutes(5);

/// Who somebody is, as a provider says: its token was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The provider's issuer.
    pub issuer: String,
    /// Who it is there; never given to somebody else.
    pub subject: String,
    /// The address, if the provider says that it was verified.
    pub verified_email: Option<String>,
}
