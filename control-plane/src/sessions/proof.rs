//! `POST /v1/sessions/current/proof`: proves again who holds a session, for things that are dangerous in the wrong hands.

use std::sync::Arc;

use chassis::http::Json;
use contract::api::{ProveIdentity, Proved};
use contract::problem::ProblemKind;
use secrecy::SecretString;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::proving::{Claim, by_password};
use super::queries;
use crate::app::App;
use crate::authz::{PROOF_LIFETIME, System};
use crate::call::Call;
use crate::refusal::Refusal;
use crate::second_factors;

/// The routes of this part.
pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(prove))
}

/// Proves who holds the session in use. For 15 minutes it does what is guarded by that.
///
/// A step of a log-in: sent again it is one more proof of the same session.
#[utoipa::path(post, path = "/v1/sessions/current/proof", tag = "sessions", request_body = ProveIdentity, responses((status = 200, body = Proved)))]
async fn prove(call: Call, Json(body): Json<ProveIdentity>) -> Result<Json<Proved>, Refusal> {
    let account = call.actor.person()?;
    let app = &call.app;
    app.limiters
        .log_in(&call.actor.name().to_lowercase(), call.peer.address)?;
    let proof = System::because("a password proves who holds a session");
    let password = SecretString::from(body.password);
    let wrong = |refusal: Refusal| match refusal.0.0.kind() {
        Some(ProblemKind::SignedOut) => {
            Refusal::new(ProblemKind::ProofRequired, "that is not the password of this account")
                .hint("send the password of the account that the session is of")
        }
        _ => refusal,
    };
    let shown = by_password(app, &proof, &Claim::Account(account), password)
        .await
        .map_err(wrong)?;
    let mut tx = call.begin().await?;
    shown.still_fits(&mut tx, &proof).await.map_err(wrong)?;
    second_factors::check(app, &mut tx, &proof, account, body.second_factor.as_deref()).await?;
    queries::update_proof(&mut tx, &call.actor, call.now()).await?;
    call.happened(&mut tx, "session.prove", String::new()).await?;
    tx.commit().await?;
    Ok(Json(Proved {
        until: call.now() + PROOF_LIFETIME,
    }))
}
