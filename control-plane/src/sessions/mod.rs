//! Sessions of people who logged in: an opaque secret of which only the digest is stored, good for 30 days, listed,
//! revocable. Revoking one revokes the access tokens that were exchanged from it, so it changes the policy of every
//! organization of its holder. What is dangerous in the wrong hands needs a session whose holder proved lately who he is; a log-in
//! is such a proof.

pub(crate) mod cookie;
mod proof;
mod proving;
pub mod queries;
mod routes;

use chrono::Duration;
use contract::api::{Account, Organization, SessionMade};
use contract::ids::TokenId;
use contract::token::{SecretToken, TokenKind};
pub use queries::end_all;
pub use routes::router;

use crate::account_events::{self, Happening};
use crate::app::App;
use crate::authz::System;
use crate::call::Call;
use crate::database::Tx;
use crate::peer::Peer;
use crate::policy;
use crate::refusal::Refusal;

/// How long a session lasts.
pub const LIFETIME: Duration = Duration::days(30);

/// Revokes one of the caller's own sessions, and with it what it was exchanged for.
///
/// # Errors
/// `not-found` when there is none of that id, or it was revoked before.
pub(crate) async fn revoke(call: &Call, id: TokenId) -> Result<(), Refusal> {
    let mut tx = call.begin().await?;
    if !queries::revoke_own(&mut tx, &call.actor, id, call.now()).await? {
        return Err(Refusal::not_found());
    }
    call.happened(&mut tx, "session.revoke", id.to_string()).await?;
    let changed = policy::bump_own(&mut tx, &call.actor).await?;
    let own = System::because("whose session it is ends it in all of his organizations");
    let organizations = changed.iter().map(|(organization, _)| *organization).collect();
    call.record_in(&mut tx, &own, organizations, "session.revoke", &id.to_string())
        .await?;
    tx.commit().await?;
    call.app.policy.announce_all(&changed);
    Ok(())
}

/// Makes a session of an account that just proved itself.
pub(crate) async fn begin(
    app: &App,
    tx: &mut Tx,
    proof: &System,
    account: Account,
    organizations: Vec<Organization>,
    peer: &Peer,
) -> Result<SessionMade, Refusal> {
    let secret = SecretToken::generate(TokenKind::Session, app.environment.random());
    let now = app.environment.now();
    let expires_at = now + LIFETIME;
    let session = queries::NewSession {
        id: app.environment.id(),
        account: account.id,
        secret: &secret,
        peer,
        now,
        expires_at,
    };
    queries::insert_session(tx, proof, &session).await?;
    let happening = Happening {
        account: account.id,
        action: "session.create",
        subject: peer.user_agent.clone(),
        token: Some(session.id),
        peer,
        at: now,
    };
    account_events::record(tx, proof, &happening).await?;
    Ok(SessionMade {
        account,
        organizations,
        session_token: secret.expose().to_owned(),
        expires_at,
    })
}
