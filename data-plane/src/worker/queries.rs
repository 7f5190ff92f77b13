//! SQL of leases, claims and completions. Everything goes in batches; a batch is one statement per table.

use chrono::{DateTime, Utc};
use contract::ids::JobId;
use contract::names::SecretName;
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use super::protocol::{DatumReport, Pool, TaskInput};
use crate::failure::Answer;
use crate::permissions::System;

/// The stored form of a datum's inputs.
pub fn encode_inputs(inputs: &[TaskInput]) -> Vec<u8> {
    serde_json::to_vec(inputs).unwrap_or_default()
}

/// Reads [`encode_inputs`].
pub fn decode_inputs(bytes: &[u8]) -> Vec<TaskInput> {
    serde_json::from_slice(bytes).unwrap_or_default()
}

/// What is lost by a crash here is claimed again: no need to wait for the disk.
pub async fn be_quick(conn: &mut PgConnection, _: &System) -> Answer<()> {
    sqlx::query("set local synchronous_commit = off").execute(conn).await?;
    Ok(())
}

/// Of running jobs, datums that were claimed in vain too often: they fail. Answers how many. Jobs are locked first, as by
/// [`lock_running`].
pub async fn give_up(conn: &mut PgConnection, _: &System, now: DateTime<Utc>) -> Answer<u64> {
    let given_up = sqlx::query(
        "with wanted as (
             select distinct job_id from datums where lost >= 20 and state = 'pending'
         ), locked as (
             select id from jobs where id in (select job_id from wanted) and state = 'running' order by id for update
         ), failed as (
             update datums d set state = 'failed', finished_at = $1,
                    reason = coalesce(d.reason, 'its worker was lost each of the ' || d.lost || ' times that it was claimed; '
                        || 'it may take more memory or disk than the machine has: set resource_limits')
               from locked where d.job_id = locked.id and d.lost >= 20 and d.state = 'pending'
             returning d.job_id
         ), counted as (
             select job_id, count(*) as n from failed group by job_id
         )
         update jobs j set datums_failed = j.datums_failed + c.n, datums_open = j.datums_open - c.n
           from counted c where j.id = c.job_id",
    )
    .bind(now)
    .execute(conn)
    .await?;
    Ok(given_up.rows_affected())
}

/// Writes down what the job's code runs under.
pub async fn update_isolation(conn: &mut PgConnection, _: &System, jobs: &[Uuid], isolation: &str) -> Answer<()> {
    sqlx::query(
        "update jobs j set isolation = $2, executor = case when v.in_image then 'container' else 'process' end
           from pipeline_versions v
          where j.id in (select id from jobs where id = any($1) and isolation is distinct from $2 for update skip locked)
            and v.pipeline_id = j.pipeline_id and v.version = j.version",
    )
    .bind(jobs)
    .bind(isolation)
    .execute(conn)
    .await?;
    Ok(())
}

/// Whether any of these jobs is of something else than that pool.
pub async fn is_any_elsewhere(conn: &mut PgConnection, _: &System, jobs: &[Uuid], pool: Pool) -> Answer<bool> {
    let found = sqlx::query_scalar(
        "select exists (select 1 from jobs where id = any($1) and (pipeline_id, version) is distinct from ($2, $3))",
    )
    .bind(jobs)
    .bind(pool.pipeline)
    .bind(pool.version)
    .fetch_one(conn)
    .await?;
    Ok(found)
}

/// Renews leases that are good still: those that run out after that time. Answers them.
pub async fn renew(
    conn: &mut PgConnection,
    _: &System,
    worker: Uuid,
    leases: &[Uuid],
    good_after: DateTime<Utc>,
    expires_at: DateTime<Utc>,
) -> Answer<Vec<Uuid>> {
    let renewed = sqlx::query_scalar(
        "update leases set expires_at = $4 where id = any($2) and worker = $1 and expires_at > $3 returning id",
    )
    .bind(worker)
    .bind(leases)
    .bind(good_after)
    .bind(expires_at)
    .fetch_all(conn)
    .await?;
    Ok(renewed)
}

/// Of these jobs, those that run no more.
pub async fn ended(conn: &mut PgConnection, _: &System, jobs: &[Uuid]) -> Answer<Vec<Uuid>> {
    let ended = sqlx::query_scalar("select id from jobs where id = any($1) and state <> 'running'")
        .bind(jobs)
        .fetch_all(conn)
        .await?;
    Ok(ended)
}

/// Frees the datums of leases that ran out, of those of a worker that is gone, or of all workers. Answers how many. A
/// suspect waits for a while, so that its workers do some of what others need.
pub async fn free(conn: &mut PgConnection, _: &System, gone: Gone<'_>, now: DateTime<Utc>) -> Answer<u64> {
    let (worker, before, deaths, reason) = match gone {
        Gone::Expired { before } => (None, Some(before), 1, None),
        Gone::Worker(worker) => (Some(worker), None, 1, None),
        Gone::Pod { worker, reason } => (Some(worker), None, 1, Some(reason)),
        // Nor does a worker that was told to stop.
        Gone::Left(worker) => (Some(worker), None, 0, None),
        // A plane that is stopped and started says nothing of its datums.
        Gone::All => (None, None, 0, None),
    };
    let freed = sqlx::query(
        "with gone as (
             delete from leases where ($1::uuid is null or worker = $1) and ($2::timestamptz is null or expires_at <= $2)
             returning id)
         update datums set state = 'pending', lease_id = null, reason = $5, deaths = deaths + $4, lost = lost + $4,
                not_before = case when deaths + $4 >= 3 then $3 + interval '5 seconds' end, queued_at = $3
           from gone where datums.lease_id = gone.id and datums.state = 'running'",
    )
    .bind(worker)
    .bind(before)
    .bind(now)
    .bind(deaths)
    .bind(reason)
    .execute(conn)
    .await?;
    Ok(freed.rows_affected())
}

/// Whose leases are freed.
#[derive(Debug, Clone, Copy)]
pub enum Gone<'a> {
    /// Those that ran out.
    Expired {
        /// Until then.
        before: DateTime<Utc>,
    },
    /// Those of a worker whose process is gone.
    Worker(Uuid),
    /// Those of a worker whose pod is gone by its datums' doing.
    Pod {
        /// Which.
        worker: Uuid,
        /// What it was, which they are told.
        reason: &'a str,
    },
    /// Those of a worker that was told to stop and gave them back, or whose pod is gone by nothing that its datums did.
    Left(Uuid),
    /// All: the plane has just started, and workers die with their plane.
    All,
}

/// A job whose datums are reported.
#[derive(Debug, FromRow)]
pub struct ReportedJob {
    /// Its id.
    pub id: Uuid,
    /// What its datums' results are kept under: its pipeline, or, of a reproduction, itself.
    pub results_of: Uuid,
    /// How often user code may fail on a datum.
    pub datum_tries: i32,
    /// How many of its datums may run at once.
    pub parallelism: Option<i32>,
}

/// Locks the running ones among these jobs, in order.
pub async fn lock_running(conn: &mut PgConnection, _: &System, jobs: &[Uuid]) -> Answer<Vec<ReportedJob>> {
    let rows = sqlx::query_as(
        "select id, case when reproduces is null then pipeline_id else id end as results_of, datum_tries, parallelism from jobs
          where id = any($1) and state = 'running' order by id for update",
    )
    .bind(jobs)
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

/// A datum that is reported under a lease that still holds.
#[derive(Debug, FromRow)]
pub struct HeldRow {
    /// Its job.
    pub job_id: Uuid,
    /// Its place.
    pub position: i64,
    /// Its key.
    pub key: Vec<u8>,
    /// Failures of user code so far.
    pub failures: i32,
    /// The lease.
    pub lease_id: Uuid,
    /// Since when it waited.
    pub queued_at: DateTime<Utc>,
    /// How often it was claimed.
    pub claims: i32,
    /// Workers that were lost while they had it.
    pub deaths: i32,
    /// Claims that came to nothing, by no fault of its code.
    pub lost: i32,
}

/// Of these datums, those that are held by leases of this worker that run out after that time.
pub async fn held(
    conn: &mut PgConnection,
    _: &System,
    worker: Uuid,
    datums: (&[Uuid], &[i64]),
    good_after: DateTime<Utc>,
) -> Answer<Vec<HeldRow>> {
    let rows = sqlx::query_as(
        "select d.job_id, d.position, d.key, d.failures, d.lease_id, d.queued_at, d.claims, d.deaths, d.lost
           from unnest($1::uuid[], $2::bigint[]) r (job_id, position)
           join datums d on d.job_id = r.job_id and d.position = r.position and d.state = 'running'
           join leases l on l.id = d.lease_id and l.worker = $3 and l.expires_at > $4
            for update of d",
    )
    .bind(datums.0)
    .bind(datums.1)
    .bind(worker)
    .bind(good_after)
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

/// How datums go on, one entry of each list per datum.
#[derive(Debug, Default)]
pub struct Settled {
    /// Jobs.
    pub jobs: Vec<Uuid>,
    /// Places.
    pub positions: Vec<i64>,
    /// New states.
    pub states: Vec<String>,
    /// When those that wait may be claimed again.
    pub not_before: Vec<Option<DateTime<Utc>>>,
    /// 1 where user code was run.
    pub attempts: Vec<i32>,
    /// Failures of user code, all in all.
    pub failures: Vec<i32>,
    /// Why they failed.
    pub reasons: Vec<Option<String>>,
    /// Exit codes.
    pub exit_codes: Vec<Option<i32>>,
    /// Bringing inputs.
    pub download_ms: Vec<i64>,
    /// User code.
    pub process_ms: Vec<i64>,
    /// Storing outputs.
    pub upload_ms: Vec<i64>,
    /// Waiting.
    pub queue_ms: Vec<i64>,
    /// Bytes of what they read.
    pub bytes_in: Vec<i64>,
    /// Bytes of what they made.
    pub bytes_out: Vec<i64>,
    /// Peak memory.
    pub memory_bytes: Vec<i64>,
    /// Processor time.
    pub cpu_ms: Vec<i64>,
    /// Now.
    pub at: Option<DateTime<Utc>>,
}

/// Writes down how datums ended or that they wait again.
pub async fn update_datums(conn: &mut PgConnection, _: &System, settled: &Settled) -> Answer<()> {
    sqlx::query(
        "update datums d set state = r.state, attempts = d.attempts + r.attempts,
                lost = d.lost + 1 - r.attempts, failures = r.failures,
                reason = r.reason, exit_code = r.exit_code, download_ms = d.download_ms + r.download_ms,
                process_ms = d.process_ms + r.process_ms, upload_ms = d.upload_ms + r.upload_ms,
                lease_id = null, finished_at = case when r.state = 'pending' then null else $11 end,
                not_before = r.not_before, queue_ms = d.queue_ms + r.queue_ms, bytes_in = r.bytes_in,
                bytes_out = r.bytes_out, memory_bytes = greatest(d.memory_bytes, r.memory_bytes),
                cpu_ms = d.cpu_ms + r.cpu_ms, queued_at = case when r.state = 'pending' then $11 else d.queued_at end
           from unnest($1::uuid[], $2::bigint[], $3::text[], $4::int[], $5::int[], $6::text[], $7::int[],
                       $8::bigint[], $9::bigint[], $10::bigint[], $12::timestamptz[], $13::bigint[], $14::bigint[],
                       $15::bigint[], $16::bigint[], $17::bigint[])
             as r (job_id, position, state, attempts, failures, reason, exit_code, download_ms, process_ms, upload_ms,
                   not_before, queue_ms, bytes_in, bytes_out, memory_bytes, cpu_ms)
          where d.job_id = r.job_id and d.position = r.position",
    )
    .bind(&settled.jobs)
    .bind(&settled.positions)
    .bind(&settled.states)
    .bind(&settled.attempts)
    .bind(&settled.failures)
    .bind(&settled.reasons)
    .bind(&settled.exit_codes)
    .bind(&settled.download_ms)
    .bind(&settled.process_ms)
    .bind(&settled.upload_ms)
    .bind(settled.at)
    .bind(&settled.not_before)
    .bind(&settled.queue_ms)
    .bind(&settled.bytes_in)
    .bind(&settled.bytes_out)
    .bind(&settled.memory_bytes)
    .bind(&settled.cpu_ms)
    .execute(conn)
    .await?;
    Ok(())
}

/// What datums gave, one entry of each list per datum; no key twice for one pipeline.
#[derive(Debug, Default)]
pub struct Results {
    /// Pipelines.
    pub pipelines: Vec<Uuid>,
    /// Keys.
    pub keys: Vec<Vec<u8>>,
    /// Jobs.
    pub jobs: Vec<Uuid>,
    /// `storage::encode_entries`.
    pub outputs: Vec<Vec<u8>>,
    /// User code.
    pub process_ms: Vec<i64>,
}

/// Keeps what datums gave, for every later job of the pipeline. A datum that was run again on purpose has a new result.
pub async fn insert_results(conn: &mut PgConnection, _: &System, results: &Results, at: DateTime<Utc>) -> Answer<()> {
    if results.keys.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "insert into datum_results (pipeline_id, key, job_id, outputs, process_ms, created_at)
         select r.*, $6 from unnest($1::uuid[], $2::bytea[], $3::uuid[], $4::bytea[], $5::bigint[]) r
         on conflict (pipeline_id, key) do update
            set job_id = excluded.job_id, outputs = excluded.outputs, process_ms = excluded.process_ms,
                created_at = excluded.created_at",
    )
    .bind(&results.pipelines)
    .bind(&results.keys)
    .bind(&results.jobs)
    .bind(&results.outputs)
    .bind(&results.process_ms)
    .bind(at)
    .execute(conn)
    .await?;
    Ok(())
}

/// What a batch adds to the counts of one job.
#[derive(Debug, Default, Clone, Copy)]
pub struct Added {
    /// Ran and succeeded.
    pub succeeded: i64,
    /// `err_cmd` took care of.
    pub recovered: i64,
    /// Failed for good.
    pub failed: i64,
    /// Waiting.
    pub queue_ms: i64,
    /// Bringing inputs.
    pub download_ms: i64,
    /// User code.
    pub process_ms: i64,
    /// Storing outputs.
    pub upload_ms: i64,
    /// User code that gave results.
    pub results_ms: i64,
    /// Bytes that were read.
    pub bytes_in: i64,
    /// Bytes that were made and kept.
    pub bytes_out: i64,
    /// Peak memory.
    pub memory_bytes: i64,
    /// Processor time.
    pub cpu_ms: i64,
}

impl Added {
    /// Adds what an attempt took.
    pub fn add(&mut self, row: &HeldRow, report: &DatumReport) {
        self.queue_ms += waited_ms(row, report);
        self.download_ms += report.download_ms;
        self.process_ms += report.process_ms;
        self.upload_ms += report.upload_ms;
        self.bytes_in = self.bytes_in.saturating_add(signed(report.bytes_in));
        self.bytes_out = self.bytes_out.saturating_add(signed(report.kept_bytes()));
        self.memory_bytes = self.memory_bytes.max(signed(report.memory_bytes));
        self.cpu_ms += report.cpu_ms;
    }
}

/// A number as the database has it.
pub fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Adds to a job's counts; answers how many of its datums are not settled yet.
pub async fn count(conn: &mut PgConnection, _: &System, job: Uuid, added: Added) -> Answer<i64> {
    let open = sqlx::query_scalar(
        "update jobs set datums_succeeded = datums_succeeded + $2, datums_recovered = datums_recovered + $3,
                datums_failed = datums_failed + $4, datums_open = datums_open - $2 - $3 - $4, queue_ms = queue_ms + $5,
                download_ms = download_ms + $6, process_ms = process_ms + $7, upload_ms = upload_ms + $8,
                results_ms = results_ms + $9, bytes_in = bytes_in + $10, bytes_out = bytes_out + $11,
                memory_bytes = greatest(memory_bytes, $12), cpu_ms = cpu_ms + $13
          where id = $1 returning datums_open",
    )
    .bind(job)
    .bind(added.succeeded)
    .bind(added.recovered)
    .bind(added.failed)
    .bind(added.queue_ms)
    .bind(added.download_ms)
    .bind(added.process_ms)
    .bind(added.upload_ms)
    .bind(added.results_ms)
    .bind(added.bytes_in)
    .bind(added.bytes_out)
    .bind(added.memory_bytes)
    .bind(added.cpu_ms)
    .fetch_one(conn)
    .await?;
    Ok(open)
}

/// A job as a worker needs it.
#[derive(Debug, FromRow)]
pub struct TaskRow {
    /// Its id.
    pub id: Uuid,
    /// Its pipeline's project.
    pub project: String,
    /// Its pipeline's name.
    pub name: String,
    /// The commit that it makes.
    pub output_commit_id: Uuid,
    /// The spec of its version.
    pub spec: Json<serde_json::Value>,
    /// The image that its version runs in.
    pub image_digest: Option<String>,
    /// The versions of secrets that it was planned with.
    pub secret_versions: Json<std::collections::BTreeMap<SecretName, i32>>,
}

/// Jobs as a worker needs them.
pub async fn list_tasks(conn: &mut PgConnection, _: &System, jobs: &[Uuid]) -> Answer<Vec<TaskRow>> {
    let rows = sqlx::query_as(
        "select j.id, p.name as project, r.name, j.output_commit_id, v.spec, j.secret_versions,
                case when v.in_image then v.image_digest end as image_digest
           from jobs j join repos r on r.id = j.pipeline_id join projects p on p.id = r.project_id
           join pipeline_versions v on v.pipeline_id = j.pipeline_id and v.version = j.version
          where j.id = any($1)",
    )
    .bind(jobs)
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

/// The commits and trees that jobs read: job, position of the leaf, commit, tree.
pub async fn list_inputs(
    conn: &mut PgConnection,
    _: &System,
    jobs: &[Uuid],
) -> Answer<Vec<(Uuid, i32, Uuid, Option<Vec<u8>>)>> {
    let rows = sqlx::query_as(
        "select i.job_id, i.position, i.commit_id, c.root from job_inputs i join commits c on c.id = i.commit_id
          where i.job_id = any($1)",
    )
    .bind(jobs)
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

/// How long the datum waited until its inputs were fetched.
pub fn waited_ms(row: &HeldRow, report: &DatumReport) -> i64 {
    ((report.started_at - row.queued_at).num_milliseconds() - report.download_ms).max(0)
}

/// The typed id of a job's column.
pub fn job_id(id: Uuid) -> JobId {
    JobId::from_uuid(id)
}
