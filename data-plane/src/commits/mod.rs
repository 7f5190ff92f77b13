//! Commits: what they are, how one is named by a reference, how it is made and finished. A finished commit never changes
//! and carries a digest over its canonical record and its parents' digests, so the history is a chain that anybody can
//! verify; its content digest is that of its tree.

pub mod finish;
pub mod lock;
pub mod log;
pub mod origins;
pub mod put;
pub mod queries;
pub mod resolve;
pub mod routes;
pub mod together;
pub mod turns;
pub mod views;

use chrono::{DateTime, Utc};
use contract::api::{Actor, CommitState, ImportedSource, Removed};
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

/// What the digest of a commit's record covers besides the row itself.
pub struct Ancestry {
    /// Digest of the parent's record, if it has a finished parent.
    pub parent: Option<Vec<u8>>,
    /// Digest of the tree.
    pub tree: [u8; 32],
    /// Digest of the origin set.
    pub origins: [u8; 32],
    /// Name and record digest of each input, in any order.
    pub inputs: Vec<(String, Vec<u8>)>,
}

/// The digest of a finished commit's canonical record: every field in a fixed order, each with its length in front, so
/// that no two records have the same bytes.
pub fn record_digest(commit: &CommitRow, finished_at: DateTime<Utc>, ancestry: &Ancestry) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    let mut field = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    field(b"howdah commit 1");
    field(commit.id.uuid().as_bytes());
    field(commit.repo.uuid().as_bytes());
    field(commit.branch.as_str().as_bytes());
    field(commit.commit_set.uuid().as_bytes());
    field(ancestry.parent.as_deref().unwrap_or_default());
    field(&ancestry.tree);
    field(&ancestry.origins);
    let mut inputs: Vec<_> = ancestry.inputs.iter().collect();
    inputs.sort();
    field(&(inputs.len() as u64).to_le_bytes());
    for (name, digest) in inputs {
        field(name.as_bytes());
        field(digest);
    }
    field(commit.message.as_bytes());
    field(commit.actor.id.to_string().as_bytes());
    field(commit.actor.name.as_bytes());
    field(commit.actor.token.to_string().as_bytes());
    if let Some(pipeline) = &commit.pipeline {
        field(pipeline.id.uuid().as_bytes());
        field(&pipeline.version.to_le_bytes());
        field(pipeline.image_digest.as_deref().unwrap_or_default().as_bytes());
        field(pipeline.code_revision.as_deref().unwrap_or_default().as_bytes());
    }
    field(&commit.started_at.timestamp_micros().to_le_bytes());
    field(&finished_at.timestamp_micros().to_le_bytes());
    // Records without sources have the digests that they had before there were any.
    if !commit.sources.is_empty() {
        field(b"sources");
        field(&(commit.sources.len() as u64).to_le_bytes());
        for source in &commit.sources {
            field(source.url.as_bytes());
            field(source.path.as_bytes());
            field(&source.files.to_le_bytes());
            field(&source.size_bytes.to_le_bytes());
            field(source.etag.as_deref().unwrap_or_default().as_bytes());
            field(source.version.as_deref().unwrap_or_default().as_bytes());
            field(&source.fetched_at.timestamp_micros().to_le_bytes());
        }
    }
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::ids::{AccountId, GenerateId, TokenId};
    use contract::policy::Principal;

    fn commit() -> CommitRow {
        fn id<T: GenerateId>(n: u8) -> T {
            T::generate_id(1_790_000_000_000, [n; 10])
        }
        CommitRow {
            id: id(1),
            seq: 1,
            repo: id(2),
            branch: BranchName::main(),
            commit_set: id(3),
            parent: None,
            state: CommitState::Open,
            reason: None,
            root: None,
            digest: None,
            purged_record: None,
            size_bytes: 1,
            files: 1,
            origin_set: 1,
            message: "m".to_owned(),
            actor: Actor {
                id: Principal::Account(id::<AccountId>(4)),
                name: "ada".to_owned(),
                token: id::<TokenId>(5),
            },
            pipeline: None,
            started_at: DateTime::UNIX_EPOCH,
            finished_at: None,
            recorded_tree: None,
            removed: None,
            sources: Vec::new(),
        }
    }

    fn source() -> ImportedSource {
        ImportedSource {
            url: "https://a.org/f".to_owned(),
            path: "/f".to_owned(),
            files: 1,
            size_bytes: 7,
            etag: Some("\"v1\"".to_owned()),
            version: None,
            fetched_at: DateTime::UNIX_EPOCH,
        }
    }

    fn digest(sources: Vec<ImportedSource>) -> String {
        let ancestry = Ancestry {
            parent: None,
            tree: [1; 32],
            origins: [2; 32],
            inputs: Vec::new(),
        };
        let row = CommitRow { sources, ..commit() };
        hex::encode(record_digest(&row, DateTime::UNIX_EPOCH, &ancestry))
    }

    #[test]
    fn records_without_sources_keep_the_digest_that_they_had_before_there_were_sources() {
        assert_eq!(
            digest(Vec::new()),
            "5945cbeba59a6cea4be8e038a039caf30e5651b5a3f3d959e220ad44adb034e3"
        );
    }

    #[test]
    fn every_field_of_a_source_is_covered() {
        let changes: [fn(&mut ImportedSource); 7] = [
            |s| s.url.push('x'),
            |s| s.path.push('x'),
            |s| s.files += 1,
            |s| s.size_bytes += 1,
            |s| s.etag = None,
            |s| s.version = Some("v".to_owned()),
            |s| s.fetched_at += chrono::Duration::microseconds(1),
        ];
        let mut seen = vec![
            digest(Vec::new()),
            digest(vec![source()]),
            digest(vec![source(), source()]),
        ];
        for change in changes {
            let mut other = source();
            change(&mut other);
            seen.push(digest(vec![other]));
        }
        let distinct: std::collections::HashSet<_> = seen.iter().collect();
        assert_eq!(distinct.len(), seen.len());
    }
}
