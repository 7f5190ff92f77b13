//! Where time goes: of a job, of the last jobs of a pipeline, of a commit set. Sums are kept as datums are reported, so a
//! job of a million datums is told about as quickly as one of ten. All of it is for whom may read the outputs (R1); bytes
//! of inputs for whom may read those too.

use std::collections::{BTreeSet, HashMap};

use axum::extract::State;
use chassis::http::{Json, Path, Query};
use chrono::{DateTime, Utc};
use contract::api::{
    CriticalPath, CriticalStep, Datum, JobState, JobStatistics, Phase, PipelineRun, PipelineStatistics, Requested,
};
use contract::ids::{CommitId, CommitSetId, JobId};
use contract::names::{ProjectName, RepoName};
use contract::reference::RepoRef;
use provenance::jobs::first;
use provenance::spec::PipelineSpec;
use provenance::timing::{Figures, Moments, Node, advice, critical_path as path_of};
use serde::Deserialize;
use sqlx::PgConnection;
use utoipa::IntoParams;
use uuid::Uuid;

use super::queries::{self, JobRow, Wanted};
use super::views::{Leaves, counts, number, seconds, show_datum, timings};
use super::wait::{Target, target};
use super::{datums, state_of, statistics_queries};
use crate::call::Call;
use crate::commits;
use crate::cursor;
use crate::failure::{Answer, Failure};
use crate::permissions::System;
use crate::pipelines;
use crate::plane::Plane;
use crate::scheduler::queries::has_egress;

const READABLE: System = System::because("the caller may read the outputs, or what he may not is left out here");
const FINISHING: &str = "finishing";
/// So many of the slowest datums are told.
const SLOWEST: i64 = 10;

fn moments(row: &JobRow, ready: Option<DateTime<Utc>>) -> Moments {
    Moments {
        created: row.created_at,
        ready,
        started: row.started_at,
        planned: row.planned_at,
        settled: row.settled_at,
        finished: row.finished_at,
    }
}

fn phases(moments: &Moments, now: DateTime<Utc>) -> Vec<Phase> {
    let shown = moments.phases(now).into_iter().map(|(phase, seconds)| Phase {
        name: phase.as_str().to_owned(),
        seconds,
    });
    shown.collect()
}

fn between(from: DateTime<Utc>, until: DateTime<Utc>) -> f64 {
    (until - from).num_microseconds().unwrap_or(0).max(0) as f64 / 1e6
}

/// Says where the time of a job went.
#[utoipa::path(
    get,
    path = "/v1/jobs/{id}/statistics",
    tag = "jobs",
    operation_id = "statistics",
    params(("id" = JobId, Path)),
    responses((status = 200, body = JobStatistics)),
)]
pub(super) async fn of_job(
    State(plane): State<Plane>,
    call: Call,
    Path(id): Path<JobId>,
) -> Answer<Json<JobStatistics>> {
    let mut conn = plane.pool.acquire().await?;
    let row = call.job(&mut conn, id).await?.row;
    let now = plane.now();
    let ready = statistics_queries::list_ready(&mut conn, &READABLE, &[row.id]).await?;
    let moments = moments(&row, ready.first().and_then(|(_, at)| *at));
    let mut phases = phases(&moments, now);
    let sends = has_egress(&mut conn, &READABLE, id).await?;
    for phase in phases.iter_mut().filter(|phase| sends && phase.name == FINISHING) {
        // It is nearly all of it.
        phase.name = "egressing".to_owned();
    }
    let requested = requested(&mut conn, id).await?;
    let leaves = Leaves::of(&call, &mut conn, id).await?;
    let rows = datums::list_slowest(&mut conn, &READABLE, id, None, None, SLOWEST).await?;
    let slowest: Vec<_> = rows
        .into_iter()
        .map(|row| show_datum(&call, id, row, &leaves))
        .map(|datum| Datum {
            inputs: first(datum.inputs),
            ..datum
        })
        .collect();
    let (cpu_s, process_s) = (seconds(row.cpu_ms), seconds(row.process_ms));
    let counts = counts(&row);
    let of = |name: &str| phases.iter().filter(|p| p.name == name).map(|p| p.seconds).sum::<f64>();
    let hints = advice(&Figures {
        wall_s: ran(&row, now),
        planning_s: of("planning"),
        finishing_s: of(if sends { "egressing" } else { FINISHING }),
        sends,
        ran: counts.succeeded + counts.recovered + counts.failed,
        queue_s: seconds(row.queue_ms),
        download_s: seconds(row.download_ms),
        process_s,
        upload_s: seconds(row.upload_ms),
        cpu_s,
        memory_bytes: number(row.memory_bytes),
        memory_limit: requested.memory_limit_bytes,
        slowest_s: slowest.iter().map(|d| d.process_s).fold(0.0, f64::max),
    });
    Ok(Json(JobStatistics {
        job: id,
        state: state_of(&row.state),
        wall_s: between(row.created_at, moments.end(now)),
        phases,
        timings: timings(&row),
        datums: counts,
        bytes_in: leaves.are_open().then(|| number(row.bytes_in)),
        bytes_out: number(row.bytes_out),
        memory_bytes: number(row.memory_bytes),
        cpu_s,
        cpu_used: (process_s > 0.0).then(|| cpu_s / process_s),
        gpu_s: None,
        requested,
        saved_s: seconds(row.saved_ms),
        slowest,
        hints,
    }))
}

async fn requested(conn: &mut PgConnection, job: JobId) -> Answer<Requested> {
    let Some((spec, project)) = statistics_queries::find_spec(conn, &READABLE, job).await? else {
        return Ok(Requested::default());
    };
    let spec = PipelineSpec::parse(&spec, &project.parse()?)
        .map_err(|errors| Failure::internal(format!("a stored spec is not valid any more: {errors:?}")))?;
    Ok(Requested {
        cpu: spec.resource_requests.cpu_millis.map(|millis| millis as f64 / 1000.0),
        memory_bytes: spec.resource_requests.memory_bytes,
        memory_limit_bytes: spec.resource_limits.memory_bytes,
    })
}

/// From a job's beginning to its end or to now.
fn ran(row: &JobRow, now: DateTime<Utc>) -> f64 {
    row.started_at
        .map_or(0.0, |started| between(started, row.finished_at.unwrap_or(now)))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct RunsQuery {
    /// How many rows at most, 1 to 200.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<u32>,
}

/// Says how the last jobs of a pipeline went.
#[utoipa::path(
    get,
    path = "/v1/pipelines/{project}/{name}/statistics",
    tag = "pipelines",
    operation_id = "statistics",
    params(RunsQuery),
    responses((status = 200, body = PipelineStatistics)),
)]
pub(super) async fn of_pipeline(
    State(plane): State<Plane>,
    call: Call,
    Path((project, name)): Path<(ProjectName, RepoName)>,
    Query(query): Query<RunsQuery>,
) -> Answer<Json<PipelineStatistics>> {
    let limit = cursor::limit(query.limit)?;
    let mut conn = plane.pool.acquire().await?;
    let reference = RepoRef {
        project: Some(project),
        repo: name,
    };
    let pipeline = call.repo(&mut conn, &reference).await?.id;
    pipelines::queries::find(&mut conn, &READABLE, pipeline, false)
        .await?
        .ok_or_else(Failure::not_found)?;
    let pipeline = pipeline.uuid();
    let sets = queries::origin_sets(&mut conn, &READABLE, Some(pipeline)).await?;
    let sets = call.readable_among(&mut conn, sets).await?;
    let wanted = Wanted {
        pipeline: Some(pipeline),
        state: None,
        sets: &sets,
        before: None,
    };
    let rows = queries::list(&mut conn, &READABLE, wanted, limit as i64).await?;
    let now = plane.now();
    let runs: Vec<PipelineRun> = rows
        .iter()
        .map(|row| PipelineRun {
            job: JobId::from_uuid(row.id),
            version: u32::try_from(row.version).unwrap_or(0),
            state: state_of(&row.state),
            created_at: row.created_at,
            ran_s: ran(row, now),
            timings: timings(row),
            datums: counts(row),
            cpu_s: seconds(row.cpu_ms),
            saved_s: seconds(row.saved_ms),
        })
        .collect();
    let mut good: Vec<f64> = runs
        .iter()
        .filter(|run| run.state == JobState::Success)
        .map(|run| run.ran_s)
        .collect();
    good.sort_by(f64::total_cmp);
    Ok(Json(PipelineStatistics {
        median_s: median(&good),
        longest_s: good.last().copied(),
        runs,
    }))
}

/// The middle one of what is in order, or what is between the two of them.
fn median(sorted: &[f64]) -> Option<f64> {
    let upper = sorted.get(sorted.len() / 2)?;
    let lower = sorted.get((sorted.len() - 1) / 2)?;
    Some((lower + upper) / 2.0)
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct PathQuery {
    /// A commit, a commit set or a job.
    target: String,
}

/// Names the chain of jobs that a commit set waited for.
#[utoipa::path(get, path = "/v1/critical-path", tag = "jobs", params(PathQuery), responses((status = 200, body = CriticalPath)))]
pub(super) async fn critical_path(
    State(plane): State<Plane>,
    call: Call,
    Query(query): Query<PathQuery>,
) -> Answer<Json<CriticalPath>> {
    let mut conn = plane.pool.acquire().await?;
    let set = match target(&call, &mut conn, &query.target).await? {
        Target::Set(set) => set,
        Target::Job(id) => CommitSetId::from_uuid(call.job(&mut conn, id).await?.row.commit_set),
        Target::Commit(id) => set_of(&call, &mut conn, id).await?,
    };
    let members = commits::queries::list_set(&mut conn, &READABLE, set).await?;
    let sets: BTreeSet<i64> = members.iter().map(|c| c.origin_set).collect();
    let readable = call.readable_among(&mut conn, sets.into_iter().collect()).await?;
    let members: Vec<Uuid> = members
        .iter()
        .filter(|c| readable.contains(&c.origin_set))
        .map(|c| c.id.uuid())
        .collect();
    if members.is_empty() {
        return Err(Failure::not_found());
    }
    let jobs = queries::of_commits(&mut conn, &READABLE, &members).await?;
    Ok(Json(along(&call, &mut conn, set, jobs).await?))
}

async fn set_of(call: &Call, conn: &mut PgConnection, id: CommitId) -> Answer<CommitSetId> {
    let commit = commits::queries::find_commit(conn, &READABLE, id)
        .await?
        .ok_or_else(Failure::not_found)?;
    let origins = commits::origins::get(&call.plane, conn, &READABLE, commit.origin_set).await?;
    call.readable(&origins, &id.to_string())?;
    Ok(commit.commit_set)
}

async fn along(call: &Call, conn: &mut PgConnection, set: CommitSetId, jobs: Vec<JobRow>) -> Answer<CriticalPath> {
    let now = call.plane.now();
    let ids: Vec<Uuid> = jobs.iter().map(|j| j.id).collect();
    let ready = statistics_queries::list_ready(conn, &READABLE, &ids).await?;
    let ready: HashMap<Uuid, Option<DateTime<Utc>>> = ready.into_iter().collect();
    let mut upstream: HashMap<Uuid, Vec<Uuid>> = HashMap::new();
    for (reader, read) in statistics_queries::list_edges(conn, &READABLE, &ids).await? {
        upstream.entry(reader).or_default().push(read);
    }
    let nodes: Vec<Node<Uuid>> = jobs
        .iter()
        .map(|job| Node {
            id: job.id,
            moments: moments(job, ready.get(&job.id).copied().flatten()),
            upstream: upstream.remove(&job.id).unwrap_or_default(),
        })
        .collect();
    let behind = behind(call, conn, &ids, &nodes).await?;
    let mut steps = Vec::new();
    for id in path_of(&nodes, now) {
        let found = jobs.iter().zip(&nodes).find(|(job, _)| job.id == id);
        let Some((job, node)) = found else { continue };
        steps.push(CriticalStep {
            job: JobId::from_uuid(id),
            project: job.project.parse()?,
            pipeline: job.name.parse()?,
            state: state_of(&job.state),
            phases: phases(&node.moments, now),
            finished_at: job.finished_at,
            behind: behind.get(&id).copied(),
        });
    }
    let first = jobs.iter().map(|j| j.created_at).min();
    let last = nodes.iter().map(|n| n.moments.end(now)).max();
    Ok(CriticalPath {
        commit_set: set,
        wall_s: first.zip(last).map_or(0.0, |(first, last)| between(first, last)),
        steps,
    })
}

/// The job before each in its pipeline, where that ended later than the inputs came and the caller may read it.
async fn behind(
    call: &Call,
    conn: &mut PgConnection,
    ids: &[Uuid],
    nodes: &[Node<Uuid>],
) -> Answer<HashMap<Uuid, JobId>> {
    let rows = statistics_queries::list_before(conn, &READABLE, ids).await?;
    let sets: BTreeSet<i64> = rows.iter().map(|(.., set)| *set).collect();
    let readable = call.readable_among(conn, sets.into_iter().collect()).await?;
    let mut found = HashMap::new();
    for (job, before, ended, set) in rows {
        let Some(node) = nodes.iter().find(|n| n.id == job) else {
            continue;
        };
        let since = node
            .moments
            .ready
            .map_or(node.moments.created, |ready| ready.max(node.moments.created));
        if readable.contains(&set) && ended.is_none_or(|ended| ended > since) {
            found.insert(job, JobId::from_uuid(before));
        }
    }
    Ok(found)
}
