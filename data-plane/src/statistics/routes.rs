//! `/v1/projects/{p}/repos/{r}/statistics`.

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use chassis::http::{Json, Path};
use contract::api::RepoStatistics;
use contract::names::{ProjectName, RepoName};
use contract::reference::RepoRef;

use super::measure;
use crate::call::Call;
use crate::failure::Answer;
use crate::plane::Plane;

/// The routes.
pub fn router() -> Router<Plane> {
    Router::new().route("/v1/projects/{project}/repos/{repo}/statistics", get(show))
}

async fn show(
    State(_): State<Plane>,
    call: Call,
    Path((project, repo)): Path<(ProjectName, RepoName)>,
) -> Answer<Json<RepoStatistics>> {
    let reference = RepoRef {
        project: Some(project),
        repo,
    };
    measure(&call, &reference).await.map(Json)
}
