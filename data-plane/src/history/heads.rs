//! Branches whose heads are gone: each goes back to the nearest commit before that is left, and pipelines whose newest
//! output was not made from what their inputs point at now run again.

use chrono::{DateTime, Utc};
use contract::ids::{CommitId, CommitSetId, DomainId};
use contract::names::BranchName;

use super::queries;
use crate::commits;
use crate::failure::Answer;
use crate::permissions::System;
use crate::pipelines::propagate;
use crate::plane::{Plane, Tx};

const MOVE: System = System::because("the caller was allowed to remove what the branches pointed at");

/// A branch that went back.
#[derive(Debug, Clone)]
pub struct BackAt {
    /// Its repo.
    pub repo: DomainId,
    /// Its name.
    pub branch: BranchName,
    /// Where it points now.
    pub head: Option<CommitId>,
}

/// Moves the branches that point at one of these commits, which are removed, back to what is left.
///
/// # Errors
/// When the database is away.
pub async fn move_back(tx: &mut Tx, gone: &[CommitId], at: DateTime<Utc>) -> Answer<Vec<BackAt>> {
    // What a trigger followed to counts as the commit before that is left.
    for commit in queries::list_followed(tx, &MOVE, gone).await? {
        let left = queries::find_left(tx, &MOVE, commit).await?;
        queries::update_followed(tx, &MOVE, commit, left).await?;
    }
    let mut moved = Vec::new();
    for (repo, branch, head) in queries::list_branches_at(tx, &MOVE, gone).await? {
        let head = queries::find_left(tx, &MOVE, head).await?;
        queries::update_head(tx, &MOVE, repo, &branch, head).await?;
        commits::queries::insert_move(tx, &MOVE, repo, &branch, head, at).await?;
        moved.push(BackAt { repo, branch, head });
    }
    Ok(moved)
}

/// Begins jobs of the pipelines that read one of these branches and whose newest output was made from something else than
/// what their inputs point at. Nothing is read that was not in what the branches pointed at before (R4).
///
/// # Errors
/// As `pipelines::propagate`.
pub async fn run_again(plane: &Plane, tx: &mut Tx, moved: &[(DomainId, BranchName)]) -> Answer<()> {
    let outdated = queries::list_outdated(tx, &MOVE, moved).await?;
    if outdated.is_empty() {
        return Ok(());
    }
    let set: CommitSetId = plane.id();
    propagate::begin(plane, tx, set, &[], &outdated, false).await.map(drop)
}
