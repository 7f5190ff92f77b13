//! Internal, for data planes: `POST /internal/v1/planes/{org id}/domains`, `DELETE …/domains/{id}`.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::{delete, post};
use chassis::http::{Json, Path};
use contract::api::RegisterDomain;
use contract::ids::{DomainId, OrganizationId};
use contract::policy::PolicyAnswer;
use contract::problem::ProblemKind;

use super::queries;
use crate::app::App;
use crate::audit::{self, Event, Source};
use crate::authz;
use crate::policy;
use crate::refusal::Refusal;

/// The routes of this slice.
pub fn router() -> Router<Arc<App>> {
    Router::new()
        .route("/internal/v1/planes/{org}/domains", post(register))
        .route("/internal/v1/planes/{org}/domains/{id}", delete(bury))
}

fn answer(epoch: u64) -> Json<PolicyAnswer> {
    Json(PolicyAnswer {
        epoch,
        signed_snapshot: None,
        keys: None,
    })
}

async fn register(
    State(app): State<Arc<App>>,
    source: Source,
    headers: HeaderMap,
    Path(org): Path<OrganizationId>,
    Json(body): Json<RegisterDomain>,
) -> Result<Json<PolicyAnswer>, Refusal> {
    let plane = authz::authenticate_plane(&app.pool, chassis::http::bearer(&headers)?, org).await?;
    let now = app.environment.now();
    let mut tx = plane.begin(&app.pool).await?;
    // First of all: locks the organization, so that two registrations cannot pass each other.
    let epoch = policy::queries::bump(&mut tx, &plane).await?;
    if let Some(known) = queries::find_domain(&mut tx, &plane, body.id).await? {
        let same = known.project == body.project.as_str() && known.name == body.name.as_str() && !known.deleted;
        if !same {
            return Err(Refusal::new(
                ProblemKind::Conflict,
                format!(
                    "the domain `{}` was registered as `{}/{}`",
                    body.id, known.project, known.name
                ),
            )
            .hint("make a new id for a new repo"));
        }
        // Nothing changed: the bump is not kept.
        tx.rollback().await?;
        return Ok(answer(epoch - 1));
    }
    if !queries::is_member(&mut tx, &plane, body.owner).await? {
        return Err(Refusal::invalid(
            "/owner",
            "the owner of a domain must belong to the organization",
        ));
    }
    let orphan = queries::bury_orphan(&mut tx, &plane, &body, now).await?;
    queries::insert_domain(&mut tx, &plane, &body, app.environment.id(), epoch, now).await?;
    let replaced = orphan.map_or(String::new(), |id| format!(", in the place of {id}"));
    let event = Event {
        action: "domain.register",
        subject: format!(
            "{}/{} as {} of {}{replaced}",
            body.project, body.name, body.id, body.owner
        ),
        at: now,
    };
    audit::record_from(&mut tx, &plane, &source, &event).await?;
    tx.commit().await?;
    app.policy.announce(org, epoch);
    Ok(answer(epoch))
}

async fn bury(
    State(app): State<Arc<App>>,
    source: Source,
    headers: HeaderMap,
    Path((org, id)): Path<(OrganizationId, DomainId)>,
) -> Result<Json<PolicyAnswer>, Refusal> {
    let plane = authz::authenticate_plane(&app.pool, chassis::http::bearer(&headers)?, org).await?;
    let now = app.environment.now();
    let mut tx = plane.begin(&app.pool).await?;
    let epoch = policy::queries::bump(&mut tx, &plane).await?;
    match queries::bury(&mut tx, &plane, id, now).await? {
        None => return Err(Refusal::not_found()),
        Some(true) => {}
        Some(false) => {
            // It was one before: the bump is not kept.
            tx.rollback().await?;
            return Ok(answer(epoch - 1));
        }
    }
    let event = Event {
        action: "domain.delete",
        subject: id.to_string(),
        at: now,
    };
    audit::record_from(&mut tx, &plane, &source, &event).await?;
    tx.commit().await?;
    app.policy.announce(org, epoch);
    Ok(answer(epoch))
}
