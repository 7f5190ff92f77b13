//! Versioned data: projects, repos, commits, files, lineage, and what lists and actors look like.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Attestation, BranchTrigger};
use crate::ci::CiIdentity;
use crate::ids::{CommitId, CommitSetId, DomainId, TokenId, UploadId};
use crate::names::{BranchName, ProjectName, RepoName};
use crate::policy::Principal;

/// A page of a list. `next_cursor` is opaque and bound to the caller.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// The rows.
    pub items: Vec<T>,
    /// Present when there is more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// Who made something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Actor {
    /// The principal.
    pub id: Principal,
    /// E-mail address or service account name at that time.
    pub name: String,
    /// The session or API token that was used.
    pub token: TokenId,
    /// The run of a CI system that the token was exchanged for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ci: Option<Box<CiIdentity>>,
}

/// State of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CommitState {
    /// It can still change; of a pipeline: its job is not done.
    Open,
    /// It never changes.
    Finished,
    /// It never got a content: its job failed or could not run.
    Errored,
    /// Its content was given up; the row stays, because what came of it names it.
    Removed,
}

/// How a commit's content was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RemovedHow {
    /// The commits after it keep the data.
    Squashed,
    /// It went with everything that was made from it.
    Dropped,
    /// It was made from a file that was purged.
    Purged,
}

impl RemovedHow {
    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Squashed => "squashed",
            Self::Dropped => "dropped",
            Self::Purged => "purged",
        }
    }
}

/// Who gave a commit's content up, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Removed {
    /// How.
    pub how: RemovedHow,
    /// When.
    pub at: DateTime<Utc>,
    /// Who.
    pub by: Actor,
}

/// One direct input of a commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProvenanceEdge {
    /// The input's repo.
    pub repo: RepoName,
    /// Its project.
    pub project: ProjectName,
    /// The commit.
    pub commit: CommitId,
}

/// Where files of a commit were fetched from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImportedSource {
    /// The address, without anything that may be secret: `?…` stands for a query.
    pub url: String,
    /// The file, or the directory that everything below the address went into; `/a/b`.
    pub path: String,
    /// How many files.
    pub files: u64,
    /// Their bytes.
    pub size_bytes: u64,
    /// The entity tag that the source gave it; of several files: the digest of their names, tags and sizes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// What else names the version at the source: a bucket's version id, or when it was last modified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// When it had been read.
    pub fetched_at: DateTime<Utc>,
}

/// One line of the answer to an import; the last is the commit, or a problem document.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ImportLine {
    /// How far it is.
    Progress {
        /// Files that are here.
        files: u64,
        /// Bytes that are here.
        size_bytes: u64,
        /// Bytes of everything, where all sources have said how large they are.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        size_bytes_total: Option<u64>,
    },
    /// It is done.
    Commit {
        /// What was made.
        commit: Box<Commit>,
    },
}

/// A commit.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Commit {
    /// The repo.
    pub repo: RepoName,
    /// Its project.
    pub project: ProjectName,
    /// The branch that it was made on.
    pub branch: BranchName,
    /// The commit's id.
    pub id: CommitId,
    /// The commit set.
    pub commit_set: CommitSetId,
    /// Its state.
    pub state: CommitState,
    /// Why it is errored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The commit before it on its branch.
    pub parent: Option<CommitId>,
    /// Digest of the content, hex; of a finished commit only.
    pub digest: Option<String>,
    /// Bytes of all files.
    pub size_bytes: u64,
    /// Number of files.
    pub files: u64,
    /// When it was begun.
    pub started_at: DateTime<Utc>,
    /// When it was finished.
    pub finished_at: Option<DateTime<Utc>>,
    /// What its maker said of it.
    pub message: String,
    /// Who made it; of a pipeline's output: the pipeline's author.
    pub actor: Actor,
    /// Direct inputs.
    pub provenance: Vec<ProvenanceEdge>,
    /// The pipeline that made it.
    pub pipeline: Option<RepoName>,
    /// The pipeline's version.
    pub pipeline_version: Option<u32>,
    /// Digest of the image that ran, if any.
    pub image_digest: Option<String>,
    /// The git revision that CI passed along, if any.
    pub code_revision: Option<String>,
    /// How its content was given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed: Option<Removed>,
    /// Where files of it were fetched from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<ImportedSource>,
    /// A spout received it from outside, and nobody has attested it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unattested: bool,
    /// Who attested what a spout received.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attested: Option<Attestation>,
}

/// A kind of directory entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// A file.
    File,
    /// A directory.
    Directory,
}

/// One line of `ls`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileInfo {
    /// Absolute path, `/a/b.tif`; a directory ends in `/`.
    pub path: String,
    /// File or directory.
    pub kind: FileKind,
    /// Bytes; of a directory: of all below it.
    pub size_bytes: u64,
    /// How many files are below a directory; 1 of a file.
    #[serde(default = "one")]
    pub files: u64,
    /// BLAKE3, hex; `None` for a directory.
    pub digest: Option<String>,
    /// Whether the file may be executed; left out of the JSON when it may not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub executable: bool,
}

const fn one() -> u64 {
    1
}

/// What files to ask for the chunks of.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChunksOf {
    /// The commit.
    #[serde(rename = "ref")]
    pub reference: String,
    /// Paths of files. What is not there is passed over.
    pub paths: Vec<String>,
}

/// Chunks of a file, in order; a large file takes several lines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileChunks {
    /// The commit, by its id.
    pub commit: CommitId,
    /// The path that was asked for.
    pub path: String,
    /// Bytes of the whole file.
    pub size_bytes: u64,
    /// Where the first chunk of this line begins.
    pub offset: u64,
    /// Of each chunk its length (4 bytes, the least significant first) and its digest (BLAKE3, 32 bytes); all hex.
    pub chunks: String,
}

impl FileChunks {
    /// Bytes that tell of one chunk.
    pub const CHUNK_BYTES: usize = 36;

    /// What tells of a chunk of that length and digest.
    pub fn encode_chunk(length: u32, digest: &[u8; 32]) -> [u8; Self::CHUNK_BYTES] {
        let mut record = [0; Self::CHUNK_BYTES];
        record[..4].copy_from_slice(&length.to_le_bytes());
        record[4..].copy_from_slice(digest);
        record
    }

    /// The length and the digest that [`Self::encode_chunk`] was given.
    pub fn decode_chunk(record: &[u8; Self::CHUNK_BYTES]) -> (u32, [u8; 32]) {
        let (mut length, mut digest) = ([0; 4], [0; 32]);
        length.copy_from_slice(&record[..4]);
        digest.copy_from_slice(&record[4..]);
        (u32::from_le_bytes(length), digest)
    }
}

/// Where an upload that can be taken up again is going to.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewUpload {
    /// `project/repo`.
    pub repo: String,
    /// The branch; `main` when it is left out.
    pub branch: Option<BranchName>,
}

/// An upload that can be taken up again.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Upload {
    /// Its id.
    pub id: UploadId,
    /// When it is forgotten, unless more of it arrives.
    pub expires_at: DateTime<Utc>,
    /// What it became. Then its parts are of no more use.
    pub commit: Option<Commit>,
    /// What has arrived.
    pub parts: Vec<UploadPart>,
    /// The name of the socket that takes open files from clients on the service's own machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handover: Option<String>,
    /// Packs of large files may be put into the bucket by the client itself.
    #[serde(default)]
    pub takes_packs: bool,
}

/// A pack of chunks of a large file that a client is going to put into the bucket itself.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPack {
    /// The client's name for the file, 64 hex digits, as in its archive.
    pub key: String,
    /// The file's path, without the slash at the front.
    pub path: String,
    /// Where in the file the first chunk begins.
    pub from: u64,
    /// The chunks, encoded as those of [`FileChunks`].
    pub chunks: String,
}

/// Where a pack is to be put, and how. Holds secrets.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct PackPlace {
    /// The pack's name.
    pub pack: String,
    /// What the pack is to begin with: the digest of a piece without bytes, 64 hex digits.
    pub salt: String,
    /// Where it is to be put, within minutes, with no more headers than its length.
    pub url: String,
    /// The pack's own key, 64 hex digits, where the bucket is encrypted.
    pub key: Option<String>,
}

/// What is kept of an upload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UploadPart {
    /// The client's name for it, 64 hex digits.
    pub key: String,
    /// Whole files; else a piece of one.
    pub whole: bool,
    /// Where a piece begins in its file.
    pub from: u64,
    /// Where it ends; of whole files: how many bytes they have.
    pub to: u64,
}

/// How a path differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// Only in the second.
    Added,
    /// In both, not the same.
    Changed,
    /// Only in the first.
    Removed,
}

/// One line of `diff`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileChange {
    /// How it differs.
    pub change: ChangeKind,
    /// The path.
    pub path: String,
    /// Its size in the second commit, or in the first where it was removed.
    pub size_bytes: u64,
}

/// A project.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Project {
    /// Its name.
    pub name: ProjectName,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// A repo.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Repo {
    /// Its domain id.
    pub id: DomainId,
    /// Its project.
    pub project: ProjectName,
    /// Its name.
    pub name: RepoName,
    /// What it is for.
    pub description: String,
    /// Whether a pipeline writes it.
    pub pipeline: bool,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// Its branches.
    pub branches: Vec<BranchName>,
}

/// What a repo takes, as far as who asks may know: what it shares with repos that he may not read counts as its own.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RepoStatistics {
    /// Its project.
    pub project: ProjectName,
    /// Its name.
    pub repo: RepoName,
    /// Files at the heads of its branches.
    pub files: u64,
    /// Their bytes. A commit that several branches point to counts once.
    pub size_bytes: u64,
    /// Its finished commits.
    pub commits: u64,
    /// Bytes of the files of all of them, as if each commit was stored by itself.
    pub commits_bytes: u64,
    /// Bytes of contents and trees that are stored for them; `unique_bytes` and `shared_bytes` together.
    pub stored_bytes: u64,
    /// What no other repo needs.
    pub unique_bytes: u64,
    /// What commits of other repos need too.
    pub shared_bytes: u64,
    /// What need not be stored because commits share it.
    pub saved_bytes: u64,
}

/// A branch.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Branch {
    /// Its repo.
    pub repo: RepoName,
    /// The repo's project.
    pub project: ProjectName,
    /// Its name.
    pub name: BranchName,
    /// Its newest commit, whatever its state.
    pub head: Option<CommitId>,
    /// What makes it follow another branch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trigger: Option<BranchTrigger>,
}

/// One commit upstream of another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UpstreamCommit {
    /// Its repo.
    pub repo: RepoName,
    /// The repo's project.
    pub project: ProjectName,
    /// The commit.
    pub commit: CommitId,
    /// The pipeline that made it.
    pub pipeline: Option<RepoName>,
    /// The pipeline's version.
    pub pipeline_version: Option<u32>,
    /// The image's digest.
    pub image_digest: Option<String>,
    /// The git revision.
    pub code_revision: Option<String>,
    /// How many edges away, at the least.
    pub depth: u32,
    /// It is here because it comes before another one on its branch.
    #[serde(default)]
    pub earlier: bool,
    /// Its content was given up.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub removed: bool,
    /// The commits that it was made from, where the caller may know them.
    #[serde(default)]
    pub inputs: Vec<CommitId>,
    /// Where files of it were fetched from, if the caller may read it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<ImportedSource>,
    /// The run of a CI system that made it or applied its pipeline, if the caller may read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ci: Option<Box<CiIdentity>>,
}

/// The answer of `provenance` and `impact`. What the caller may not know of is left out and counted nowhere but in
/// `restricted`, which is true when there is something.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Lineage {
    /// The commit asked about.
    pub commit: CommitId,
    /// The pipeline that made it.
    #[serde(default)]
    pub pipeline: Option<RepoName>,
    /// The pipeline's version.
    #[serde(default)]
    pub pipeline_version: Option<u32>,
    /// The image's digest.
    #[serde(default)]
    pub image_digest: Option<String>,
    /// The git revision.
    #[serde(default)]
    pub code_revision: Option<String>,
    /// Where files of it were fetched from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<ImportedSource>,
    /// The run of a CI system that made it or applied its pipeline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ci: Option<Box<CiIdentity>>,
    /// Everything up- or downstream of it, nearest first. Upstream, a commit that people made is followed by those before
    /// it on its branch, whose content it has taken over.
    pub upstream: Vec<UpstreamCommit>,
    /// Whether something upstream is hidden; of what is downstream it is not said.
    #[serde(default)]
    pub restricted: bool,
}

/// What a collection of garbage found and did. A pack that nothing needs is first condemned, and removed by a later run
/// when that has been so for the whole grace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CollectionReport {
    /// Nothing was changed.
    pub dry_run: bool,
    /// How long a pack must have been unneeded, seconds.
    pub grace_seconds: u64,
    /// Packs that were there.
    pub packs: u64,
    /// Their size.
    pub size_bytes: u64,
    /// Bytes of contents and trees that something refers to.
    pub needed_bytes: u64,
    /// Bytes of the files of all commits, as if each commit was stored by itself.
    #[serde(default)]
    pub commits_bytes: u64,
    /// Packs of which less than half is needed and that were left as they are.
    pub sparse_packs: u64,
    /// What they hold beside that.
    pub sparse_bytes: u64,
    /// Sparse packs whose needed bytes were copied into others, or would be: they are removed once nothing has needed them
    /// for the whole grace.
    #[serde(default)]
    pub repacked_packs: u64,
    /// Their size.
    #[serde(default)]
    pub repacked_bytes: u64,
    /// What was copied of them.
    #[serde(default)]
    pub copied_bytes: u64,
    /// Why sparse packs were not repacked, if that failed.
    #[serde(default)]
    pub repacking_failed: Option<String>,
    /// Why records of where repacked bytes are were not looked through for those that lead nowhere, if that failed; the next
    /// collection does it.
    #[serde(default)]
    pub forwards_failed: Option<String>,
    /// Packs that nothing needs, or not yet: an upload under way may be about to.
    pub young_packs: u64,
    /// Their size.
    pub young_bytes: u64,
    /// Packs that nothing needs, to be removed when the grace is over.
    pub condemned_packs: u64,
    /// Their size.
    pub condemned_bytes: u64,
    /// Packs that were removed, or would be.
    pub freed_packs: u64,
    /// Their size.
    pub freed_bytes: u64,
}
