//! `/v1/jobs` and `/v1/wait`.

use axum::extract::State;
use chassis::http::{Json, Path, Query};
use contract::api::{Datum, DatumState, Job, JobState, Page};
use contract::ids::JobId;
use contract::policy::Permission;
use contract::reference::RepoRef;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::datums as rows;
use super::{end, logs, queries, statistics, views, wait};
use crate::call::Call;
use crate::cursor;
use crate::failure::{Answer, Failure};
use crate::permissions::System;
use crate::plane::Plane;
use crate::repos;

const READABLE: System = System::because("the caller may read the job's output");
const FILTERED: System = System::because("only rows with origin sets that the caller may read are asked for");

/// The routes.
pub fn router() -> OpenApiRouter<Plane> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show))
        .routes(routes!(stop))
        .routes(routes!(datums))
        .routes(routes!(datum))
        .routes(routes!(statistics::of_job))
        .routes(routes!(statistics::of_pipeline))
        .routes(routes!(statistics::critical_path))
        .routes(routes!(logs::stream))
        .routes(routes!(wait::wait))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// Only of this pipeline, `[project/]name`.
    pipeline: Option<String>,
    /// Only those in this state.
    state: Option<JobState>,
    /// How many rows at most, 1 to 200.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct DatumsQuery {
    /// Only those in this state.
    state: Option<DatumState>,
    /// The order.
    #[serde(default)]
    #[param(inline)]
    sort: Sort,
    /// How many rows at most, 1 to 200.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// The order of datums.
#[derive(Debug, Default, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Sort {
    /// As they were planned.
    #[default]
    Position,
    /// Those that took longest first; of those only that were run.
    Slowest,
}

/// Lists jobs, newest first.
#[utoipa::path(get, path = "/v1/jobs", tag = "jobs", params(ListQuery), responses((status = 200, body = Page<Job>)))]
async fn list(State(plane): State<Plane>, call: Call, Query(query): Query<ListQuery>) -> Answer<Json<Page<Job>>> {
    let limit = cursor::limit(query.limit)?;
    let mut conn = plane.pool.acquire().await?;
    let pipeline = match &query.pipeline {
        None => None,
        Some(text) => Some(call.repo(&mut conn, &text.parse::<RepoRef>()?).await?.id.uuid()),
    };
    let state = query.state.map_or("", JobState::as_str);
    let name = format!("jobs {} {state}", query.pipeline.as_deref().unwrap_or_default());
    // Not its place among all jobs: that would tell how many others there are.
    let before: Option<JobId> = call.position(&name, query.cursor.as_deref())?;
    let sets = queries::origin_sets(&mut conn, &FILTERED, pipeline).await?;
    let sets = call.readable_among(&mut conn, sets).await?;
    let wanted = queries::Wanted {
        pipeline,
        state: query.state,
        sets: &sets,
        before,
    };
    let rows = queries::list(&mut conn, &FILTERED, wanted, limit as i64 + 1).await?;
    let page = call.page(&name, rows, limit, |row| JobId::from_uuid(row.id))?;
    Ok(Json(Page {
        items: views::show_all(&call, &mut conn, page.items).await?,
        next_cursor: page.next_cursor,
    }))
}

/// Shows a job.
#[utoipa::path(get, path = "/v1/jobs/{id}", tag = "jobs", params(("id" = JobId, Path)), responses((status = 200, body = Job)))]
async fn show(State(plane): State<Plane>, call: Call, Path(id): Path<JobId>) -> Answer<Json<Job>> {
    let mut conn = plane.pool.acquire().await?;
    let job = call.job(&mut conn, id).await?;
    Ok(Json(views::show(&call, &mut conn, job.row).await?))
}

/// Lists the datums of a job.
#[utoipa::path(
    get,
    path = "/v1/jobs/{id}/datums",
    tag = "jobs",
    params(("id" = JobId, Path), DatumsQuery),
    responses((status = 200, body = Page<Datum>)),
)]
async fn datums(
    State(plane): State<Plane>,
    call: Call,
    Path(id): Path<JobId>,
    Query(query): Query<DatumsQuery>,
) -> Answer<Json<Page<Datum>>> {
    let limit = cursor::limit(query.limit)?;
    let mut conn = plane.pool.acquire().await?;
    call.job(&mut conn, id).await?;
    let state = query.state;
    let list = format!("datums {id} {} {:?}", state.map_or("", DatumState::as_str), query.sort);
    let after: Option<rows::Place> = call.position(&list, query.cursor.as_deref())?;
    let leaves = views::Leaves::of(&call, &mut conn, id).await?;
    let most = limit as i64 + 1;
    let rows = match query.sort {
        Sort::Position => rows::list(&mut conn, &READABLE, id, state, after, most).await?,
        Sort::Slowest => rows::list_slowest(&mut conn, &READABLE, id, state, after, most).await?,
    };
    let page = call.page(&list, rows, limit, rows::DatumRow::place)?;
    Ok(Json(Page {
        items: page
            .items
            .into_iter()
            .map(|row| views::show_datum(&call, id, row, &leaves))
            .collect(),
        next_cursor: page.next_cursor,
    }))
}

/// Shows a datum.
#[utoipa::path(get, path = "/v1/jobs/{id}/datums/{datum}", tag = "jobs", responses((status = 200, body = Datum)))]
async fn datum(State(plane): State<Plane>, call: Call, Path((id, text)): Path<(JobId, String)>) -> Answer<Json<Datum>> {
    let mut conn = plane.pool.acquire().await?;
    call.job(&mut conn, id).await?;
    let row = logs::find_datum(&mut conn, id, &text).await?;
    let leaves = views::Leaves::of(&call, &mut conn, id).await?;
    Ok(Json(views::show_datum(&call, id, row, &leaves)))
}

/// Stops a job.
///
/// Sent again it changes nothing: what has ended stays as it is.
#[utoipa::path(post, path = "/v1/jobs/{id}/stop", tag = "jobs", params(("id" = JobId, Path)), responses((status = 200, body = Job)))]
async fn stop(State(plane): State<Plane>, call: Call, Path(id): Path<JobId>) -> Answer<Json<Job>> {
    let mut tx = plane.begin().await?;
    let job = call.job(&mut tx, id).await?;
    let repo = repos::queries::find_repo_by_id(
        &mut tx,
        &READABLE,
        contract::ids::DomainId::from_uuid(job.row.pipeline_id),
    );
    let visible = repo
        .await?
        .and_then(|row| call.rights().visible(row))
        .ok_or_else(Failure::not_found)?;
    call.allowed(&visible, Permission::Write)?;
    let reason = format!("stopped by {}", call.actor().name);
    let ended = end::end(&plane, &mut tx, id, JobState::Killed, Some(&reason)).await?;
    let row = queries::find(&mut tx, &READABLE, id)
        .await?
        .ok_or_else(Failure::not_found)?;
    let shown = views::show(&call, &mut tx, row).await?;
    if ended {
        call.record(&mut tx, "job.stop", &format!("{id} of {visible}")).await?;
    }
    tx.commit().await?;
    plane.signals.work_changed();
    plane.signals.commits_changed();
    Ok(Json(shown))
}
