//! What a worker is told about services: which to keep running. It says which it does and how they are; an answer comes when
//! the two differ, or after a while. Both sides say all they know each time, so nothing is lost when either is killed.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use chassis::http::Json;
use chrono::{DateTime, Utc};
use contract::ids::JobId;
use uuid::Uuid;

use super::queries::{self, Ended, Run};
use super::{STEADY, pause};
use crate::failure::Answer;
use crate::permissions::System;
use crate::plane::Plane;
use crate::spouts;
use crate::worker::admission::admit_own;
use crate::worker::protocol::{
    DatumTask, ServiceReport, ServiceStanding, ServiceTask, ServicesAnswer, ServicesRequest,
};
use crate::worker::{queries as worker, routes};

const WORKERS: System = System::because("workers act for the plane, which checked the rights when the job was made");
/// Signals may be lost: looks by itself that often.
const PATIENCE: Duration = Duration::from_secs(5);
const LEAST_WAIT: Duration = Duration::from_millis(10);

/// `POST /internal/v1/worker/services`.
///
/// # Errors
/// `signed-out` for who is no worker; when the database is away.
pub async fn services(
    State(plane): State<Plane>,
    headers: HeaderMap,
    Json(body): Json<ServicesRequest>,
) -> Answer<Json<ServicesAnswer>> {
    admit_own(&plane, &headers)?;
    let until = tokio::time::Instant::now() + Duration::from_millis(body.wait_ms.min(30_000));
    let mut work = plane.signals.work();
    let mut commits = plane.signals.commits();
    take_reports(&plane, &body).await?;
    let running: HashSet<(JobId, i32)> = body
        .services
        .iter()
        .filter(|report| !matches!(report.standing, ServiceStanding::Ended { .. }))
        .map(|report| (report.job, report.run))
        .collect();
    loop {
        work.borrow_and_update();
        commits.borrow_and_update();
        let services = wanted(&plane, (body.worker, &body.isolation)).await?;
        let named: HashSet<(JobId, i32)> = services.iter().map(|s| (s.datum.job, s.datum.run)).collect();
        let now = tokio::time::Instant::now();
        if named != running || now >= until {
            return Ok(Json(ServicesAnswer { services }));
        }
        let again = until.min(now + next_start(&plane).await?);
        tokio::select! {
            _ = work.changed() => {}
            _ = commits.changed() => {}
            () = tokio::time::sleep_until(again) => {}
        }
    }
}

async fn next_start(plane: &Plane) -> Answer<Duration> {
    let mut conn = plane.pool.acquire().await?;
    let next = queries::next_start(&mut conn, &WORKERS).await?;
    let wait = next.map(|next| (next - plane.now()).to_std().unwrap_or_default());
    Ok(wait.unwrap_or(PATIENCE).clamp(LEAST_WAIT, PATIENCE))
}

async fn take_reports(plane: &Plane, body: &ServicesRequest) -> Answer<()> {
    let mut doors = HashMap::new();
    let now = plane.now();
    let mut news = false;
    for report in &body.services {
        let run = Run {
            job: report.job,
            run: report.run,
            worker: body.worker,
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
                doors.insert(report.job, door.clone());
            }
            ServiceStanding::Ended { .. } => news |= take_end(plane, run, report, now).await?,
        }
    }
    plane.doors.set(doors);
    if news {
        plane.signals.commits_changed();
    }
    Ok(())
}

async fn take_end(plane: &Plane, run: Run, report: &ServiceReport, now: DateTime<Utc>) -> Answer<bool> {
    let ServiceStanding::Ended { reason, exit_code } = &report.standing else {
        return Ok(false);
    };
    let mut tx = plane.begin().await?;
    let Some((state, since, failures)) = queries::lock_run(&mut tx, &WORKERS, run).await? else {
        return Ok(false);
    };
    let steady = state == "answering" && (now - since).to_std().unwrap_or_default() >= STEADY;
    let failures = if steady { 1 } else { failures.saturating_add(1) };
    let ended = Ended {
        reason: &reason.replace('\0', "\u{fffd}"),
        exit_code: *exit_code,
        failures,
        not_before: now + pause(u32::try_from(failures).unwrap_or(1)),
    };
    queries::ended(&mut tx, &WORKERS, run.job, &ended, now).await?;
    tx.commit().await?;
    Ok(true)
}

async fn wanted(plane: &Plane, (who, isolation): (Uuid, &str)) -> Answer<Vec<ServiceTask>> {
    let mut tx = plane.begin().await?;
    let now = plane.now();
    queries::assign(&mut tx, &WORKERS, who, now, now - STEADY).await?;
    let rows = queries::wanted(&mut tx, &WORKERS, who).await?;
    if rows.is_empty() {
        tx.commit().await?;
        return Ok(Vec::new());
    }
    let ids: Vec<Uuid> = rows.iter().map(|row| row.job_id).collect();
    worker::update_isolation(&mut tx, &WORKERS, &ids, isolation).await?;
    let mut jobs: HashMap<JobId, _> = routes::tasks(plane, &mut tx, &ids, false)
        .await?
        .0
        .into_iter()
        .map(|task| (task.job, task))
        .collect();
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
