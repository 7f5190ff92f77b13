//! SQL of cron inputs.

use chrono::{DateTime, Utc};
use contract::api::Actor;
use contract::ids::DomainId;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection, Row};
use uuid::Uuid;

use super::CronRepo;
use crate::failure::Answer;
use crate::permissions::System;
use crate::repos;

/// A cron input.
#[derive(Debug, Clone)]
pub struct CronRow {
    /// Its repo.
    pub repo: DomainId,
    /// Its schedule.
    pub spec: String,
    /// Only the last file stays.
    pub overwrite: bool,
    /// Where the spec has it begin.
    pub start_at: Option<DateTime<Utc>>,
    /// The last tick that has its file.
    pub counted_to: DateTime<Utc>,
    /// Who applied the pipeline's newest version.
    pub actor: Actor,
}

impl FromRow<'_, PgRow> for CronRow {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            repo: DomainId::from_uuid(row.try_get("repo_id")?),
            spec: row.try_get("spec")?,
            overwrite: row.try_get("overwrite")?,
            start_at: row.try_get("start_at")?,
            counted_to: row.try_get("counted_to")?,
            actor: row.try_get::<Json<Actor>, _>("actor")?.0,
        })
    }
}

macro_rules! select_inputs {
    ($tail:literal) => {
        concat!(
            "select c.repo_id, c.spec, c.overwrite, c.start_at, c.counted_to, v.actor from cron_inputs c
               join pipelines p on p.id = c.pipeline_id
               join pipeline_versions v on v.pipeline_id = p.id and v.version = p.version ",
            $tail
        )
    };
}

/// The cron input whose repo this is.
pub async fn find(conn: &mut PgConnection, _: &System, repo: DomainId) -> Answer<Option<CronRow>> {
    let row = sqlx::query_as(select_inputs!("where c.repo_id = $1"))
        .bind(repo.uuid())
        .fetch_optional(conn)
        .await?;
    Ok(row)
}

/// The pipeline whose cron input's repo this is.
pub async fn find_pipeline(conn: &mut PgConnection, _: &System, repo: DomainId) -> Answer<Option<DomainId>> {
    let id = sqlx::query_scalar("select pipeline_id from cron_inputs where repo_id = $1")
        .bind(repo.uuid())
        .fetch_optional(conn)
        .await?;
    Ok(id.map(DomainId::from_uuid))
}

/// The cron inputs that a pipeline reads.
pub async fn list_of(conn: &mut PgConnection, _: &System, pipeline: DomainId) -> Answer<Vec<CronRow>> {
    let rows = sqlx::query_as(select_inputs!(
        "where c.pipeline_id = $1 and exists
            (select 1 from pipeline_inputs i where i.pipeline_id = $1 and i.repo_id = c.repo_id) order by c.repo_id"
    ))
    .bind(pipeline.uuid())
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

/// The inputs of pipelines that run whose next tick has come.
pub async fn list_due(conn: &mut PgConnection, _: &System, now: DateTime<Utc>) -> Answer<Vec<CronRow>> {
    let rows = sqlx::query_as(select_inputs!(
        "where c.next_at <= $1 and p.deleted_at is null and p.state not in ('paused', 'suspended') order by c.next_at"
    ))
    .bind(now)
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

/// Locks an input that is as it was read and still has a tick to come by now; answers whether it is.
pub async fn lock_due(conn: &mut PgConnection, _: &System, row: &CronRow, now: DateTime<Utc>) -> Answer<bool> {
    let found: Option<Uuid> = sqlx::query_scalar(
        "select c.repo_id from cron_inputs c join pipelines p on p.id = c.pipeline_id
          where c.repo_id = $1 and c.spec = $2 and c.overwrite = $3 and c.counted_to = $4 and c.next_at <= $5
            and p.deleted_at is null and p.state not in ('paused', 'suspended') for update of c",
    )
    .bind(row.repo.uuid())
    .bind(&row.spec)
    .bind(row.overwrite)
    .bind(row.counted_to)
    .bind(now)
    .fetch_optional(conn)
    .await?;
    Ok(found.is_some())
}

/// The next tick of all inputs of pipelines that run.
pub async fn next(conn: &mut PgConnection, _: &System) -> Answer<Option<DateTime<Utc>>> {
    let next = sqlx::query_scalar(
        "select min(c.next_at) from cron_inputs c join pipelines p on p.id = c.pipeline_id
          where p.deleted_at is null and p.state not in ('paused', 'suspended')",
    )
    .fetch_one(conn)
    .await?;
    Ok(next)
}

/// Notes that every tick up to this one has its file.
pub async fn update_counted(
    conn: &mut PgConnection,
    _: &System,
    repo: DomainId,
    counted_to: DateTime<Utc>,
    next_at: Option<DateTime<Utc>>,
) -> Answer<()> {
    sqlx::query("update cron_inputs set counted_to = $2, next_at = $3 where repo_id = $1")
        .bind(repo.uuid())
        .bind(counted_to)
        .bind(next_at)
        .execute(conn)
        .await?;
    Ok(())
}

/// Keeps an input: how far it has counted, and its next tick.
pub async fn upsert(
    conn: &mut PgConnection,
    _: &System,
    pipeline: DomainId,
    repo: &CronRepo,
    (counted_to, next_at): (DateTime<Utc>, Option<DateTime<Utc>>),
) -> Answer<()> {
    sqlx::query(
        "insert into cron_inputs (repo_id, pipeline_id, spec, overwrite, start_at, counted_to, next_at)
         values ($1, $2, $3, $4, $5, $6, $7)
         on conflict (repo_id) do update set pipeline_id = excluded.pipeline_id, spec = excluded.spec, overwrite = excluded.overwrite,
             start_at = excluded.start_at, counted_to = excluded.counted_to, next_at = excluded.next_at",
    )
    .bind(repo.id.uuid())
    .bind(pipeline.uuid())
    .bind(&repo.input.spec)
    .bind(repo.input.overwrite)
    .bind(repo.input.start)
    .bind(counted_to)
    .bind(next_at)
    .execute(conn)
    .await?;
    Ok(())
}

/// Inputs of a pipeline other than these tick no more. Their repos stay; taken up again, one counts from then.
pub async fn retire(conn: &mut PgConnection, _: &System, pipeline: DomainId, kept: &[DomainId]) -> Answer<()> {
    let kept: Vec<Uuid> = kept.iter().map(|id| id.uuid()).collect();
    sqlx::query(
        "update cron_inputs set spec = 'never', start_at = null, next_at = null
          where pipeline_id = $1 and repo_id <> all($2)",
    )
    .bind(pipeline.uuid())
    .bind(kept)
    .execute(conn)
    .await?;
    Ok(())
}

/// Deletes the repos of a deleted pipeline's cron inputs, but for those that another pipeline reads, which a pipeline of that
/// name may take up again; answers which.
pub async fn delete_of(
    conn: &mut PgConnection,
    system: &System,
    pipeline: DomainId,
    at: DateTime<Utc>,
) -> Answer<Vec<DomainId>> {
    let all: Vec<Uuid> = sqlx::query_scalar("select repo_id from cron_inputs where pipeline_id = $1")
        .bind(pipeline.uuid())
        .fetch_all(&mut *conn)
        .await?;
    let mut deleted = Vec::new();
    for repo in all.into_iter().map(DomainId::from_uuid) {
        if !crate::pipelines::queries::is_read(conn, system, repo).await? {
            repos::queries::delete_made(conn, system, repo, at).await?;
            delete(conn, system, repo).await?;
            deleted.push(repo);
        }
    }
    retire(conn, system, pipeline, &[]).await?;
    Ok(deleted)
}

/// Forgets the cron input of a repo that is deleted.
pub async fn delete(conn: &mut PgConnection, _: &System, repo: DomainId) -> Answer<()> {
    sqlx::query("delete from cron_inputs where repo_id = $1")
        .bind(repo.uuid())
        .execute(conn)
        .await?;
    Ok(())
}
