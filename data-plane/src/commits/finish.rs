//! How a commit becomes finished, inside the caller's transaction: its record digest is computed, its row gets its tree.
//! Both ways in (people's puts and pipelines' jobs) end here.

use chrono::{DateTime, Utc};
use contract::api::CommitState;
use contract::ids::CommitId;
use contract::problem::ProblemKind;
use storage::TreeRef;

use super::queries::{self, FinishedContent};
use super::{Ancestry, CommitRow, origins, record_digest};
use crate::failure::{Answer, Failure};
use crate::permissions::System;
use crate::plane::{Plane, Tx};

/// Makes an open commit finished with this tree (which must be durable: its writer was flushed) and answers it.
/// Wake the waiters (`signals.commits_changed`) after the transaction was committed.
///
/// # Errors
/// `commit-finished` when it is not open any more; `internal` when the tree is not durable.
pub async fn finish_in_transaction(
    plane: &Plane,
    tx: &mut Tx,
    system: &System,
    id: CommitId,
    tree: &TreeRef,
    at: DateTime<Utc>,
) -> Answer<CommitRow> {
    let commit = queries::lock_commit(tx, system, id)
        .await?
        .ok_or_else(Failure::not_found)?;
    if commit.state != CommitState::Open {
        return Err(finished_already(id));
    }
    let ancestry = ancestry(plane, tx, system, &commit, *tree.digest().as_bytes()).await?;
    let digest = record_digest(&commit, at, &ancestry);
    let root = tree.to_bytes()?;
    let content = FinishedContent {
        root: &root,
        digest: &digest,
        size_bytes: i64::try_from(tree.bytes()).unwrap_or(i64::MAX),
        files: i64::try_from(tree.files()).unwrap_or(i64::MAX),
        origin_set: commit.origin_set,
        at,
    };
    if !queries::update_finished(tx, system, id, &content).await? {
        return Err(finished_already(id));
    }
    Ok(CommitRow {
        state: CommitState::Finished,
        size_bytes: content.size_bytes,
        files: content.files,
        root: Some(root),
        digest: Some(digest.to_vec()),
        finished_at: Some(at),
        ..commit
    })
}

/// What the record's digest covers besides the row, of a commit with this tree.
///
/// # Errors
/// When the database is away or the origin set is damaged.
pub async fn ancestry(
    plane: &Plane,
    tx: &mut Tx,
    system: &System,
    commit: &CommitRow,
    tree: [u8; 32],
) -> Answer<Ancestry> {
    let parent = match commit.parent {
        None => None,
        Some(parent) => queries::find_record_digest(tx, system, parent).await?,
    };
    let inputs = queries::list_input_digests(tx, system, commit.id).await?;
    // A retroactive release gives a commit another set later; its record goes on to name the one it was made with.
    let recorded = queries::find_recorded_set(tx, system, commit.id).await?;
    let set = origins::get(plane, tx, system, recorded.unwrap_or(commit.origin_set)).await?;
    Ok(Ancestry {
        parent,
        tree,
        origins: set.digest(),
        inputs: inputs
            .into_iter()
            .map(|(name, digest)| (name, digest.unwrap_or_default()))
            .collect(),
    })
}

/// The answer to whoever wants to change a finished commit.
pub fn finished_already(id: CommitId) -> Failure {
    Failure::new(
        ProblemKind::CommitFinished,
        format!("commit `{id}` is finished and never changes"),
    )
    .hint("put to the branch instead: that makes a new commit")
}
