//! Sessions of people who logged in: an opaque secret of which only the digest is stored, good for 30 days, listed,
//! revocable. Revoking one revokes the access tokens that were exchanged from it, so it changes the policy of every
//! organization of its holder.

pub mod queries;
mod routes;

use chrono::{DateTime, Duration, Utc};
use contract::api::{Account, Organization, SessionMade};
use contract::ids::TokenId;
use contract::token::{SecretToken, TokenKind};
pub use routes::router;

use crate::app::App;
use crate::authz::System;
use crate::database::Tx;
use crate::refusal::Refusal;

/// How long a session lasts.
pub const LIFETIME: Duration = Duration::days(30);

/// A session as its holder sees it.
#[derive(Debug, Clone, serde::Serialize, utoipa::ToSchema)]
pub struct SessionView {
    /// Its id.
    pub id: TokenId,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it ends.
    pub expires_at: DateTime<Utc>,
    /// When it was used last, to the minute.
    pub last_used_at: Option<DateTime<Utc>>,
    /// Whether it is the one that asks.
    pub current: bool,
}

/// Makes a session of an account that just proved itself.
pub(crate) async fn begin(
    app: &App,
    tx: &mut Tx,
    proof: &System,
    account: Account,
    organizations: Vec<Organization>,
) -> Result<SessionMade, Refusal> {
    let secret = SecretToken::generate(TokenKind::Session, app.environment.random());
    let now = app.environment.now();
    let expires_at = now + LIFETIME;
    queries::insert_session(tx, proof, app.environment.id(), account.id, &secret, now, expires_at).await?;
    Ok(SessionMade {
        account,
        organizations,
        session_token: secret.expose().to_owned(),
        expires_at,
    })
}
