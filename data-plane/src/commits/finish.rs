//! How a commit becomes finished, inside the caller's transaction: its record digest is computed, its row gets its tree.
//! Both ways in (people's puts and pipelines' jobs) end here.

use chrono::{DateTime, Utc};
use contract::api::CommitState;
use contract::ids::CommitId;
use contract::problem::ProblemKind;
use storage::TreeRef;

use super::CommitRow;
use super::queries::{self, FinishedContent};
use super::records::{ancestry, find_spec_digest, record_digest};
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
    let mut commit = queries::lock_commit(tx, system, id)
        .await?
        .ok_or_else(Failure::not_found)?;
    if commit.state != CommitState::Open {
        return Err(finished_already(id));
    }
    commit.recorded_spec = find_spec_digest(tx, system, id).await?;
    let ancestry = ancestry(plane, tx, system, &commit, *tree.digest().as_bytes()).await?;
    let digest = record_digest(&commit, at, ancestry);
    let root = tree.to_bytes()?;
    let content = FinishedContent {
        root: &root,
        digest: &digest,
        size_bytes: i64::try_from(tree.bytes()).unwrap_or(i64::MAX),
        files: i64::try_from(tree.files()).unwrap_or(i64::MAX),
        origin_set: commit.origin_set,
        spec: commit.recorded_spec.as_deref(),
        at,
    };
    if !queries::update_finished(tx, system, id, &content).await? {
        return Err(finished_already(id));
    }
    let (size_bytes, files) = (content.size_bytes, content.files);
    Ok(CommitRow {
        state: CommitState::Finished,
        size_bytes,
        files,
        root: Some(root),
        digest: Some(digest.to_vec()),
        finished_at: Some(at),
        ..commit
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
