//! SQL of purges.

use chrono::{DateTime, Utc};
use contract::api::{Actor, ImportedSource};
use contract::ids::{CommitId, DomainId, JobId, PurgeId};
use contract::names::BranchName;
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use super::Done;
use super::trees::Rewritten;
use crate::commits::CommitRow;
use crate::commits::log::uuids;
use crate::commits::queries::select_commits;
use crate::failure::Answer;
use crate::history::queries::forbid_bases;
use crate::permissions::System;

/// So many datums are looked at at once.
const DATUMS_AT_ONCE: i64 = 5000;

/// The trees of a repo: commit, `storage::TreeRef`.
pub async fn list_trees(conn: &mut PgConnection, _: &System, repo: DomainId) -> Answer<Vec<(CommitId, Vec<u8>)>> {
    let rows: Vec<(Uuid, Vec<u8>)> =
        sqlx::query_as("select id, root from commits where repo_id = $1 and root is not null order by seq")
            .bind(repo.uuid())
            .fetch_all(conn)
            .await?;
    Ok(rows
        .into_iter()
        .map(|(id, root)| (CommitId::from_uuid(id), root))
        .collect())
}

/// The origin sets of a repo's commits, whatever became of them: an open one and one that was given up tell of content too.
pub async fn list_sets(conn: &mut PgConnection, _: &System, repo: DomainId) -> Answer<Vec<i64>> {
    let sets = sqlx::query_scalar("select distinct origin_set_id from commits where repo_id = $1")
        .bind(repo.uuid())
        .fetch_all(conn)
        .await?;
    Ok(sets)
}

/// Those of these repos that something was purged from.
pub async fn list_purged(conn: &mut PgConnection, _: &System, repos: &[Uuid]) -> Answer<Vec<DomainId>> {
    let purged: Vec<Uuid> = sqlx::query_scalar("select distinct repo_id from purges where repo_id = any($1)")
        .bind(repos)
        .fetch_all(conn)
        .await?;
    Ok(purged.into_iter().map(DomainId::from_uuid).collect())
}

/// Gives a commit another tree; its record goes on to name the one that it was finished with.
pub async fn update_tree(conn: &mut PgConnection, _: &System, commit: CommitId, tree: &Rewritten) -> Answer<()> {
    sqlx::query(
        "update commits set root = $2, size_bytes = $3, files = $4,
                recorded_tree_digest = coalesce(recorded_tree_digest, $5) where id = $1",
    )
    .bind(commit.uuid())
    .bind(tree.after.to_bytes()?)
    .bind(i64::try_from(tree.after.bytes()).unwrap_or(i64::MAX))
    .bind(i64::try_from(tree.after.files()).unwrap_or(i64::MAX))
    .bind(&tree.before[..])
    .execute(conn)
    .await?;
    Ok(())
}

/// The commits of a repo with files that were fetched to this path, below it, or into a directory that it is in.
pub async fn list_fetched(conn: &mut PgConnection, _: &System, repo: DomainId, path: &str) -> Answer<Vec<CommitRow>> {
    let rows = sqlx::query_as(select_commits!(
        "commits c where c.repo_id = $1 and c.sources <> '[]' and exists (
             select 1 from jsonb_array_elements(c.sources) s, rtrim(s ->> 'path', '/') as given
              where starts_with(given || '/', '/' || $2 || '/') or starts_with('/' || $2 || '/', given || '/')) order by c.seq"
    ))
    .bind(repo.uuid())
    .bind(path)
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

/// Replaces where files of a commit were fetched from, and the digest that its record has now.
pub async fn update_sources(
    conn: &mut PgConnection,
    _: &System,
    commit: CommitId,
    sources: &[ImportedSource],
    digest: Option<&[u8; 32]>,
) -> Answer<()> {
    sqlx::query("update commits set sources = $2, purged_record_digest = $3 where id = $1")
        .bind(commit.uuid())
        .bind(Json(sources))
        .bind(digest.map(|digest| &digest[..]))
        .execute(conn)
        .await?;
    Ok(())
}

/// The open commits of a repo.
pub async fn list_open(conn: &mut PgConnection, _: &System, repo: DomainId) -> Answer<Vec<CommitId>> {
    let rows: Vec<Uuid> =
        sqlx::query_scalar("select id from commits where repo_id = $1 and state = 'open' order by seq")
            .bind(repo.uuid())
            .fetch_all(conn)
            .await?;
    Ok(rows.into_iter().map(CommitId::from_uuid).collect())
}

/// Replaces a row of what an open commit was given.
pub async fn update_fileset(
    conn: &mut PgConnection,
    _: &System,
    commit: CommitId,
    seq: i64,
    changes: &[u8],
) -> Answer<()> {
    sqlx::query("update filesets set changes = $3 where commit_id = $1 and seq = $2")
        .bind(commit.uuid())
        .bind(seq)
        .bind(changes)
        .execute(conn)
        .await?;
    Ok(())
}

/// Commits of a repo whose content was given up.
pub async fn list_removed(conn: &mut PgConnection, _: &System, repo: DomainId) -> Answer<Vec<CommitId>> {
    let rows: Vec<Uuid> = sqlx::query_scalar("select id from commits where repo_id = $1 and state = 'removed'")
        .bind(repo.uuid())
        .fetch_all(conn)
        .await?;
    Ok(rows.into_iter().map(CommitId::from_uuid).collect())
}

/// An output that pipelines made, directly or not, from the commits asked for.
pub struct Made {
    /// The output.
    pub output: CommitId,
    /// Its state.
    pub state: String,
    /// Its pipeline.
    pub pipeline: DomainId,
    /// Its job.
    pub job: JobId,
    /// Everything was run again: results may have been replaced. A reproduction replaces none.
    pub reprocess: bool,
    /// The job is not over.
    pub is_unfinished: bool,
}

/// What pipelines made from these commits, oldest first, also what is removed.
pub async fn list_made(conn: &mut PgConnection, _: &System, from: &[CommitId]) -> Answer<Vec<Made>> {
    let rows: Vec<(Uuid, String, Uuid, Uuid, bool, bool)> = sqlx::query_as(
        "with recursive made (id) as (
             select i.commit_id from commit_inputs i join commits c on c.id = i.commit_id
              where i.input_id = any($1) and c.pipeline_id is not null
             union
             select i.commit_id from made m join commit_inputs i on i.input_id = m.id
               join commits c on c.id = i.commit_id where c.pipeline_id is not null
         ) select c.id, c.state, j.pipeline_id, j.id, j.reprocess and j.reproduces is null, j.finished_at is null
             from made m join commits c on c.id = m.id join jobs j on j.output_commit_id = c.id order by c.seq",
    )
    .bind(uuids(from))
    .fetch_all(conn)
    .await?;
    let made = |(output, state, pipeline, job, reprocess, is_unfinished)| Made {
        output: CommitId::from_uuid(output),
        state,
        pipeline: DomainId::from_uuid(pipeline),
        job: JobId::from_uuid(job),
        reprocess,
        is_unfinished,
    };
    Ok(rows.into_iter().map(made).collect())
}

/// What the leaves of a job read: position, repo, commit.
pub async fn list_leaves(conn: &mut PgConnection, _: &System, job: JobId) -> Answer<Vec<(i32, DomainId, CommitId)>> {
    let rows: Vec<(i32, Uuid, Uuid)> = sqlx::query_as(
        "select i.position, c.repo_id, c.id from job_inputs i join commits c on c.id = i.commit_id where i.job_id = $1",
    )
    .bind(job.uuid())
    .fetch_all(conn)
    .await?;
    let typed = |(position, repo, commit)| (position, DomainId::from_uuid(repo), CommitId::from_uuid(commit));
    Ok(rows.into_iter().map(typed).collect())
}

/// A datum and what it read.
#[derive(FromRow)]
pub struct DatumRow {
    /// Its place.
    pub position: i64,
    /// Its key.
    pub key: Vec<u8>,
    /// What it read.
    pub inputs: Vec<u8>,
    /// It gave something, in this job or before.
    pub has_result: bool,
}

/// A page of the datums of a job.
pub async fn list_datums(conn: &mut PgConnection, _: &System, job: JobId, after: i64) -> Answer<Vec<DatumRow>> {
    let rows = sqlx::query_as(
        "select position, key, inputs, state in ('succeeded', 'skipped') as has_result from datums
          where job_id = $1 and position > $2 order by position limit $3",
    )
    .bind(job.uuid())
    .bind(after)
    .bind(DATUMS_AT_ONCE)
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

/// What datums of these keys gave.
pub async fn list_results(
    conn: &mut PgConnection,
    _: &System,
    pipeline: DomainId,
    keys: &[&[u8]],
) -> Answer<Vec<(Vec<u8>, Vec<u8>)>> {
    let rows = sqlx::query_as("select key, outputs from datum_results where pipeline_id = $1 and key = any($2)")
        .bind(pipeline.uuid())
        .bind(keys)
        .fetch_all(conn)
        .await?;
    Ok(rows)
}

/// Deletes results, logs and rows of datums, and reasons that may speak of them. Answers how many results and lines.
pub async fn forget(
    conn: &mut PgConnection,
    _: &System,
    pipeline: DomainId,
    jobs: &[JobId],
    keys: &[&[u8]],
) -> Answer<(u64, u64)> {
    let jobs: Vec<Uuid> = jobs.iter().map(|j| j.uuid()).collect();
    let results = sqlx::query("delete from datum_results where pipeline_id = $1 and key = any($2)")
        .bind(pipeline.uuid())
        .bind(keys)
        .execute(&mut *conn)
        .await?;
    let lines: i64 = sqlx::query_scalar(
        "with gone as (
             delete from datum_logs where job_id = any($1) and datum_key = any($2)
             returning job_id, octet_length(text) + 64 as bytes
         ), counted as (
             update job_logs l set bytes = greatest(0, l.bytes - g.bytes)
               from (select job_id, sum(bytes) as bytes from gone group by job_id) g where g.job_id = l.job_id
         ) select count(*) from gone",
    )
    .bind(&jobs)
    .bind(keys)
    .fetch_one(&mut *conn)
    .await?;
    sqlx::query("delete from datums where job_id = any($1) and key = any($2)")
        .bind(&jobs)
        .bind(keys)
        .execute(&mut *conn)
        .await?;
    sqlx::query(
        "update jobs set reason = 'purged' where id = any($1) and finished_at is not null and reason is not null",
    )
    .bind(&jobs)
    .execute(&mut *conn)
    .await?;
    sqlx::query(
        "update commits c set reason = 'purged' from jobs j
          where j.id = any($1) and c.id = j.output_commit_id and c.reason is not null",
    )
    .bind(&jobs)
    .execute(&mut *conn)
    .await?;
    sqlx::query("update pipelines set reason = 'purged' where reason_job_id = any($1)")
        .bind(&jobs)
        .execute(&mut *conn)
        .await?;
    forbid_bases(conn, &[pipeline.uuid()]).await?;
    Ok((results.rows_affected(), u64::try_from(lines).unwrap_or(0)))
}

/// These commits.
pub async fn list_commits(conn: &mut PgConnection, _: &System, commits: &[CommitId]) -> Answer<Vec<CommitRow>> {
    let rows = sqlx::query_as(select_commits!("commits c where c.id = any($1) order by c.seq desc"))
        .bind(uuids(commits))
        .fetch_all(conn)
        .await?;
    Ok(rows)
}

/// Commits that people copied something into from one of these, and that still hold anything.
pub async fn list_copies(conn: &mut PgConnection, _: &System, from: &[CommitId]) -> Answer<Vec<(DomainId, CommitId)>> {
    let rows: Vec<(Uuid, Uuid)> = sqlx::query_as(
        "select distinct c.repo_id, c.id from commit_inputs i join commits c on c.id = i.commit_id
           join repos r on r.id = c.repo_id
          where i.input_id = any($1) and c.pipeline_id is null and c.state in ('open', 'finished')
            and r.deleted_at is null",
    )
    .bind(uuids(from))
    .fetch_all(conn)
    .await?;
    let typed = |(repo, commit)| (DomainId::from_uuid(repo), CommitId::from_uuid(commit));
    Ok(rows.into_iter().map(typed).collect())
}

/// The branches of a repo.
pub async fn list_branches(conn: &mut PgConnection, _: &System, repo: DomainId) -> Answer<Vec<(DomainId, BranchName)>> {
    let names: Vec<String> = sqlx::query_scalar("select name from branches where repo_id = $1 order by name")
        .bind(repo.uuid())
        .fetch_all(conn)
        .await?;
    names.into_iter().map(|name| Ok((repo, name.parse()?))).collect()
}

/// A receipt to be kept.
pub struct NewReceipt<'a> {
    /// Its id.
    pub id: PurgeId,
    /// The repo.
    pub repo: DomainId,
    /// What was purged.
    pub path: String,
    /// By whom.
    pub actor: Actor,
    /// When.
    pub at: DateTime<Utc>,
    /// What was done.
    pub done: &'a Done,
    /// Packs that hold the bytes until garbage is collected.
    pub packs: Vec<Vec<u8>>,
}

/// Keeps a receipt.
pub async fn insert_receipt(conn: &mut PgConnection, _: &System, new: &NewReceipt<'_>) -> Answer<()> {
    let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    let large = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let done = new.done;
    sqlx::query(
        "insert into purges (id, repo_id, path, actor, at, rewritten, open_commits, jobs, results, log_lines, voided_repos,
             voided_counts, copy_repos, copies, packs)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
    )
    .bind(new.id.uuid())
    .bind(new.repo.uuid())
    .bind(&new.path)
    .bind(Json(&new.actor))
    .bind(new.at)
    .bind(count(done.rewritten.len()))
    .bind(count(done.open))
    .bind(count(done.jobs))
    .bind(large(done.results))
    .bind(large(done.lines))
    .bind(done.voided.keys().map(|d| d.uuid()).collect::<Vec<_>>())
    .bind(done.voided.values().map(|n| count(*n)).collect::<Vec<_>>())
    .bind(done.copies.iter().map(|(repo, _)| repo.uuid()).collect::<Vec<_>>())
    .bind(done.copies.iter().map(|(_, commit)| commit.uuid()).collect::<Vec<_>>())
    .bind(&new.packs)
    .execute(conn)
    .await?;
    Ok(())
}

/// A row of `purges`.
#[derive(FromRow)]
pub struct ReceiptRow {
    /// Its id.
    pub id: Uuid,
    /// The repo.
    pub repo_id: Uuid,
    /// What was purged.
    pub path: String,
    /// By whom.
    pub actor: Json<Actor>,
    /// When.
    pub at: DateTime<Utc>,
    /// Commits with another tree.
    pub rewritten: i64,
    /// Open commits that had been given it.
    pub open_commits: i64,
    /// Jobs that were stopped.
    pub jobs: i64,
    /// Results of datums.
    pub results: i64,
    /// Lines of logs.
    pub log_lines: i64,
    /// Repos of outputs that were given up.
    pub voided_repos: Vec<Uuid>,
    /// How many in each.
    pub voided_counts: Vec<i64>,
    /// Repos of commits that hold copies.
    pub copy_repos: Vec<Uuid>,
    /// Those commits.
    pub copies: Vec<Uuid>,
    /// Packs that held the bytes.
    pub packs: Vec<Vec<u8>>,
    /// When the last of them was gone.
    pub erased_at: Option<DateTime<Utc>>,
}

macro_rules! select_receipts {
    ($tail:literal) => {
        concat!(
            "select id, repo_id, path, actor, at, rewritten, open_commits, jobs, results, log_lines, voided_repos,
                    voided_counts, copy_repos, copies, packs, erased_at from purges ",
            $tail
        )
    };
}

/// The receipt of that id.
pub async fn find_receipt(conn: &mut PgConnection, _: &System, id: PurgeId) -> Answer<Option<ReceiptRow>> {
    let row = sqlx::query_as(select_receipts!("where id = $1"))
        .bind(id.uuid())
        .fetch_optional(conn)
        .await?;
    Ok(row)
}

/// Receipts of these repos behind `before`, newest first.
pub async fn list_receipts(
    conn: &mut PgConnection,
    _: &System,
    repos: &[Uuid],
    before: Option<PurgeId>,
    limit: i64,
) -> Answer<Vec<ReceiptRow>> {
    let rows = sqlx::query_as(select_receipts!(
        "where repo_id = any($1) and ($2::uuid is null or seq < (select seq from purges where id = $2))
          order by seq desc limit $3"
    ))
    .bind(repos)
    .bind(before.map(PurgeId::uuid))
    .bind(limit)
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

/// Notes that the last pack that held the bytes is gone.
pub async fn update_erased(conn: &mut PgConnection, _: &System, id: Uuid, at: DateTime<Utc>) -> Answer<()> {
    sqlx::query("update purges set erased_at = $2 where id = $1 and erased_at is null")
        .bind(id)
        .bind(at)
        .execute(conn)
        .await?;
    Ok(())
}
