//! `/v1/projects`.

use axum::extract::State;
use axum::http::StatusCode;
use chassis::http::{Json, Path, Query};
use chassis::idempotency::KeyHeader;
use contract::api::{Page, Project};
use contract::names::ProjectName;
use contract::problem::ProblemKind;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{ProjectRow, queries};
use crate::call::Call;
use crate::cursor;
use crate::failure::{Answer, Failure};
use crate::permissions::System;
use crate::plane::Plane;

const MEMBERS: System = System::because("every member may know the names of all projects that the token reaches");
const MANAGERS: System = System::because("the caller manages the organization");

/// The routes.
pub fn router() -> OpenApiRouter<Plane> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(remove))
}

/// A project to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewProject {
    /// Its name.
    name: ProjectName,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// How many rows at most, 1 to 200.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

fn view(row: ProjectRow) -> Project {
    Project {
        name: row.name,
        created_at: row.created_at,
    }
}

/// Makes a project.
#[utoipa::path(
    post,
    path = "/v1/projects",
    tag = "projects",
    params(KeyHeader),
    responses((status = 201, body = Project)),
)]
async fn create(
    State(plane): State<Plane>,
    call: Call,
    Json(body): Json<NewProject>,
) -> Answer<(StatusCode, Json<Project>)> {
    call.manages("create projects")?;
    let row = ProjectRow {
        id: plane.id(),
        name: body.name,
        created_at: plane.now(),
    };
    let mut tx = plane.begin().await?;
    call.unanswered(&mut tx).await?;
    queries::insert_project(&mut tx, &MANAGERS, &row).await?;
    call.record(&mut tx, "project.create", row.name.as_str()).await?;
    call.commit(tx, StatusCode::CREATED, view(row)).await
}

/// Lists the projects.
#[utoipa::path(get, path = "/v1/projects", tag = "projects", params(ListQuery), responses((status = 200, body = Page<Project>)))]
async fn list(State(plane): State<Plane>, call: Call, Query(query): Query<ListQuery>) -> Answer<Json<Page<Project>>> {
    let limit = cursor::limit(query.limit)?;
    let after: Option<String> = call.position("projects", query.cursor.as_deref())?;
    let mut tx = plane.begin().await?;
    let rows = queries::list_projects(
        &mut tx,
        &MEMBERS,
        in_scope(&call).as_deref(),
        after.as_deref(),
        limit as i64 + 1,
    )
    .await?;
    let items = rows.into_iter().map(view).collect();
    Ok(Json(call.page("projects", items, limit, |p: &Project| p.name.clone())?))
}

/// The projects that the token's scopes reach; `None` = all.
pub fn in_scope(call: &Call) -> Option<Vec<String>> {
    let scopes = &call.claims().scopes;
    if scopes.is_empty() || scopes.iter().any(|s| s.resource == "*") {
        return None;
    }
    let project = |resource: &str| match resource.strip_prefix("project:") {
        Some(project) => Some(project.to_owned()),
        None => resource.split_once('/').map(|(project, _)| project.to_owned()),
    };
    Some(scopes.iter().filter_map(|s| project(&s.resource)).collect())
}

/// Deletes a project that never had repos.
#[utoipa::path(
    delete,
    path = "/v1/projects/{project}",
    tag = "projects",
    params(("project" = ProjectName, Path)),
    responses((status = 204)),
)]
async fn remove(State(plane): State<Plane>, call: Call, Path(project): Path<ProjectName>) -> Answer<StatusCode> {
    call.manages("delete projects")?;
    if project == ProjectName::default_project() {
        return Err(Failure::new(
            ProblemKind::Conflict,
            "the project `default` always exists",
        ));
    }
    let mut tx = plane.begin().await?;
    let row = queries::find_project(&mut tx, &MANAGERS, &project)
        .await?
        .ok_or_else(Failure::not_found)?;
    if !queries::delete_project(&mut tx, &MANAGERS, row.id).await? {
        return Err(Failure::new(
            ProblemKind::Conflict,
            format!("project `{project}` has or had repos, and commits may name them"),
        )
        .hint("leave it, or delete its repos: their names stay in the provenance of what was made from them"));
    }
    call.record(&mut tx, "project.delete", project.as_str()).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
