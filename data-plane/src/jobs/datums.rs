//! SQL of datums as people see them: pages by place or by how long they took, each through an index, however many datums
//! a job has.

use chrono::{DateTime, Utc};
use contract::api::DatumState;
use contract::ids::JobId;
use serde::{Deserialize, Serialize};
use sqlx::{FromRow, PgConnection, Postgres, QueryBuilder};

use crate::failure::Answer;
use crate::permissions::System;

/// A row of `datums`.
#[derive(Debug, Clone, FromRow)]
pub struct DatumRow {
    /// Its place.
    pub position: i64,
    /// Its key.
    pub key: Vec<u8>,
    /// What it reads.
    pub inputs: Vec<u8>,
    /// Its state.
    pub state: String,
    /// Runs of user code.
    pub attempts: i32,
    /// Why it failed.
    pub reason: Option<String>,
    /// Exit code of the last run.
    pub exit_code: Option<i32>,
    /// Waiting.
    pub queue_ms: i64,
    /// Bringing inputs.
    pub download_ms: i64,
    /// User code.
    pub process_ms: i64,
    /// Storing outputs.
    pub upload_ms: i64,
    /// Bytes that it reads.
    pub bytes_in: i64,
    /// Bytes that it made.
    pub bytes_out: i64,
    /// Peak memory.
    pub memory_bytes: i64,
    /// Processor time.
    pub cpu_ms: i64,
    /// When a worker took it.
    pub started_at: Option<DateTime<Utc>>,
    /// When it was settled.
    pub finished_at: Option<DateTime<Utc>>,
}

impl DatumRow {
    /// Where a list goes on behind it.
    pub fn place(&self) -> Place {
        Place {
            took_ms: self.download_ms + self.process_ms + self.upload_ms,
            position: self.position,
        }
    }
}

/// A datum's place in a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// How long it took without waiting.
    pub took_ms: i64,
    /// Its place in the job.
    pub position: i64,
}

macro_rules! columns {
    () => {
        "position, key, inputs, state, attempts, reason, exit_code, queue_ms, download_ms, process_ms, upload_ms, bytes_in,
         bytes_out, memory_bytes, cpu_ms, started_at, finished_at"
    };
}

/// Datums of a job behind `after`, in order.
pub async fn list(
    conn: &mut PgConnection,
    _: &System,
    job: JobId,
    state: Option<DatumState>,
    after: Option<Place>,
    limit: i64,
) -> Answer<Vec<DatumRow>> {
    let mut query = QueryBuilder::<Postgres>::new(concat!("select ", columns!(), " from datums where job_id = "));
    query.push_bind(job.uuid());
    if let Some(state) = state {
        // Literally, because only so the partial indexes are used.
        query.push(format!(" and state = '{}'", state.as_str()));
    }
    query
        .push(" and position > ")
        .push_bind(after.map_or(-1, |place| place.position));
    query.push(" order by position limit ").push_bind(limit);
    Ok(query.build_query_as().fetch_all(conn).await?)
}

/// Datums of a job that were run, the slowest first, behind `after`: the first of each state, merged.
pub async fn list_slowest(
    conn: &mut PgConnection,
    _: &System,
    job: JobId,
    state: Option<DatumState>,
    after: Option<Place>,
    limit: i64,
) -> Answer<Vec<DatumRow>> {
    let states = DatumState::ALL
        .iter()
        .filter(|one| state.is_none_or(|state| state == **one));
    let states: Vec<&str> = states.map(|state| state.as_str()).collect();
    let after = after.unwrap_or(Place {
        took_ms: i64::MAX,
        position: i64::MAX,
    });
    let rows = sqlx::query_as(concat!(
        "select d.* from unnest($2::text[]) s (word) cross join lateral (
             select ",
        columns!(),
        "      from datums
              where job_id = $1 and state = s.word and download_ms + process_ms + upload_ms > 0
                and (download_ms + process_ms + upload_ms, position) < ($3, $4)
              order by download_ms + process_ms + upload_ms desc, position desc limit $5) d
          order by download_ms + process_ms + upload_ms desc, position desc limit $5"
    ))
    .bind(job.uuid())
    .bind(states)
    .bind(after.took_ms)
    .bind(after.position)
    .bind(limit)
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

/// Two at most of a job's datums whose keys begin with these hexadecimal digits; of datums with one key, the first.
pub async fn find(conn: &mut PgConnection, _: &System, job: JobId, digits: &str) -> Answer<Vec<DatumRow>> {
    let bound = |fill: &str| {
        hex::decode(format!(
            "{digits}{}",
            fill.repeat(64_usize.saturating_sub(digits.len()))
        ))
    };
    let (Ok(least), Ok(most)) = (bound("0"), bound("f")) else {
        return Ok(Vec::new());
    };
    let rows = sqlx::query_as(concat!(
        "select distinct on (key) ",
        columns!(),
        " from datums where job_id = $1 and key between $2 and $3 order by key, position limit 2"
    ))
    .bind(job.uuid())
    .bind(least)
    .bind(most)
    .fetch_all(conn)
    .await?;
    Ok(rows)
}
