//! SQL of spouts.

use chrono::{DateTime, Utc};
use contract::api::Attestation;
use contract::ids::{CommitId, DomainId, JobId};
use contract::names::BranchName;
use sqlx::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use crate::commits::NewCommit;
use crate::commits::log::uuids;
use crate::failure::Answer;
use crate::permissions::System;
use crate::repos;

/// The pipeline whose unattested data that repo stands for.
pub async fn find_pipeline(conn: &mut PgConnection, _: &System, repo: DomainId) -> Answer<Option<DomainId>> {
    let id = sqlx::query_scalar("select pipeline_id from spouts where repo_id = $1")
        .bind(repo.uuid())
        .fetch_optional(conn)
        .await?;
    Ok(id.map(DomainId::from_uuid))
}

/// Keeps which repo stands for what a pipeline received.
pub async fn upsert(conn: &mut PgConnection, _: &System, pipeline: DomainId, repo: DomainId) -> Answer<()> {
    sqlx::query(
        "insert into spouts (repo_id, pipeline_id) values ($1, $2)
         on conflict (pipeline_id) do update set repo_id = excluded.repo_id",
    )
    .bind(repo.uuid())
    .bind(pipeline.uuid())
    .execute(conn)
    .await?;
    Ok(())
}

/// Deletes the repo that stands for what a deleted pipeline received, and its keys; its domain goes on to guard that. Answers which.
pub async fn delete_of(
    conn: &mut PgConnection,
    system: &System,
    pipeline: DomainId,
    at: DateTime<Utc>,
) -> Answer<Vec<DomainId>> {
    let all: Vec<Uuid> = sqlx::query_scalar("select repo_id from spouts where pipeline_id = $1")
        .bind(pipeline.uuid())
        .fetch_all(&mut *conn)
        .await?;
    // A pipeline of that name that comes later receives all anew.
    sqlx::query("delete from spout_commits where pipeline_id = $1")
        .bind(pipeline.uuid())
        .execute(&mut *conn)
        .await?;
    let all: Vec<DomainId> = all.into_iter().map(DomainId::from_uuid).collect();
    for repo in &all {
        repos::queries::delete_made(conn, system, *repo, at).await?;
    }
    Ok(all)
}

/// Of these pipelines, those that are spouts now and were not stopped: the domain of what is not attested, and the branch.
pub async fn list_startable(
    conn: &mut PgConnection,
    _: &System,
    pipelines: &[DomainId],
) -> Answer<Vec<(DomainId, DomainId, BranchName)>> {
    let ids: Vec<Uuid> = pipelines.iter().map(|id| id.uuid()).collect();
    let rows: Vec<(Uuid, Uuid, String)> = sqlx::query_as(
        "select p.id, s.repo_id, p.output_branch from pipelines p join spouts s on s.pipeline_id = p.id
           join pipeline_versions v on v.pipeline_id = p.id and v.version = p.version
          where p.id = any($1) and p.deleted_at is null and p.state not in ('paused', 'suspended')
            and jsonb_typeof(v.spec -> 'spout') = 'object' order by p.id",
    )
    .bind(ids)
    .fetch_all(conn)
    .await?;
    let typed = |(pipeline, repo, branch): (Uuid, Uuid, String)| {
        Ok((
            DomainId::from_uuid(pipeline),
            DomainId::from_uuid(repo),
            branch.parse()?,
        ))
    };
    rows.into_iter().map(typed).collect()
}

/// Of these pipelines, those that are spouts now.
pub async fn among(conn: &mut PgConnection, _: &System, pipelines: &[DomainId]) -> Answer<Vec<DomainId>> {
    let ids: Vec<Uuid> = pipelines.iter().map(|id| id.uuid()).collect();
    let rows: Vec<Uuid> = sqlx::query_scalar(
        "select p.id from pipelines p join pipeline_versions v on v.pipeline_id = p.id and v.version = p.version
          where p.id = any($1) and jsonb_typeof(v.spec -> 'spout') = 'object'",
    )
    .bind(ids)
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(DomainId::from_uuid).collect())
}

/// Whether a spout is to be running: its plane must not sleep then.
pub async fn is_any_wanted(conn: &mut PgConnection, _: &System) -> Answer<bool> {
    let any = sqlx::query_scalar(
        "select exists (select 1 from services s join jobs j on j.id = s.job_id
                         where s.port is null and j.finished_at is null)",
    )
    .fetch_one(conn)
    .await?;
    Ok(any)
}

/// Inserts the commit that carries the origins of a spout's job; no branch ever points to it.
pub async fn insert_carrier(conn: &mut PgConnection, _: &System, new: &NewCommit, unattested: DomainId) -> Answer<()> {
    let stamp = new.pipeline.as_ref();
    sqlx::query(
        "insert into commits (id, repo_id, branch, commit_set, state, origin_set_id, message, actor, pipeline_id,
                              pipeline_version, image_digest, code_revision, started_at, unattested_id)
         values ($1, $2, $3, $4, 'open', $5, $6, $7, $8, $9, $10, $11, $12, $13)",
    )
    .bind(new.id.uuid())
    .bind(new.repo.uuid())
    .bind(new.branch.as_str())
    .bind(new.commit_set.uuid())
    .bind(new.origin_set)
    .bind(&new.message)
    .bind(Json(&new.actor))
    .bind(stamp.map(|s| s.id.uuid()))
    .bind(stamp.map(|s| s.version))
    .bind(stamp.and_then(|s| s.image_digest.as_deref()))
    .bind(stamp.and_then(|s| s.code_revision.as_deref()))
    .bind(new.started_at)
    .bind(unattested.uuid())
    .execute(conn)
    .await?;
    Ok(())
}

/// Writes down that a commit holds what a spout received, and whether it holds nothing of the commit before it.
pub async fn update_received(
    conn: &mut PgConnection,
    _: &System,
    commit: CommitId,
    unattested: DomainId,
    replaces: bool,
) -> Answer<()> {
    sqlx::query("update commits set unattested_id = $2, replaces = $3 where id = $1")
        .bind(commit.uuid())
        .bind(unattested.uuid())
        .bind(replaces)
        .execute(conn)
        .await?;
    Ok(())
}

/// The domain of what is not attested of what a commit holds.
pub async fn find_unattested(conn: &mut PgConnection, _: &System, commit: CommitId) -> Answer<Option<DomainId>> {
    let id: Option<Option<Uuid>> =
        sqlx::query_scalar("select unattested_id from commits where id = $1 and attested is null")
            .bind(commit.uuid())
            .fetch_optional(conn)
            .await?;
    Ok(id.flatten().map(DomainId::from_uuid))
}

/// The spout of a job: its pipeline, the domain of what is not attested, and the branch of its commits.
pub async fn find_of_job(
    conn: &mut PgConnection,
    _: &System,
    job: JobId,
) -> Answer<Option<(DomainId, DomainId, BranchName)>> {
    let row: Option<(Uuid, Uuid, String)> = sqlx::query_as(
        "select s.pipeline_id, s.repo_id, c.branch from jobs j join spouts s on s.pipeline_id = j.pipeline_id
           join commits c on c.id = j.output_commit_id where j.id = $1",
    )
    .bind(job.uuid())
    .fetch_optional(conn)
    .await?;
    row.map(|(pipeline, repo, branch)| {
        Ok((
            DomainId::from_uuid(pipeline),
            DomainId::from_uuid(repo),
            branch.parse()?,
        ))
    })
    .transpose()
}

/// The commit that was made for this request, or under this key of the pipeline.
pub async fn find_made(
    conn: &mut PgConnection,
    _: &System,
    pipeline: DomainId,
    (request, key): (Uuid, Option<&str>),
) -> Answer<Option<CommitId>> {
    let id = sqlx::query_scalar(
        "select commit_id from spout_commits where request = $1 or (pipeline_id = $2 and key = $3) limit 1",
    )
    .bind(request)
    .bind(pipeline.uuid())
    .bind(key)
    .fetch_optional(conn)
    .await?;
    Ok(id.map(CommitId::from_uuid))
}

/// Notes what a commit was made for.
pub async fn insert_made(
    conn: &mut PgConnection,
    _: &System,
    pipeline: DomainId,
    (request, key): (Uuid, Option<&str>),
    (commit, at): (CommitId, DateTime<Utc>),
) -> Answer<()> {
    sqlx::query("insert into spout_commits (request, pipeline_id, key, commit_id, at) values ($1, $2, $3, $4, $5)")
        .bind(request)
        .bind(pipeline.uuid())
        .bind(key)
        .bind(commit.uuid())
        .bind(at)
        .execute(conn)
        .await?;
    Ok(())
}

/// The key of a pipeline's newest commit that has one.
pub async fn find_last_key(conn: &mut PgConnection, _: &System, job: JobId) -> Answer<Option<String>> {
    let key = sqlx::query_scalar(
        "select s.key from spout_commits s join jobs j on j.pipeline_id = s.pipeline_id
          where j.id = $1 and s.key is not null order by s.seq desc limit 1",
    )
    .bind(job.uuid())
    .fetch_optional(conn)
    .await?;
    Ok(key)
}

/// Forgets what commits were made for that are given up, so that it can be received again.
pub async fn forget_commits(conn: &mut PgConnection, _: &System, commits: &[CommitId]) -> Answer<()> {
    sqlx::query("delete from spout_commits where commit_id = any($1)")
        .bind(uuids(commits))
        .execute(conn)
        .await?;
    Ok(())
}

/// Whether a commit is that of a job: of a spout's it stands for what the command prints.
pub async fn is_carrier(conn: &mut PgConnection, _: &System, commit: CommitId) -> Answer<bool> {
    let is_one = sqlx::query_scalar("select exists (select 1 from jobs where output_commit_id = $1)")
        .bind(commit.uuid())
        .fetch_one(conn)
        .await?;
    Ok(is_one)
}

/// A commit that nobody attested and those before it whose content it holds, up to one that was attested; each with the
/// domain of what is not attested, which is another one where the pipeline was deleted and made again.
pub async fn list_line(conn: &mut PgConnection, _: &System, commit: CommitId) -> Answer<Vec<(CommitId, DomainId)>> {
    let rows: Vec<(Uuid, Uuid)> = sqlx::query_as(
        "with recursive line (id, parent_id, unattested_id, replaces) as (
             select id, parent_id, unattested_id, replaces from commits
              where id = $1 and unattested_id is not null and attested is null
             union all
             select c.id, c.parent_id, c.unattested_id, c.replaces from line join commits c on c.id = line.parent_id
              where not line.replaces and c.unattested_id is not null and c.attested is null
         ) select id, unattested_id from line",
    )
    .bind(commit.uuid())
    .fetch_all(conn)
    .await?;
    let typed = |(id, domain): (Uuid, Uuid)| (CommitId::from_uuid(id), DomainId::from_uuid(domain));
    Ok(rows.into_iter().map(typed).collect())
}

/// Marks commits as attested.
pub async fn update_attested(conn: &mut PgConnection, _: &System, commits: &[Uuid], by: &Attestation) -> Answer<()> {
    sqlx::query("update commits set attested = $2 where id = any($1) and attested is null")
        .bind(commits)
        .bind(Json(by))
        .execute(conn)
        .await?;
    Ok(())
}
