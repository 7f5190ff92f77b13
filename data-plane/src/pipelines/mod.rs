//! Pipelines: what reacts to a commit. This file holds the one function through which commits reach them.

use contract::ids::{CommitSetId, DomainId};
use contract::names::BranchName;

use crate::commits::CommitRow;
use crate::failure::Answer;
use crate::plane::{Plane, Tx};

/// A branch that got another head: by a commit that was just finished on it, or by being moved.
#[derive(Debug, Clone)]
pub struct MovedHead {
    /// The repo.
    pub repo: DomainId,
    /// The branch.
    pub branch: BranchName,
    /// The finished commit that readers of the branch see from now on.
    pub commit: CommitRow,
}

/// Inserts the open output commits and the jobs of every pipeline downstream of these branches, all in that commit set.
/// The transaction holds the plane's lock for its DAG; the moved heads are in it already.
///
/// # Errors
/// When the database is away, or a commit needs origins that its repo does not admit.
pub async fn propagate(_plane: &Plane, _tx: &mut Tx, _set: CommitSetId, _moved: &[MovedHead]) -> Answer<()> {
    Ok(())
}
