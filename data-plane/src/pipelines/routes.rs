//! `/v1/pipelines`.

use axum::extract::State;
use axum::http::StatusCode;
use chassis::http::{Json, Path, Query};
use chassis::idempotency::KeyHeader;
use contract::api::{ApplyPipelines, JobState, Page, Pipeline};
use contract::ids::{DomainId, JobId};
use contract::names::{ProjectName, RepoName};
use contract::policy::Permission;
use contract::problem::ProblemKind;
use contract::reference::RepoRef;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::apply::Applied;
use super::queries::{self, PipelineRow};
use super::{MovedHead, apply, followers, propagate, sponsors, views};
use crate::call::Call;
use crate::commits::lock::lock_dag;
use crate::cron::{self, ByHand};
use crate::cursor;
use crate::failure::{Answer, Failure};
use crate::jobs;
use crate::permissions::{System, Visible};
use crate::plane::{Plane, Tx};
use crate::serving;
use crate::spouts;

const VISIBLE: System = System::because("the caller may know of the pipeline's repo");
const ALLOWED: System = System::because("the caller may write to the pipeline's repo, so may decide when it runs");

/// How often a run is tried when ticks come between.
const ATTEMPTS: usize = 8;

/// The routes.
pub fn router() -> OpenApiRouter<Plane> {
    OpenApiRouter::new()
        .routes(routes!(apply_all, list))
        .routes(routes!(show, remove))
        .routes(routes!(history))
        .routes(routes!(stop))
        .routes(routes!(start))
        .routes(routes!(run))
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

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct RunQuery {
    /// Runs all datums again.
    #[serde(default)]
    reprocess: bool,
}

#[derive(Serialize, Deserialize)]
struct Position {
    project: String,
    name: String,
}

/// Applies pipeline specs in order, all or none; a dry run tells what would happen.
#[utoipa::path(post, path = "/v1/pipelines", tag = "pipelines", operation_id = "apply", params(KeyHeader), responses((status = 200, body = Applied)))]
async fn apply_all(call: Call, Json(body): Json<ApplyPipelines>) -> Answer<Json<Applied>> {
    apply::apply(&call, body).await.map(Json)
}

/// Lists the pipelines.
#[utoipa::path(get, path = "/v1/pipelines", tag = "pipelines", params(ListQuery), responses((status = 200, body = Page<Pipeline>)))]
async fn list(State(plane): State<Plane>, call: Call, Query(query): Query<ListQuery>) -> Answer<Json<Page<Pipeline>>> {
    let limit = cursor::limit(query.limit)?;
    let after: Option<Position> = call.position("pipelines", query.cursor.as_deref())?;
    let visible = call.discoverable();
    let mut conn = plane.pool.acquire().await?;
    let after = after.as_ref().map(|a| (a.project.as_str(), a.name.as_str()));
    let rows = queries::list(&mut conn, &VISIBLE, &visible, after, limit as i64 + 1).await?;
    let items = views::show_all(&mut conn, &call, rows).await?;
    let position = |p: &Pipeline| Position {
        project: p.project.to_string(),
        name: p.name.to_string(),
    };
    Ok(Json(call.page("pipelines", items, limit, position)?))
}

/// A pipeline that the caller may know of.
async fn found(
    call: &Call,
    conn: &mut PgConnection,
    project: ProjectName,
    name: RepoName,
) -> Answer<(Visible, PipelineRow)> {
    let reference = RepoRef {
        project: Some(project),
        repo: name,
    };
    let repo = call.repo(conn, &reference).await?;
    let row = queries::find(conn, &VISIBLE, repo.id, false).await?;
    Ok((repo, row.ok_or_else(Failure::not_found)?))
}

async fn one(call: &Call, conn: &mut PgConnection, id: DomainId) -> Answer<Json<Pipeline>> {
    let row = queries::find(conn, &VISIBLE, id, true)
        .await?
        .ok_or_else(Failure::not_found)?;
    let mut shown = views::show_all(conn, call, vec![row]).await?;
    Ok(Json(shown.pop().ok_or_else(Failure::not_found)?))
}

/// Shows a pipeline.
#[utoipa::path(get, path = "/v1/pipelines/{project}/{name}", tag = "pipelines", responses((status = 200, body = Pipeline)))]
async fn show(
    State(plane): State<Plane>,
    call: Call,
    Path((project, name)): Path<(ProjectName, RepoName)>,
) -> Answer<Json<Pipeline>> {
    let mut conn = plane.pool.acquire().await?;
    let (repo, _) = found(&call, &mut conn, project, name).await?;
    one(&call, &mut conn, repo.id).await
}

/// Lists the versions of a pipeline, newest first.
#[utoipa::path(
    get,
    path = "/v1/pipelines/{project}/{name}/history",
    tag = "pipelines",
    params(ListQuery),
    responses((status = 200, body = Page<Pipeline>)),
)]
async fn history(
    State(plane): State<Plane>,
    call: Call,
    Path((project, name)): Path<(ProjectName, RepoName)>,
    Query(query): Query<ListQuery>,
) -> Answer<Json<Page<Pipeline>>> {
    let limit = cursor::limit(query.limit)?;
    let mut conn = plane.pool.acquire().await?;
    let (repo, _) = found(&call, &mut conn, project, name).await?;
    let list = format!("pipeline history {}", repo.id);
    let before: Option<i32> = call.position(&list, query.cursor.as_deref())?;
    let rows = queries::history(&mut conn, &VISIBLE, repo.id, before, limit as i64 + 1).await?;
    let items = views::show_all(&mut conn, &call, rows).await?;
    Ok(Json(call.page(&list, items, limit, |p: &Pipeline| p.version)?))
}

/// Locks the DAG and demands that the caller may decide when the pipeline runs.
async fn locked(
    call: &Call,
    project: ProjectName,
    name: RepoName,
    permission: Permission,
) -> Answer<(Tx, Visible, PipelineRow)> {
    let mut tx = call.plane.begin().await?;
    lock_dag(&mut tx).await?;
    let (repo, row) = found(call, &mut tx, project, name).await?;
    call.allowed(&repo, permission)?;
    Ok((tx, repo, row))
}

/// Stops a pipeline.
///
/// Sent again it changes nothing: the pipeline is stopped.
#[utoipa::path(post, path = "/v1/pipelines/{project}/{name}/stop", tag = "pipelines", responses((status = 200, body = Pipeline)))]
async fn stop(call: Call, Path((project, name)): Path<(ProjectName, RepoName)>) -> Answer<Json<Pipeline>> {
    let (mut tx, repo, _) = locked(&call, project, name, Permission::Write).await?;
    let reason = format!("stopped by {}", call.actor().name);
    queries::update_state(&mut tx, &ALLOWED, repo.id, "paused", Some(&reason)).await?;
    serving::begin::end(&call.plane, &mut tx, repo.id.uuid(), &reason).await?;
    let shown = one(&call, &mut tx, repo.id).await?;
    call.record(&mut tx, "pipeline.stop", &repo.to_string()).await?;
    tx.commit().await?;
    call.plane.signals.work_changed();
    call.plane.signals.commits_changed();
    Ok(shown)
}

/// Starts a pipeline that was stopped.
///
/// Sent again it changes nothing: the pipeline runs.
#[utoipa::path(post, path = "/v1/pipelines/{project}/{name}/start", tag = "pipelines", responses((status = 200, body = Pipeline)))]
async fn start(call: Call, Path((project, name)): Path<(ProjectName, RepoName)>) -> Answer<Json<Pipeline>> {
    let (mut tx, repo, row) = locked(&call, project, name, Permission::Write).await?;
    let starts = matches!(row.state.as_str(), "paused" | "suspended");
    if starts {
        if let Some(refused) = sponsors::refusal(&call, &mut tx, repo.id, &repo.to_string()).await? {
            return Err(refused);
        }
        queries::update_state(&mut tx, &ALLOWED, repo.id, "running", None).await?;
        propagate::begin(&call.plane, &mut tx, call.plane.id(), &[], &[repo.id], false).await?;
    }
    let shown = one(&call, &mut tx, repo.id).await?;
    if starts {
        call.record(&mut tx, "pipeline.start", &repo.to_string()).await?;
    }
    tx.commit().await?;
    call.plane.signals.work_changed();
    Ok(shown)
}

/// Runs a pipeline now.
#[utoipa::path(
    post,
    path = "/v1/pipelines/{project}/{name}/run",
    tag = "pipelines",
    params(RunQuery, KeyHeader),
    responses((status = 200, body = Pipeline)),
)]
async fn run(
    call: Call,
    Path((project, name)): Path<(ProjectName, RepoName)>,
    Query(query): Query<RunQuery>,
) -> Answer<(StatusCode, Json<Pipeline>)> {
    for _ in 0..ATTEMPTS {
        if let Some(shown) = run_once(&call, project.clone(), name.clone(), query.reprocess).await? {
            return Ok((StatusCode::OK, shown));
        }
    }
    let detail = format!("the cron inputs of `{project}/{name}` kept ticking, so it was not run");
    Err(Failure::new(ProblemKind::Conflict, detail).hint("repeat the request"))
}

/// `None` when a tick came between.
async fn run_once(
    call: &Call,
    project: ProjectName,
    name: RepoName,
    reprocess: bool,
) -> Answer<Option<Json<Pipeline>>> {
    let plane = &call.plane;
    let ticks = {
        let mut conn = plane.pool.acquire().await?;
        let (repo, _) = found(call, &mut conn, project.clone(), name.clone()).await?;
        call.allowed(&repo, Permission::Write)?;
        drop(conn);
        ByHand::prepare(plane, repo.id).await?
    };
    let (mut tx, repo, row) = locked(call, project, name, Permission::Write).await?;
    call.unanswered(&mut tx).await?;
    if row.state == "suspended"
        && let Some(refused) = sponsors::refusal(call, &mut tx, repo.id, &repo.to_string()).await?
    {
        return Err(refused);
    }
    if row.state == "paused" || row.state == "suspended" {
        let detail = format!("`{repo}` is {}, so it does not run", row.state);
        return Err(Failure::new(ProblemKind::Conflict, detail).hint(format!("howdah pipeline start {repo}")));
    }
    if !spouts::queries::among(&mut tx, &ALLOWED, &[repo.id]).await?.is_empty() {
        let detail = format!("`{repo}` is a spout: it runs by itself until it is stopped");
        return Err(
            Failure::new(ProblemKind::Conflict, detail).hint(format!("howdah pipeline stop {repo}, then start {repo}"))
        );
    }
    let set = plane.id();
    let Some(ticked) = ticks.commit(plane, &mut tx, repo.id, set, &call.actor()).await? else {
        return Ok(None);
    };
    let ticked: Vec<_> = ticked.iter().map(MovedHead::at).collect();
    let begun = propagate::begin(plane, &mut tx, set, &ticked, &[repo.id], reprocess).await?;
    if begun.is_empty() {
        let detail = format!("`{repo}` has an input without a commit, so there is nothing to run on");
        return Err(Failure::new(ProblemKind::Conflict, detail).hint("put something into each of its inputs"));
    }
    let shown = one(call, &mut tx, repo.id).await?;
    let anew = if reprocess { " anew" } else { "" };
    call.record(&mut tx, "pipeline.run", &format!("{repo}{anew}")).await?;
    call.keep_answer(&mut tx, StatusCode::OK, &shown.0).await?;
    tx.commit().await?;
    plane.signals.work_changed();
    plane.signals.commits_changed();
    Ok(Some(shown))
}

/// Deletes a pipeline; its output stays.
#[utoipa::path(delete, path = "/v1/pipelines/{project}/{name}", tag = "pipelines", responses((status = 204)))]
async fn remove(call: Call, Path((project, name)): Path<(ProjectName, RepoName)>) -> Answer<StatusCode> {
    let (mut tx, repo, _) = locked(&call, project, name, Permission::Admin).await?;
    let reason = format!("the pipeline was deleted by {}", call.actor().name);
    for job in queries::unfinished_jobs(&mut tx, &ALLOWED, repo.id).await? {
        jobs::end::end(
            &call.plane,
            &mut tx,
            JobId::from_uuid(job),
            JobState::Killed,
            Some(&reason),
        )
        .await?;
    }
    queries::delete(&mut tx, &ALLOWED, repo.id, call.plane.now()).await?;
    followers::save(&call.plane, &mut tx, repo.id, &[], &call.actor()).await?;
    let mut deleted = cron::queries::delete_of(&mut tx, &ALLOWED, repo.id, call.plane.now()).await?;
    deleted.extend(spouts::queries::delete_of(&mut tx, &ALLOWED, repo.id, call.plane.now()).await?);
    call.record(&mut tx, "pipeline.delete", &repo.to_string()).await?;
    tx.commit().await?;
    call.plane.signals.work_changed();
    call.plane.signals.commits_changed();
    for domain in deleted {
        // The repo is gone whether the control plane hears of it or not; a tombstone changes no right.
        if let Err(error) = call.plane.control.bury_domain(domain).await {
            tracing::warn!(error = %error, "the control plane was not told of a deleted repo: {error}");
        }
    }
    Ok(StatusCode::NO_CONTENT)
}
