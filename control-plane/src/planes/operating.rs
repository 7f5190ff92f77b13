//! For whoever operates the installation: how all planes are, and to suspend one and let it go on.
//! `GET /v1/planes`, `PUT,DELETE /v1/planes/{org id}/suspension`.

use std::sync::Arc;

use axum::extract::State;
use chassis::http::{Json, Path, Query};
use contract::api::{Page, PlaneSummary};
use contract::ids::OrganizationId;
use serde::Deserialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::summaries;
use crate::app::App;
use crate::audit::{self, Event, SystemIn, Who};
use crate::authz::System;
use crate::mail::operator::Operator;
use crate::refusal::Refusal;

const PROOF: System = System::because("whoever operates the installation asks");
const LIMIT_MAX: u32 = 200;

/// The routes of this slice.
pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(suspend, resume))
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
struct Wanted {
    /// How many planes at most, 1 to 200.
    #[param(minimum = 1, maximum = 200, default = 200)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<OrganizationId>,
    /// Only planes with something in their way, or that are not as wanted.
    #[serde(default)]
    unsettled: bool,
}

fn authorize(operator: &Operator) -> Result<(), Refusal> {
    if operator.holds_secret {
        return Ok(());
    }
    Err(Refusal::not_allowed(
        "a link to the outbox shows no planes",
        "use the operator's secret on the service's machine",
    ))
}

/// Lists all data planes; for whoever operates the installation.
#[utoipa::path(get, path = "/v1/planes", operation_id = "list_planes", tag = "planes", params(Wanted),
    responses((status = 200, body = Page<PlaneSummary>)))]
async fn list(
    State(app): State<Arc<App>>,
    operator: Operator,
    Query(wanted): Query<Wanted>,
) -> Result<Json<Page<PlaneSummary>>, Refusal> {
    authorize(&operator)?;
    let limit = wanted.limit.unwrap_or(LIMIT_MAX).clamp(1, LIMIT_MAX);
    let mut items = summaries::list_planes(&app.pool, &PROOF, wanted.cursor, wanted.unsettled, limit + 1).await?;
    let more = items.len() > usize::try_from(limit).unwrap_or(usize::MAX);
    items.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let next_cursor = items.last().filter(|_| more).map(|last| last.organization.to_string());
    Ok(Json(Page { items, next_cursor }))
}

/// Stops an organization's data plane; nobody wakes it until it is resumed, and nothing of it is lost.
#[utoipa::path(put, path = "/v1/planes/{org}/suspension", operation_id = "suspend_plane", tag = "planes",
    params(("org" = OrganizationId, Path)), responses((status = 200, body = PlaneSummary)))]
async fn suspend(
    State(app): State<Arc<App>>,
    operator: Operator,
    Path(org): Path<OrganizationId>,
) -> Result<Json<PlaneSummary>, Refusal> {
    change(&app, &operator, org, true).await
}

/// Lets a suspended organization's data plane be woken again.
#[utoipa::path(delete, path = "/v1/planes/{org}/suspension", operation_id = "resume_plane", tag = "planes",
    params(("org" = OrganizationId, Path)), responses((status = 200, body = PlaneSummary)))]
async fn resume(
    State(app): State<Arc<App>>,
    operator: Operator,
    Path(org): Path<OrganizationId>,
) -> Result<Json<PlaneSummary>, Refusal> {
    change(&app, &operator, org, false).await
}

async fn change(
    app: &App,
    operator: &Operator,
    organization: OrganizationId,
    suspended: bool,
) -> Result<Json<PlaneSummary>, Refusal> {
    authorize(operator)?;
    let mut tx = app.pool.begin().await?;
    if summaries::suspend(&mut tx, &PROOF, organization, suspended).await? {
        let acting = SystemIn {
            system: &PROOF,
            organization,
            who: Who::without_token("operator"),
        };
        let event = Event {
            action: if suspended {
                "organization.suspend"
            } else {
                "organization.resume"
            },
            subject: organization.to_string(),
            at: app.environment.now(),
        };
        audit::record(&mut tx, &acting, &event).await?;
    }
    tx.commit().await?;
    if suspended {
        // No request goes there any more; those that are under way are ended with the plane.
        app.planes.forget_route(organization);
    }
    app.planes.signal(organization);
    summaries::find_summary(&app.pool, &PROOF, organization)
        .await?
        .map(Json)
        .ok_or_else(Refusal::not_found)
}
