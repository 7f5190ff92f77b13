//! What a job and its datums took, as spans of the trace of the request that set it in motion. The job's span has an id that follows
//! from its own, so that datums are recorded under it although it ends after them.

use chassis::telemetry::{self, Span};
use chrono::{DateTime, TimeDelta, Utc};
use contract::ids::JobId;
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use crate::failure::Answer;
use crate::permissions::System;

#[derive(FromRow)]
struct Ended {
    traceparent: String,
    pipeline: String,
    state: String,
    created_at: DateTime<Utc>,
    finished_at: DateTime<Utc>,
    datums_total: i64,
}

/// A year; what a report says is no more than that.
const LONGEST_MS: i64 = 366 * 86_400_000;

fn span_id(job: Uuid) -> [u8; 8] {
    let mut id = [0; 8];
    // The second half of an id is random.
    id.copy_from_slice(&job.as_bytes()[8..]);
    id
}

/// Records a job that has ended in this transaction.
///
/// # Errors
/// When the database is away.
pub async fn ended(conn: &mut PgConnection, _: &System, job: JobId) -> Answer<()> {
    if !telemetry::is_tracing() {
        return Ok(());
    }
    let found: Option<Ended> = sqlx::query_as(
        "select j.traceparent, p.name || '/' || r.name as pipeline, j.state, j.created_at, j.finished_at, j.datums_total
           from jobs j join repos r on r.id = j.pipeline_id join projects p on p.id = r.project_id
          where j.id = $1 and j.traceparent is not null and j.finished_at is not null",
    )
    .bind(job.uuid())
    .fetch_optional(conn)
    .await?;
    if let Some(found) = found {
        // Reasons quote names of files and what code says: they are for readers, not for operators.
        let failed = (found.state != "success").then(|| found.state.clone());
        telemetry::record(
            &found.traceparent,
            Span {
                name: "job",
                id: Some(span_id(job.uuid())),
                within: None,
                from: found.created_at,
                until: found.finished_at,
                attributes: vec![
                    ("job.id", job.to_string()),
                    ("pipeline", found.pipeline),
                    ("job.state", found.state),
                    ("job.datums", found.datums_total.to_string()),
                ],
                failure: failed,
            },
        );
    }
    Ok(())
}

/// A datum that has ended.
pub struct Datum {
    /// Its job.
    pub job: Uuid,
    /// Its place.
    pub position: i64,
    /// When its code was started.
    pub started_at: DateTime<Utc>,
    /// Milliseconds of bringing inputs, of code, and of storing outputs.
    pub took_ms: [i64; 3],
    /// Whether it succeeded.
    pub succeeded: bool,
}

/// Records datums that have ended.
///
/// # Errors
/// When the database is away.
pub async fn datums(conn: &mut PgConnection, _: &System, datums: &[Datum]) -> Answer<()> {
    if !telemetry::is_tracing() || datums.is_empty() {
        return Ok(());
    }
    let mut jobs: Vec<Uuid> = datums.iter().map(|d| d.job).collect();
    jobs.dedup();
    let rows: Vec<(Uuid, String)> =
        sqlx::query_as("select id, traceparent from jobs where id = any($1) and traceparent is not null")
            .bind(jobs)
            .fetch_all(conn)
            .await?;
    for datum in datums {
        let Some((_, trace)) = rows.iter().find(|(id, _)| *id == datum.job) else {
            continue;
        };
        let [download, process, upload] = datum.took_ms.map(|ms| TimeDelta::milliseconds(ms.clamp(0, LONGEST_MS)));
        telemetry::record(
            trace,
            Span {
                name: "datum",
                id: None,
                within: Some(span_id(datum.job)),
                from: datum.started_at - download,
                until: datum.started_at + process + upload,
                attributes: vec![
                    ("job.id", JobId::from_uuid(datum.job).to_string()),
                    ("datum.position", datum.position.to_string()),
                    ("datum.process_ms", process.num_milliseconds().to_string()),
                ],
                failure: (!datum.succeeded).then(|| "the datum did not succeed".to_owned()),
            },
        );
    }
    Ok(())
}
