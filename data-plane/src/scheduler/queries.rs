//! SQL of the scheduler.

use std::collections::BTreeMap;

use chrono::{DateTime, Duration, Utc};
use contract::api::DatumCounts;
use contract::ids::{DomainId, JobId};
use contract::names::SecretName;
use provenance::jobs::FailedDatum;
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use crate::failure::Answer;
use crate::jobs;
use crate::permissions::System;
use crate::worker::queries::decode_inputs;

/// The first unfinished job of a pipeline.
#[derive(Debug, Clone, FromRow)]
pub struct HeadJob {
    /// Its id.
    pub id: Uuid,
    /// Its state.
    pub state: String,
    /// Datums that are not settled.
    pub datums_open: i64,
    /// When it was planned.
    pub started_at: Option<DateTime<Utc>>,
    /// The longest that it may take.
    pub job_timeout_ms: Option<i64>,
    /// Whether all its inputs are finished.
    pub ready: bool,
    /// An input that is errored: `repo@commit`, the repo by its domain's id, since the name is not for everybody.
    pub errored: Option<String>,
}

impl HeadJob {
    /// Its limit, if it is over that.
    pub fn overdue(&self, now: DateTime<Utc>) -> Option<Duration> {
        let limit = Duration::milliseconds(self.job_timeout_ms?);
        (now - self.started_at? > limit).then_some(limit)
    }
}

/// The first unfinished job of each pipeline, besides the one that serves, which stands in nobody's way, and the jobs that
/// reproduce something: nothing waits for those.
pub async fn heads(conn: &mut PgConnection, _: &System) -> Answer<Vec<HeadJob>> {
    let rows = sqlx::query_as(
        "select j.id, j.state, j.datums_open, j.started_at, v.job_timeout_ms,
                not exists (select 1 from job_inputs i join commits c on c.id = i.commit_id
                             where i.job_id = j.id and c.state <> 'finished') as ready,
                case when j.state = 'created' then (
                    select 'dom_' || replace(c.repo_id::text, '-', '') || '@' || replace(c.id::text, '-', '')
                      from job_inputs i join commits c on c.id = i.commit_id
                     where i.job_id = j.id and c.state in ('errored', 'removed') order by i.position limit 1) end as errored
           from (select distinct on (pipeline_id, reproduces) * from jobs where finished_at is null
                    and not exists (select 1 from services s where s.job_id = jobs.id)
                  order by pipeline_id, reproduces, seq) j
           join pipeline_versions v on v.pipeline_id = j.pipeline_id and v.version = j.version
          order by j.seq",
    )
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

/// Begins a job.
pub async fn start(conn: &mut PgConnection, _: &System, id: Uuid, at: DateTime<Utc>) -> Answer<bool> {
    let done = sqlx::query("update jobs set state = 'starting', started_at = $2 where id = $1 and state = 'created'")
        .bind(id)
        .bind(at)
        .execute(conn)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Sets the state of a job that is not over; what kept it in the one before is over.
pub async fn update_state(conn: &mut PgConnection, _: &System, job: JobId, state: &str) -> Answer<()> {
    sqlx::query("update jobs set state = $2, reason = null where id = $1 and finished_at is null")
        .bind(job.uuid())
        .bind(state)
        .execute(conn)
        .await?;
    Ok(())
}

/// Locks a running job without open datums; its counts.
pub async fn lock_settled(
    conn: &mut PgConnection,
    _: &System,
    job: JobId,
    at: DateTime<Utc>,
) -> Answer<Option<DatumCounts>> {
    let row = sqlx::query_as::<_, (i64, i64, i64, i64, i64)>(
        "update jobs set settled_at = $2 where id = $1 and state = 'running' and datums_open <= 0
         returning datums_total, datums_succeeded, datums_skipped, datums_recovered, datums_failed",
    )
    .bind(job.uuid())
    .bind(at)
    .fetch_optional(conn)
    .await?;
    let number = |n: i64| u64::try_from(n).unwrap_or(0);
    Ok(row.map(|(total, succeeded, skipped, recovered, failed)| DatumCounts {
        total: number(total),
        succeeded: number(succeeded),
        skipped: number(skipped),
        recovered: number(recovered),
        failed: number(failed),
    }))
}

/// Whether a job's output is sent elsewhere before it is published. What is made again to compare it is not.
pub async fn has_egress(conn: &mut PgConnection, _: &System, job: JobId) -> Answer<bool> {
    let has = sqlx::query_scalar(
        "select coalesce(jsonb_typeof(v.spec -> 'egress') = 'object', false) and j.reproduces is null from jobs j
           join pipeline_versions v on v.pipeline_id = j.pipeline_id and v.version = j.version where j.id = $1",
    )
    .bind(job.uuid())
    .fetch_one(conn)
    .await?;
    Ok(has)
}

/// Some of the failed datums of a job, for its reason.
pub async fn failed(conn: &mut PgConnection, system: &System, job: JobId) -> Answer<Vec<FailedDatum>> {
    let names = jobs::queries::input_names(&mut *conn, system, job).await?;
    let rows = sqlx::query_as::<_, (Vec<u8>, Vec<u8>, Option<String>)>(
        "select key, inputs, reason from datums where job_id = $1 and state = 'failed' order by position limit 6",
    )
    .bind(job.uuid())
    .fetch_all(conn)
    .await?;
    let failed = rows.into_iter().map(|(key, inputs, reason)| FailedDatum {
        id: hex::encode(key),
        inputs: provenance::jobs::brief(jobs::views::labels(&decode_inputs(&inputs), &names)),
        reason: reason.unwrap_or_default(),
    });
    Ok(failed.collect())
}

/// What planning and finishing need of a job.
#[derive(Debug, Clone, FromRow)]
pub struct WorkRow {
    /// Its pipeline.
    pub pipeline_id: Uuid,
    /// The pipeline's project.
    pub project: String,
    /// Its place.
    pub seq: i64,
    /// Its state.
    pub state: String,
    /// The commit it makes.
    pub output_commit_id: Uuid,
    /// Run all datums.
    pub reprocess: bool,
    /// The commit that it reproduces.
    pub reproduces: Option<Uuid>,
    /// What its datums' results are kept under: its pipeline, or, of a reproduction, itself.
    pub results_of: Uuid,
    /// Code and inputs.
    pub plan_digest: Vec<u8>,
    /// The job whose output this one starts from.
    pub base_job_id: Option<Uuid>,
    /// Datums of the base that are gone.
    pub removed_keys: Vec<Vec<u8>>,
    /// The spec.
    pub spec: Json<serde_json::Value>,
    /// The code's part of a datum's key.
    pub code_digest: Vec<u8>,
    /// The versions of secrets that it was planned with.
    pub secret_versions: Json<BTreeMap<SecretName, i32>>,
}

/// A job as planning and finishing need it.
pub async fn find_work(conn: &mut PgConnection, _: &System, job: JobId) -> Answer<Option<WorkRow>> {
    let row = sqlx::query_as(
        "select j.pipeline_id, p.name as project, j.seq, j.state, j.output_commit_id, j.reprocess, v.plan_digest,
                j.reproduces, case when j.reproduces is null then j.pipeline_id else j.id end as results_of,
                j.base_job_id, j.removed_keys, v.spec, v.code_digest, j.secret_versions
           from jobs j join pipeline_versions v on v.pipeline_id = j.pipeline_id and v.version = j.version
           join repos r on r.id = j.pipeline_id join projects p on p.id = r.project_id
          where j.id = $1",
    )
    .bind(job.uuid())
    .fetch_optional(conn)
    .await?;
    Ok(row)
}

/// What each leaf of a job reads: position, repo, tree.
pub async fn trees(conn: &mut PgConnection, _: &System, job: Uuid) -> Answer<Vec<(usize, DomainId, Option<Vec<u8>>)>> {
    let rows = sqlx::query_as::<_, (i32, Uuid, Option<Vec<u8>>)>(
        "select i.position, c.repo_id, c.root from job_inputs i join commits c on c.id = i.commit_id where i.job_id = $1",
    )
    .bind(job)
    .fetch_all(conn)
    .await?;
    let typed = rows
        .into_iter()
        .map(|(position, repo, root)| (usize::try_from(position).unwrap_or(0), DomainId::from_uuid(repo), root));
    Ok(typed.collect())
}

/// The job to start from: the last one that succeeded with the same code and inputs, unless everything was run again
/// since; then results of some datums are newer than its output. Where outputs are appended to each other, one whose pieces
/// are kept. Answers its id and number of datums.
pub async fn find_base(
    conn: &mut PgConnection,
    _: &System,
    work: &WorkRow,
    appends: bool,
) -> Answer<Option<(Uuid, i64)>> {
    let row = sqlx::query_as(
        "select b.id, b.datums_total from jobs b
          where b.pipeline_id = $1 and b.reproduces is null and b.state = 'success' and b.plan_digest = $2 and b.seq < $3
            and not exists (select 1 from job_inputs i join commits c on c.id = i.commit_id
                             where i.job_id = b.id and c.root is null)
            and exists (select 1 from commits o where o.id = b.output_commit_id and o.root is not null)
            and b.seq > (select no_base_until from pipelines where id = $1)
            and b.seq >= coalesce((select max(seq) from jobs where pipeline_id = $1 and reprocess and reproduces is null and seq < $3
                                      and started_at is not null), 0)
            and (not $4 or exists (select 1 from append_states s where s.job_id = b.id and s.whole))
          order by b.seq desc limit 1",
    )
    .bind(work.pipeline_id)
    .bind(&work.plan_digest)
    .bind(work.seq)
    .bind(appends)
    .fetch_optional(conn)
    .await?;
    Ok(row)
}

/// Gives a starting job another plan digest, and the versions of secrets that it counts: they are known only now.
pub async fn update_plan_digest(
    conn: &mut PgConnection,
    _: &System,
    job: JobId,
    digest: &[u8; 32],
    versions: &BTreeMap<SecretName, i32>,
) -> Answer<()> {
    sqlx::query("update jobs set plan_digest = $2, secret_versions = $3 where id = $1 and state = 'starting'")
        .bind(job.uuid())
        .bind(&digest[..])
        .bind(Json(versions))
        .execute(conn)
        .await?;
    Ok(())
}

/// Datums of a job that `err_cmd` took care of: key, inputs, bytes to fetch.
pub async fn recovered(conn: &mut PgConnection, _: &System, job: Uuid) -> Answer<Vec<(Vec<u8>, Vec<u8>, i64)>> {
    let rows = sqlx::query_as(
        "select key, inputs, size_bytes from datums where job_id = $1 and state = 'recovered' order by position",
    )
    .bind(job)
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

/// Of these keys, those that succeeded before in this pipeline, with what user code took then.
pub async fn known(
    conn: &mut PgConnection,
    _: &System,
    pipeline: Uuid,
    keys: &[Vec<u8>],
) -> Answer<Vec<(Vec<u8>, i64)>> {
    let rows = sqlx::query_as(
        "select r.key, r.process_ms from (select distinct key from unnest($2::bytea[]) w (key)) w
          cross join lateral (select key, process_ms from datum_results
                               where pipeline_id = $1 and key = w.key offset 0) r",
    )
    .bind(pipeline)
    .bind(keys)
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

/// What user code took for the results of a base, without those of these keys, milliseconds.
pub async fn kept_ms(
    conn: &mut PgConnection,
    _: &System,
    base: Uuid,
    pipeline: Uuid,
    removed: &[Vec<u8>],
) -> Answer<i64> {
    let ms = sqlx::query_scalar(
        "select greatest(0, b.results_ms - (
                select coalesce(sum(r.process_ms), 0)::bigint from (select distinct key from unnest($3::bytea[]) w (key)) w
                 cross join lateral (select process_ms from datum_results
                                      where pipeline_id = $2 and key = w.key offset 0) r)) from jobs b where b.id = $1",
    )
    .bind(base)
    .bind(pipeline)
    .bind(removed)
    .fetch_optional(conn)
    .await?;
    Ok(ms.unwrap_or(0))
}

/// A planned datum.
#[derive(Debug, Clone)]
pub struct NewDatum {
    /// Its key.
    pub key: Vec<u8>,
    /// What it reads.
    pub inputs: Vec<u8>,
    /// Bytes of that; 0 where it is not known.
    pub size_bytes: i64,
    /// It succeeded before.
    pub skipped: bool,
}

/// Inserts datums in the order given.
pub async fn insert_datums(
    conn: &mut PgConnection,
    _: &System,
    job: JobId,
    first: i64,
    datums: &[NewDatum],
    at: DateTime<Utc>,
) -> Answer<()> {
    let state = |d: &NewDatum| if d.skipped { "skipped" } else { "pending" };
    sqlx::query(
        "insert into datums (job_id, position, key, inputs, state, queued_at, size_bytes)
         select $1, r.position, r.key, r.inputs, r.state, $6, r.size_bytes
           from unnest($2::bigint[], $3::bytea[], $4::bytea[], $5::text[], $7::bigint[])
                r (position, key, inputs, state, size_bytes)",
    )
    .bind(job.uuid())
    .bind((first..).take(datums.len()).collect::<Vec<i64>>())
    .bind(datums.iter().map(|d| d.key.as_slice()).collect::<Vec<_>>())
    .bind(datums.iter().map(|d| d.inputs.as_slice()).collect::<Vec<_>>())
    .bind(datums.iter().map(state).collect::<Vec<_>>())
    .bind(at)
    .bind(datums.iter().map(|d| d.size_bytes).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(())
}

/// The plan of a job.
#[derive(Debug)]
pub struct Planned {
    /// The job whose output it starts from.
    pub base: Option<Uuid>,
    /// Datums of the base that are gone.
    pub removed: Vec<Vec<u8>>,
    /// All current datums.
    pub total: i64,
    /// Those that need not run.
    pub skipped: i64,
    /// Those that run.
    pub open: i64,
    /// What user code took for the results that are taken, milliseconds.
    pub saved_ms: i64,
    /// Now.
    pub at: DateTime<Utc>,
}

/// Writes down the plan of a starting job; answers whether it was still starting.
pub async fn update_planned(conn: &mut PgConnection, _: &System, job: JobId, plan: &Planned) -> Answer<bool> {
    let done = sqlx::query(
        "update jobs set state = 'running', base_job_id = $2, removed_keys = $3, datums_total = $4, datums_skipped = $5,
                datums_open = $6, saved_ms = $7, results_ms = $7, planned_at = $8 where id = $1 and state = 'starting'",
    )
    .bind(job.uuid())
    .bind(plan.base)
    .bind(&plan.removed)
    .bind(plan.total)
    .bind(plan.skipped)
    .bind(plan.open)
    .bind(plan.saved_ms)
    .bind(plan.at)
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Takes a job that runs, or whose output is put together, back to its beginning: what it was planned on is not there any more. Answers whether it
/// was one.
pub async fn plan_again(conn: &mut PgConnection, _: &System, job: JobId) -> Answer<bool> {
    let done = sqlx::query(
        "update jobs set state = 'starting', base_job_id = null, removed_keys = '{}', datums_total = 0,
                datums_succeeded = 0, datums_skipped = 0, datums_recovered = 0, datums_failed = 0, datums_open = 0,
                queue_ms = 0, download_ms = 0, process_ms = 0, upload_ms = 0, bytes_in = 0, bytes_out = 0, memory_bytes = 0,
                cpu_ms = 0, saved_ms = 0, results_ms = 0, planned_at = null, settled_at = null
          where id = $1 and state in ('running', 'egressing', 'finishing')",
    )
    .bind(job.uuid())
    .execute(&mut *conn)
    .await?;
    if done.rows_affected() == 0 {
        return Ok(false);
    }
    sqlx::query("delete from datums where job_id = $1")
        .bind(job.uuid())
        .execute(conn)
        .await?;
    Ok(true)
}

/// When these jobs were planned, in the order of their ids.
pub async fn planned_at(
    conn: &mut PgConnection,
    _: &System,
    jobs: &[JobId],
) -> Answer<Vec<(JobId, Option<DateTime<Utc>>)>> {
    let ids: Vec<Uuid> = jobs.iter().map(|job| job.uuid()).collect();
    let rows: Vec<(Uuid, Option<DateTime<Utc>>)> =
        sqlx::query_as("select id, planned_at from jobs where id = any($1) order by id")
            .bind(ids)
            .fetch_all(conn)
            .await?;
    Ok(rows.into_iter().map(|(id, at)| (JobId::from_uuid(id), at)).collect())
}

/// Whether a job was not planned anew since it was found planned at that time. Its row stays locked until the transaction
/// ends.
pub async fn is_planned_as(
    conn: &mut PgConnection,
    _: &System,
    job: JobId,
    planned_at: Option<DateTime<Utc>>,
) -> Answer<bool> {
    let found: Option<Uuid> =
        sqlx::query_scalar("select id from jobs where id = $1 and planned_at is not distinct from $2 for update")
            .bind(job.uuid())
            .bind(planned_at)
            .fetch_optional(conn)
            .await?;
    Ok(found.is_some())
}

/// What the datums of a job that succeeded, now or before, have made: key, inputs, outputs; in order.
pub async fn outputs(
    conn: &mut PgConnection,
    _: &System,
    job: JobId,
    pipeline: Uuid,
) -> Answer<Vec<(Vec<u8>, Vec<u8>, Option<Vec<u8>>)>> {
    let rows = sqlx::query_as(
        "select d.key, d.inputs, r.outputs from datums d
           left join datum_results r on r.pipeline_id = $2 and r.key = d.key
          where d.job_id = $1 and d.state in ('succeeded', 'skipped') order by d.position",
    )
    .bind(job.uuid())
    .bind(pipeline)
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

/// What datums of these keys have made.
pub async fn results(
    conn: &mut PgConnection,
    _: &System,
    pipeline: Uuid,
    keys: &[Vec<u8>],
) -> Answer<Vec<(Vec<u8>, Vec<u8>)>> {
    let rows = sqlx::query_as(
        "select r.key, r.outputs from (select distinct key from unnest($2::bytea[]) w (key)) w
          cross join lateral (select key, outputs from datum_results
                               where pipeline_id = $1 and key = w.key offset 0) r",
    )
    .bind(pipeline)
    .bind(keys)
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

/// The tree that a job made.
pub async fn output_root(conn: &mut PgConnection, _: &System, job: Uuid) -> Answer<Option<Vec<u8>>> {
    let root = sqlx::query_scalar::<_, Option<Vec<u8>>>(
        "select c.root from jobs j join commits c on c.id = j.output_commit_id where j.id = $1",
    )
    .bind(job)
    .fetch_optional(conn)
    .await?;
    Ok(root.flatten())
}

/// Ends a finishing job well; answers whether it was finishing.
pub async fn succeed(conn: &mut PgConnection, _: &System, job: JobId, at: DateTime<Utc>) -> Answer<bool> {
    let done = sqlx::query("update jobs set state = 'success', finished_at = $2 where id = $1 and state = 'finishing'")
        .bind(job.uuid())
        .bind(at)
        .execute(conn)
        .await?;
    Ok(done.rows_affected() == 1)
}
