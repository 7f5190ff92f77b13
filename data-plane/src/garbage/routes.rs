//! `/v1/gc`.

use axum::Router;
use axum::extract::State;
use axum::routing::post;
use chassis::http::{Json, Query};
use contract::api::CollectionReport;
use serde::Deserialize;

use super::{GRACE, collect_for};
use crate::call::Call;
use crate::failure::Answer;
use crate::plane::Plane;

/// The routes.
pub fn router() -> Router<Plane> {
    Router::new().route("/v1/gc", post(run))
}

#[derive(Deserialize)]
struct RunQuery {
    /// Only tells.
    #[serde(default)]
    dry_run: bool,
}

async fn run(State(plane): State<Plane>, call: Call, Query(query): Query<RunQuery>) -> Answer<Json<CollectionReport>> {
    call.manages("collect garbage")?;
    collect_for(&plane, Some(&call), GRACE, query.dry_run).await.map(Json)
}
