//! What a worker is told about services: which to keep running. It says which it does and how they are; an answer comes when
//! the two differ, or after a while. Both sides say all they know each time, so nothing is lost when either is killed. Workers of
//! pools are told of the services of their pool alone, and hold what they keep under leases.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use chassis::http::Json;
use chrono::{DateTime, Utc};
use contract::ids::JobId;
use uuid::Uuid;

use super::queries::{self, Ended, Keeper, Run};
use super::{STEADY, Way, pause};
use crate::failure::{Answer, Failure};
use crate::permissions::System;
use crate::plane::Plane;
use crate::spouts;
use crate::worker::admission::{Admitted, admit};
use crate::worker::capability::door_word;
use crate::worker::protocol::{
    DatumTask, Entrance, Pool, ServiceStanding, ServiceTask, ServicesAnswer, ServicesRequest,
};
use crate::worker::{queries as worker, routes};

const WORKERS: System = System::because("workers act for the plane, which checked the rights when the job was made");
/// Signals may be lost: looks by itself that often.
const PATIENCE: Duration = Duration::from_secs(5);
const LEAST_WAIT: Duration = Duration::from_millis(10);

/// `POST /internal/v1/worker/services`.
///
/// # Errors
/// `signed-out` for who is no worker; `not-found` for a worker of a pool that names another one's job; when the database is away.
pub async fn services(
    State(plane): State<Plane>,
    headers: HeaderMap,
    Json(body): Json<ServicesRequest>,
) -> Answer<Json<ServicesAnswer>> {
    let admitted = admit(&plane, &headers)?;
    let keeper = keeper(&plane, admitted, &body).await?;
    let until = tokio::time::Instant::now() + Duration::from_millis(body.wait_ms.min(30_000));
    let mut work = plane.signals.work();
    let mut commits = plane.signals.commits();
    take_reports(&plane, keeper, &body).await?;
    let running: HashSet<(JobId, i32)> = body
        .services
        .iter()
        .filter(|report| !matches!(report.standing, ServiceStanding::Ended { .. }))
        .map(|report| (report.job, report.run))
        .collect();
    loop {
        work.borrow_and_update();
        commits.borrow_and_update();
        let services = wanted(&plane, keeper, &body.isolation).await?;
        let named: HashSet<(JobId, i32)> = services.iter().map(|s| (s.datum.job, s.datum.run)).collect();
        let now = tokio::time::Instant::now();
        if named != running || now >= until {
            return Ok(Json(ServicesAnswer { services }));
        }
        let again = until.min(now + next_start(&plane, keeper).await?);
        tokio::select! {
            _ = work.changed() => {}
            _ = commits.changed() => {}
            () = tokio::time::sleep_until(again) => {}
        }
    }
}

/// Who asks, if it names nothing that is not its own.
async fn keeper(plane: &Plane, admitted: Admitted, body: &ServicesRequest) -> Answer<Keeper> {
    let jobs: Vec<Uuid> = body.services.iter().map(|report| report.job.uuid()).collect();
    let mut tx = plane.begin().await?;
    admitted.may_name(&mut tx, &WORKERS, &jobs).await?;
    Ok(Keeper {
        worker: admitted.worker(body.worker),
        pool: admitted.pool(),
        good_after: plane.leases_good_after(plane.now()),
    })
}

/// How a service is reached that a worker tells of: nothing but the plane's own worker is on its machine.
fn way(plane: &Plane, pool: Option<Pool>, door: &Entrance) -> Answer<Way> {
    match (pool, door) {
        (None, Entrance::Socket(path)) => Ok(Way::Socket(path.clone())),
        (Some(pool), Entrance::Agent(address)) => Ok(Way::Agent(*address, door_word(&plane.capabilities.of(pool)))),
        _ => Err(Failure::invalid(
            "nothing that this worker keeps is reached in that way",
        )),
    }
}

async fn next_start(plane: &Plane, keeper: Keeper) -> Answer<Duration> {
    let mut conn = plane.pool.acquire().await?;
    let next = queries::next_start(&mut conn, &WORKERS, keeper).await?;
    let wait = next.map(|next| (next - plane.now()).to_std().unwrap_or_default());
    Ok(wait.unwrap_or(PATIENCE).clamp(LEAST_WAIT, PATIENCE))
}

async fn take_reports(plane: &Plane, keeper: Keeper, body: &ServicesRequest) -> Answer<()> {
    let mut doors = HashMap::new();
    let now = plane.now();
    let mut news = false;
    for report in &body.services {
        let run = Run {
            job: report.job,
            run: report.run,
            worker: keeper.worker,
        };
        match &report.standing {
            ServiceStanding::Starting => {}
            ServiceStanding::Running => {
                let mut conn = plane.pool.acquire().await?;
                news |= queries::answering(&mut conn, &WORKERS, run, now).await?;
            }
            ServiceStanding::Answering { door } => {
                let mut conn = plane.pool.acquire().await?;
                news |= queries::answering(&mut conn, &WORKERS, run, now).await?;
                doors.insert(report.job, (report.run, way(plane, keeper.pool, door)?));
            }
            ServiceStanding::Ended { reason, exit_code } => {
                news |= take_end(plane, run, (reason, *exit_code), now).await?;
            }
        }
    }
    plane
        .doors
        .set(keeper.pool.map(|_| keeper.worker), kept(plane, keeper, doors).await?);
    if news {
        plane.signals.commits_changed();
    }
    Ok(())
}

/// The doors of runs that are this worker's still: another one may have taken their place.
async fn kept(plane: &Plane, keeper: Keeper, doors: HashMap<JobId, (i32, Way)>) -> Answer<HashMap<JobId, Way>> {
    if doors.is_empty() {
        return Ok(HashMap::new());
    }
    let mut conn = plane.pool.acquire().await?;
    let runs = queries::kept(&mut conn, &WORKERS, keeper.worker).await?;
    let is_kept = |job: JobId, number: i32| runs.iter().any(|run| run.job == job && run.run == number);
    let kept = doors.into_iter().filter(|(job, (run, _))| is_kept(*job, *run));
    Ok(kept.map(|(job, (_, way))| (job, way)).collect())
}

/// A worker of a pool is gone, as it is called in leases: another one may have what it kept. With a reason its services have ended, for
/// that; else they are started again at once.
///
/// # Errors
/// When the database is away.
pub async fn gone(plane: &Plane, worker: Uuid, reason: Option<&str>) -> Answer<()> {
    plane.doors.set(Some(worker), HashMap::new());
    if let Some(reason) = reason {
        let mut conn = plane.pool.acquire().await?;
        let kept = queries::kept(&mut conn, &WORKERS, worker).await?;
        drop(conn);
        for run in kept {
            take_end(plane, run, (reason, None), plane.now()).await?;
        }
    }
    let mut conn = plane.pool.acquire().await?;
    if queries::release(&mut conn, &WORKERS, worker).await? > 0 {
        plane.signals.work_changed();
        plane.signals.commits_changed();
    }
    Ok(())
}

async fn take_end(
    plane: &Plane,
    run: Run,
    (reason, exit_code): (&str, Option<i32>),
    now: DateTime<Utc>,
) -> Answer<bool> {
    let mut tx = plane.begin().await?;
    let Some((state, since, failures)) = queries::lock_run(&mut tx, &WORKERS, run).await? else {
        return Ok(false);
    };
    let steady = state == "answering" && (now - since).to_std().unwrap_or_default() >= STEADY;
    let failures = if steady { 1 } else { failures.saturating_add(1) };
    let ended = Ended {
        reason: &reason.replace('\0', "\u{fffd}"),
        exit_code,
        failures,
        not_before: now + pause(u32::try_from(failures).unwrap_or(1)),
    };
    queries::ended(&mut tx, &WORKERS, run.job, &ended, now).await?;
    tx.commit().await?;
    Ok(true)
}

async fn wanted(plane: &Plane, keeper: Keeper, isolation: &str) -> Answer<Vec<ServiceTask>> {
    let mut tx = plane.begin().await?;
    let now = plane.now();
    queries::assign(&mut tx, &WORKERS, keeper, now, now - STEADY).await?;
    if keeper.pool.is_some() {
        queries::hold(&mut tx, &WORKERS, keeper.worker, now + routes::LEASE).await?;
    }
    let rows = queries::wanted(&mut tx, &WORKERS, keeper.worker).await?;
    if rows.is_empty() {
        tx.commit().await?;
        return Ok(Vec::new());
    }
    let ids: Vec<Uuid> = rows.iter().map(|row| row.job_id).collect();
    worker::update_isolation(&mut tx, &WORKERS, &ids, isolation).await?;
    let mut tasks = routes::tasks(plane, &mut tx, &ids, false).await?.0;
    if keeper.pool.is_some() {
        routes::forget_logins(&mut tasks);
    }
    let mut jobs: HashMap<JobId, _> = tasks.into_iter().map(|task| (task.job, task)).collect();
    let mut keys = HashMap::new();
    for row in rows.iter().filter(|row| row.port.is_none()) {
        let job = JobId::from_uuid(row.job_id);
        keys.insert(job, spouts::queries::find_last_key(&mut tx, &WORKERS, job).await?);
    }
    tx.commit().await?;
    let task = |row: queries::WantedRow| {
        let job = JobId::from_uuid(row.job_id);
        Some(ServiceTask {
            job: jobs.remove(&job)?,
            datum: DatumTask {
                job,
                position: 0,
                key: hex::encode(row.key),
                run: row.run,
                inputs: worker::decode_inputs(&row.inputs),
            },
            port: row.port.and_then(|port| u16::try_from(port).ok()),
            last_key: keys.remove(&job).flatten(),
        })
    };
    Ok(rows.into_iter().filter_map(task).collect())
}
