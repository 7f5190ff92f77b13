//! Signed checkpoints: the service's word for how far a trail goes. The control plane signs its own trail's and, since a data plane
//! has no key, that of the plane's: only forward, so a plane whose trail was cut or made anew is refused its signature.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::post;
use chassis::http::{ApiError, Json, Path};
use contract::api::{NewCheckpoint, SignedCheckpoint};
use contract::audit::{Checkpoint, CheckpointClaims, Trail, audience};
use contract::ids::OrganizationId;
use contract::problem::ProblemKind;

use super::queries;
use crate::app::App;
use crate::authz;
use crate::refusal::Refusal;

/// The routes for data planes.
pub(super) fn router() -> Router<Arc<App>> {
    Router::new().route("/internal/v1/planes/{org}/audit-checkpoints", post(sign_planes))
}

/// Signs how far a trail goes.
pub(super) fn sign(
    app: &App,
    organization: OrganizationId,
    trail: Trail,
    (seq, hash): (u64, String),
) -> Result<SignedCheckpoint, Refusal> {
    let now = app.environment.now();
    let checkpoint = Checkpoint {
        organization,
        trail,
        seq,
        hash,
        at: now,
    };
    let claims = CheckpointClaims {
        iss: app.public_url.clone(),
        aud: audience(organization),
        iat: now.timestamp(),
        checkpoint: checkpoint.clone(),
    };
    let signed = app.keys.sign(&claims).map_err(ApiError::internal)?;
    Ok(SignedCheckpoint { checkpoint, signed })
}

async fn sign_planes(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    Path(org): Path<OrganizationId>,
    Json(body): Json<NewCheckpoint>,
) -> Result<Json<SignedCheckpoint>, Refusal> {
    let plane = authz::authenticate_plane(&app.pool, chassis::http::bearer(&headers)?, org).await?;
    let hex = body
        .hash
        .bytes()
        .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if !hex || body.hash.len() != if body.seq == 0 { 0 } else { 64 } {
        return Err(Refusal::invalid(
            "/hash",
            "the hash of the last row is 64 lowercase hex digits",
        ));
    }
    let mut tx = plane.begin(&app.pool).await?;
    if !queries::raise_plane_head(&mut tx, &plane, &body, app.environment.now()).await? {
        return Err(Refusal::new(
            ProblemKind::Conflict,
            "the data plane's audit trail went further when it was signed last, or ended with another row: it was cut off or replaced",
        )
        .hint("compare it with an earlier export: `howdah org audit --verify --against FILE`"));
    }
    tx.commit().await?;
    sign(&app, org, Trail::Plane, (body.seq, body.hash)).map(Json)
}
