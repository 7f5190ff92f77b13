//! SQL of services.

use chrono::{DateTime, Utc};
use contract::ids::{DomainId, JobId, ProjectId};
use contract::names::SecretName;
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use crate::failure::Answer;
use crate::permissions::System;
use crate::worker::protocol::Pool;

/// Whether what a pipeline serves is wanted: it is there, and was neither stopped nor suspended.
pub async fn is_wanted(conn: &mut PgConnection, _: &System, pipeline: Uuid) -> Answer<bool> {
    let state: Option<String> = sqlx::query_scalar("select state from pipelines where id = $1 and deleted_at is null")
        .bind(pipeline)
        .fetch_optional(conn)
        .await?;
    Ok(state.is_some_and(|state| state != "paused" && state != "suspended"))
}

/// The pipelines of a project that serve with a secret.
pub async fn using(
    conn: &mut PgConnection,
    _: &System,
    project: ProjectId,
    secret: &SecretName,
) -> Answer<Vec<DomainId>> {
    let rows: Vec<Uuid> = sqlx::query_scalar(
        "select s.pipeline_id from services s join jobs j on j.id = s.job_id join repos r on r.id = s.pipeline_id
          where r.project_id = $1 and j.secret_versions ? $2 order by s.pipeline_id",
    )
    .bind(project.uuid())
    .bind(secret.as_str())
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(DomainId::from_uuid).collect())
}

/// Locks the service of a pipeline, if there is one. It comes before its job and its datum in every transaction.
pub async fn lock_of_pipeline(conn: &mut PgConnection, _: &System, pipeline: Uuid) -> Answer<()> {
    sqlx::query("select job_id from services where pipeline_id = $1 for update")
        .bind(pipeline)
        .execute(conn)
        .await?;
    Ok(())
}

/// Makes a starting job the one that serves; answers whether it was starting.
pub async fn start_job(conn: &mut PgConnection, _: &System, job: JobId) -> Answer<bool> {
    let done = sqlx::query(
        "update jobs set state = 'running', datums_total = 1, datums_open = 1 where id = $1 and state = 'starting'",
    )
    .bind(job.uuid())
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Inserts the one datum of a service: it runs, under no lease.
pub async fn insert_datum(
    conn: &mut PgConnection,
    _: &System,
    job: JobId,
    datum: (&[u8], &[u8]),
    at: DateTime<Utc>,
) -> Answer<()> {
    sqlx::query(
        "insert into datums (job_id, position, key, inputs, state, queued_at, started_at)
         values ($1, 0, $2, $3, 'running', $4, $4)",
    )
    .bind(job.uuid())
    .bind(datum.0)
    .bind(datum.1)
    .bind(at)
    .execute(conn)
    .await?;
    Ok(())
}

/// Inserts the service of a job.
pub async fn insert(
    conn: &mut PgConnection,
    _: &System,
    job: JobId,
    pipeline: Uuid,
    port: Option<u16>,
    at: DateTime<Utc>,
) -> Answer<()> {
    sqlx::query(
        "insert into services (job_id, pipeline_id, port, state, changed_at) values ($1, $2, $3, 'starting', $4)",
    )
    .bind(job.uuid())
    .bind(pipeline)
    .bind(port.map(i32::from))
    .bind(at)
    .execute(conn)
    .await?;
    Ok(())
}

/// The service of a pipeline, with its job's output.
#[derive(Debug, Clone, FromRow)]
pub struct ServiceRow {
    /// Its job.
    pub job_id: Uuid,
    /// The pipeline.
    pub pipeline_id: Uuid,
    /// The port inside; a spout has none.
    pub port: Option<i32>,
    /// `starting`, `answering` or `waiting`.
    pub state: String,
    /// Why it waits.
    pub reason: Option<String>,
    /// Ends in a row.
    pub failures: i32,
    /// Whether it ever answered.
    pub answered_at: Option<DateTime<Utc>>,
    /// What keeps its pod, as its job tells.
    pub kept_by: Option<String>,
    /// The commit that carries its origins.
    pub output_commit_id: Uuid,
    /// Those origins.
    pub origin_set_id: i64,
}

/// The services of these pipelines whose jobs are not over.
pub async fn of_pipelines(conn: &mut PgConnection, _: &System, pipelines: &[Uuid]) -> Answer<Vec<ServiceRow>> {
    let rows = sqlx::query_as(
        "select s.job_id, s.pipeline_id, s.port, s.state, s.reason, s.failures, s.answered_at, j.reason as kept_by, j.output_commit_id,
                c.origin_set_id
           from services s join jobs j on j.id = s.job_id join commits c on c.id = j.output_commit_id
          where s.pipeline_id = any($1) and j.finished_at is null",
    )
    .bind(pipelines)
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

/// The service of that pipeline, if one is wanted.
pub async fn of_pipeline(conn: &mut PgConnection, system: &System, pipeline: DomainId) -> Answer<Option<ServiceRow>> {
    let mut rows = of_pipelines(conn, system, &[pipeline.uuid()]).await?;
    Ok(rows.pop())
}

/// The job of that pipeline that will serve once it is started.
pub async fn pending_job(conn: &mut PgConnection, _: &System, pipeline: DomainId) -> Answer<Option<JobId>> {
    let job: Option<Uuid> = sqlx::query_scalar(
        "select j.id from jobs j join pipeline_versions v on v.pipeline_id = j.pipeline_id and v.version = j.version
          where j.pipeline_id = $1 and j.finished_at is null and j.state in ('created', 'starting')
            and j.reproduces is null and v.spec ? 'service'
          order by j.created_at desc limit 1",
    )
    .bind(pipeline.uuid())
    .fetch_optional(conn)
    .await?;
    Ok(job.map(JobId::from_uuid))
}

/// Who keeps services running.
#[derive(Debug, Clone, Copy)]
pub struct Keeper {
    /// Its name.
    pub worker: Uuid,
    /// The pool whose services alone it keeps; `None`: all.
    pub pool: Option<Pool>,
    /// Leases are good that run out after that time.
    pub good_after: DateTime<Utc>,
}

impl Keeper {
    fn pool(&self) -> (Option<Uuid>, Option<i32>) {
        self.pool.map(|pool| (pool.pipeline, pool.version)).unzip()
    }
}

/// Takes what waits for its start, or belonged to a worker that is gone, for this worker: a new run of each. Failures of one
/// that has answered since before `steady` are forgotten. The plane's own worker is the only one of its kind; of a pool there can be
/// several, and one leaves alone what another one holds under a lease, which has the id of the service's job.
pub async fn assign(
    conn: &mut PgConnection,
    _: &System,
    keeper: Keeper,
    now: DateTime<Utc>,
    steady: DateTime<Utc>,
) -> Answer<()> {
    let (pipeline, version) = keeper.pool();
    sqlx::query(
        "update services s set worker = $1, run = s.run + 1, state = 'starting', not_before = null, changed_at = $2,
                failures = case when s.state = 'answering' and s.changed_at <= $3 then 0 else s.failures end
           from jobs j
          where j.id = s.job_id and j.finished_at is null and (s.worker is distinct from $1 or s.state = 'waiting')
            and (s.not_before is null or s.not_before <= $2)
            and ($4::uuid is null or (j.pipeline_id = $4 and j.version = $5 and not exists (
                select 1 from leases l where l.id = s.job_id and l.worker <> $1 and l.expires_at > $6)))",
    )
    .bind(keeper.worker)
    .bind(now)
    .bind(steady)
    .bind(pipeline)
    .bind(version)
    .bind(keeper.good_after)
    .execute(conn)
    .await?;
    Ok(())
}

/// Renews the leases of a pool's worker on what it keeps, and ends those on what it does not keep any more.
pub async fn hold(conn: &mut PgConnection, _: &System, worker: Uuid, expires_at: DateTime<Utc>) -> Answer<()> {
    sqlx::query(
        "delete from leases where worker = $1 and id not in (select job_id from services where worker = $1)
            and id in (select id from jobs)",
    )
    .bind(worker)
    .execute(&mut *conn)
    .await?;
    sqlx::query(
        "insert into leases (id, worker, expires_at) select job_id, $1, $2 from services where worker = $1
             on conflict (id) do update set worker = excluded.worker, expires_at = excluded.expires_at
                 where leases.worker <> excluded.worker or leases.expires_at < excluded.expires_at - interval '2 seconds'",
    )
    .bind(worker)
    .bind(expires_at)
    .execute(conn)
    .await?;
    Ok(())
}

/// The runs that a worker keeps.
pub async fn kept(conn: &mut PgConnection, _: &System, worker: Uuid) -> Answer<Vec<Run>> {
    let rows: Vec<(Uuid, i32)> =
        sqlx::query_as("select job_id, run from services where worker = $1 and state <> 'waiting' order by job_id")
            .bind(worker)
            .fetch_all(conn)
            .await?;
    let typed = |(job, run): (Uuid, i32)| Run {
        job: JobId::from_uuid(job),
        run,
        worker,
    };
    Ok(rows.into_iter().map(typed).collect())
}

/// A worker is gone: others may have what it kept. Answers how much that was.
pub async fn release(conn: &mut PgConnection, _: &System, worker: Uuid) -> Answer<u64> {
    let released = sqlx::query("update services set worker = null where worker = $1")
        .bind(worker)
        .execute(conn)
        .await?;
    Ok(released.rows_affected())
}

/// A service that its worker should keep running.
#[derive(Debug, Clone, FromRow)]
pub struct WantedRow {
    /// Its job.
    pub job_id: Uuid,
    /// The run.
    pub run: i32,
    /// The port inside; a spout has none.
    pub port: Option<i32>,
    /// The datum's key.
    pub key: Vec<u8>,
    /// What it reads.
    pub inputs: Vec<u8>,
}

/// What that worker should keep running.
pub async fn wanted(conn: &mut PgConnection, _: &System, worker: Uuid) -> Answer<Vec<WantedRow>> {
    let rows = sqlx::query_as(
        "select s.job_id, s.run, s.port, d.key, d.inputs
           from services s join jobs j on j.id = s.job_id join datums d on d.job_id = s.job_id and d.position = 0
          where s.worker = $1 and s.state <> 'waiting' and j.finished_at is null order by j.seq",
    )
    .bind(worker)
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

/// When the first of those that wait is to be started.
pub async fn next_start(conn: &mut PgConnection, _: &System, keeper: Keeper) -> Answer<Option<DateTime<Utc>>> {
    let (pipeline, version) = keeper.pool();
    let next = sqlx::query_scalar(
        "select min(s.not_before) from services s join jobs j on j.id = s.job_id
          where s.state = 'waiting' and ($1::uuid is null or (j.pipeline_id = $1 and j.version = $2 and (s.worker is null or s.worker = $3)))",
    )
    .bind(pipeline)
    .bind(version)
    .bind(keeper.worker)
    .fetch_one(conn)
    .await?;
    Ok(next)
}

/// A run of a worker, as it is reported.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// The job.
    pub job: JobId,
    /// The run.
    pub run: i32,
    /// Whose.
    pub worker: Uuid,
}

/// A run answers; answers whether that is news.
pub async fn answering(conn: &mut PgConnection, _: &System, run: Run, now: DateTime<Utc>) -> Answer<bool> {
    let done = sqlx::query(
        "update services set state = 'answering', answered_at = coalesce(answered_at, $4), changed_at = $4
          where job_id = $1 and run = $2 and worker = $3 and state = 'starting'",
    )
    .bind(run.job.uuid())
    .bind(run.run)
    .bind(run.worker)
    .bind(now)
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Locks the service of a run that is not known to be over: its state, since when, and its failures in a row.
pub async fn lock_run(conn: &mut PgConnection, _: &System, run: Run) -> Answer<Option<(String, DateTime<Utc>, i32)>> {
    let row = sqlx::query_as(
        "select state, changed_at, failures from services
          where job_id = $1 and run = $2 and worker = $3 and state <> 'waiting' for update",
    )
    .bind(run.job.uuid())
    .bind(run.run)
    .bind(run.worker)
    .fetch_optional(conn)
    .await?;
    Ok(row)
}

/// How a run ended.
#[derive(Debug)]
pub struct Ended<'a> {
    /// Why.
    pub reason: &'a str,
    /// With which code.
    pub exit_code: Option<i32>,
    /// Ends in a row, this one included.
    pub failures: i32,
    /// When the next run may begin.
    pub not_before: DateTime<Utc>,
}

/// A run ended: the next one waits.
pub async fn ended(
    conn: &mut PgConnection,
    _: &System,
    job: JobId,
    ended: &Ended<'_>,
    now: DateTime<Utc>,
) -> Answer<()> {
    sqlx::query(
        "update services set state = 'waiting', reason = $2, failures = $3, not_before = $4, changed_at = $5
          where job_id = $1",
    )
    .bind(job.uuid())
    .bind(ended.reason)
    .bind(ended.failures)
    .bind(ended.not_before)
    .bind(now)
    .execute(&mut *conn)
    .await?;
    sqlx::query(
        "update datums set attempts = attempts + 1, failures = failures + 1, exit_code = $2, reason = $3
          where job_id = $1 and position = 0",
    )
    .bind(job.uuid())
    .bind(ended.exit_code)
    .bind(ended.reason)
    .execute(conn)
    .await?;
    Ok(())
}

/// The datum of a service that is ended: whether it ever answered.
pub async fn settle_datum(conn: &mut PgConnection, _: &System, job: JobId, well: bool) -> Answer<()> {
    sqlx::query("update datums set state = $2, reason = case when $3 then null else reason end where job_id = $1")
        .bind(job.uuid())
        .bind(if well { "succeeded" } else { "failed" })
        .bind(well)
        .execute(&mut *conn)
        .await?;
    sqlx::query(
        "update jobs set datums_open = 0, datums_succeeded = $2, datums_failed = 1 - $2
          where id = $1 and finished_at is null",
    )
    .bind(job.uuid())
    .bind(i64::from(well))
    .execute(conn)
    .await?;
    Ok(())
}
