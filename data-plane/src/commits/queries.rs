//! SQL of commits, branch heads, inputs and filesets.

use contract::api::{Actor, Attestation, CommitState, ImportedSource, Removed, RemovedHow};
use contract::ids::{CommitId, CommitSetId, DomainId};
use contract::names::BranchName;
use contract::problem::ProblemKind;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection, Row};
use uuid::Uuid;

use super::{CommitRow, NewCommit, PipelineStamp, state_word};
use crate::failure::{Answer, Failure};
use crate::permissions::{Allowed, System};

const SELF: System = System::because("called by a query that was given a proof");

macro_rules! select_commits {
    ($tail:literal) => {
        concat!(
            "select c.id, c.seq, c.repo_id, c.branch, c.commit_set, c.parent_id, c.state, c.reason, c.root, c.digest,
                    c.size_bytes, c.files, c.origin_set_id, c.message, c.actor, c.pipeline_id, c.pipeline_version,
                    c.image_digest, c.code_revision, c.started_at, c.finished_at, c.recorded_tree_digest, c.removed_how,
                    c.removed_at, c.removed_by, c.sources, c.purged_record_digest, c.recorded_spec_digest, c.unattested_id,
                    c.attested, c.replaces from ",
            $tail
        )
    };
}
pub(crate) use select_commits;

/// Sources of one commit at most: whoever lists commits reads them all.
pub const SOURCES_MAX: usize = 1000;

/// A row holds at most some 64 KiB of contents.
const FILESETS_AT_ONCE: i64 = 64;

fn undecodable(column: &str, error: impl std::fmt::Display) -> sqlx::Error {
    sqlx::Error::ColumnDecode {
        index: column.to_owned(),
        source: error.to_string().into(),
    }
}

impl FromRow<'_, PgRow> for CommitRow {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let state: &str = row.try_get("state")?;
        let branch: &str = row.try_get("branch")?;
        let pipeline = match row.try_get::<Option<Uuid>, _>("pipeline_id")? {
            None => None,
            Some(id) => Some(PipelineStamp {
                id: DomainId::from_uuid(id),
                version: row.try_get::<Option<i32>, _>("pipeline_version")?.unwrap_or_default(),
                image_digest: row.try_get("image_digest")?,
                code_revision: row.try_get("code_revision")?,
            }),
        };
        Ok(Self {
            id: CommitId::from_uuid(row.try_get("id")?),
            seq: row.try_get("seq")?,
            repo: DomainId::from_uuid(row.try_get("repo_id")?),
            branch: branch.parse().map_err(|e| undecodable("branch", e))?,
            commit_set: CommitSetId::from_uuid(row.try_get("commit_set")?),
            parent: row.try_get::<Option<Uuid>, _>("parent_id")?.map(CommitId::from_uuid),
            state: match state {
                "open" => CommitState::Open,
                "finished" => CommitState::Finished,
                "errored" => CommitState::Errored,
                "removed" => CommitState::Removed,
                other => return Err(undecodable("state", format!("`{other}` is not a state"))),
            },
            reason: row.try_get("reason")?,
            root: row.try_get("root")?,
            digest: row.try_get("digest")?,
            purged_record: row.try_get("purged_record_digest")?,
            recorded_tree: row.try_get("recorded_tree_digest")?,
            recorded_spec: row.try_get("recorded_spec_digest")?,
            size_bytes: row.try_get("size_bytes")?,
            files: row.try_get("files")?,
            origin_set: row.try_get("origin_set_id")?,
            message: row.try_get("message")?,
            actor: row.try_get::<Json<Actor>, _>("actor")?.0,
            pipeline,
            started_at: row.try_get("started_at")?,
            finished_at: row.try_get("finished_at")?,
            removed: removed(row)?,
            sources: row.try_get::<Json<Vec<ImportedSource>>, _>("sources")?.0,
            replaces: row.try_get("replaces")?,
            unattested: row
                .try_get::<Option<Uuid>, _>("unattested_id")?
                .map(DomainId::from_uuid),
            attested: row.try_get::<Option<Json<Attestation>>, _>("attested")?.map(|a| a.0),
        })
    }
}

fn removed(row: &PgRow) -> Result<Option<Removed>, sqlx::Error> {
    let how = match row.try_get::<Option<&str>, _>("removed_how")? {
        None => return Ok(None),
        Some("squashed") => RemovedHow::Squashed,
        Some("dropped") => RemovedHow::Dropped,
        Some("purged") => RemovedHow::Purged,
        Some(other) => return Err(undecodable("removed_how", format!("`{other}` is no way to remove"))),
    };
    Ok(Some(Removed {
        how,
        at: row.try_get("removed_at")?,
        by: row.try_get::<Json<Actor>, _>("removed_by")?.0,
    }))
}

/// Inserts an open commit with its inputs and makes it the head of its branch, which is made if it is not there.
pub async fn insert_commit(conn: &mut PgConnection, _: &System, new: &NewCommit) -> Answer<()> {
    let stamp = new.pipeline.as_ref();
    sqlx::query(
        "insert into commits (id, repo_id, branch, commit_set, parent_id, state, origin_set_id, message, actor,
             pipeline_id, pipeline_version, image_digest, code_revision, started_at)
         values ($1, $2, $3, $4, $5, 'open', $6, $7, $8, $9, $10, $11, $12, $13)",
    )
    .bind(new.id.uuid())
    .bind(new.repo.uuid())
    .bind(new.branch.as_str())
    .bind(new.commit_set.uuid())
    .bind(new.parent.map(CommitId::uuid))
    .bind(new.origin_set)
    .bind(&new.message)
    .bind(Json(&new.actor))
    .bind(stamp.map(|s| s.id.uuid()))
    .bind(stamp.map(|s| s.version))
    .bind(stamp.and_then(|s| s.image_digest.as_deref()))
    .bind(stamp.and_then(|s| s.code_revision.as_deref()))
    .bind(new.started_at)
    .execute(&mut *conn)
    .await?;
    for (input, name) in &new.inputs {
        insert_input(conn, &SELF, new.id, *input, name).await?;
    }
    set_head(conn, new.repo, &new.branch, new.id, new.started_at).await
}

/// Adds a direct input to a commit. There is no query that takes one away.
pub async fn insert_input(
    conn: &mut PgConnection,
    _: &System,
    commit: CommitId,
    input: CommitId,
    name: &str,
) -> Answer<()> {
    sqlx::query(
        "insert into commit_inputs (commit_id, input_id, input_name) values ($1, $2, $3) on conflict do nothing",
    )
    .bind(commit.uuid())
    .bind(input.uuid())
    .bind(name)
    .execute(conn)
    .await?;
    Ok(())
}

/// Notes where files of an open commit were fetched from. Its row must be locked.
///
/// # Errors
/// `too-large` when it would have more than [`SOURCES_MAX`].
pub async fn add_sources(
    conn: &mut PgConnection,
    _: &System,
    commit: CommitId,
    sources: &[ImportedSource],
) -> Answer<()> {
    if sources.is_empty() {
        return Ok(());
    }
    let most = SOURCES_MAX.saturating_sub(sources.len());
    let done = sqlx::query(
        "update commits set sources = sources || $2
         where id = $1 and state = 'open' and jsonb_array_length(sources) <= $3",
    )
    .bind(commit.uuid())
    .bind(Json(sources))
    .bind(i32::try_from(most).unwrap_or(0))
    .execute(conn)
    .await?;
    if done.rows_affected() == 1 && sources.len() <= SOURCES_MAX {
        return Ok(());
    }
    Err(Failure::new(
        ProblemKind::TooLarge,
        format!("one commit can't have more than {SOURCES_MAX} sources"),
    )
    .hint("make several commits"))
}

async fn set_head(
    conn: &mut PgConnection,
    repo: DomainId,
    branch: &BranchName,
    head: CommitId,
    at: chrono::DateTime<chrono::Utc>,
) -> Answer<()> {
    sqlx::query(
        "insert into branches (repo_id, name, head_id, created_at) values ($1, $2, $3, $4)
         on conflict (repo_id, name) do update set head_id = excluded.head_id",
    )
    .bind(repo.uuid())
    .bind(branch.as_str())
    .bind(head.uuid())
    .bind(at)
    .execute(&mut *conn)
    .await?;
    insert_move(conn, &SELF, repo, branch, Some(head), at).await
}

/// Notes where a branch points from now on; `None`: nowhere, or it is no more.
pub async fn insert_move(
    conn: &mut PgConnection,
    _: &System,
    repo: DomainId,
    branch: &BranchName,
    head: Option<CommitId>,
    at: chrono::DateTime<chrono::Utc>,
) -> Answer<()> {
    sqlx::query("insert into branch_moves (repo_id, branch, head_id, at) values ($1, $2, $3, $4)")
        .bind(repo.uuid())
        .bind(branch.as_str())
        .bind(head.map(CommitId::uuid))
        .bind(at)
        .execute(conn)
        .await?;
    Ok(())
}

/// Where a branch pointed at that time: outer `None` = it had not been made, inner = nowhere.
pub async fn find_head_at(
    conn: &mut PgConnection,
    _: &System,
    repo: DomainId,
    branch: &BranchName,
    at: chrono::DateTime<chrono::Utc>,
) -> Answer<Option<Option<CommitId>>> {
    let head: Option<Option<Uuid>> = sqlx::query_scalar(
        "select head_id from branch_moves where repo_id = $1 and branch = $2 and at <= $3 order by seq desc limit 1",
    )
    .bind(repo.uuid())
    .bind(branch.as_str())
    .bind(at)
    .fetch_optional(conn)
    .await?;
    Ok(head.map(|id| id.map(CommitId::from_uuid)))
}

/// The commit of that id.
pub async fn find_commit(conn: &mut PgConnection, _: &System, id: CommitId) -> Answer<Option<CommitRow>> {
    let row = sqlx::query_as(select_commits!("commits c where c.id = $1"))
        .bind(id.uuid())
        .fetch_optional(conn)
        .await?;
    Ok(row)
}

/// The commit of that id, locked against others who would change it, until the transaction ends.
pub async fn lock_commit(conn: &mut PgConnection, _: &System, id: CommitId) -> Answer<Option<CommitRow>> {
    let row = sqlx::query_as(select_commits!("commits c where c.id = $1 for no key update"))
        .bind(id.uuid())
        .fetch_optional(conn)
        .await?;
    Ok(row)
}

/// The commit of that id, which nobody can finish or change until the transaction ends; others may hold it too.
pub async fn hold_commit(conn: &mut PgConnection, _: &System, id: CommitId) -> Answer<Option<CommitRow>> {
    let row = sqlx::query_as(select_commits!("commits c where c.id = $1 for share"))
        .bind(id.uuid())
        .fetch_optional(conn)
        .await?;
    Ok(row)
}

/// The newest commit of a repo in a commit set, one that is still there if there is one.
pub async fn find_in_set(
    conn: &mut PgConnection,
    _: &System,
    repo: DomainId,
    set: CommitSetId,
) -> Answer<Option<CommitRow>> {
    let row = sqlx::query_as(select_commits!(
        "commits c where c.repo_id = $1 and c.commit_set = $2 order by c.state = 'removed', c.seq desc limit 1"
    ))
    .bind(repo.uuid())
    .bind(set.uuid())
    .fetch_optional(conn)
    .await?;
    Ok(row)
}

/// All commits of a set, oldest first.
pub async fn list_set(conn: &mut PgConnection, _: &System, set: CommitSetId) -> Answer<Vec<CommitRow>> {
    let rows = sqlx::query_as(select_commits!("commits c where c.commit_set = $1 order by c.seq"))
        .bind(set.uuid())
        .fetch_all(conn)
        .await?;
    Ok(rows)
}

/// Whether the repo holds any commit, in whatever state.
pub async fn has_commits(conn: &mut PgConnection, _: &System, repo: DomainId) -> Answer<bool> {
    let found = sqlx::query_scalar("select exists (select 1 from commits where repo_id = $1)")
        .bind(repo.uuid())
        .fetch_one(conn)
        .await?;
    Ok(found)
}

/// The head of a branch, whatever its state: outer `None` = no such branch, inner = a branch without commits.
pub async fn find_head(
    conn: &mut PgConnection,
    _: &System,
    repo: DomainId,
    branch: &BranchName,
) -> Answer<Option<Option<CommitRow>>> {
    let head = sqlx::query_scalar::<_, Option<Uuid>>("select head_id from branches where repo_id = $1 and name = $2")
        .bind(repo.uuid())
        .bind(branch.as_str())
        .fetch_optional(&mut *conn)
        .await?;
    match head {
        None => Ok(None),
        Some(None) => Ok(Some(None)),
        Some(Some(id)) => find_commit(conn, &SELF, CommitId::from_uuid(id)).await.map(Some),
    }
}

/// The nearest finished commit from `id` upward along parents, itself included.
pub async fn find_finished(conn: &mut PgConnection, _: &System, id: CommitId) -> Answer<Option<CommitRow>> {
    find_finished_by(conn, id, None, None).await
}

/// The nearest finished commit from `id` upward, itself included, that has one of these origin sets.
pub async fn find_finished_among(
    conn: &mut PgConnection,
    _: &System,
    id: CommitId,
    sets: &[i64],
) -> Answer<Option<CommitRow>> {
    find_finished_by(conn, id, None, Some(sets)).await
}

/// The nearest commit from `id` upward that was finished by that time.
pub async fn find_finished_at(
    conn: &mut PgConnection,
    _: &System,
    id: CommitId,
    at: chrono::DateTime<chrono::Utc>,
) -> Answer<Option<CommitRow>> {
    find_finished_by(conn, id, Some(at), None).await
}

async fn find_finished_by(
    conn: &mut PgConnection,
    id: CommitId,
    at: Option<chrono::DateTime<chrono::Utc>>,
    sets: Option<&[i64]>,
) -> Answer<Option<CommitRow>> {
    // The walk stops at the first row that fits.
    let row = sqlx::query_as(select_commits!(
        "(with recursive chain (id, parent_id, fits, depth) as (
            select id, parent_id, state = 'finished' and finished_at <= coalesce($2, 'infinity')
                   and ($3::bigint[] is null or origin_set_id = any($3)), 0
              from commits where id = $1
            union all
            select p.id, p.parent_id, p.state = 'finished' and p.finished_at <= coalesce($2, 'infinity')
                   and ($3::bigint[] is null or p.origin_set_id = any($3)), depth + 1
              from chain join commits p on p.id = chain.parent_id where not chain.fits
         ) select id from chain where fits order by depth limit 1) found join commits c on c.id = found.id"
    ))
    .bind(id.uuid())
    .bind(at)
    .bind(sets)
    .fetch_optional(conn)
    .await?;
    Ok(row)
}

/// The n-th ancestor along parents; those that were given up do not count.
pub async fn find_ancestor(conn: &mut PgConnection, _: &System, id: CommitId, n: u32) -> Answer<Option<CommitRow>> {
    let row = sqlx::query_as(select_commits!(
        "(with recursive chain (id, parent_id, depth) as (
            select id, parent_id, 0 from commits where id = $1
            union all
            select p.id, p.parent_id, depth + (p.state <> 'removed')::int
              from chain join commits p on p.id = chain.parent_id where depth < $2
         ) select id from chain where depth = $2) found join commits c on c.id = found.id"
    ))
    .bind(id.uuid())
    .bind(i32::try_from(n).unwrap_or(i32::MAX))
    .fetch_optional(conn)
    .await?;
    Ok(row)
}

/// Whether a commit is on the line of parents that ends in `id`. Costs the commits between the two.
pub async fn is_ancestor(conn: &mut PgConnection, _: &System, ancestor: CommitId, id: CommitId) -> Answer<bool> {
    let found = sqlx::query_scalar(
        "with recursive line (id, parent_id) as (
            select id, parent_id from commits where id = $2
            union all
            select p.id, p.parent_id from line join commits p on p.id = line.parent_id
             where p.seq >= (select seq from commits where id = $1)
         ) select exists (select from line where id = $1)",
    )
    .bind(ancestor.uuid())
    .bind(id.uuid())
    .fetch_one(conn)
    .await?;
    Ok(found)
}

/// The n-th commit counted from the root of the line that ends in `id`; the first is 1, and those that were given up do
/// not count.
pub async fn find_from_root(conn: &mut PgConnection, _: &System, id: CommitId, n: u32) -> Answer<Option<CommitRow>> {
    let row = sqlx::query_as(select_commits!(
        "(with recursive chain (id, parent_id, state, depth) as (
            select id, parent_id, state, 0 from commits where id = $1
            union all
            select p.id, p.parent_id, p.state, depth + 1 from chain join commits p on p.id = chain.parent_id
         ) select id from chain where state <> 'removed' order by depth desc offset $2 limit 1) found join commits c on c.id = found.id"
    ))
    .bind(id.uuid())
    .bind(i64::from(n) - 1)
    .fetch_optional(conn)
    .await?;
    Ok(row)
}

/// The content of a commit about to be finished.
pub struct FinishedContent<'a> {
    /// The encoded tree.
    pub root: &'a [u8],
    /// Digest of the record.
    pub digest: &'a [u8],
    /// Bytes.
    pub size_bytes: i64,
    /// Files.
    pub files: i64,
    /// Interned origins.
    pub origin_set: i64,
    /// Digest of the spec that the record names.
    pub spec: Option<&'a [u8]>,
    /// Now.
    pub at: chrono::DateTime<chrono::Utc>,
}

/// Makes an open commit a finished one. Answers whether it was open.
pub async fn update_finished(
    conn: &mut PgConnection,
    _: &System,
    id: CommitId,
    content: &FinishedContent<'_>,
) -> Answer<bool> {
    let done = sqlx::query(
        "update commits set state = 'finished', root = $2, digest = $3, size_bytes = $4, files = $5,
             origin_set_id = $6, finished_at = $7, recorded_spec_digest = $8 where id = $1 and state = 'open'",
    )
    .bind(id.uuid())
    .bind(content.root)
    .bind(content.digest)
    .bind(content.size_bytes)
    .bind(content.files)
    .bind(content.origin_set)
    .bind(content.at)
    .bind(content.spec)
    .execute(&mut *conn)
    .await?;
    sqlx::query("delete from filesets where commit_id = $1")
        .bind(id.uuid())
        .execute(conn)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Makes an open commit an errored one. Answers whether it was open.
pub async fn update_errored(
    conn: &mut PgConnection,
    _: &System,
    id: CommitId,
    reason: &str,
    at: chrono::DateTime<chrono::Utc>,
) -> Answer<bool> {
    let done =
        sqlx::query("update commits set state = $2, reason = $3, finished_at = $4 where id = $1 and state = 'open'")
            .bind(id.uuid())
            .bind(state_word(CommitState::Errored))
            .bind(reason)
            .bind(at)
            .execute(conn)
            .await?;
    Ok(done.rows_affected() == 1)
}

/// Makes an open commit part of another commit set.
pub async fn update_set(conn: &mut PgConnection, _: &Allowed, id: CommitId, set: CommitSetId) -> Answer<()> {
    sqlx::query("update commits set commit_set = $2 where id = $1 and state = 'open'")
        .bind(id.uuid())
        .bind(set.uuid())
        .execute(conn)
        .await?;
    Ok(())
}

/// Gives an open commit another origin set: it got a new input.
pub async fn update_origins(conn: &mut PgConnection, _: &System, id: CommitId, set: i64) -> Answer<()> {
    sqlx::query("update commits set origin_set_id = $2 where id = $1 and state = 'open'")
        .bind(id.uuid())
        .bind(set)
        .execute(conn)
        .await?;
    Ok(())
}

/// Adds changes to an open commit. The row of the commit must be locked or held.
pub async fn insert_fileset(conn: &mut PgConnection, _: &System, commit: CommitId, changes: &[u8]) -> Answer<()> {
    sqlx::query("insert into filesets (commit_id, changes) values ($1, $2)")
        .bind(commit.uuid())
        .bind(changes)
        .execute(conn)
        .await?;
    Ok(())
}

/// A page of the changes of an open commit behind `after`, in order, with their places.
pub async fn list_filesets(
    conn: &mut PgConnection,
    _: &System,
    commit: CommitId,
    after: i64,
) -> Answer<Vec<(i64, Vec<u8>)>> {
    let rows =
        sqlx::query_as("select seq, changes from filesets where commit_id = $1 and seq > $2 order by seq limit $3")
            .bind(commit.uuid())
            .bind(after)
            .bind(FILESETS_AT_ONCE)
            .fetch_all(conn)
            .await?;
    Ok(rows)
}

/// How many rows of changes an open commit has.
pub async fn count_filesets(conn: &mut PgConnection, _: &System, commit: CommitId) -> Answer<i64> {
    count_filesets_until(conn, &SELF, commit, i64::MAX).await
}

/// How many of them stand at that place or in front of it.
pub async fn count_filesets_until(conn: &mut PgConnection, _: &System, commit: CommitId, until: i64) -> Answer<i64> {
    let count = sqlx::query_scalar("select count(*) from filesets where commit_id = $1 and seq <= $2")
        .bind(commit.uuid())
        .bind(until)
        .fetch_one(conn)
        .await?;
    Ok(count)
}
