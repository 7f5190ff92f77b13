//! What takes something out of the past: squash, drop and purge. And who answers for what arrived from outside.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Actor;
use crate::ids::{CommitId, JobId, PurgeId};
use crate::names::{BranchName, ProjectName, RepoName};

/// The body of `squash` and `drop`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MovedBack {
    /// The branch.
    pub branch: BranchName,
    /// Where it points afterwards.
    pub head: Option<CommitId>,
}

/// The body of a purge.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PurgePath {
    /// `project/repo`.
    pub repo: String,
    /// The file or directory.
    pub path: String,
    /// Only tells.
    #[serde(default)]
    pub dry_run: bool,
    /// Also where something was made from it.
    #[serde(default)]
    pub force: bool,
}

/// Whether the bytes are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PurgeState {
    /// Nothing refers to them; packs that hold them wait for the collection of garbage.
    Pending,
    /// The last pack that held them is gone.
    Erased,
}

/// The receipt of a purge. What the caller may not know of is left out and counted nowhere but in `restricted`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Purge {
    /// Its id.
    pub id: PurgeId,
    /// Nothing was changed, and the receipt is not kept.
    pub dry_run: bool,
    /// The project.
    pub project: ProjectName,
    /// The repo.
    pub repo: RepoName,
    /// What was purged.
    pub path: String,
    /// By whom.
    pub by: Actor,
    /// When.
    pub at: DateTime<Utc>,
    /// Commits that have a tree without it now.
    pub rewritten: u64,
    /// Open commits that had been given it.
    pub open_commits: u64,
    /// Commits that were made from it and are given up.
    pub voided: Vec<VoidedInRepo>,
    /// Commits that people copied something into from a commit that held it, or from what was made of that: not purged.
    pub copies: Vec<PurgedCopy>,
    /// There is more of either that the caller may not know of.
    pub restricted: bool,
    /// Jobs that were stopped.
    pub jobs: u64,
    /// Results of datums that were deleted.
    pub results: u64,
    /// Lines of logs that were deleted.
    pub log_lines: u64,
    /// Packs that held the bytes.
    pub packs: Vec<String>,
    /// Whether they are gone.
    pub state: PurgeState,
    /// Since when that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub erased_at: Option<DateTime<Utc>>,
}

/// Outputs of a pipeline that were given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VoidedInRepo {
    /// The project.
    pub project: ProjectName,
    /// The pipeline's repo.
    pub repo: RepoName,
    /// How many commits.
    pub count: u64,
}

/// A commit that may hold a copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PurgedCopy {
    /// The project.
    pub project: ProjectName,
    /// The repo.
    pub repo: RepoName,
    /// The commit.
    pub commit: CommitId,
}

/// Somebody answers for what arrived from outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Attestation {
    /// Who.
    pub by: Actor,
    /// When.
    pub at: DateTime<Utc>,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// `POST /v1/commits/attest`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Attest {
    /// The commit, by a reference.
    #[serde(rename = "ref")]
    pub reference: String,
    /// Why it may be trusted.
    #[serde(default)]
    pub message: String,
}
