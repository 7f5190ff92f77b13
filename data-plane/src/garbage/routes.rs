//! `/v1/gc`.

use axum::extract::State;
use chassis::http::{Json, Query};
use contract::api::CollectionReport;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{GRACE, collect_for};
use crate::call::Call;
use crate::failure::Answer;
use crate::plane::Plane;

/// The routes.
pub fn router() -> OpenApiRouter<Plane> {
    OpenApiRouter::new().routes(routes!(run))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct RunQuery {
    /// Only tells.
    #[serde(default)]
    dry_run: bool,
}

/// Collects what nothing refers to.
///
/// Sent again it collects what is left.
#[utoipa::path(
    post,
    path = "/v1/gc",
    tag = "storage",
    operation_id = "collect_garbage",
    params(RunQuery),
    responses((status = 200, body = CollectionReport)),
)]
async fn run(State(plane): State<Plane>, call: Call, Query(query): Query<RunQuery>) -> Answer<Json<CollectionReport>> {
    call.manages("collect garbage")?;
    collect_for(&plane, Some(&call), GRACE, query.dry_run).await.map(Json)
}
