//! The history of a reference: the commits along parents, newest first, those that are still there and that the caller may
//! read, and with a path only those that changed it.

use contract::ids::{CommitId, DomainId};
use contract::reference::{Base, CommitRef};
use sqlx::PgConnection;
use storage::{FilePath, TreeRef};
use uuid::Uuid;

use super::routes::ReadableSets;
use super::{CommitRow, origins, queries};
use crate::call::Call;
use crate::failure::Answer;
use crate::permissions::System;
use crate::plane::Plane;

const DECIDE: System = System::because("rows are read in order to decide about them");
const READ_AT_ONCE: i64 = 256;

/// Where a history starts.
pub struct Start {
    /// The repo.
    pub repo: DomainId,
    /// The newest commit.
    pub commit: CommitId,
}

/// The commit that the history of a reference starts at: of a branch its head, open or not.
///
/// # Errors
/// As `Call::locate`, and `not-allowed` for who may not read the repo.
pub async fn start(call: &Call, conn: &mut PgConnection, reference: &CommitRef) -> Answer<Start> {
    let located = call.locate(conn, reference).await;
    let (repo, mut commit) = match located {
        Ok(located) => {
            let found = (located.repo.id, located.commit.id);
            call.read(conn, located).await?;
            found
        }
        // A branch with nothing but an open commit has a history too.
        Err(failure) => match open_head(call, conn, reference).await? {
            Some(found) => found,
            None => return Err(failure),
        },
    };
    if let Some((_, open)) = open_head(call, conn, reference).await? {
        commit = open;
    }
    Ok(Start { repo, commit })
}

async fn open_head(
    call: &Call,
    conn: &mut PgConnection,
    reference: &CommitRef,
) -> Answer<Option<(DomainId, CommitId)>> {
    let (Base::Branch(branch), None) = (&reference.base, &reference.step) else {
        return Ok(None);
    };
    let repo = call.repo(conn, &reference.repo).await?;
    let Some(head) = queries::find_head(conn, &DECIDE, repo.id, branch).await?.flatten() else {
        return Ok(None);
    };
    let set = origins::get(&call.plane, conn, &DECIDE, head.origin_set).await?;
    call.readable(&set, "")
        .map_or(Ok(None), |_| Ok(Some((repo.id, head.id))))
}

/// The origin sets in a repo that the caller may read: hundreds, however many commits there are.
///
/// # Errors
/// When the database is away.
pub async fn readable_sets(call: &Call, conn: &mut PgConnection, repo: DomainId) -> Answer<ReadableSets> {
    let ids = sqlx::query_scalar::<_, i64>("select distinct origin_set_id from commits where repo_id = $1")
        .bind(repo.uuid())
        .fetch_all(&mut *conn)
        .await?;
    let mut readable = ReadableSets::new();
    for id in ids {
        let set = origins::get(&call.plane, conn, &DECIDE, id).await?;
        if call.readable(&set, "").is_ok() {
            readable.insert(id, set);
        }
    }
    Ok(readable)
}

/// At most `limit` commits from `from` along parents, and where to go on.
///
/// # Errors
/// When the database is away or storage fails.
pub async fn walk(
    plane: &Plane,
    conn: &mut PgConnection,
    readable: &ReadableSets,
    from: CommitId,
    path: Option<&FilePath>,
    limit: usize,
) -> Answer<(Vec<CommitRow>, Option<CommitId>)> {
    let sets: Vec<i64> = readable.keys().copied().collect();
    let mut found = Vec::new();
    let mut next = Some(from);
    while let Some(at) = next {
        let line = list_line(conn, at).await?;
        let Some(last) = line.last() else {
            return Ok((found, None));
        };
        next = last.parent;
        for row in line {
            if row.is_removed() || !sets.contains(&row.origin_set) || !changes(plane, conn, &sets, &row, path).await? {
                continue;
            }
            if found.len() == limit {
                return Ok((found, Some(row.id)));
            }
            found.push(row);
        }
    }
    Ok((found, None))
}

/// A bit of the line of parents that begins with `id`.
async fn list_line(conn: &mut PgConnection, id: CommitId) -> Answer<Vec<CommitRow>> {
    let rows = sqlx::query_as(queries::select_commits!(
        "(with recursive chain (id, parent_id, depth) as (
            select id, parent_id, 0 from commits where id = $1
            union all
            select p.id, p.parent_id, depth + 1 from chain join commits p on p.id = chain.parent_id
             where depth + 1 < $2
         ) select id, depth from chain) line join commits c on c.id = line.id order by line.depth"
    ))
    .bind(id.uuid())
    .bind(i32::try_from(READ_AT_ONCE).unwrap_or(i32::MAX))
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

/// Whether the commit changed what is at the path, as far as the caller sees its past: what a hidden commit before it did
/// counts as done by this one.
async fn changes(
    plane: &Plane,
    conn: &mut PgConnection,
    readable: &[i64],
    row: &CommitRow,
    path: Option<&FilePath>,
) -> Answer<bool> {
    let Some(path) = path else {
        return Ok(true);
    };
    if row.root.is_none() {
        return Ok(false);
    }
    let before = match row.parent {
        None => None,
        Some(parent) => queries::find_finished_among(conn, &DECIDE, parent, readable).await?,
    };
    let before = before.map_or_else(|| Ok(TreeRef::empty()), |b| b.tree())?;
    let summary = |tree: TreeRef| {
        let storage = plane.storage.clone();
        let path = path.clone();
        async move {
            storage
                .subtree_digest(&tree, Some(&path))
                .await
                .map(|s| s.map(|s| s.digest))
        }
    };
    Ok(summary(before).await? != summary(row.tree()?).await?)
}

/// Ids as a query wants them.
pub fn uuids(ids: &[CommitId]) -> Vec<Uuid> {
    ids.iter().map(|id| id.uuid()).collect()
}
