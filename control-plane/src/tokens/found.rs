//! `POST /v1/tokens/revoke`: who has found a secret ends it, without being anybody. The answer is the same whatever the secret was.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use chassis::http::Json;
use contract::api::RevokeSecret;
use contract::problem::ProblemKind;

use super::routes;
use crate::app::App;
use crate::audit::Source;
use crate::authz::{self, Credential};
use crate::call::Call;
use crate::peer::Peer;
use crate::refusal::Refusal;
use crate::sessions;

/// Revokes the token or session of a secret that was found somewhere.
///
/// Sent again it changes nothing: what has ended stays so.
#[utoipa::path(post, path = "/v1/tokens/revoke", tag = "tokens", security(()),
    operation_id = "revoke_by_secret", request_body = RevokeSecret,
    responses((status = 204, description = "it is good for nothing now, if it ever was")))]
pub(super) async fn revoke_found(
    State(app): State<Arc<App>>,
    peer: Peer,
    source: Source,
    Json(body): Json<RevokeSecret>,
) -> Result<StatusCode, Refusal> {
    app.limiters.exchange(peer.address)?;
    // Who shows a secret is its holder as far as anybody can tell; what is over needs no end.
    let actor = match authz::authenticate(&app.pool, body.token.trim(), app.environment.now()).await {
        Ok(actor) => actor,
        Err(refusal) => {
            return match refusal.0.0.kind() {
                Some(ProblemKind::SignedOut | ProblemKind::TokenExpired) => Ok(StatusCode::NO_CONTENT),
                _ => Err(refusal),
            };
        }
    };
    let call = Call::of(app, actor, peer, source);
    let id = call.actor.token();
    // Somebody else may have been faster: then it is done.
    let done = match call.actor.credential() {
        Credential::Session => sessions::revoke(&call, id).await,
        Credential::ApiToken => routes::revoke_now(&call, id).await,
    };
    match done {
        Err(refusal) if refusal.0.0.kind() != Some(ProblemKind::NotFound) => Err(refusal),
        _ => Ok(StatusCode::NO_CONTENT),
    }
}
