//! SQL of pipelines, their versions and inputs, and of what propagation inserts.

use chrono::{DateTime, Utc};
use contract::api::Actor;
use contract::ids::{CommitId, CommitSetId, DomainId, JobId};
use contract::names::BranchName;
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use super::followers::Follower;
use crate::failure::Answer;
use crate::permissions::System;

/// A pipeline with one of its versions.
#[derive(Debug, Clone, FromRow)]
pub struct PipelineRow {
    /// The domain of its output repo.
    pub id: Uuid,
    /// Its project.
    pub project: String,
    /// Its name.
    pub name: String,
    /// Its state.
    pub state: String,
    /// Why.
    pub reason: Option<String>,
    /// The output of the job that the reason speaks of.
    pub reason_output: Option<Uuid>,
    /// The origin set of that output.
    pub reason_set: Option<i64>,
    /// The newest version.
    pub newest: i32,
    /// The branch that it writes.
    pub output_branch: String,
    /// The version shown.
    pub version: i32,
    /// The spec as applied.
    pub spec: Json<serde_json::Value>,
    /// What a release names.
    pub spec_digest: Vec<u8>,
    /// The code's part of a datum's key.
    pub code_digest: Vec<u8>,
    /// The image.
    pub image_digest: Option<String>,
    /// Whether it runs in there.
    pub in_image: bool,
    /// The git revision.
    pub code_revision: Option<String>,
    /// Who applied that version.
    pub actor: Json<Actor>,
    /// When.
    pub created_at: DateTime<Utc>,
}

macro_rules! select_pipelines {
    ($tail:literal) => {
        concat!(
            "select p.id, j.name as project, r.name, p.state, p.reason, f.output_commit_id as reason_output,
                    o.origin_set_id as reason_set, p.version as newest, p.output_branch, v.version, v.spec,
                    v.spec_digest, v.code_digest, v.image_digest, v.in_image, v.code_revision, v.actor, v.created_at
               from pipelines p join repos r on r.id = p.id join projects j on j.id = r.project_id
               join pipeline_versions v on v.pipeline_id = p.id
               left join jobs f on f.id = p.reason_job_id left join commits o on o.id = f.output_commit_id ",
            $tail
        )
    };
}

/// The pipeline of that id with its newest version; deleted ones only if asked for.
pub async fn find(conn: &mut PgConnection, _: &System, id: DomainId, deleted: bool) -> Answer<Option<PipelineRow>> {
    let row = sqlx::query_as(select_pipelines!(
        "where p.id = $1 and v.version = p.version and ($2 or p.deleted_at is null)"
    ))
    .bind(id.uuid())
    .bind(deleted)
    .fetch_optional(conn)
    .await?;
    Ok(row)
}

/// Whether it was deleted; `None` when there never was one.
pub async fn is_deleted(conn: &mut PgConnection, _: &System, id: DomainId) -> Answer<Option<bool>> {
    let row = sqlx::query_scalar("select deleted_at is not null from pipelines where id = $1")
        .bind(id.uuid())
        .fetch_optional(conn)
        .await?;
    Ok(row)
}

/// Whether a pipeline has a branch of this repo as an input.
pub async fn is_read(conn: &mut PgConnection, _: &System, repo: DomainId) -> Answer<bool> {
    let read = sqlx::query_scalar("select exists (select 1 from pipeline_inputs where repo_id = $1)")
        .bind(repo.uuid())
        .fetch_one(conn)
        .await?;
    Ok(read)
}

/// Whether a pipeline reads this branch.
pub async fn is_branch_read(conn: &mut PgConnection, _: &System, repo: DomainId, branch: &str) -> Answer<bool> {
    let read = sqlx::query_scalar("select exists (select 1 from pipeline_inputs where repo_id = $1 and branch = $2)")
        .bind(repo.uuid())
        .bind(branch)
        .fetch_one(conn)
        .await?;
    Ok(read)
}

/// Pipelines of these domains behind `after` in the order of project and name, each with its newest version.
pub async fn list(
    conn: &mut PgConnection,
    _: &System,
    visible: &[Uuid],
    after: Option<(&str, &str)>,
    limit: i64,
) -> Answer<Vec<PipelineRow>> {
    let rows = sqlx::query_as(select_pipelines!(
        "where p.deleted_at is null and v.version = p.version and p.id = any($1)
           and ($2::text is null or (j.name, r.name) > ($2, $3)) order by j.name, r.name limit $4"
    ))
    .bind(visible)
    .bind(after.map(|a| a.0))
    .bind(after.map(|a| a.1))
    .bind(limit)
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

/// The versions of a pipeline below `before`, newest first.
pub async fn history(
    conn: &mut PgConnection,
    _: &System,
    id: DomainId,
    before: Option<i32>,
    limit: i64,
) -> Answer<Vec<PipelineRow>> {
    let rows = sqlx::query_as(select_pipelines!(
        "where p.id = $1 and ($2::int is null or v.version < $2) order by v.version desc limit $3"
    ))
    .bind(id.uuid())
    .bind(before)
    .bind(limit)
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

/// The repo and branch of each leaf of these pipelines, in order: pipeline, position, name, repo, branch.
pub async fn inputs(
    conn: &mut PgConnection,
    _: &System,
    pipelines: Option<&[Uuid]>,
) -> Answer<Vec<(Uuid, i32, String, Uuid, String)>> {
    let rows = sqlx::query_as(
        "select i.pipeline_id, i.position, i.name, i.repo_id, i.branch from pipeline_inputs i
           join pipelines p on p.id = i.pipeline_id and p.deleted_at is null
          where $1::uuid[] is null or i.pipeline_id = any($1) order by i.pipeline_id, i.position",
    )
    .bind(pipelines)
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

/// All pipelines as nodes: id, output branch, whether nothing goes through it.
pub async fn nodes(conn: &mut PgConnection, _: &System) -> Answer<Vec<(Uuid, String, bool)>> {
    let rows = sqlx::query_as(
        "select id, output_branch, state in ('paused', 'suspended') from pipelines where deleted_at is null",
    )
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

/// The heads of all branches that pipelines read or write: repo, branch, commit.
pub async fn heads(conn: &mut PgConnection, _: &System) -> Answer<Vec<(Uuid, String, Uuid)>> {
    let rows = sqlx::query_as(
        "select b.repo_id, b.name, b.head_id from branches b where b.head_id is not null and b.repo_id in
            (select repo_id from pipeline_inputs union all select id from pipelines where deleted_at is null)",
    )
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

/// What propagation needs of a pipeline's version.
#[derive(Debug, Clone, FromRow)]
pub struct RunRow {
    /// The pipeline.
    pub id: Uuid,
    /// The version.
    pub version: i32,
    /// The spec.
    pub spec: Json<serde_json::Value>,
    /// Its project.
    pub project: String,
    /// What a release names.
    pub spec_digest: Vec<u8>,
    /// The image.
    pub image_digest: Option<String>,
    /// The git revision.
    pub code_revision: Option<String>,
    /// Who applied it.
    pub actor: Json<Actor>,
    /// Code and inputs.
    pub plan_digest: Vec<u8>,
    /// Failures admitted.
    pub datum_tries: i32,
    /// Datums at once.
    pub parallelism: Option<i32>,
    /// Everything is run again in every job.
    pub every_job: bool,
}

macro_rules! select_runs {
    ($columns:literal, $from:literal, $tail:literal) => {
        concat!(
            "select ",
            $columns,
            "v.pipeline_id as id, v.version, v.spec, p.name as project, v.spec_digest, v.image_digest, v.code_revision,
                    v.actor, v.plan_digest, v.datum_tries, v.parallelism, v.every_job
               from ",
            $from,
            " join repos r on r.id = v.pipeline_id join projects p on p.id = r.project_id ",
            $tail
        )
    };
}

/// The output commit of a job, and the version that it runs.
pub async fn run_of_job(conn: &mut PgConnection, _: &System, job: JobId) -> Answer<Option<(Uuid, RunRow)>> {
    #[derive(FromRow)]
    struct OfJob {
        output_commit_id: Uuid,
        #[sqlx(flatten)]
        run: RunRow,
    }
    let row = sqlx::query_as::<_, OfJob>(select_runs!(
        "j.output_commit_id, ",
        "jobs j join pipeline_versions v on v.pipeline_id = j.pipeline_id and v.version = j.version",
        "where j.id = $1"
    ))
    .bind(job.uuid())
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| (row.output_commit_id, row.run)))
}

/// The newest versions of these pipelines.
pub async fn runs(conn: &mut PgConnection, _: &System, ids: &[Uuid]) -> Answer<Vec<RunRow>> {
    let rows = sqlx::query_as(select_runs!(
        "",
        "pipelines l join pipeline_versions v on v.pipeline_id = l.id and v.version = l.version",
        "where l.id = any($1)"
    ))
    .bind(ids)
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

/// The origin sets of commits.
pub async fn origin_sets_of(conn: &mut PgConnection, _: &System, ids: &[Uuid]) -> Answer<Vec<(Uuid, i64)>> {
    let rows = sqlx::query_as("select id, origin_set_id from commits where id = any($1)")
        .bind(ids)
        .fetch_all(conn)
        .await?;
    Ok(rows)
}

/// A job to be inserted.
#[derive(Debug)]
pub struct NewJob<'a> {
    /// Its id.
    pub id: JobId,
    /// What it runs.
    pub run: &'a RunRow,
    /// The commit that it makes.
    pub output: CommitId,
    /// The commit set.
    pub set: CommitSetId,
    /// Run all datums.
    pub reprocess: bool,
    /// The commit of each leaf, with the leaf's name.
    pub inputs: Vec<(usize, String, CommitId)>,
    /// Now.
    pub at: DateTime<Utc>,
    /// The trace that it belongs to.
    pub traceparent: Option<String>,
}

/// Inserts a job with its inputs.
pub async fn insert_job(conn: &mut PgConnection, _: &System, job: &NewJob<'_>) -> Answer<()> {
    sqlx::query(
        "insert into jobs (id, pipeline_id, version, output_commit_id, commit_set, state, reprocess, plan_digest,
                           datum_tries, parallelism, created_at, traceparent)
         values ($1, $2, $3, $4, $5, 'created', $6, $7, $8, $9, $10, $11)",
    )
    .bind(job.id.uuid())
    .bind(job.run.id)
    .bind(job.run.version)
    .bind(job.output.uuid())
    .bind(job.set.uuid())
    .bind(job.reprocess || job.run.every_job)
    .bind(&job.run.plan_digest)
    .bind(job.run.datum_tries)
    .bind(job.run.parallelism)
    .bind(job.at)
    .bind(&job.traceparent)
    .execute(&mut *conn)
    .await?;
    let positions: Vec<i32> = job
        .inputs
        .iter()
        .map(|(leaf, ..)| i32::try_from(*leaf).unwrap_or(i32::MAX))
        .collect();
    let commits: Vec<Uuid> = job.inputs.iter().map(|(.., commit)| commit.uuid()).collect();
    let names: Vec<&str> = job.inputs.iter().map(|(_, name, _)| name.as_str()).collect();
    sqlx::query(
        "insert into job_inputs (job_id, position, name, commit_id)
         select $1, * from unnest($2::int[], $3::text[], $4::uuid[])",
    )
    .bind(job.id.uuid())
    .bind(positions)
    .bind(names)
    .bind(commits)
    .execute(conn)
    .await?;
    Ok(())
}

/// A version to be inserted.
pub struct NewVersion<'a> {
    /// The pipeline.
    pub id: DomainId,
    /// The version.
    pub version: i32,
    /// The branch that it writes.
    pub output_branch: &'a str,
    /// The spec as applied.
    pub spec: &'a serde_json::Value,
    /// What a release names.
    pub spec_digest: [u8; 32],
    /// The code's part of a datum's key.
    pub code_digest: [u8; 32],
    /// Code and inputs.
    pub plan_digest: [u8; 32],
    /// The image that it runs in.
    pub image_digest: Option<&'a str>,
    /// The git revision.
    pub code_revision: Option<&'a str>,
    /// Who.
    pub actor: &'a Actor,
    /// When.
    pub at: DateTime<Utc>,
    /// Failures admitted.
    pub datum_tries: i32,
    /// Datums at once.
    pub parallelism: Option<i32>,
    /// Everything is run again in every job.
    pub every_job: bool,
    /// Limit of a job.
    pub job_timeout_ms: Option<i64>,
    /// Datums that a worker claims at a time.
    pub datum_set: provenance::spec::DatumSet,
    /// Name, repo and branch of each leaf.
    pub inputs: &'a [(String, DomainId, String)],
}

/// Makes this the pipeline's newest version. A pipeline that was not there, or was deleted, runs from now on; one that was
/// stopped by somebody stays stopped.
pub async fn insert_version(conn: &mut PgConnection, _: &System, new: &NewVersion<'_>) -> Answer<()> {
    sqlx::query(
        "insert into pipelines (id, version, state, output_branch) values ($1, $2, 'running', $3)
         on conflict (id) do update set version = excluded.version, output_branch = excluded.output_branch, reason = null,
             reason_job_id = null,
             state = case when pipelines.state = 'paused' and pipelines.deleted_at is null then 'paused' else 'running' end,
             deleted_at = null",
    )
    .bind(new.id.uuid())
    .bind(new.version)
    .bind(new.output_branch)
    .execute(&mut *conn)
    .await?;
    sqlx::query(
        "insert into pipeline_versions (pipeline_id, version, spec, spec_digest, code_digest, plan_digest, image_digest,
             code_revision, actor, created_at, datum_tries, parallelism, every_job, job_timeout_ms,
             in_image, datum_set_number, datum_set_bytes)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $7 is not null, $15, $16)",
    )
    .bind(new.id.uuid())
    .bind(new.version)
    .bind(Json(new.spec))
    .bind(&new.spec_digest[..])
    .bind(&new.code_digest[..])
    .bind(&new.plan_digest[..])
    .bind(new.image_digest)
    .bind(new.code_revision)
    .bind(Json(new.actor))
    .bind(new.at)
    .bind(new.datum_tries)
    .bind(new.parallelism)
    .bind(new.every_job)
    .bind(new.job_timeout_ms)
    .bind(new.datum_set.number.map(i64::from))
    .bind(new.datum_set.size_bytes.map(|n| i64::try_from(n).unwrap_or(i64::MAX)))
    .execute(&mut *conn)
    .await?;
    sqlx::query("delete from pipeline_inputs where pipeline_id = $1")
        .bind(new.id.uuid())
        .execute(&mut *conn)
        .await?;
    let positions: Vec<i32> = (0..i32::try_from(new.inputs.len()).unwrap_or(0)).collect();
    sqlx::query(
        "insert into pipeline_inputs (pipeline_id, position, name, repo_id, branch)
         select $1, * from unnest($2::int[], $3::text[], $4::uuid[], $5::text[])",
    )
    .bind(new.id.uuid())
    .bind(positions)
    .bind(new.inputs.iter().map(|i| i.0.clone()).collect::<Vec<_>>())
    .bind(new.inputs.iter().map(|i| i.1.uuid()).collect::<Vec<_>>())
    .bind(new.inputs.iter().map(|i| i.2.clone()).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(())
}

/// The highest version that a pipeline ever had, 0 when there was none.
pub async fn last_version(conn: &mut PgConnection, _: &System, id: DomainId) -> Answer<i32> {
    let last =
        sqlx::query_scalar::<_, Option<i32>>("select max(version) from pipeline_versions where pipeline_id = $1")
            .bind(id.uuid())
            .fetch_one(conn)
            .await?;
    Ok(last.unwrap_or(0))
}

/// Sets a pipeline's state.
pub async fn update_state(
    conn: &mut PgConnection,
    _: &System,
    id: DomainId,
    state: &str,
    reason: Option<&str>,
) -> Answer<()> {
    sqlx::query(
        "update pipelines set state = $2, reason = $3, reason_job_id = null where id = $1 and deleted_at is null",
    )
    .bind(id.uuid())
    .bind(state)
    .bind(reason)
    .execute(conn)
    .await?;
    Ok(())
}

/// Notes why a pipeline gets nothing from one of its inputs: no job of it failed. One that is stopped stays so.
pub async fn update_deprived(conn: &mut PgConnection, _: &System, id: DomainId, reason: &str) -> Answer<()> {
    let sql = "update pipelines set state = 'running', reason = $2, reason_job_id = null
                where id = $1 and state not in ('paused', 'suspended')";
    sqlx::query(sql).bind(id.uuid()).bind(reason).execute(conn).await?;
    Ok(())
}

/// What its last job says of a pipeline: that it failed and why, or nothing. One that is stopped stays so.
pub async fn update_outcome(
    conn: &mut PgConnection,
    _: &System,
    id: Uuid,
    failed: Option<(JobId, &str)>,
) -> Answer<()> {
    sqlx::query(
        "update pipelines set state = $2, reason = $3, reason_job_id = $4
          where id = $1 and state in ('running', 'failure')
            and (state, reason, reason_job_id) is distinct from ($2, $3, $4)",
    )
    .bind(id)
    .bind(if failed.is_some() { "failure" } else { "running" })
    .bind(failed.map(|(_, why)| why))
    .bind(failed.map(|(job, _)| job.uuid()))
    .execute(conn)
    .await?;
    Ok(())
}

/// Deletes a pipeline: nothing runs any more. Its repo, versions, jobs and commits stay.
pub async fn delete(conn: &mut PgConnection, _: &System, id: DomainId, at: DateTime<Utc>) -> Answer<()> {
    sqlx::query(
        "update pipelines set deleted_at = $2, state = 'paused', reason = null, reason_job_id = null where id = $1",
    )
    .bind(id.uuid())
    .bind(at)
    .execute(&mut *conn)
    .await?;
    sqlx::query("delete from pipeline_inputs where pipeline_id = $1")
        .bind(id.uuid())
        .execute(conn)
        .await?;
    Ok(())
}

/// Jobs of a pipeline that are not over.
pub async fn unfinished_jobs(conn: &mut PgConnection, _: &System, id: DomainId) -> Answer<Vec<Uuid>> {
    let rows = sqlx::query_scalar("select id from jobs where pipeline_id = $1 and finished_at is null order by seq")
        .bind(id.uuid())
        .fetch_all(conn)
        .await?;
    Ok(rows)
}

/// The pipeline that a branch was made to follow another one for.
pub async fn follower_of(
    conn: &mut PgConnection,
    _: &System,
    repo: DomainId,
    branch: &BranchName,
) -> Answer<Option<DomainId>> {
    let owner = sqlx::query_scalar::<_, Option<Uuid>>(
        "select pipeline_id from branch_triggers where repo_id = $1 and branch = $2",
    )
    .bind(repo.uuid())
    .bind(branch.as_str())
    .fetch_optional(conn)
    .await?;
    Ok(owner.flatten().map(DomainId::from_uuid))
}

/// The branches that were made for a pipeline: repo, branch, the one that it follows.
pub async fn list_followers(
    conn: &mut PgConnection,
    _: &System,
    pipeline: DomainId,
) -> Answer<Vec<(DomainId, BranchName, BranchName)>> {
    let rows: Vec<(Uuid, String, String)> =
        sqlx::query_as("select repo_id, branch, source from branch_triggers where pipeline_id = $1")
            .bind(pipeline.uuid())
            .fetch_all(conn)
            .await?;
    rows.into_iter()
        .map(|(repo, branch, source)| Ok((DomainId::from_uuid(repo), branch.parse()?, source.parse()?)))
        .collect()
}

/// Deletes such a branch with its trigger.
pub async fn delete_follower(conn: &mut PgConnection, _: &System, repo: DomainId, branch: &BranchName) -> Answer<()> {
    sqlx::query("delete from branches where repo_id = $1 and name = $2")
        .bind(repo.uuid())
        .bind(branch.as_str())
        .execute(conn)
        .await?;
    Ok(())
}

/// Makes such a branch, or gives the one that is there these conditions; answers whether it is new.
pub async fn insert_follower(
    conn: &mut PgConnection,
    _: &System,
    pipeline: DomainId,
    follower: &Follower,
    actor: &Actor,
    at: DateTime<Utc>,
) -> Answer<bool> {
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let made = sqlx::query(
        "insert into branches (repo_id, name, head_id, created_at) values ($1, $2, null, $3) on conflict do nothing",
    )
    .bind(follower.repo.uuid())
    .bind(follower.branch.as_str())
    .bind(at)
    .execute(&mut *conn)
    .await?;
    sqlx::query(
        "insert into branch_triggers (repo_id, branch, source, size_bytes, commits, cron, all_hold, actor, created_at, pipeline_id)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
         on conflict (repo_id, branch) do update set source = excluded.source, size_bytes = excluded.size_bytes,
             commits = excluded.commits, cron = excluded.cron, all_hold = excluded.all_hold, actor = excluded.actor, reason = null",
    )
    .bind(follower.repo.uuid())
    .bind(follower.branch.as_str())
    .bind(follower.on.source.as_str())
    .bind(follower.on.size_bytes.map(number))
    .bind(follower.on.commits.map(number))
    .bind(&follower.on.cron)
    .bind(follower.on.all)
    .bind(Json(actor))
    .bind(at)
    .bind(pipeline.uuid())
    .execute(conn)
    .await?;
    Ok(made.rows_affected() == 1)
}
