//! `/v1/projects/{p}/repos/{r}/statistics`.

use chassis::http::{Json, Path};
use contract::api::RepoStatistics;
use contract::names::{ProjectName, RepoName};
use contract::reference::RepoRef;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::measure;
use crate::call::Call;
use crate::failure::Answer;
use crate::plane::Plane;

/// The routes.
pub fn router() -> OpenApiRouter<Plane> {
    OpenApiRouter::new().routes(routes!(show))
}

/// Says what a repo takes.
#[utoipa::path(
    get,
    path = "/v1/projects/{project}/repos/{repo}/statistics",
    tag = "repos",
    operation_id = "statistics",
    responses((status = 200, body = RepoStatistics)),
)]
async fn show(call: Call, Path((project, repo)): Path<(ProjectName, RepoName)>) -> Answer<Json<RepoStatistics>> {
    let reference = RepoRef {
        project: Some(project),
        repo,
    };
    measure(&call, &reference).await.map(Json)
}
