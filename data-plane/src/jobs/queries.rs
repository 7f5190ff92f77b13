//! SQL of jobs, datums and logs as people see them. Lists take the origin sets that the caller may read.

use chrono::{DateTime, Utc};
use contract::api::JobState;
use contract::ids::JobId;
use sqlx::{FromRow, PgConnection, Postgres, QueryBuilder};
use uuid::Uuid;

use crate::failure::Answer;
use crate::permissions::System;

/// A row of `jobs` with its pipeline's name and its output's origins.
#[derive(Debug, Clone, FromRow)]
pub struct JobRow {
    /// Its id.
    pub id: Uuid,
    /// Its place among all jobs.
    pub seq: i64,
    /// Its pipeline.
    pub pipeline_id: Uuid,
    /// The pipeline's project.
    pub project: String,
    /// The pipeline's name.
    pub name: String,
    /// The version.
    pub version: i32,
    /// Its state.
    pub state: String,
    /// Why.
    pub reason: Option<String>,
    /// The commit it makes.
    pub output_commit_id: Uuid,
    /// The commit set.
    pub commit_set: Uuid,
    /// Origins of the output.
    pub origin_set_id: i64,
    /// All datums.
    pub datums_total: i64,
    /// Ran well.
    pub datums_succeeded: i64,
    /// Did not have to run.
    pub datums_skipped: i64,
    /// `err_cmd` took care of.
    pub datums_recovered: i64,
    /// Failed.
    pub datums_failed: i64,
    /// Waiting.
    pub queue_ms: i64,
    /// Bringing inputs.
    pub download_ms: i64,
    /// User code.
    pub process_ms: i64,
    /// Storing outputs.
    pub upload_ms: i64,
    /// Bytes that its datums read.
    pub bytes_in: i64,
    /// Bytes that its datums made.
    pub bytes_out: i64,
    /// Peak memory.
    pub memory_bytes: i64,
    /// Processor time.
    pub cpu_ms: i64,
    /// What it did not have to do again.
    pub saved_ms: i64,
    /// It is the one that its pipeline serves now.
    pub serving: bool,
    /// What its code runs under.
    pub isolation: Option<String>,
    /// When its datums were known.
    pub planned_at: Option<DateTime<Utc>>,
    /// When its datums were done.
    pub settled_at: Option<DateTime<Utc>>,
    /// What ran its code.
    pub executor: Option<String>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was planned.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
}

macro_rules! select_jobs {
    ($tail:literal) => {
        concat!(
            "select j.id, j.seq, j.pipeline_id, p.name as project, r.name, j.version, j.state, j.reason, j.output_commit_id,
                    j.commit_set, c.origin_set_id, j.datums_total, j.datums_succeeded, j.datums_skipped,
                    j.datums_recovered, j.datums_failed, j.queue_ms, j.download_ms, j.process_ms, j.upload_ms,
                    j.bytes_in, j.bytes_out, j.memory_bytes, j.cpu_ms, j.saved_ms,
                    exists (select 1 from services s where s.job_id = j.id) as serving, j.isolation, j.executor, j.planned_at,
                    j.settled_at, j.created_at, j.started_at, j.finished_at
               from jobs j join commits c on c.id = j.output_commit_id
               join repos r on r.id = j.pipeline_id join projects p on p.id = r.project_id ",
            $tail
        )
    };
}

/// The job of that id.
pub async fn find(conn: &mut PgConnection, _: &System, id: JobId) -> Answer<Option<JobRow>> {
    let row = sqlx::query_as(select_jobs!("where j.id = $1"))
        .bind(id.uuid())
        .fetch_optional(conn)
        .await?;
    Ok(row)
}

/// Which jobs a list holds.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Of a pipeline only.
    pub pipeline: Option<Uuid>,
    /// In a state only.
    pub state: Option<JobState>,
    /// With these origins only.
    pub sets: &'a [i64],
    /// Made before that one.
    pub before: Option<JobId>,
}

/// Jobs, newest first. Of each of the origins so many at most are walked over their own index, so that it costs the same
/// whatever else there is.
pub async fn list(conn: &mut PgConnection, _: &System, wanted: Wanted<'_>, limit: i64) -> Answer<Vec<JobRow>> {
    // Put together, so that each combination has a plan of its own.
    let mut query = QueryBuilder::<Postgres>::new(select_jobs!("where j.seq in (select f.seq from unnest("));
    query.push_bind(wanted.sets).push(
        "::bigint[]) s (id) cross join lateral (select i.seq from jobs i where i.origin_set_id = s.id and i.reproduces is null",
    );
    if let Some(pipeline) = wanted.pipeline {
        query.push(" and i.pipeline_id = ").push_bind(pipeline);
    }
    if let Some(state) = wanted.state {
        query.push(" and i.state = ").push_bind(state.as_str());
    }
    if let Some(before) = wanted.before {
        query.push(" and i.seq < (select seq from jobs where id = ");
        query.push_bind(before.uuid()).push(")");
    }
    query
        .push(" order by i.seq desc limit ")
        .push_bind(limit)
        .push(") f order by f.seq desc limit ");
    query.push_bind(limit).push(") order by j.seq desc");
    Ok(query.build_query_as().fetch_all(conn).await?)
}

/// The jobs that make these commits.
pub async fn of_commits(conn: &mut PgConnection, _: &System, commits: &[Uuid]) -> Answer<Vec<JobRow>> {
    let rows = sqlx::query_as(select_jobs!("where j.output_commit_id = any($1) order by j.seq"))
        .bind(commits)
        .fetch_all(conn)
        .await?;
    Ok(rows)
}

/// The origin sets of what was read to make these commits: commit made, set.
pub async fn input_sets(conn: &mut PgConnection, _: &System, outputs: &[Uuid]) -> Answer<Vec<(Uuid, i64)>> {
    let rows = sqlx::query_as(
        "select distinct j.output_commit_id, c.origin_set_id from jobs j join job_inputs i on i.job_id = j.id
           join commits c on c.id = i.commit_id where j.output_commit_id = any($1)",
    )
    .bind(outputs)
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

/// The origin sets of all outputs of a pipeline, or of all pipelines.
pub async fn origin_sets(conn: &mut PgConnection, _: &System, pipeline: Option<Uuid>) -> Answer<Vec<i64>> {
    // Sets are few: of each it is looked whether there is one job.
    let rows = match pipeline {
        None => sqlx::query_scalar(
            "select id from origin_sets s where exists (
                 select 1 from jobs j where j.origin_set_id = s.id and j.reproduces is null)",
        ),
        Some(pipeline) => sqlx::query_scalar(
            "select id from origin_sets s where exists (
                 select 1 from jobs j where j.origin_set_id = s.id and j.pipeline_id = $1 and j.reproduces is null)",
        )
        .bind(pipeline),
    };
    Ok(rows.fetch_all(conn).await?)
}

/// Ends a job that is not over; answers its output commit and pipeline.
pub async fn end_job(
    conn: &mut PgConnection,
    _: &System,
    job: JobId,
    state: &str,
    reason: Option<&str>,
    at: DateTime<Utc>,
) -> Answer<Option<(Uuid, Uuid)>> {
    // A service comes before its job, as for those who report how it ended.
    sqlx::query("select job_id from services where job_id = $1 for update")
        .bind(job.uuid())
        .execute(&mut *conn)
        .await?;
    let row = sqlx::query_as(
        "update jobs set state = $2, reason = $3, finished_at = $4 where id = $1 and finished_at is null
         returning output_commit_id, pipeline_id",
    )
    .bind(job.uuid())
    .bind(state)
    .bind(reason)
    .bind(at)
    .fetch_optional(&mut *conn)
    .await?;
    sqlx::query("delete from services where job_id = $1")
        .bind(job.uuid())
        .execute(conn)
        .await?;
    Ok(row)
}

/// Name of each leaf of a job's spec by the commits that it reads: position, input name.
pub async fn input_names(conn: &mut PgConnection, _: &System, job: JobId) -> Answer<Vec<(i32, String)>> {
    let rows = sqlx::query_as("select position, name from job_inputs where job_id = $1 order by position")
        .bind(job.uuid())
        .fetch_all(conn)
        .await?;
    Ok(rows)
}

/// What a leaf of a job reads.
#[derive(Debug, Clone, FromRow)]
pub struct InputRow {
    /// The leaf's place.
    pub position: i32,
    /// Its name.
    pub name: String,
    /// The origin set of the commit.
    pub origin_set_id: i64,
}

/// What the leaves of a job read, in order.
pub async fn inputs(conn: &mut PgConnection, _: &System, job: JobId) -> Answer<Vec<InputRow>> {
    let rows = sqlx::query_as(
        "select i.position, i.name, c.origin_set_id from job_inputs i join commits c on c.id = i.commit_id
          where i.job_id = $1 order by i.position",
    )
    .bind(job.uuid())
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

/// A line of a log.
#[derive(Debug, Clone, FromRow)]
pub struct LineRow {
    /// Its place.
    pub seq: i64,
    /// The datum.
    pub datum_key: Vec<u8>,
    /// When.
    pub at: DateTime<Utc>,
    /// Which stream.
    pub stream: String,
    /// The text.
    pub text: String,
}

/// Which lines of a job are wanted.
#[derive(Debug, Clone, Default)]
pub struct WantedLines {
    /// Of a datum only.
    pub datum: Option<Vec<u8>>,
    /// Printed at that time or later.
    pub since: Option<DateTime<Utc>>,
}

impl WantedLines {
    /// Whether no line is left out.
    pub fn is_everything(&self) -> bool {
        self.datum.is_none() && self.since.is_none()
    }
}

/// The place of the last line of a job; 0 when there is none.
pub async fn last_line(conn: &mut PgConnection, _: &System, job: JobId) -> Answer<i64> {
    let last: Option<i64> = sqlx::query_scalar("select max(seq) from datum_logs where job_id = $1")
        .bind(job.uuid())
        .fetch_one(conn)
        .await?;
    Ok(last.unwrap_or(0))
}

/// How many of its first lines a job has not any more, and until when those were printed; `None`: it has all.
pub async fn find_gone(conn: &mut PgConnection, _: &System, job: JobId) -> Answer<Option<(i64, DateTime<Utc>)>> {
    let row =
        sqlx::query_as("select lines_gone, gone_until from job_logs where job_id = $1 and gone_until is not null")
            .bind(job.uuid())
            .fetch_optional(conn)
            .await?;
    Ok(row)
}

fn lines(select: &str, job: JobId, wanted: &WantedLines) -> QueryBuilder<Postgres> {
    let mut query = QueryBuilder::new(format!("select {select} from datum_logs where job_id = "));
    query.push_bind(job.uuid());
    if let Some(datum) = &wanted.datum {
        query.push(" and datum_key = ").push_bind(datum.as_slice());
    }
    if let Some(since) = wanted.since {
        query.push(" and at >= ").push_bind(since);
    }
    query
}

/// Lines of a job behind `after`, in order.
pub async fn list_lines(
    conn: &mut PgConnection,
    _: &System,
    job: JobId,
    wanted: &WantedLines,
    after: i64,
    limit: i64,
) -> Answer<Vec<LineRow>> {
    let mut query = lines("seq, datum_key, at, stream, text", job, wanted);
    query.push(" and seq > ").push_bind(after);
    query.push(" order by seq limit ").push_bind(limit);
    Ok(query.build_query_as().fetch_all(conn).await?)
}

/// The place behind which the last so many lines are; 0 when there are no more than that.
pub async fn find_tail(
    conn: &mut PgConnection,
    _: &System,
    job: JobId,
    wanted: &WantedLines,
    count: i64,
) -> Answer<i64> {
    let mut query = lines("seq", job, wanted);
    query.push(" order by seq desc offset ").push_bind(count);
    query.push(" limit 1");
    let place = query.build_query_scalar().fetch_optional(conn).await?;
    Ok(place.unwrap_or(0))
}
