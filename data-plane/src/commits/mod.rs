//! Commits: what they are, how one is named by a reference, how it is made and finished. A finished commit never changes
//! and carries a digest over its canonical record and its parents' digests, so the history is a chain that anybody can
//! verify; its content digest is that of its tree.

pub mod finish;
pub mod lock;
pub mod log;
pub mod origins;
pub mod put;
pub mod queries;
pub mod records;
pub mod resolve;
pub mod routes;
pub mod together;
pub mod turns;
pub mod views;

use chrono::{DateTime, Utc};
use contract::api::{Actor, Attestation, CommitState, ImportedSource, Removed};
use contract::ids::{CommitId, CommitSetId, DomainId};
use contract::names::BranchName;
use storage::TreeRef;

use crate::failure::{Answer, Failure};

/// A row of `commits`.
#[derive(Debug, Clone)]
pub struct CommitRow {
    /// Its id.
    pub id: CommitId,
    /// Its place among all commits of the plane.
    pub seq: i64,
    /// Its repo.
    pub repo: DomainId,
    /// The branch it was made on.
    pub branch: BranchName,
    /// The commit set.
    pub commit_set: CommitSetId,
    /// The commit before it on its branch.
    pub parent: Option<CommitId>,
    /// Its state.
    pub state: CommitState,
    /// Why it is errored.
    pub reason: Option<String>,
    /// Its tree, encoded; of a finished commit only.
    pub root: Option<Vec<u8>>,
    /// Digest of its record; of a commit only that is finished, or was.
    pub digest: Option<Vec<u8>>,
    /// Digest of the tree that the record names, where that tree is gone.
    pub recorded_tree: Option<Vec<u8>>,
    /// Digest of the spec that made it, if its record names that.
    pub recorded_spec: Option<Vec<u8>>,
    /// Digest of its record as it is since sources were purged from it.
    pub purged_record: Option<Vec<u8>>,
    /// Bytes of all files.
    pub size_bytes: i64,
    /// Number of files.
    pub files: i64,
    /// Its origins.
    pub origin_set: i64,
    /// What its maker said.
    pub message: String,
    /// Who made it.
    pub actor: Actor,
    /// The pipeline that made it, with what ran.
    pub pipeline: Option<PipelineStamp>,
    /// When it was begun.
    pub started_at: DateTime<Utc>,
    /// When it was finished.
    pub finished_at: Option<DateTime<Utc>>,
    /// How its content was given up.
    pub removed: Option<Removed>,
    /// Where files of it were fetched from.
    pub sources: Vec<ImportedSource>,
    /// Of a commit that a spout made: the domain of what is not attested.
    pub unattested: Option<DomainId>,
    /// Of a commit that a spout made: nothing of its parent is in it.
    pub replaces: bool,
    /// Who attested it.
    pub attested: Option<Attestation>,
}

impl CommitRow {
    /// The digest that its record has.
    pub fn current_digest(&self) -> Option<&[u8]> {
        self.purged_record.as_deref().or(self.digest.as_deref())
    }

    /// The digest of the tree that its record names, of a commit that was finished.
    ///
    /// # Errors
    /// When its tree does not decode.
    pub fn recorded_tree_digest(&self) -> Answer<Option<[u8; 32]>> {
        let recorded = self.recorded_tree.as_deref();
        if let Some(digest) = recorded.and_then(|digest| digest.try_into().ok()) {
            return Ok(Some(digest));
        }
        match self.state {
            CommitState::Finished => Ok(Some(*self.tree()?.digest().as_bytes())),
            _ => Ok(None),
        }
    }

    /// Whether the content of its parent is in it, as far as it was not replaced.
    pub fn holds_parent(&self) -> bool {
        (self.pipeline.is_none() || self.unattested.is_some()) && !self.replaces
    }

    /// Whether it was given up.
    pub fn is_removed(&self) -> bool {
        self.state == CommitState::Removed
    }

    /// Its tree.
    ///
    /// # Errors
    /// `deleted` for one that was given up; `conflict` for a commit that is not finished; `corrupt` when the stored reference does not decode.
    pub fn tree(&self) -> Answer<TreeRef> {
        match (&self.root, self.state) {
            (Some(root), CommitState::Finished) => Ok(TreeRef::from_bytes(root)?),
            (_, CommitState::Errored) => Err(Failure::new(
                contract::problem::ProblemKind::Conflict,
                // The reason is not for everybody who may read the commit.
                format!("commit `{}` is errored and never got a content", self.id),
            )
            .hint("`howdah commit show` tells why; read an older commit, for example with `^`")),
            (_, CommitState::Removed) => {
                let how = self.removed.as_ref().map_or("removed", |r| r.how.as_str());
                Err(Failure::new(
                    contract::problem::ProblemKind::Deleted,
                    format!("commit `{}` was {how}: its content is gone", self.id),
                )
                .hint("`howdah commit show` tells by whom; read another commit of its branch: `howdah log`"))
            }
            _ => Err(Failure::new(
                contract::problem::ProblemKind::Conflict,
                format!("commit `{}` is not finished yet, so it can't be read", self.id),
            )
            .hint("wait for it with `howdah wait`, or finish it with `howdah commit finish`")),
        }
    }
}

/// What made the output commit of a pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PipelineStamp {
    /// The pipeline.
    pub id: DomainId,
    /// Its version.
    pub version: i32,
    /// The image's digest.
    pub image_digest: Option<String>,
    /// The git revision.
    pub code_revision: Option<String>,
}

/// A commit to be made, open.
#[derive(Debug, Clone)]
pub struct NewCommit {
    /// Its id.
    pub id: CommitId,
    /// Its repo.
    pub repo: DomainId,
    /// Its branch, which it becomes the head of.
    pub branch: BranchName,
    /// The commit set.
    pub commit_set: CommitSetId,
    /// The commit before it.
    pub parent: Option<CommitId>,
    /// What its maker says.
    pub message: String,
    /// Who makes it.
    pub actor: Actor,
    /// The pipeline whose output it is.
    pub pipeline: Option<PipelineStamp>,
    /// Its origins, interned.
    pub origin_set: i64,
    /// Its direct inputs with the names they go by.
    pub inputs: Vec<(CommitId, String)>,
    /// Now.
    pub started_at: DateTime<Utc>,
}

/// The word that the database has for a state.
pub const fn state_word(state: CommitState) -> &'static str {
    match state {
        CommitState::Open => "open",
        CommitState::Finished => "finished",
        CommitState::Errored => "errored",
        CommitState::Removed => "removed",
    }
}
