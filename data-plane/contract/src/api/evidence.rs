//! What commits were made from, with everything that a third party needs in order to check it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::data::RemovedHow;
use crate::ids::{CommitId, DomainId, OrganizationId};
use crate::names::{ProjectName, RepoName};
use crate::record::{Record, RecordDigest};

/// A commit as evidence names it. Without `record` where the caller may know of it and not read it, or where it was never
/// finished.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EvidenceCommit {
    /// Its id.
    pub commit: CommitId,
    /// Project of its repo.
    pub project: ProjectName,
    /// Its repo.
    pub repo: RepoName,
    /// The pipeline that made it.
    pub pipeline: Option<DomainId>,
    /// The pipeline's version.
    pub pipeline_version: Option<i32>,
    /// Digest of the image that ran.
    pub image_digest: Option<String>,
    /// The git revision that CI passed along.
    pub code_revision: Option<String>,
    /// It is there only because it comes before another one on its branch.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub earlier: bool,
    /// How its content was given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed: Option<RemovedHow>,
    /// The commits that it was made from, where the caller may know of them.
    pub inputs: Vec<CommitId>,
    /// Digest of its record, by which later records name it.
    pub digest: Option<RecordDigest>,
    /// Digest of its record as it is since something was purged from it: that is what `record` gives then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purged_digest: Option<RecordDigest>,
    /// Digest of its content as it is; another one than `record` names where files were purged from it.
    pub content: Option<RecordDigest>,
    /// Files of its content.
    pub files: u64,
    /// Bytes of its content.
    pub size_bytes: u64,
    /// Parts of `record` are left out, because they tell of what the caller may not read.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub restricted: bool,
    /// What its digest covers.
    pub record: Option<Record>,
}

/// A version of a pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EvidenceVersion {
    /// The pipeline.
    pub pipeline: DomainId,
    /// Project of the pipeline.
    pub project: ProjectName,
    /// Its name.
    pub name: RepoName,
    /// Which version.
    pub version: i32,
    /// Digest of its spec.
    pub spec_digest: RecordDigest,
    /// The bytes that the digest is of (`blake3::derive_key` with the context `howdah spec v1`): canonical JSON of the spec and
    /// of the digest of its image. Left out where it names something that the caller may not know of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<String>,
}

/// Which way lineage is walked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EvidenceWay {
    /// To what it was made from.
    Up,
    /// To what was made from it.
    Down,
}

/// Everything up- or downstream of a commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// The organization that it is of.
    pub organization: OrganizationId,
    /// The commit asked about.
    pub subject: CommitId,
    /// Which way was walked.
    pub way: EvidenceWay,
    /// Whether there is something that the caller may not know of. How much is not said.
    pub restricted: bool,
    /// The commits, that one first.
    pub commits: Vec<EvidenceCommit>,
    /// The versions of pipelines that made them.
    pub versions: Vec<EvidenceVersion>,
}

/// One line of the list of a commit's files, which is in the order of the paths' bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ListedFile {
    /// Its path, without `/` in front.
    pub path: String,
    /// Bytes.
    pub size_bytes: u64,
    /// BLAKE3 of its content.
    pub digest: RecordDigest,
    /// Whether it may be executed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub executable: bool,
}
