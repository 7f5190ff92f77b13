//! `GET /v1/organizations/{org}/plane`; internal, for data planes: `POST /internal/v1/planes/{org id}/heartbeat`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use chassis::http::{Json, Path};
use contract::api::PlaneStatus;
use contract::config::Heartbeat;
use contract::ids::OrganizationId;
use contract::names::OrganizationName;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::queries;
use crate::app::App;
use crate::authz::{self, System, ViewOrganization};
use crate::call::Call;
use crate::database::unsigned;
use crate::refusal::Refusal;

/// The routes of this slice.
pub fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(show))
        .merge(super::operating::router())
        .route("/internal/v1/planes/{org}/heartbeat", post(heartbeat))
}

/// Says how an organization's data plane is.
#[utoipa::path(
    get,
    path = "/v1/organizations/{org}/plane",
    tag = "planes",
    params(("org" = OrganizationName, Path)),
    responses((status = 200, body = PlaneStatus)),
)]
async fn show(call: Call, Path(org): Path<OrganizationName>) -> Result<Json<PlaneStatus>, Refusal> {
    let mut tx = call.begin().await?;
    let allowed = call.authorize::<ViewOrganization>(&mut tx, &org).await?;
    drop(tx);
    let proof = System::because("a member of the organization asks for its plane");
    let organization = allowed.organization();
    let (state, url, schema_version, generation, seen_generation) =
        queries::get_status(&call.app.pool, &proof, organization).await?;
    let conditions = queries::list_conditions(&call.app.pool, &proof, organization).await?;
    Ok(Json(PlaneStatus {
        state,
        url,
        conditions,
        schema_version,
        generation: unsigned(generation),
        seen_generation: unsigned(seen_generation),
        events: queries::list_events(&call.app.pool, &proof, organization).await?,
    }))
}

async fn heartbeat(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    Path(org): Path<OrganizationId>,
    Json(body): Json<Heartbeat>,
) -> Result<StatusCode, Refusal> {
    let plane = authz::authenticate_plane(&app.pool, chassis::http::bearer(&headers)?, org).await?;
    queries::note_heartbeat(&app.pool, &plane, &body, app.environment.now()).await?;
    Ok(StatusCode::NO_CONTENT)
}
