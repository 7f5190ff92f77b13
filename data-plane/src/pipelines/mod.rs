//! Pipelines: code that runs over the matches of a glob whenever a branch moves. A pipeline shares its id with the repo
//! that it writes. Each version is kept; what ran, a job names. `apply` is the one way in, `propagate` the one way in
//! which commits reach pipelines.

pub mod apply;
pub mod conditions;
mod dry_run;
mod dry_run_queries;
mod examine;
mod followers;
mod images;
pub mod propagate;
pub mod queries;
pub mod released;
pub mod routes;
pub mod sponsors;
mod sponsors_queries;
mod standing;
mod standing_queries;
pub mod views;

use contract::ids::{CommitId, DomainId};
use contract::names::BranchName;

use provenance::propagation::BranchOf;

use crate::commits::CommitRow;

pub use propagate::propagate;

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

impl MovedHead {
    /// Branch and commit, as propagation takes them.
    pub fn at(&self) -> (BranchOf, CommitId) {
        let branch = BranchOf {
            repo: self.repo,
            branch: self.branch.clone(),
        };
        (branch, self.commit.id)
    }
}
