//! `/v1/commits/squash` and `/v1/commits/drop`.

use chassis::http::Json;
use chassis::idempotency::KeyHeader;
use contract::api::{RemoveCommits, RemovedCommits};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::commits;
use crate::call::Call;
use crate::failure::Answer;
use crate::plane::Plane;

/// The routes.
pub fn router() -> OpenApiRouter<Plane> {
    OpenApiRouter::new()
        .routes(routes!(squash))
        .routes(routes!(drop_commits))
        .merge(super::purge::routes::router())
}

/// Gives up the content of commits; those after them keep the data.
#[utoipa::path(post, path = "/v1/commits/squash", tag = "commits", params(KeyHeader), responses((status = 200, body = RemovedCommits)))]
async fn squash(call: Call, Json(body): Json<RemoveCommits>) -> Answer<Json<RemovedCommits>> {
    commits::squash(&call, &body).await.map(Json)
}

/// Gives up commits with everything that was made from them.
#[utoipa::path(post, path = "/v1/commits/drop", tag = "commits", operation_id = "drop", params(KeyHeader), responses((status = 200, body = RemovedCommits)))]
async fn drop_commits(call: Call, Json(body): Json<RemoveCommits>) -> Answer<Json<RemovedCommits>> {
    commits::drop_commits(&call, &body).await.map(Json)
}
