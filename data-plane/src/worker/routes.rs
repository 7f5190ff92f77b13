//! The plane's side of the workers' API. Who is let in says `admission`; it never passes the gateway, and its address is bound
//! like every other of the plane.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::post;
use chassis::http::Json;
use chrono::{DateTime, Utc};
use contract::ids::{CommitId, JobId, LeaseId};
use contract::names::ProjectName;
use contract::problem::ProblemKind;
use provenance::jobs::{AfterAttempt, AttemptEnd, CLAIMS_MAX, SUSPECT_DEATHS, after_attempt, datum_word, wait_after};
use provenance::spec::{Network, PipelineSpec};
use storage::TreeRef;
use uuid::Uuid;

use super::admission::{Admitted, admit};
use super::claims::{self, Claiming, NewClaim};
use super::executor;
use super::lines;
use super::protocol::{
    ClaimRequest, Claimed, CompleteAnswer, CompleteRequest, DatumReport, DatumTask, Ending, HeartbeatAnswer,
    HeartbeatRequest, ImageTask, InputTree, JobTask, LeaveAnswer, LeaveRequest, SentLine,
};
use super::queries::{self, Added, Gone, HeldRow, ReportedJob, Results, Settled};
use crate::failure::{Answer, Failure};
use crate::permissions::System;
use crate::plane::{Plane, Tx};
use crate::{jobs, pipelines, scheduler, secrets, serving};

const WORKERS: System = System::because("workers act for the plane, which checked the rights when the job was made");
/// A lease runs out when nothing was heard of its worker for that long.
pub const LEASE: Duration = Duration::from_secs(10);
/// A claim that waits for a datum looks again no sooner.
const LEAST_WAIT: Duration = Duration::from_millis(10);
/// At most so many datums in a claim.
const CLAIM_MAX: u32 = 256;

/// The routes.
pub fn router() -> Router<Plane> {
    Router::new()
        .route("/internal/v1/worker/claim", post(claim))
        .route("/internal/v1/worker/heartbeat", post(heartbeat))
        .route("/internal/v1/worker/complete", post(complete))
        .route("/internal/v1/worker/leave", post(leave))
        .route("/internal/v1/worker/keys", post(super::lending::keys))
        .route("/internal/v1/worker/services", post(crate::serving::desk::services))
        .route("/internal/v1/worker/commits", post(crate::spouts::desk::commit))
        .layer(axum::extract::DefaultBodyLimit::max(256 << 20))
}

async fn claim(
    State(plane): State<Plane>,
    headers: HeaderMap,
    Json(body): Json<ClaimRequest>,
) -> Answer<Json<Claimed>> {
    let admitted = admit(&plane, &headers)?;
    let until = tokio::time::Instant::now() + Duration::from_millis(body.wait_ms.min(30_000));
    let mut work = plane.signals.work();
    loop {
        work.borrow_and_update();
        let claimed = claim_now(&plane, admitted, &body).await?;
        let now = tokio::time::Instant::now();
        if claimed.lease.is_some() || now >= until {
            return Ok(Json(claimed));
        }
        let again = next_claimable(&plane, admitted)
            .await?
            .map_or(until, |wait| until.min(now + wait));
        if matches!(tokio::time::timeout_at(again, work.changed()).await, Ok(Err(_))) {
            return Ok(Json(claimed));
        }
    }
}

/// How long until the first of the datums that wait may be claimed.
async fn next_claimable(plane: &Plane, admitted: Admitted) -> Answer<Option<Duration>> {
    let now = plane.now();
    let mut conn = plane.pool.acquire().await?;
    let next = claims::next_claimable(&mut conn, &WORKERS, admitted.pool(), now).await?;
    Ok(next.map(|next| (next - now).to_std().unwrap_or_default().max(LEAST_WAIT)))
}

async fn claim_now(plane: &Plane, admitted: Admitted, body: &ClaimRequest) -> Answer<Claimed> {
    if pipelines::sponsors::is_unsettled(plane) || plane.rests(admitted.worker(body.worker)) {
        return Ok(Claimed::default());
    }
    let lease: LeaseId = plane.id();
    let now = plane.now();
    let most = i64::from(body.datums_max.clamp(1, CLAIM_MAX));
    let mut tx = plane.begin().await?;
    queries::be_quick(&mut tx, &WORKERS).await?;
    claims::lock_claiming(&mut tx, &WORKERS, Claiming::Datums).await?;
    // Again: with this lock no job of a pipeline that may not run any more is ended before this claim is whole.
    if pipelines::sponsors::is_unsettled(plane) {
        return Ok(Claimed::default());
    }
    let new = NewClaim {
        lease,
        worker: admitted.worker(body.worker),
        pool: admitted.pool(),
        most,
        now,
        expires_at: now + LEASE,
    };
    let rows = claims::claim(&mut tx, &WORKERS, new).await?;
    if rows.is_empty() {
        return Ok(Claimed::default());
    }
    let ids: Vec<Uuid> = rows
        .iter()
        .map(|r| r.job_id)
        .collect::<HashSet<_>>()
        .into_iter()
        .collect();
    queries::update_isolation(&mut tx, &WORKERS, &ids, &body.isolation).await?;
    let (mut jobs, outdated) = tasks(plane, &mut tx, &ids, true).await?;
    if admitted.pool().is_some() {
        forget_logins(&mut jobs);
    }
    let seen = scheduler::queries::planned_at(&mut tx, &WORKERS, &outdated).await?;
    tx.commit().await?;
    if let Err(error) = plan_again(plane, &seen).await {
        // Once their lease is over they are claimed, and found so, again.
        tracing::warn!("jobs whose secrets were set since are planned again later: {error}");
    }
    let current = |row: &claims::ClaimedRow| !outdated.contains(&JobId::from_uuid(row.job_id));
    let datums = rows.into_iter().filter(current).map(|row| DatumTask {
        job: JobId::from_uuid(row.job_id),
        position: row.position,
        key: hex::encode(row.key),
        run: row.claims,
        inputs: queries::decode_inputs(&row.inputs),
    });
    let mut datums: Vec<DatumTask> = datums.collect();
    // In turn from every job, as they were picked.
    let mut turn: HashMap<JobId, usize> = HashMap::new();
    datums.sort_by_key(|d| (d.job, d.position));
    datums.sort_by_cached_key(|d| {
        let n = turn.entry(d.job).or_default();
        *n += 1;
        *n
    });
    Ok(Claimed {
        lease: Some(lease),
        jobs,
        datums,
    })
}

/// A pod runs in its image already, which the cluster has pulled.
pub fn forget_logins(jobs: &mut [JobTask]) {
    for image in jobs.iter_mut().filter_map(|job| job.image.as_mut()) {
        image.logins.clear();
    }
}

/// Takes jobs whose secrets were set since they were planned back to their beginning, their datums with them. While that
/// happens nobody claims: of two who did both at once each would wait for a datum of the other. A job that was planned
/// anew since it was seen is left alone: somebody else was first. They are in the order of their ids.
async fn plan_again(plane: &Plane, jobs: &[(JobId, Option<DateTime<Utc>>)]) -> Answer<()> {
    if jobs.is_empty() {
        return Ok(());
    }
    let mut tx = plane.begin().await?;
    claims::lock_claiming(&mut tx, &WORKERS, Claiming::Nothing).await?;
    for (job, planned_at) in jobs {
        if scheduler::queries::is_planned_as(&mut tx, &WORKERS, *job, *planned_at).await? {
            scheduler::queries::plan_again(&mut tx, &WORKERS, *job).await?;
        }
    }
    tx.commit().await?;
    plane.signals.work_changed();
    Ok(())
}

/// What the datums of each of these jobs have in common, and the jobs that have to be planned again, because a secret has
/// another version since, or what is stored of them cannot be read. Those of services, which are `planned` with none, get the values of now.
///
/// # Errors
/// When the database is away or something stored is damaged.
pub async fn tasks(plane: &Plane, tx: &mut Tx, ids: &[Uuid], planned: bool) -> Answer<(Vec<JobTask>, Vec<JobId>)> {
    let inputs = queries::list_inputs(tx, &WORKERS, ids).await?;
    let rows = queries::list_tasks(tx, &WORKERS, ids).await?;
    let task = |row: queries::TaskRow| {
        let project: ProjectName = row.project.parse()?;
        let spec = PipelineSpec::parse(&row.spec.0, &project)
            .map_err(|errors| Failure::internal(format!("a stored spec is not valid any more: {errors:?}")))?;
        let leaves = spec.input.leaves();
        let trees = leaves.iter().enumerate().map(|(position, leaf)| {
            let found = inputs
                .iter()
                .find(|(job, at, ..)| *job == row.id && *at as usize == position);
            let root = match found {
                Some((.., Some(root))) => root.clone(),
                _ => TreeRef::empty().to_bytes()?,
            };
            Ok(InputTree {
                name: leaf.name.to_string(),
                commit: CommitId::from_uuid(found.map_or(Uuid::nil(), |(_, _, commit, _)| *commit)),
                root: hex::encode(root),
                empty_files: leaf.empty_files,
                lazy: leaf.lazy,
                code: spec
                    .transform
                    .code
                    .as_ref()
                    .filter(|_| leaf.is_code)
                    .map(|code| code.path.clone()),
            })
        });
        let inputs = trees.collect::<Answer<Vec<_>>>()?;
        Ok::<_, Failure>((job_task(&row, &spec, inputs), spec))
    };
    let (mut all, mut outdated) = (Vec::new(), Vec::new());
    for row in rows {
        let job = JobId::from_uuid(row.id);
        let (mut task, spec) = match task(row) {
            Ok(found) => found,
            // Planning says why it cannot run, and ends it; every other job goes on.
            Err(error) => {
                tracing::warn!(job.id = %job, "what is stored of a job cannot be read any more: {error}");
                outdated.push(job);
                continue;
            }
        };
        match secrets::of_job(plane, tx, &spec, planned.then_some(&task.secret_versions)).await {
            Ok(Some(secrets)) => task.secrets = secrets,
            Ok(None) => {
                outdated.push(task.job);
                continue;
            }
            // Only a database that is away ends the claim: it would be that of every other job too.
            Err(error) if matches!(error.kind(), ProblemKind::Overloaded | ProblemKind::StorageFull) => {
                return Err(error);
            }
            Err(error) => task.refused = Some(error.detail().to_owned()),
        }
        if let Some(image) = &mut task.image {
            match secrets::of_registries(plane, tx, &spec.project, &spec.transform.image_pull_secrets).await {
                Ok(logins) => image.logins = logins,
                Err(error) if matches!(error.kind(), ProblemKind::Overloaded | ProblemKind::StorageFull) => {
                    return Err(error);
                }
                Err(error) => task.refused = Some(error.detail().to_owned()),
            }
        }
        all.push(task);
    }
    Ok((all, outdated))
}

fn job_task(row: &queries::TaskRow, spec: &PipelineSpec, inputs: Vec<InputTree>) -> JobTask {
    let mut transform = spec.transform.clone();
    for (name, value) in executor::of_one_node(spec) {
        transform.env.entry(name).or_insert(value);
    }
    // A version that was applied before images were resolved runs among the machine's programs.
    let image = transform.image.zip(row.image_digest.clone());
    JobTask {
        job: JobId::from_uuid(row.id),
        pipeline: format!("{}/{}", row.project, row.name),
        output_commit: CommitId::from_uuid(row.output_commit_id),
        image: image.map(|(name, digest)| ImageTask {
            name,
            digest,
            user: transform.user,
            logins: Vec::new(),
        }),
        cmd: transform.cmd,
        stdin: transform.stdin,
        err_cmd: transform.err_cmd,
        err_stdin: transform.err_stdin,
        accept_return_code: transform.accept_return_code,
        env: transform.env.into_iter().collect(),
        working_dir: transform
            .working_dir
            .or_else(|| transform.code.map(|_| "/code".to_owned())),
        datum_timeout_ms: spec
            .datum_timeout
            .map(|t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX)),
        memory_bytes: spec.resource_limits.memory_bytes,
        disk_bytes: spec.resource_limits.disk_bytes,
        network: spec.network == Network::Internet,
        parallelism: spec.parallelism,
        inputs,
        secrets: Vec::new(),
        secret_versions: row.secret_versions.0.clone(),
        refused: None,
    }
}

async fn heartbeat(
    State(plane): State<Plane>,
    headers: HeaderMap,
    Json(body): Json<HeartbeatRequest>,
) -> Answer<Json<HeartbeatAnswer>> {
    let admitted = admit(&plane, &headers)?;
    let now = plane.now();
    let leases: Vec<Uuid> = body.leases.iter().map(|l| l.uuid()).collect();
    let jobs: Vec<Uuid> = body.jobs.iter().map(|j| j.uuid()).collect();
    let mut tx = plane.begin().await?;
    queries::be_quick(&mut tx, &WORKERS).await?;
    admitted.may_name(&mut tx, &WORKERS, &named(&jobs, &body.logs)).await?;
    let worker = admitted.worker(body.worker);
    let good = plane.leases_good_after(now);
    let renewed = queries::renew(&mut tx, &WORKERS, worker, &leases, good, now + LEASE).await?;
    let ended = queries::ended(&mut tx, &WORKERS, &jobs).await?;
    let most = lines::insert(&mut tx, &WORKERS, &body.logs).await?;
    tx.commit().await?;
    plane.retention.lines_came(&plane.config.logs, most);
    if !body.logs.is_empty() {
        plane.signals.commits_changed();
    }
    Ok(Json(HeartbeatAnswer {
        lost: body
            .leases
            .into_iter()
            .filter(|l| !renewed.contains(&l.uuid()))
            .collect(),
        ended: ended.into_iter().map(JobId::from_uuid).collect(),
    }))
}

async fn complete(
    State(plane): State<Plane>,
    headers: HeaderMap,
    Json(body): Json<CompleteRequest>,
) -> Answer<Json<CompleteAnswer>> {
    let admitted = admit(&plane, &headers)?;
    let now = plane.now();
    let ids: Vec<Uuid> = body
        .datums
        .iter()
        .map(|d| d.job.uuid())
        .collect::<HashSet<_>>()
        .into_iter()
        .collect();
    let mut tx = plane.begin().await?;
    admitted.may_name(&mut tx, &WORKERS, &named(&ids, &body.logs)).await?;
    let jobs = queries::lock_running(&mut tx, &WORKERS, &ids).await?;
    let reported: Vec<(Uuid, i64)> = body.datums.iter().map(|d| (d.job.uuid(), d.position)).collect();
    let (job_ids, positions): (Vec<Uuid>, Vec<i64>) = reported.into_iter().unzip();
    let (worker, good) = (admitted.worker(body.worker), plane.leases_good_after(now));
    let held = queries::held(&mut tx, &WORKERS, worker, (&job_ids, &positions), good).await?;
    let batch = settle(&jobs, &held, &body.datums, now);
    let accepted = batch.settled.jobs.len() as u64;
    let settled = Settled {
        at: Some(now),
        ..batch.settled
    };
    queries::update_datums(&mut tx, &WORKERS, &settled).await?;
    queries::insert_results(&mut tx, &WORKERS, &batch.results, now).await?;
    let most = lines::insert(&mut tx, &WORKERS, &body.logs).await?;
    // What ended made room: for the next of a job with limited parallelism, or for the next suspect.
    let made_room = jobs.iter().any(|job| job.parallelism.is_some())
        || held
            .iter()
            .any(|row| u32::try_from(row.deaths).is_ok_and(|deaths| deaths >= SUSPECT_DEATHS));
    let mut woken = batch.again || made_room;
    let mut counts: Vec<_> = batch.counts.into_iter().collect();
    counts.sort_unstable_by_key(|(job, _)| *job);
    for (job, added) in counts {
        woken |= queries::count(&mut tx, &WORKERS, job, added).await? == 0;
    }
    jobs::traces::datums(&mut tx, &WORKERS, &traced(&settled, &body.datums)).await?;
    tx.commit().await?;
    plane.retention.lines_came(&plane.config.logs, most);
    if woken {
        plane.signals.work_changed();
    }
    if !body.logs.is_empty() {
        plane.signals.commits_changed();
    }
    Ok(Json(CompleteAnswer { accepted }))
}

/// A worker gives back what it, or one of its name before it, holds: others have it at once.
async fn leave(
    State(plane): State<Plane>,
    headers: HeaderMap,
    Json(body): Json<LeaveRequest>,
) -> Answer<Json<LeaveAnswer>> {
    let admitted = admit(&plane, &headers)?;
    let mut conn = plane.pool.acquire().await?;
    let worker = admitted.worker(body.worker);
    let gone = match body.died {
        true => Gone::Worker(worker),
        false => Gone::Left(worker),
    };
    let freed = queries::free(&mut conn, &WORKERS, gone, plane.now()).await?;
    drop(conn);
    if admitted.pool().is_some() {
        serving::desk::gone(&plane, worker, None).await?;
    }
    if freed > 0 {
        plane.signals.work_changed();
    }
    Ok(Json(LeaveAnswer { freed }))
}

/// These jobs and those that lines are of.
fn named(jobs: &[Uuid], lines: &[SentLine]) -> Vec<Uuid> {
    let lines: HashSet<Uuid> = lines.iter().map(|line| line.job.uuid()).collect();
    jobs.iter().copied().chain(lines).collect()
}

/// The reports that were taken.
fn traced(settled: &Settled, reports: &[DatumReport]) -> Vec<jobs::traces::Datum> {
    let taken: HashSet<(Uuid, i64)> = settled
        .jobs
        .iter()
        .copied()
        .zip(settled.positions.iter().copied())
        .collect();
    let reports = reports.iter().filter(|r| taken.contains(&(r.job.uuid(), r.position)));
    reports
        .map(|r| jobs::traces::Datum {
            job: r.job.uuid(),
            position: r.position,
            started_at: r.started_at,
            took_ms: [r.download_ms, r.process_ms, r.upload_ms],
            succeeded: matches!(r.ending, Ending::Succeeded { .. }),
        })
        .collect()
}

#[derive(Default)]
struct Batch {
    settled: Settled,
    results: Results,
    counts: HashMap<Uuid, Added>,
    /// Some wait for a worker again.
    again: bool,
}

/// Decides how each reported datum goes on. What is not held any more is left out: somebody else has it now.
fn settle(jobs: &[ReportedJob], held: &[HeldRow], reports: &[DatumReport], now: DateTime<Utc>) -> Batch {
    let mut batch = Batch::default();
    let mut kept: HashSet<(Uuid, &[u8])> = HashSet::new();
    for report in reports {
        let found = held.iter().find(|h| {
            h.job_id == report.job.uuid() && h.position == report.position && h.lease_id == report.lease.uuid()
        });
        let job = jobs.iter().find(|j| j.id == report.job.uuid());
        let (Some(row), Some(job)) = (found, job) else { continue };
        let claims = u32::try_from(row.lost).unwrap_or(0) + 1;
        let (end, reason) = match &report.ending {
            Ending::Succeeded { .. } => (AttemptEnd::Succeeded, None),
            Ending::Recovered => (AttemptEnd::Recovered, None),
            Ending::Failed { reason } => (AttemptEnd::Failed, Some(reason.clone())),
            Ending::Lost { reason } if claims >= CLAIMS_MAX => {
                tracing::error!(datum.key = hex::encode(&row.key), "a datum is given up: {reason}");
                (AttemptEnd::Failed, Some(reason.clone()))
            }
            Ending::Lost { reason } => {
                tracing::warn!(datum.key = hex::encode(&row.key), "a datum is tried again: {reason}");
                (AttemptEnd::WorkerLost, Some(reason.clone()))
            }
        };
        let tries = u32::try_from(row.failures).unwrap_or(0);
        let given_up = claims >= CLAIMS_MAX && matches!(report.ending, Ending::Lost { .. });
        let admitted = if given_up {
            0
        } else {
            u32::try_from(job.datum_tries).unwrap_or(1)
        };
        let after = after_attempt(end, tries, admitted);
        let counts = batch.counts.entry(job.id).or_default();
        counts.add(row, report);
        let (state, failures) = match after {
            AfterAttempt::Again { tries } => {
                batch.again = true;
                ("pending", tries)
            }
            AfterAttempt::Settled(state) => {
                match end {
                    AttemptEnd::Succeeded => {
                        counts.succeeded += 1;
                        counts.results_ms += report.process_ms;
                    }
                    AttemptEnd::Recovered => counts.recovered += 1,
                    _ => counts.failed += 1,
                }
                (datum_word(state), tries + u32::from(end == AttemptEnd::Failed))
            }
        };
        if let Ending::Succeeded { outputs } = &report.ending
            && kept.insert((job.results_of, &row.key))
        {
            batch.results.pipelines.push(job.results_of);
            batch.results.keys.push(row.key.clone());
            batch.results.jobs.push(job.id);
            batch.results.outputs.push(hex::decode(outputs).unwrap_or_default());
            batch.results.process_ms.push(report.process_ms);
        }
        let waits = end == AttemptEnd::WorkerLost && state == "pending";
        batch.settled.not_before.push(waits.then(|| now + wait_after(claims)));
        push(&mut batch.settled, row, report, (state, failures), reason, end);
    }
    batch
}

fn push(
    settled: &mut Settled,
    row: &HeldRow,
    report: &DatumReport,
    (state, failures): (&str, u32),
    reason: Option<String>,
    end: AttemptEnd,
) {
    settled.jobs.push(row.job_id);
    settled.positions.push(row.position);
    settled.states.push(state.to_owned());
    settled.attempts.push(i32::from(end != AttemptEnd::WorkerLost));
    settled.failures.push(i32::try_from(failures).unwrap_or(i32::MAX));
    settled.reasons.push(reason.map(|r| r.replace('\0', "\u{fffd}")));
    settled.exit_codes.push(report.exit_code);
    settled.download_ms.push(report.download_ms);
    settled.process_ms.push(report.process_ms);
    settled.upload_ms.push(report.upload_ms);
    settled.queue_ms.push(queries::waited_ms(row, report));
    settled.bytes_in.push(queries::signed(report.bytes_in));
    settled.bytes_out.push(queries::signed(report.kept_bytes()));
    settled.memory_bytes.push(queries::signed(report.memory_bytes));
    settled.cpu_ms.push(report.cpu_ms);
}
