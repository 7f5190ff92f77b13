//! `/v1/commits/squash` and `/v1/commits/drop`.

use axum::Router;
use axum::routing::post;
use chassis::http::Json;
use contract::api::{RemoveCommits, RemovedCommits};

use super::commits;
use crate::call::Call;
use crate::failure::Answer;
use crate::plane::Plane;

/// The routes.
pub fn router() -> Router<Plane> {
    Router::new()
        .route("/v1/commits/squash", post(squash))
        .route("/v1/commits/drop", post(drop_commits))
        .merge(super::purge::routes::router())
}

async fn squash(call: Call, Json(body): Json<RemoveCommits>) -> Answer<Json<RemovedCommits>> {
    commits::squash(&call, &body).await.map(Json)
}

async fn drop_commits(call: Call, Json(body): Json<RemoveCommits>) -> Answer<Json<RemovedCommits>> {
    commits::drop_commits(&call, &body).await.map(Json)
}
