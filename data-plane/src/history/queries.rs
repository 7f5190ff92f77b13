//! SQL of what takes something out of the past.

use contract::api::Removed;
use contract::ids::{CommitId, DomainId, JobId};
use contract::names::BranchName;
use futures::TryStreamExt;
use sqlx::PgConnection;
use sqlx::types::Json;
use storage::TreeRef;
use uuid::Uuid;

use crate::commits::log::uuids;
use crate::failure::Answer;
use crate::permissions::System;

/// Of these repos, those that are not deleted.
pub async fn list_live_repos(conn: &mut PgConnection, _: &System, repos: &[DomainId]) -> Answer<Vec<DomainId>> {
    let ids: Vec<Uuid> = repos.iter().map(|r| r.uuid()).collect();
    let rows: Vec<Uuid> =
        sqlx::query_scalar("select id from repos where id = any($1) and deleted_at is null order by id")
            .bind(ids)
            .fetch_all(conn)
            .await?;
    Ok(rows.into_iter().map(DomainId::from_uuid).collect())
}

/// A branch that points at a commit.
pub async fn find_branch_at(conn: &mut PgConnection, _: &System, commit: CommitId) -> Answer<Option<String>> {
    let name = sqlx::query_scalar("select name from branches where head_id = $1 order by name limit 1")
        .bind(commit.uuid())
        .fetch_optional(conn)
        .await?;
    Ok(name)
}

/// How many finished commits come next after a commit, and how many open ones of people; an errored or removed one in
/// between is passed by.
pub async fn count_heirs(conn: &mut PgConnection, _: &System, commit: CommitId) -> Answer<(i64, i64)> {
    let row = sqlx::query_as(
        "with recursive line (id, state, pipeline_id) as (
            select id, state, pipeline_id from commits where parent_id = $1
            union all
            select c.id, c.state, c.pipeline_id from line join commits c on c.parent_id = line.id
             where line.state not in ('finished', 'open')
         ) select count(*) filter (where state = 'finished'),
                  count(*) filter (where state = 'open' and pipeline_id is null) from line",
    )
    .bind(commit.uuid())
    .fetch_one(conn)
    .await?;
    Ok(row)
}

/// Whether a job that is not over reads a commit.
pub async fn is_being_read(conn: &mut PgConnection, _: &System, commit: CommitId) -> Answer<bool> {
    let read = sqlx::query_scalar(
        "select exists (select 1 from job_inputs i join jobs j on j.id = i.job_id
                         where i.commit_id = $1 and j.finished_at is null)",
    )
    .bind(commit.uuid())
    .fetch_one(conn)
    .await?;
    Ok(read)
}

/// A pipeline whose service reads it: project and name too.
pub async fn find_service_on(
    conn: &mut PgConnection,
    _: &System,
    commit: CommitId,
) -> Answer<Option<(DomainId, String, String)>> {
    let found: Option<(Uuid, String, String)> = sqlx::query_as(
        "select r.id, p.name, r.name from job_inputs i join services s on s.job_id = i.job_id
           join repos r on r.id = s.pipeline_id join projects p on p.id = r.project_id
          where i.commit_id = $1 limit 1",
    )
    .bind(commit.uuid())
    .fetch_optional(conn)
    .await?;
    Ok(found.map(|(id, project, name)| (DomainId::from_uuid(id), project, name)))
}

/// These commits and everything that was made from them, and is still there; newest first, each with its repo.
pub async fn list_derived(conn: &mut PgConnection, _: &System, from: &[CommitId]) -> Answer<Vec<(CommitId, DomainId)>> {
    // One after the other: there may be very many.
    let rows = sqlx::query_as(
        "select c.id, c.repo_id from commits c where c.state <> 'removed' and c.id in (
             with recursive touched (id) as (
                 select * from unnest($1::uuid[])
                 union
                 select down.id from touched t cross join lateral (
                     select commit_id as id from commit_inputs where input_id = t.id
                     union all
                     select id from commits where parent_id = t.id and (pipeline_id is null or unattested_id is not null) and not replaces) down
             ) select id from touched) order by c.seq desc",
    )
    .bind(uuids(from))
    .fetch(conn);
    let typed = |(id, repo): (Uuid, Uuid)| (CommitId::from_uuid(id), DomainId::from_uuid(repo));
    Ok(rows.map_ok(typed).try_collect().await?)
}

/// Jobs that are not over and make one of these commits, with their pipelines, in the order in which jobs are locked.
pub async fn list_unfinished_jobs(
    conn: &mut PgConnection,
    _: &System,
    commits: &[CommitId],
) -> Answer<Vec<(JobId, DomainId)>> {
    let rows: Vec<(Uuid, Uuid)> = sqlx::query_as(
        "select id, pipeline_id from jobs where output_commit_id = any($1) and finished_at is null order by id",
    )
    .bind(uuids(commits))
    .fetch_all(conn)
    .await?;
    let typed = |(job, pipeline)| (JobId::from_uuid(job), DomainId::from_uuid(pipeline));
    Ok(rows.into_iter().map(typed).collect())
}

/// Locks these commits; the digest of the tree of each that has one.
pub async fn lock_trees(
    conn: &mut PgConnection,
    _: &System,
    commits: &[CommitId],
) -> Answer<Vec<(CommitId, Option<[u8; 32]>)>> {
    let rows: Vec<(Uuid, Option<Vec<u8>>)> =
        sqlx::query_as("select id, root from commits where id = any($1) order by id for no key update")
            .bind(uuids(commits))
            .fetch_all(conn)
            .await?;
    let mut trees = Vec::with_capacity(rows.len());
    for (id, root) in rows {
        let digest = match root {
            None => None,
            Some(root) => Some(*TreeRef::from_bytes(&root)?.digest().as_bytes()),
        };
        trees.push((CommitId::from_uuid(id), digest));
    }
    Ok(trees)
}

/// What becomes of commits that are given up.
pub struct Remove<'a> {
    /// The commits, with the digests of their trees.
    pub trees: &'a [(CommitId, Option<[u8; 32]>)],
    /// How, when, by whom.
    pub removed: &'a Removed,
}

/// Lets go of the contents of commits; their rows stay.
pub async fn update_removed(conn: &mut PgConnection, _: &System, remove: &Remove<'_>) -> Answer<()> {
    let ids: Vec<Uuid> = remove.trees.iter().map(|(id, _)| id.uuid()).collect();
    let digests: Vec<Option<&[u8]>> = remove.trees.iter().map(|(_, d)| d.as_ref().map(|d| &d[..])).collect();
    sqlx::query(
        "update commits c set state = 'removed', root = null, removed_how = $3, removed_at = $4, removed_by = $5,
                recorded_tree_digest = coalesce(c.recorded_tree_digest, r.digest)
           from unnest($1::uuid[], $2::bytea[]) r (id, digest) where c.id = r.id and c.state <> 'removed'",
    )
    .bind(&ids)
    .bind(digests)
    .bind(remove.removed.how.as_str())
    .bind(remove.removed.at)
    .bind(Json(&remove.removed.by))
    .execute(&mut *conn)
    .await?;
    sqlx::query("delete from filesets where commit_id = any($1)")
        .bind(&ids)
        .execute(conn)
        .await?;
    Ok(())
}

/// Forgets what datums gave in the jobs of these commits, so that no later job takes it for known. Jobs that took it over
/// cannot be bases any more: which files a datum wrote is known from its result alone.
pub async fn forget_results(conn: &mut PgConnection, _: &System, commits: &[CommitId]) -> Answer<()> {
    let pipelines: Vec<Uuid> = sqlx::query_scalar(
        "with gone as (
             delete from datum_results d using jobs j
              where j.id = d.job_id and j.output_commit_id = any($1) returning d.pipeline_id
         ) select distinct pipeline_id from gone",
    )
    .bind(uuids(commits))
    .fetch_all(&mut *conn)
    .await?;
    forbid_bases(conn, &pipelines).await
}

/// No job up to now of these pipelines is a base any more.
pub async fn forbid_bases(conn: &mut PgConnection, pipelines: &[Uuid]) -> Answer<()> {
    sqlx::query(
        "update pipelines p set no_base_until = coalesce((select max(seq) from jobs where pipeline_id = p.id), 0)
          where id = any($1)",
    )
    .bind(pipelines)
    .execute(conn)
    .await?;
    Ok(())
}

/// Branches that point at one of these commits.
pub async fn list_branches_at(
    conn: &mut PgConnection,
    _: &System,
    commits: &[CommitId],
) -> Answer<Vec<(DomainId, BranchName, CommitId)>> {
    let rows: Vec<(Uuid, String, Uuid)> =
        sqlx::query_as("select repo_id, name, head_id from branches where head_id = any($1) order by repo_id, name")
            .bind(uuids(commits))
            .fetch_all(conn)
            .await?;
    let typed = |(repo, name, head): (Uuid, String, Uuid)| {
        Ok((DomainId::from_uuid(repo), name.parse()?, CommitId::from_uuid(head)))
    };
    rows.into_iter().map(typed).collect()
}

/// The nearest commit before this one along parents that was not given up.
pub async fn find_left(conn: &mut PgConnection, _: &System, commit: CommitId) -> Answer<Option<CommitId>> {
    let id: Option<Uuid> = sqlx::query_scalar(
        "with recursive chain (id, parent_id, state) as (
            select id, parent_id, state from commits where id = $1
            union all
            select p.id, p.parent_id, p.state from chain join commits p on p.id = chain.parent_id
             where chain.state = 'removed'
         ) select id from chain where state <> 'removed' limit 1",
    )
    .bind(commit.uuid())
    .fetch_optional(conn)
    .await?;
    Ok(id.map(CommitId::from_uuid))
}

/// Points a branch elsewhere, or nowhere.
pub async fn update_head(
    conn: &mut PgConnection,
    _: &System,
    repo: DomainId,
    branch: &BranchName,
    head: Option<CommitId>,
) -> Answer<()> {
    sqlx::query("update branches set head_id = $3 where repo_id = $1 and name = $2")
        .bind(repo.uuid())
        .bind(branch.as_str())
        .bind(head.map(CommitId::uuid))
        .execute(conn)
        .await?;
    Ok(())
}

/// Of these commits, those that a trigger followed to last.
pub async fn list_followed(conn: &mut PgConnection, _: &System, commits: &[CommitId]) -> Answer<Vec<CommitId>> {
    let rows: Vec<Uuid> =
        sqlx::query_scalar("select distinct followed_id from branch_triggers where followed_id = any($1)")
            .bind(uuids(commits))
            .fetch_all(conn)
            .await?;
    Ok(rows.into_iter().map(CommitId::from_uuid).collect())
}

/// Lets triggers that followed to one commit count from another one.
pub async fn update_followed(
    conn: &mut PgConnection,
    _: &System,
    commit: CommitId,
    left: Option<CommitId>,
) -> Answer<()> {
    sqlx::query("update branch_triggers set followed_id = $2 where followed_id = $1")
        .bind(commit.uuid())
        .bind(left.map(CommitId::uuid))
        .execute(conn)
        .await?;
    Ok(())
}

/// Pipelines that run, read one of these branches, and whose newest output was not made from what their inputs point at.
pub async fn list_outdated(
    conn: &mut PgConnection,
    _: &System,
    branches: &[(DomainId, BranchName)],
) -> Answer<Vec<DomainId>> {
    let rows: Vec<Uuid> = sqlx::query_scalar(
        "select p.id from pipelines p
          where p.deleted_at is null and p.state not in ('paused', 'suspended')
            and exists (select 1 from pipeline_inputs i join unnest($1::uuid[], $2::text[]) m (repo_id, branch)
                            on m.repo_id = i.repo_id and m.branch = i.branch where i.pipeline_id = p.id)
            and array(select i.position || ' ' || b.head_id from pipeline_inputs i
                        join branches b on b.repo_id = i.repo_id and b.name = i.branch
                       where i.pipeline_id = p.id and b.head_id is not null order by i.position)
                is distinct from
                array(select i.position || ' ' || i.commit_id from branches b join jobs j on j.output_commit_id = b.head_id
                        join job_inputs i on i.job_id = j.id
                       where b.repo_id = p.id and b.name = p.output_branch order by i.position)
          order by p.id",
    )
    .bind(branches.iter().map(|(repo, _)| repo.uuid()).collect::<Vec<_>>())
    .bind(branches.iter().map(|(_, branch)| branch.as_str()).collect::<Vec<_>>())
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(DomainId::from_uuid).collect())
}
