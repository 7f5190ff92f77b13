//! `/v1/defaults`.

use axum::extract::State;
use axum::http::HeaderMap;
use chassis::etag;
use chassis::http::{Json, Query};
use contract::ids::ProjectId;
use contract::names::ProjectName;
use contract::policy::Permission;
use contract::problem::{FieldError, Problem, ProblemKind};
use provenance::access::can_in_project;
use provenance::spec::check_defaults;
use serde::Deserialize;
use serde_json::{Value, json};
use sqlx::PgConnection;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::queries;
use crate::call::Call;
use crate::failure::{Answer, Failure};
use crate::permissions::System;
use crate::plane::Plane;
use crate::projects;
use crate::worker::executor::refused_by_policy;

const MEMBER: System = System::because("every member may know what specs begin with");

/// The routes.
pub fn router() -> OpenApiRouter<Plane> {
    OpenApiRouter::new().routes(routes!(show, set))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Of {
    /// None: the organization.
    project: Option<ProjectName>,
}

async fn project(conn: &mut PgConnection, of: &Of) -> Answer<Option<ProjectId>> {
    let Some(name) = &of.project else {
        return Ok(None);
    };
    let found = projects::queries::find_project(conn, &MEMBER, name).await?;
    Ok(Some(found.ok_or_else(Failure::not_found)?.id))
}

/// Shows what pipeline specs begin with, of a project or of the organization.
#[utoipa::path(get, path = "/v1/defaults", tag = "defaults", params(Of), responses((status = 200, body = Object)))]
async fn show(State(plane): State<Plane>, call: Call, Query(of): Query<Of>) -> Answer<Json<Value>> {
    let reached = projects::routes::in_scope(&call);
    let hidden = |name: &ProjectName| reached.is_some_and(|known| !known.iter().any(|k| k == name.as_str()));
    if of.project.as_ref().is_some_and(hidden) {
        return Err(Failure::not_found());
    }
    let mut conn = plane.pool.acquire().await?;
    let project = project(&mut conn, &of).await?;
    let found = queries::find(&mut conn, &MEMBER, project).await?;
    Ok(Json(found.unwrap_or_else(|| json!({}))))
}

/// Sets what pipeline specs begin with.
#[utoipa::path(put, path = "/v1/defaults", tag = "defaults", params(Of, etag::IfMatch), responses((status = 200, body = Object)))]
async fn set(
    State(plane): State<Plane>,
    call: Call,
    Query(of): Query<Of>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> Answer<Json<Value>> {
    let rights = call.rights();
    let admin = |name: &ProjectName| can_in_project(&rights.policy, &rights.subject, Permission::Admin, name);
    if !of.project.as_ref().is_some_and(admin) {
        call.manages("set what pipeline specs begin with")?;
    }
    let checked = check_defaults(&body).and_then(|spec| {
        // What no spec can be applied with here would stop everybody.
        let refused = plane.executor().refuses(&spec).into_iter();
        let unfit = refused_by_policy(&plane.config.executor, plane.organization, &spec);
        let errors: Vec<FieldError> = refused
            .map(|(pointer, message)| (pointer.to_owned(), message))
            .chain(unfit.into_iter().map(|unfit| (unfit.pointer, unfit.message)))
            .map(|(pointer, message)| FieldError { pointer, message })
            .collect();
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    });
    if let Err(errors) = checked {
        let first = errors
            .first()
            .map(|e| format!("{}: {}", e.pointer, e.message))
            .unwrap_or_default();
        let mut problem = Problem::new(ProblemKind::Invalid, format!("no spec can begin with this: {first}"))
            .with_hint("nothing was changed; correct it and set it again");
        problem.errors = errors;
        return Err(problem.into());
    }
    let mut tx = plane.begin().await?;
    let project = project(&mut tx, &of).await?;
    queries::lock(&mut tx, &MEMBER).await?;
    let current = queries::find(&mut tx, &MEMBER, project).await?;
    etag::check_match(&headers, Some(&current.unwrap_or_else(|| json!({}))))?;
    queries::set(&mut tx, &MEMBER, project, &body, &call.actor(), plane.now()).await?;
    let subject = of.project.as_ref().map_or("the organization", ProjectName::as_str);
    call.record(&mut tx, "defaults.set", subject).await?;
    tx.commit().await?;
    Ok(Json(body))
}
