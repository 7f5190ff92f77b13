//! What takes something out of the past: squash and drop.

use serde::{Deserialize, Serialize};

use crate::ids::{CommitId, JobId};
use crate::names::{BranchName, ProjectName, RepoName};

/// The body of `squash` and `drop`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveCommits {
    /// A commit, or the id of a commit set.
    #[serde(rename = "ref")]
    pub reference: String,
    /// Only tells.
    #[serde(default)]
    pub dry_run: bool,
    /// Also what was not named.
    #[serde(default)]
    pub force: bool,
}

/// What a removal did, or would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedCommits {
    /// Nothing was changed.
    pub dry_run: bool,
    /// Whether more goes than was named, so that `force` is needed.
    pub needs_force: bool,
    /// Something goes that the caller may not know of: it is refused.
    pub restricted: bool,
    /// By repo.
    pub repos: Vec<RemovedInRepo>,
    /// Jobs that read or make what goes, and are stopped.
    pub jobs: Vec<JobId>,
}

/// What goes in one repo.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedInRepo {
    /// The project.
    pub project: ProjectName,
    /// The repo.
    pub repo: RepoName,
    /// How many commits.
    pub count: u64,
    /// The newest of them, at most a hundred, the newest first.
    pub commits: Vec<CommitId>,
    /// Branches that point elsewhere afterwards.
    pub branches: Vec<MovedBack>,
}

/// A branch whose head goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovedBack {
    /// The branch.
    pub branch: BranchName,
    /// Where it points afterwards.
    pub head: Option<CommitId>,
}
