//! `wait`: a long poll for a commit, a commit set or a job; a service's job is waited for until it runs. It answers for what the caller may read, and is done when
//! that is done: what is hidden shows neither in the answer nor in its time. Rights are asked anew at each look (R6).

use std::time::Duration;

use axum::extract::State;
use chassis::http::{Json, Query};
use contract::api::{CommitState, WaitAnswer};
use contract::ids::{CommitId, CommitSetId, JobId};
use contract::reference::{Base, CommitRef};
use serde::Deserialize;
use sqlx::PgConnection;
use utoipa::IntoParams;
use uuid::Uuid;

use super::{queries, views};
use crate::call::Call;
use crate::commits::{self, CommitRow};
use crate::failure::{Answer, Failure};
use crate::permissions::System;
use crate::plane::Plane;

const FILTERED: System = System::because("what the caller may not read is left out below");
/// The longest that one request waits.
const TIMEOUT_MOST: u64 = 60;
/// How long to wait for a signal before looking again.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct WaitQuery {
    /// A commit, a commit set or a job.
    target: String,
    /// How long to wait at most, up to 60.
    #[serde(default = "default_timeout")]
    timeout_seconds: u64,
}

fn default_timeout() -> u64 {
    30
}

/// What is asked about.
pub(super) enum Target {
    /// A job.
    Job(JobId),
    /// A commit set.
    Set(CommitSetId),
    /// A commit.
    Commit(CommitId),
}

/// Waits until a commit, a commit set or a job is done; ask again when it is not.
#[utoipa::path(get, path = "/v1/wait", tag = "jobs", params(WaitQuery), responses((status = 200, body = WaitAnswer)))]
pub(super) async fn wait(
    State(plane): State<Plane>,
    call: Call,
    Query(query): Query<WaitQuery>,
) -> Answer<Json<WaitAnswer>> {
    let until = tokio::time::Instant::now() + Duration::from_secs(query.timeout_seconds.min(TIMEOUT_MOST));
    let mut changes = plane.signals.commits();
    let mut policies = plane.policy.changes();
    let target = {
        let mut conn = plane.pool.acquire().await?;
        target(&call, &mut conn, &query.target).await?
    };
    loop {
        changes.borrow_and_update();
        policies.borrow_and_update();
        // Rights may have ended since the request began.
        let answer = look(&plane, &call.renewed()?, &target).await?;
        if answer.done || tokio::time::Instant::now() >= until {
            return Ok(Json(answer));
        }
        let next = until.min(tokio::time::Instant::now() + PATIENCE);
        tokio::select! {
            _ = changes.changed() => {}
            _ = policies.changed() => {}
            () = tokio::time::sleep_until(next) => {}
        }
    }
}

pub(super) async fn target(call: &Call, conn: &mut PgConnection, text: &str) -> Answer<Target> {
    if text.starts_with(JobId::PREFIX) {
        return Ok(Target::Job(text.parse()?));
    }
    if text.len() == 32
        && let Ok(id) = text.parse::<CommitId>()
    {
        let set = CommitSetId::from_uuid(id.uuid());
        let members = commits::queries::list_set(conn, &FILTERED, set).await?;
        return Ok(if members.is_empty() {
            Target::Commit(id)
        } else {
            Target::Set(set)
        });
    }
    let reference: CommitRef = text.parse()?;
    // Waiting for a branch means its newest commit, whatever its state.
    if let (Base::Branch(branch), None) = (&reference.base, &reference.step) {
        let repo = call.repo(conn, &reference.repo).await?;
        if let Some(Some(head)) = commits::queries::find_head(conn, &FILTERED, repo.id, branch).await? {
            return Ok(Target::Commit(head.id));
        }
    }
    Ok(Target::Commit(call.locate(conn, &reference).await?.commit.id))
}

async fn look(plane: &Plane, call: &Call, target: &Target) -> Answer<WaitAnswer> {
    let mut conn = plane.pool.acquire().await?;
    let rows: Vec<CommitRow> = match target {
        Target::Job(id) => {
            let job = call.job(&mut conn, *id).await?;
            let commit = CommitId::from_uuid(job.row.output_commit_id);
            commits::queries::find_commit(&mut conn, &FILTERED, commit)
                .await?
                .into_iter()
                .collect()
        }
        Target::Set(set) => commits::queries::list_set(&mut conn, &FILTERED, *set).await?,
        Target::Commit(id) => commits::queries::find_commit(&mut conn, &FILTERED, *id)
            .await?
            .into_iter()
            .collect(),
    };
    if let (Target::Commit(id), Some(commit)) = (target, rows.first()) {
        let set = commits::origins::get(plane, &mut conn, &FILTERED, commit.origin_set).await?;
        call.readable(&set, &id.to_string())?;
    }
    let sets: std::collections::BTreeSet<i64> = rows.iter().map(|c| c.origin_set).collect();
    let readable = call.readable_among(&mut conn, sets.into_iter().collect()).await?;
    let rows: Vec<CommitRow> = rows.into_iter().filter(|c| readable.contains(&c.origin_set)).collect();
    if rows.is_empty() {
        return Err(Failure::not_found());
    }
    let ids: Vec<Uuid> = rows.iter().map(|c| c.id.uuid()).collect();
    let jobs = queries::of_commits(&mut conn, &FILTERED, &ids).await?;
    let jobs = views::show_all(call, &mut conn, jobs).await?;
    let done =
        rows.iter().all(|c| c.state != CommitState::Open) && jobs.iter().all(|j| j.state.is_terminal() || j.serving);
    let commits = commits::views::show_all(&mut conn, call, rows).await?;
    Ok(WaitAnswer { done, commits, jobs })
}
