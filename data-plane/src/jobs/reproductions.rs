//! `/v1/reproductions`: runs the job of a derived commit again, from its recorded provenance, and compares what comes out.
//!
//! It is a job like any other, so leases, limits, logs and restarts are those of jobs, but for these: all datums run; their
//! results are known to it alone; its commit is on no branch, starts nothing and is let go of when it was compared; jobs
//! of the pipeline neither wait for it nor build on it, and it is in no list of them. Whoever may read the commit and may
//! run its pipeline (`write`) may ask for one: it costs computing time, and tells nothing but of what he may read.

use std::collections::BTreeSet;

use axum::extract::State;
use chassis::http::{Json, Path, Query};
use chassis::idempotency::KeyHeader;
use contract::api::{Job, JobState, NewReproduction, Page, Reproduction, ReproductionState};
use contract::ids::{CommitId, JobId};
use contract::policy::Permission;
use contract::problem::ProblemKind;
use contract::reference::CommitRef;
use http::StatusCode;
use provenance::access::in_words;
use serde::Deserialize;
use sqlx::PgConnection;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::reproductions_queries as rows;
use super::views;
use crate::call::Call;
use crate::commits;
use crate::commits::lock::lock_dag;
use crate::commits::origins;
use crate::cursor;
use crate::failure::{Answer, Failure};
use crate::permissions::System;
use crate::pipelines::conditions::Purpose;
use crate::pipelines::{self, sponsors};
use crate::plane::{Plane, Tx};

const READABLE: System = System::because("the caller may read the commit that is reproduced");

/// The routes.
pub fn router() -> OpenApiRouter<Plane> {
    OpenApiRouter::new().routes(routes!(begin, list)).routes(routes!(show))
}

/// Runs again what made a commit, to compare what comes out.
#[utoipa::path(
    post,
    path = "/v1/reproductions",
    tag = "reproductions",
    params(KeyHeader),
    responses(
        (status = 201, body = Reproduction),
        (status = 200, body = Reproduction, description = "one of that commit runs already"),
    ),
)]
async fn begin(
    State(plane): State<Plane>,
    call: Call,
    Json(body): Json<NewReproduction>,
) -> Answer<(StatusCode, Json<Reproduction>)> {
    let reference: CommitRef = body.reference.parse()?;
    let mut tx = plane.begin().await?;
    lock_dag(&mut tx).await?;
    let found = call.locate_readable(&mut tx, &reference).await?;
    let (commit, name) = (found.commit, found.name);
    commit.tree()?;
    if commit.pipeline.is_none() {
        return Err(Failure::invalid(format!(
            "`{name}` was made by {}, not by a pipeline: there is nothing to run again",
            commit.actor.name
        )));
    }
    let allowed = call.allowed(&found.repo, Permission::Write)?;
    call.unanswered(&mut tx).await?;
    if let Some(running) = rows::find_running(&mut tx, &READABLE, commit.id).await? {
        return Ok((StatusCode::OK, Json(view(&call, &mut tx, running).await?)));
    }
    let maker = rows::find_maker(&mut tx, &READABLE, commit.id).await?;
    let maker = maker.ok_or_else(|| cannot(&name, "the job that made it is not known any more"))?;
    let inputs = rows::list_inputs(&mut tx, &READABLE, maker).await?;
    are_there(&call, &mut tx, &name, &inputs).await?;
    may_run(&call, &mut tx, &name, commit.origin_set, maker, &inputs).await?;
    let new = rows::NewReproduction {
        job: plane.id(),
        maker,
        original: commit.id,
        scratch: plane.id(),
        set: plane.id(),
        actor: &call.actor(),
        at: plane.now(),
    };
    rows::insert(&mut tx, &allowed, &new).await?;
    let shown = view(&call, &mut tx, new.job).await?;
    call.record(&mut tx, "reproduction.create", &format!("{} of {name}", new.job))
        .await?;
    let answer = call.commit(tx, StatusCode::CREATED, shown).await?;
    plane.signals.work_changed();
    Ok(answer)
}

fn cannot(name: &str, why: &str) -> Failure {
    Failure::new(
        ProblemKind::Deleted,
        format!("`{name}` cannot be reproduced because {why}"),
    )
    .hint("its provenance still tells what it was made from: `howdah provenance`")
}

/// Demands that everything that was read has its content still.
async fn are_there(call: &Call, tx: &mut Tx, name: &str, inputs: &[rows::InputRow]) -> Answer<()> {
    let Some(gone) = inputs.iter().find(|input| !input.is_there) else {
        return Ok(());
    };
    let readable = call.readable_among(tx, vec![gone.origin_set_id]).await?;
    if readable.is_empty() {
        return Err(cannot(name, "an input that you may not know of is not there any more"));
    }
    let how = gone.removed_how.as_deref().unwrap_or("deleted with its repo");
    let commit = CommitId::from_uuid(gone.commit_id);
    Err(cannot(
        name,
        &format!("its input `{}`, commit `{commit}`, was {how}", gone.name),
    ))
}

/// Demands that the pipeline may run: it is not suspended (R8), and what its spec needs of origins holds (R5, R10).
async fn may_run(
    call: &Call,
    tx: &mut Tx,
    name: &str,
    origin_set: i64,
    maker: Uuid,
    inputs: &[rows::InputRow],
) -> Answer<()> {
    let missing = || Failure::internal("a job lacks its pipeline's version");
    let (_, run) = pipelines::queries::run_of_job(tx, &READABLE, JobId::from_uuid(maker))
        .await?
        .ok_or_else(missing)?;
    let id = contract::ids::DomainId::from_uuid(run.id);
    if let Some(refused) = sponsors::refusal(call, tx, id, name).await? {
        return Err(refused);
    }
    let reads: BTreeSet<i64> = inputs.iter().map(|i| i.origin_set_id).collect();
    if let Some(refused) = sponsors::refusal_of(call, tx, &run, &Vec::from_iter(reads), name).await? {
        return Err(refused);
    }
    let plane = &call.plane;
    let output = origins::get(plane, tx, &READABLE, origin_set).await?;
    let mut sets = Vec::new();
    for set in inputs.iter().map(|i| i.origin_set_id).collect::<BTreeSet<_>>() {
        sets.push(origins::get(plane, tx, &READABLE, set).await?);
    }
    match pipelines::conditions::refusal(plane, &run, Purpose::Comparison, &sets, &output)? {
        None => Ok(()),
        Some(reason) => {
            let rights = call.rights();
            let told = in_words(&rights.policy, &rights.subject, &reason);
            Err(Failure::new(
                ProblemKind::Conflict,
                format!("`{name}` cannot be reproduced now: {told}"),
            ))
        }
    }
}

/// Shows a reproduction.
#[utoipa::path(
    get,
    path = "/v1/reproductions/{id}",
    tag = "reproductions",
    params(("id" = JobId, Path)),
    responses((status = 200, body = Reproduction)),
)]
async fn show(State(plane): State<Plane>, call: Call, Path(id): Path<JobId>) -> Answer<Json<Reproduction>> {
    let mut conn = plane.pool.acquire().await?;
    Ok(Json(view(&call, &mut conn, id).await?))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// A commit: `[project/]repo@branch` or `…@id`, with `^n` or `.n`.
    #[serde(rename = "ref")]
    reference: String,
    /// How many rows at most, 1 to 200.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Lists the reproductions of a commit, newest first.
#[utoipa::path(
    get,
    path = "/v1/reproductions",
    tag = "reproductions",
    params(ListQuery),
    responses((status = 200, body = Page<Reproduction>)),
)]
async fn list(
    State(plane): State<Plane>,
    call: Call,
    Query(query): Query<ListQuery>,
) -> Answer<Json<Page<Reproduction>>> {
    let reference: CommitRef = query.reference.parse()?;
    let limit = cursor::limit(query.limit)?;
    let mut conn = plane.pool.acquire().await?;
    let commit = call.locate_readable(&mut conn, &reference).await?.commit;
    let name = format!("reproductions {}", commit.id);
    let before: Option<JobId> = call.position(&name, query.cursor.as_deref())?;
    let ids = rows::list(&mut conn, &READABLE, commit.id, before, limit as i64 + 1).await?;
    let page = call.page(&name, ids, limit, |id| *id)?;
    let mut items = Vec::new();
    for id in page.items {
        items.push(view(&call, &mut conn, id).await?);
    }
    Ok(Json(Page {
        items,
        next_cursor: page.next_cursor,
    }))
}

async fn view(call: &Call, conn: &mut PgConnection, id: JobId) -> Answer<Reproduction> {
    let row = call.job(conn, id).await?.row;
    let found = rows::find(conn, &READABLE, id).await?.ok_or_else(Failure::not_found)?;
    let (commit, comparison) = (found.original, found.compared.map(|c| c.0));
    // A release of the reproduction opens nothing of the original, whose digest is told here.
    let original = commits::queries::find_commit(conn, &READABLE, CommitId::from_uuid(commit))
        .await?
        .ok_or_else(Failure::not_found)?;
    let origins = origins::get(&call.plane, conn, &READABLE, original.origin_set).await?;
    call.readable(&origins, &original.id.to_string())?;
    let job: Job = views::show(call, conn, row).await?;
    let state = match (&comparison, job.state) {
        (Some(found), JobState::Success) if found.difference.is_none() => ReproductionState::Identical,
        (Some(_), JobState::Success) => ReproductionState::Different,
        (_, state) if state.is_terminal() => ReproductionState::Failed,
        _ => ReproductionState::Running,
    };
    Ok(Reproduction {
        id,
        commit: original.id,
        state,
        comparison,
        secrets_changed: found.secrets_changed,
        job,
    })
}

/// Whether a job reproduces something.
///
/// # Errors
/// When the database is away.
pub async fn is_one(conn: &mut PgConnection, system: &System, job: JobId) -> Answer<bool> {
    Ok(rows::find(conn, system, job).await?.is_some())
}

/// Whether a job that ended reproduced something: it leaves no results and says nothing of its pipeline's state.
///
/// # Errors
/// When the database is away.
pub async fn ended(conn: &mut PgConnection, system: &System, job: JobId) -> Answer<bool> {
    if !is_one(conn, system, job).await? {
        return Ok(false);
    }
    rows::delete_results(conn, system, job).await?;
    Ok(true)
}
