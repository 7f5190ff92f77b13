//! Jobs and datums as the API shows them, and who may see them: whoever may read what the job makes.

use std::sync::Arc;

use contract::api::{Datum, DatumCounts, DatumState, Job, Timings};
use contract::ids::{CommitId, CommitSetId, JobId};
use provenance::access::Readable;
use provenance::origins::OriginSet;
use sqlx::PgConnection;
use uuid::Uuid;

use super::datums::DatumRow;
use super::queries::{self, InputRow, JobRow};
use super::{reasons, state_of};
use crate::call::Call;
use crate::commits::origins;
use crate::failure::{Answer, Failure};
use crate::permissions::System;
use crate::readings;
use crate::worker;

const DECIDE: System = System::because("rows are read in order to decide whether the caller may read them");

/// A job that the caller may read, with the proof.
pub struct ReadableJob {
    /// The job.
    pub row: JobRow,
    /// The origins that were decided on.
    pub origins: Arc<OriginSet>,
    /// The proof.
    pub proof: Readable,
}

impl Call {
    /// The job of that id, if the caller may read its output.
    ///
    /// # Errors
    /// 404 for what does not exist or may not be known, else `not-allowed`.
    pub async fn job(&self, conn: &mut PgConnection, id: JobId) -> Answer<ReadableJob> {
        let row = queries::find(conn, &DECIDE, id).await?.ok_or_else(Failure::not_found)?;
        let origins = origins::get(&self.plane, conn, &DECIDE, row.origin_set_id).await?;
        let commit = Uuid::simple(row.output_commit_id);
        let proof = self.readable(&origins, &format!("{}/{}@{commit}", row.project, row.name))?;
        readings::note(&self.plane, &self.actor(), CommitId::from_uuid(row.output_commit_id)).await?;
        Ok(ReadableJob { row, origins, proof })
    }

    /// Of these origin sets, those that the caller may read.
    ///
    /// # Errors
    /// When the database is away or a set is damaged.
    pub async fn readable_among(&self, conn: &mut PgConnection, sets: Vec<i64>) -> Answer<Vec<i64>> {
        let mut readable = Vec::new();
        for id in sets {
            let set = origins::get(&self.plane, conn, &DECIDE, id).await?;
            if self.readable(&set, "").is_ok() {
                readable.push(id);
            }
        }
        Ok(readable)
    }
}

/// A count of the database.
pub fn number(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}

/// Milliseconds of the database as seconds.
pub fn seconds(ms: i64) -> f64 {
    ms as f64 / 1000.0
}

/// The datums of a job.
pub fn counts(row: &JobRow) -> DatumCounts {
    DatumCounts {
        total: number(row.datums_total),
        succeeded: number(row.datums_succeeded),
        skipped: number(row.datums_skipped),
        recovered: number(row.datums_recovered),
        failed: number(row.datums_failed),
    }
}

/// What the datums of a job took.
pub fn timings(row: &JobRow) -> Timings {
    Timings {
        queue_s: seconds(row.queue_ms),
        download_s: seconds(row.download_ms),
        process_s: seconds(row.process_ms),
        upload_s: seconds(row.upload_ms),
    }
}

/// Shows jobs whose outputs the caller may read.
///
/// # Errors
/// When the database is away or a stored name is damaged.
pub async fn show_all(call: &Call, conn: &mut PgConnection, rows: Vec<JobRow>) -> Answer<Vec<Job>> {
    let outputs: Vec<Uuid> = rows
        .iter()
        .filter(|r| r.reason.is_some())
        .map(|r| r.output_commit_id)
        .collect();
    let open = reasons::open_to(call, conn, &outputs).await?;
    let shown = rows.into_iter().map(|mut row| {
        row.reason = reasons::told(call.rights(), row.reason, open.contains(&row.output_commit_id));
        view(row)
    });
    shown.collect()
}

/// Shows a job whose output the caller may read.
///
/// # Errors
/// As [`show_all`].
pub async fn show(call: &Call, conn: &mut PgConnection, row: JobRow) -> Answer<Job> {
    let mut shown = show_all(call, conn, vec![row]).await?;
    shown
        .pop()
        .ok_or_else(|| Failure::internal("a job got lost on its way out"))
}

fn view(row: JobRow) -> Answer<Job> {
    let (datums, timings) = (counts(&row), timings(&row));
    Ok(Job {
        id: JobId::from_uuid(row.id),
        pipeline: row.name.parse()?,
        project: row.project.parse()?,
        version: u32::try_from(row.version).unwrap_or(0),
        state: state_of(&row.state),
        reason: row.reason,
        output_commit: CommitId::from_uuid(row.output_commit_id),
        commit_set: CommitSetId::from_uuid(row.commit_set),
        datums,
        timings,
        serving: row.serving,
        isolation: row.isolation,
        executor: row.executor,
        created_at: row.created_at,
        started_at: row.started_at,
        finished_at: row.finished_at,
    })
}

/// What a job reads, and what of it the caller may read: who may read an output may not read every input where one was
/// released.
pub struct Leaves {
    names: Vec<(i32, String)>,
    hidden: Vec<i32>,
}

impl Leaves {
    /// The leaves of a job.
    ///
    /// # Errors
    /// When the database is away or an origin set is damaged.
    pub async fn of(call: &Call, conn: &mut PgConnection, job: JobId) -> Answer<Self> {
        let rows: Vec<InputRow> = queries::inputs(conn, &DECIDE, job).await?;
        let mut sets: Vec<i64> = rows.iter().map(|r| r.origin_set_id).collect();
        sets.sort_unstable();
        sets.dedup();
        let readable = call.readable_among(conn, sets).await?;
        let hidden = rows.iter().filter(|r| !readable.contains(&r.origin_set_id));
        Ok(Self {
            hidden: hidden.map(|r| r.position).collect(),
            names: rows.into_iter().map(|r| (r.position, r.name)).collect(),
        })
    }

    /// Whether nothing of what the job reads is hidden from the caller.
    pub fn are_open(&self) -> bool {
        self.hidden.is_empty()
    }

    fn labels(&self, inputs: &[worker::protocol::TaskInput]) -> Vec<String> {
        let hidden = |at: u32| self.hidden.iter().any(|h| u32::try_from(*h) == Ok(at));
        let label = |input: &worker::protocol::TaskInput| match hidden(input.position) {
            true => vec![reasons::RESTRICTED.to_owned()],
            false => labels(std::slice::from_ref(input), &self.names),
        };
        inputs.iter().flat_map(label).collect()
    }
}

/// Shows a datum of a job.
pub fn show_datum(call: &Call, job: JobId, row: DatumRow, leaves: &Leaves) -> Datum {
    let inputs = worker::queries::decode_inputs(&row.inputs);
    Datum {
        id: hex::encode(row.key),
        job,
        state: DatumState::ALL
            .into_iter()
            .find(|state| state.as_str() == row.state)
            .unwrap_or(DatumState::Pending),
        inputs: leaves.labels(&inputs),
        attempts: u32::try_from(row.attempts).unwrap_or(0),
        reason: reasons::told(call.rights(), row.reason, leaves.are_open()),
        exit_code: row.exit_code,
        process_s: seconds(row.process_ms),
        queue_s: seconds(row.queue_ms),
        download_s: seconds(row.download_ms),
        upload_s: seconds(row.upload_ms),
        bytes_in: leaves.are_open().then(|| number(row.bytes_in)),
        bytes_out: number(row.bytes_out),
        memory_bytes: number(row.memory_bytes),
        cpu_s: seconds(row.cpu_ms),
        gpu_s: None,
        started_at: row.started_at,
        finished_at: row.finished_at,
    }
}

/// Inputs for people: `images:/a.tif`.
pub fn labels(inputs: &[worker::protocol::TaskInput], names: &[(i32, String)]) -> Vec<String> {
    let name = |position: u32| {
        let found = names.iter().find(|(at, _)| u32::try_from(*at) == Ok(position));
        found.map_or("?", |(_, name)| name.as_str())
    };
    inputs
        .iter()
        .map(|i| format!("{}:{}", name(i.position), i.path))
        .collect()
}
