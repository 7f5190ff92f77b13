//! SQL of pools: what they have to do, and what is told of them.

use chrono::{DateTime, Utc};
use contract::ids::JobId;
use pods::Pool;
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use crate::failure::Answer;
use crate::permissions::System;

/// What a pool has to do.
#[derive(Debug, FromRow)]
pub struct DemandRow {
    /// The pipeline.
    pub pipeline_id: Uuid,
    /// Its version.
    pub version: i32,
    /// Datums of running jobs that wait or run. A service or a spout is one, for as long as it is wanted.
    pub open: i64,
    /// How many may run at once.
    pub parallelism: Option<i32>,
    /// It is the version of now, of a pipeline that is not stopped.
    pub stays: bool,
    /// When one of its jobs last began, had its datums done or ended.
    pub active_at: Option<DateTime<Utc>>,
    /// Its secrets were made.
    pub has_secrets: bool,
}

/// The demands of these pools, and of all others that have something to do or secrets in the cluster. Open datums are counted with their
/// jobs, so that this costs in proportion to the jobs that run.
pub async fn demands(conn: &mut PgConnection, _: &System, seen: &[Pool]) -> Answer<Vec<DemandRow>> {
    let (pipelines, versions): (Vec<Uuid>, Vec<i32>) = seen.iter().map(|pool| (pool.pipeline, pool.version)).unzip();
    let rows = sqlx::query_as(
        "with open_jobs as (
             select j.pipeline_id, j.version, sum(j.datums_open)::bigint as open, max(case when s.job_id is null then j.parallelism else 1 end) as parallelism
               from jobs j left join services s on s.job_id = j.id
              where j.finished_at is null and j.state = 'running' and j.datums_open > 0
              group by j.pipeline_id, j.version
         ), pools as (
             select * from unnest($1::uuid[], $2::int[]) n (pipeline_id, version)
              union select pipeline_id, version from pod_secrets union select pipeline_id, version from open_jobs
         )
         select a.pipeline_id, a.version, coalesce(o.open, 0) as open, o.parallelism,
                coalesce(p.version = a.version and p.deleted_at is null and p.state in ('running', 'failure'), false) as stays,
                (select max(greatest(j.started_at, j.settled_at, j.finished_at))
                   from (select * from jobs where pipeline_id = a.pipeline_id order by seq desc limit 50) j
                  where j.version = a.version) as active_at,
                exists (select 1 from pod_secrets s where s.pipeline_id = a.pipeline_id and s.version = a.version) as has_secrets
           from pools a left join open_jobs o on o.pipeline_id = a.pipeline_id and o.version = a.version
           left join pipelines p on p.id = a.pipeline_id",
    )
    .bind(pipelines)
    .bind(versions)
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

/// The workers that hold datums.
pub async fn busy(conn: &mut PgConnection, _: &System, now: DateTime<Utc>) -> Answer<Vec<Uuid>> {
    let workers = sqlx::query_scalar("select distinct worker from leases where expires_at > $1")
        .bind(now)
        .fetch_all(conn)
        .await?;
    Ok(workers)
}

/// What a version of a pipeline runs.
#[derive(Debug, FromRow)]
pub struct VersionRow {
    /// Its spec.
    pub spec: Json<serde_json::Value>,
    /// The pipeline's project.
    pub project: String,
    /// The digest of its image.
    pub image_digest: Option<String>,
}

/// That version.
pub async fn find_version(conn: &mut PgConnection, _: &System, pool: Pool) -> Answer<Option<VersionRow>> {
    let row = sqlx::query_as(
        "select v.spec, p.name as project, case when v.in_image then v.image_digest end as image_digest
           from pipeline_versions v join repos r on r.id = v.pipeline_id join projects p on p.id = r.project_id
          where v.pipeline_id = $1 and v.version = $2",
    )
    .bind(pool.pipeline)
    .bind(pool.version)
    .fetch_optional(conn)
    .await?;
    Ok(row)
}

/// Notes that secrets of a pool are made.
pub async fn insert_secrets(conn: &mut PgConnection, _: &System, pool: Pool, at: DateTime<Utc>) -> Answer<()> {
    sqlx::query("insert into pod_secrets (pipeline_id, version, made_at) values ($1, $2, $3) on conflict do nothing")
        .bind(pool.pipeline)
        .bind(pool.version)
        .bind(at)
        .execute(conn)
        .await?;
    Ok(())
}

/// They are gone.
pub async fn delete_secrets(conn: &mut PgConnection, _: &System, pool: Pool) -> Answer<()> {
    sqlx::query("delete from pod_secrets where pipeline_id = $1 and version = $2")
        .bind(pool.pipeline)
        .bind(pool.version)
        .execute(conn)
        .await?;
    Ok(())
}

/// Tells the running jobs of a pool what keeps them, or that nothing does; answers whether that is news.
pub async fn update_reason(conn: &mut PgConnection, _: &System, pool: Pool, reason: Option<&str>) -> Answer<bool> {
    let told = sqlx::query(
        "update jobs set reason = $3 where pipeline_id = $1 and version = $2 and finished_at is null and state = 'running'
            and reason is distinct from $3",
    )
    .bind(pool.pipeline)
    .bind(pool.version)
    .bind(reason)
    .execute(conn)
    .await?;
    Ok(told.rows_affected() > 0)
}

/// The running jobs of a pool.
pub async fn running(conn: &mut PgConnection, _: &System, pool: Pool) -> Answer<Vec<JobId>> {
    let jobs: Vec<Uuid> = sqlx::query_scalar(
        "select id from jobs where pipeline_id = $1 and version = $2 and finished_at is null and state = 'running' order by id",
    )
    .bind(pool.pipeline)
    .bind(pool.version)
    .fetch_all(conn)
    .await?;
    Ok(jobs.into_iter().map(JobId::from_uuid).collect())
}
