//! SQL of reproductions.

use chrono::{DateTime, Utc};
use contract::api::{Actor, Comparison};
use contract::ids::{CommitId, CommitSetId, JobId};
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use crate::failure::Answer;
use crate::permissions::{Allowed, System};

/// An input of the job that made a commit.
#[derive(Debug, FromRow)]
pub struct InputRow {
    /// Its name in the spec.
    pub name: String,
    /// The commit that was read.
    pub commit_id: Uuid,
    /// Its origins.
    pub origin_set_id: i64,
    /// How its content was given up.
    pub removed_how: Option<String>,
    /// Whether it has its content still.
    pub is_there: bool,
}

/// The job that made a commit, if it succeeded.
pub async fn find_maker(conn: &mut PgConnection, _: &System, commit: CommitId) -> Answer<Option<Uuid>> {
    let id = sqlx::query_scalar("select id from jobs where output_commit_id = $1 and state = 'success'")
        .bind(commit.uuid())
        .fetch_optional(conn)
        .await?;
    Ok(id)
}

/// What a job read.
pub async fn list_inputs(conn: &mut PgConnection, _: &System, job: Uuid) -> Answer<Vec<InputRow>> {
    let rows = sqlx::query_as(
        "select i.name, i.commit_id, c.origin_set_id, c.removed_how, c.state = 'finished' and c.root is not null as is_there
           from job_inputs i join commits c on c.id = i.commit_id where i.job_id = $1 order by i.position",
    )
    .bind(job)
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

/// The job that reproduces a commit at the moment.
pub async fn find_running(conn: &mut PgConnection, _: &System, commit: CommitId) -> Answer<Option<JobId>> {
    let id = sqlx::query_scalar("select id from jobs where reproduces = $1 and finished_at is null")
        .bind(commit.uuid())
        .fetch_optional(conn)
        .await?;
    Ok(id.map(JobId::from_uuid))
}

/// The jobs that reproduce a commit or did, newest first, at most so many; those that were begun before `before`.
pub async fn list(
    conn: &mut PgConnection,
    _: &System,
    commit: CommitId,
    before: Option<JobId>,
    most: i64,
) -> Answer<Vec<JobId>> {
    let ids: Vec<Uuid> = sqlx::query_scalar(
        "select id from jobs where reproduces = $1 and ($2::uuid is null or id < $2) order by id desc limit $3",
    )
    .bind(commit.uuid())
    .bind(before.map(JobId::uuid))
    .bind(most)
    .fetch_all(conn)
    .await?;
    Ok(ids.into_iter().map(JobId::from_uuid).collect())
}

/// A reproduction to be made.
pub struct NewReproduction<'a> {
    /// The job that will run.
    pub job: JobId,
    /// The job that is repeated.
    pub maker: Uuid,
    /// The commit that is reproduced.
    pub original: CommitId,
    /// The commit that will take what comes out; no branch ever points to it.
    pub scratch: CommitId,
    /// A commit set of its own.
    pub set: CommitSetId,
    /// Who asked for it.
    pub actor: &'a Actor,
    /// Now.
    pub at: DateTime<Utc>,
}

/// Inserts the job with its inputs and its commit: all as the original's, but that all datums run. The commit has the
/// original's origins and provenance, so that whatever is known of it is guarded alike, and goes with its inputs.
pub async fn insert(conn: &mut PgConnection, _: &Allowed, new: &NewReproduction<'_>) -> Answer<()> {
    sqlx::query(
        "insert into commits (id, repo_id, branch, commit_set, state, origin_set_id, message, actor, pipeline_id,
                              pipeline_version, image_digest, code_revision, release_digest, started_at)
         select $1, repo_id, branch, $2, 'open', origin_set_id, 'a reproduction, made to be compared', $3, pipeline_id,
                pipeline_version, image_digest, code_revision, release_digest, $4 from commits where id = $5",
    )
    .bind(new.scratch.uuid())
    .bind(new.set.uuid())
    .bind(Json(new.actor))
    .bind(new.at)
    .bind(new.original.uuid())
    .execute(&mut *conn)
    .await?;
    sqlx::query(
        "insert into commit_inputs (commit_id, input_id, input_name)
         select $1, input_id, input_name from commit_inputs where commit_id = $2",
    )
    .bind(new.scratch.uuid())
    .bind(new.original.uuid())
    .execute(&mut *conn)
    .await?;
    sqlx::query(
        "insert into jobs (id, pipeline_id, version, output_commit_id, commit_set, state, reprocess, plan_digest,
                           datum_tries, parallelism, created_at, reproduces)
         select $1, pipeline_id, version, $2, $3, 'created', true, plan_digest, datum_tries, parallelism, $4, $5
           from jobs where id = $6",
    )
    .bind(new.job.uuid())
    .bind(new.scratch.uuid())
    .bind(new.set.uuid())
    .bind(new.at)
    .bind(new.original.uuid())
    .bind(new.maker)
    .execute(&mut *conn)
    .await?;
    sqlx::query(
        "insert into job_inputs (job_id, position, name, commit_id)
         select $1, position, name, commit_id from job_inputs where job_id = $2",
    )
    .bind(new.job.uuid())
    .bind(new.maker)
    .execute(conn)
    .await?;
    Ok(())
}

/// What a job reproduces.
#[derive(Debug, FromRow)]
pub struct ReproductionRow {
    /// The commit.
    pub original: Uuid,
    /// What came of it.
    pub compared: Option<Json<Comparison>>,
    /// Whether secrets are others than those that the commit was made with. Versions of secrets are all of a plan's digest
    /// that is not the same for one version of a pipeline.
    pub secrets_changed: bool,
}

/// What a job reproduces; `None` when that is nothing.
pub async fn find(conn: &mut PgConnection, _: &System, job: JobId) -> Answer<Option<ReproductionRow>> {
    let row = sqlx::query_as(
        "select j.reproduces as original, j.reproduced as compared, exists (
                    select 1 from jobs m where m.output_commit_id = j.reproduces and m.state = 'success'
                       and m.plan_digest <> j.plan_digest) as secrets_changed
           from jobs j where j.id = $1 and j.reproduces is not null",
    )
    .bind(job.uuid())
    .fetch_optional(conn)
    .await?;
    Ok(row)
}

/// Writes down what came of it.
pub async fn update_compared(conn: &mut PgConnection, _: &System, job: JobId, comparison: &Comparison) -> Answer<()> {
    sqlx::query("update jobs set reproduced = $2 where id = $1")
        .bind(job.uuid())
        .bind(Json(comparison))
        .execute(conn)
        .await?;
    Ok(())
}

/// Deletes the results of a job's datums, which stand under its own id.
pub async fn delete_results(conn: &mut PgConnection, _: &System, job: JobId) -> Answer<()> {
    sqlx::query("delete from datum_results where pipeline_id = $1")
        .bind(job.uuid())
        .execute(conn)
        .await?;
    Ok(())
}
