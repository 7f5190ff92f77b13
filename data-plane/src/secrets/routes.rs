//! `/v1/projects/{p}/secrets`.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use chassis::etag;
use chassis::http::{Json, Path, Query};
use contract::api::{NewSecret, Page, Secret};
use contract::ids::ProjectId;
use contract::names::{ProjectName, SecretName};
use contract::policy::Permission;
use contract::problem::ProblemKind;
use provenance::access::can_in_project;
use serde::Deserialize;
use sqlx::PgConnection;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::queries::{self, SecretRow};
use crate::call::Call;
use crate::commits::lock::lock_dag;
use crate::cursor;
use crate::failure::{Answer, Failure};
use crate::permissions::System;
use crate::pipelines::propagate;
use crate::plane::Plane;
use crate::projects;
use crate::serving;

const ADMIN: System = System::because("the caller is admin of the project, or manages the organization");
/// A secret may have so many bytes, and so many keys.
const BYTES_MAX: usize = 64 << 10;
const KEYS_MAX: usize = 100;

/// The routes.
pub fn router() -> OpenApiRouter<Plane> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show, set, remove))
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

/// The project, for who may manage its secrets.
async fn managed(call: &Call, conn: &mut PgConnection, project: &ProjectName) -> Answer<ProjectId> {
    let rights = call.rights();
    let admin = can_in_project(&rights.policy, &rights.subject, Permission::Admin, project);
    if !admin && call.manages("manage secrets").is_err() {
        return Err(Failure::new(
            ProblemKind::NotAllowed,
            format!("you may not manage the secrets of project `{project}`"),
        )
        .hint(format!("ask for the role owner on `project:{project}`")));
    }
    let found = projects::queries::find_project(conn, &ADMIN, project).await?;
    Ok(found.ok_or_else(Failure::not_found)?.id)
}

fn view(project: &ProjectName, row: SecretRow) -> Answer<Secret> {
    Ok(Secret {
        name: row.name.parse()?,
        project: project.clone(),
        version: u32::try_from(row.version).unwrap_or(0),
        keys: row.keys,
        actor: row.actor.0,
        updated_at: row.updated_at,
    })
}

/// Demands that a secret is what the caller has read, if he says what that was.
fn still_that(headers: &HeaderMap, project: &ProjectName, row: Option<SecretRow>) -> Answer<()> {
    let current = row.filter(|row| row.sealed.is_some()).map(|row| view(project, row));
    Ok(etag::check_match(headers, current.transpose()?.as_ref())?)
}

fn check(body: &NewSecret) -> Answer<()> {
    let bytes: usize = body.values.iter().map(|(key, value)| key.len() + value.len()).sum();
    if body.values.is_empty() || body.values.len() > KEYS_MAX || bytes > BYTES_MAX {
        return Err(Failure::invalid(format!(
            "a secret has 1 to {KEYS_MAX} keys and at most {BYTES_MAX} bytes, not {} and {bytes}",
            body.values.len()
        )));
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let wrong = |key: &&String| key.is_empty() || key.len() > 253 || key.starts_with('.') || !key.chars().all(plain);
    if let Some(key) = body.values.keys().find(wrong) {
        return Err(Failure::invalid(format!(
            "`{}` is no key: use letters, digits, `_`, `-` and `.`, which may not be the first",
            key.chars().take(80).collect::<String>()
        )));
    }
    if body.values.values().any(|value| value.contains('\0')) {
        return Err(Failure::invalid(
            "a value has a NUL, which no environment variable can have",
        ));
    }
    Ok(())
}

/// Sets a secret: its values replace all that it had.
#[utoipa::path(
    put,
    path = "/v1/projects/{project}/secrets/{name}",
    tag = "secrets",
    params(etag::IfMatch),
    responses((status = 200, body = Secret)),
)]
async fn set(
    State(plane): State<Plane>,
    call: Call,
    Path((project, name)): Path<(ProjectName, SecretName)>,
    headers: HeaderMap,
    Json(body): Json<NewSecret>,
) -> Answer<Json<Secret>> {
    let mut conn = plane.pool.acquire().await?;
    let id = managed(&call, &mut conn, &project).await?;
    check(&body)?;
    // Set to what it is, as an automation does at every deployment, it stays as it is, and no datum runs again.
    let is_that = |row: &SecretRow| {
        let open = |sealed: &Vec<u8>| super::open(&plane, (id, &name, row.version), sealed);
        let known = row.sealed.as_ref().and_then(|sealed| open(sealed).ok());
        known.is_some_and(|known| known == body.values)
    };
    // That waits for nobody, unless somebody asks for what is there under the lock.
    let found = queries::find(&mut conn, &ADMIN, &project, &name).await?;
    drop(conn);
    if let Some(row) = found.filter(is_that).filter(|_| !etag::is_conditional(&headers)) {
        return Ok(Json(view(&project, row)?));
    }
    let _gate = plane.change().await?;
    let mut tx = plane.begin().await?;
    lock_dag(&mut tx).await?;
    if managed(&call, &mut tx, &project).await? != id {
        return Err(Failure::not_found());
    }
    let found = queries::find_locked(&mut tx, &ADMIN, id, &name).await?;
    still_that(&headers, &project, found.clone())?;
    if let Some(row) = found.filter(is_that) {
        return Ok(Json(view(&project, row)?));
    }
    let version = queries::next_version(&mut tx, &ADMIN, id, &name, &call.actor(), plane.now()).await?;
    let sealed = super::seal(&plane, (id, &name, version), &body.values)?;
    let keys: Vec<String> = body.values.into_keys().collect();
    queries::update_values(&mut tx, &ADMIN, (id, &name), &keys, Some(&sealed)).await?;
    let row = queries::find(&mut tx, &ADMIN, &project, &name).await?;
    // What serves with the values before is replaced, as by a new commit; what has an end ends with them.
    let serving = serving::queries::using(&mut tx, &ADMIN, id, &name).await?;
    propagate::begin(&plane, &mut tx, plane.id(), &[], &serving, false).await?;
    call.record(&mut tx, "secret.set", &format!("{project}/{name} version {version}"))
        .await?;
    tx.commit().await?;
    plane.signals.work_changed();
    plane.signals.commits_changed();
    Ok(Json(view(&project, row.ok_or_else(Failure::not_found)?)?))
}

/// Lists the secrets of a project, never their values.
#[utoipa::path(
    get,
    path = "/v1/projects/{project}/secrets",
    tag = "secrets",
    params(("project" = ProjectName, Path), ListQuery),
    responses((status = 200, body = Page<Secret>)),
)]
async fn list(
    State(plane): State<Plane>,
    call: Call,
    Path(project): Path<ProjectName>,
    Query(query): Query<ListQuery>,
) -> Answer<Json<Page<Secret>>> {
    let limit = cursor::limit(query.limit)?;
    let mut conn = plane.pool.acquire().await?;
    let id = managed(&call, &mut conn, &project).await?;
    let list = format!("secrets {project}");
    let after: Option<String> = call.position(&list, query.cursor.as_deref())?;
    let rows = queries::list(&mut conn, &ADMIN, id, after.as_deref(), limit as i64 + 1).await?;
    let items: Answer<Vec<Secret>> = rows.into_iter().map(|row| view(&project, row)).collect();
    Ok(Json(call.page(&list, items?, limit, |s: &Secret| s.name.to_string())?))
}

/// Shows a secret, never its values.
#[utoipa::path(get, path = "/v1/projects/{project}/secrets/{name}", tag = "secrets", responses((status = 200, body = Secret)))]
async fn show(
    State(plane): State<Plane>,
    call: Call,
    Path((project, name)): Path<(ProjectName, SecretName)>,
) -> Answer<Json<Secret>> {
    let mut conn = plane.pool.acquire().await?;
    managed(&call, &mut conn, &project).await?;
    let found = queries::find(&mut conn, &ADMIN, &project, &name).await?;
    let row = found
        .filter(|row| row.sealed.is_some())
        .ok_or_else(Failure::not_found)?;
    Ok(Json(view(&project, row)?))
}

/// Deletes a secret.
#[utoipa::path(
    delete,
    path = "/v1/projects/{project}/secrets/{name}",
    tag = "secrets",
    params(etag::IfMatch),
    responses((status = 204)),
)]
async fn remove(
    State(plane): State<Plane>,
    call: Call,
    Path((project, name)): Path<(ProjectName, SecretName)>,
    headers: HeaderMap,
) -> Answer<StatusCode> {
    managed(&call, &mut *plane.pool.acquire().await?, &project).await?;
    let _gate = plane.change().await?;
    let mut tx = plane.begin().await?;
    lock_dag(&mut tx).await?;
    let id = managed(&call, &mut tx, &project).await?;
    let found = queries::find_locked(&mut tx, &ADMIN, id, &name).await?;
    let row = found
        .filter(|row| row.sealed.is_some())
        .ok_or_else(Failure::not_found)?;
    still_that(&headers, &project, Some(row))?;
    queries::update_values(&mut tx, &ADMIN, (id, &name), &[], None).await?;
    // What serves with it ends, and the job that is to serve instead says what it lacks.
    let serving = serving::queries::using(&mut tx, &ADMIN, id, &name).await?;
    let reason = format!("the secret `{name}`, which it used, was removed");
    for pipeline in &serving {
        serving::begin::end(&plane, &mut tx, pipeline.uuid(), &reason).await?;
    }
    propagate::begin(&plane, &mut tx, plane.id(), &[], &serving, false).await?;
    call.record(&mut tx, "secret.delete", &format!("{project}/{name}"))
        .await?;
    tx.commit().await?;
    plane.signals.work_changed();
    plane.signals.commits_changed();
    Ok(StatusCode::NO_CONTENT)
}
