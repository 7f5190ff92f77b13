//! The JSON shapes of the public API that both planes, workers and the command line share. Fields are what scripts rely
//! on: add, never rename.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::ids::{AccountId, CommitId, CommitSetId, DomainId, InvitationId, JobId, OrganizationId, ReleaseId, TokenId};
use crate::names::{BranchName, OrganizationName, ProjectName, RepoName};
use crate::policy::{OrganizationRole, Permission, Principal};

/// A page of a list. `next_cursor` is opaque and bound to the caller.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Page<T> {
    /// The rows.
    pub items: Vec<T>,
    /// Present when there is more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// Who made something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// The principal.
    pub id: Principal,
    /// E-mail address or service account name at that time.
    pub name: String,
    /// The session or API token that was used.
    pub token: TokenId,
}

/// State of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommitState {
    /// It can still change; of a pipeline: its job is not done.
    Open,
    /// It never changes.
    Finished,
    /// It never got a content: its job failed or could not run.
    Errored,
}

/// One direct input of a commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProvenanceEdge {
    /// The input's repo.
    pub repo: RepoName,
    /// Its project.
    pub project: ProjectName,
    /// The commit.
    pub commit: CommitId,
}

/// A commit.
#[derive(Debug, Clone, Serialize, Deserialize)]
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
}

/// A kind of directory entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// A file.
    File,
    /// A directory.
    Directory,
}

/// One line of `ls`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileInfo {
    /// Absolute path, `/a/b.tif`; a directory ends in `/`.
    pub path: String,
    /// File or directory.
    pub kind: FileKind,
    /// Bytes; of a directory: of all below it.
    pub size_bytes: u64,
    /// BLAKE3, hex; `None` for a directory.
    pub digest: Option<String>,
}

/// How a path differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileChange {
    /// How it differs.
    pub change: ChangeKind,
    /// The path.
    pub path: String,
    /// Its size in the second commit, or in the first where it was removed.
    pub size_bytes: u64,
}

/// A project.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Project {
    /// Its name.
    pub name: ProjectName,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// A repo.
#[derive(Debug, Clone, Serialize, Deserialize)]
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

/// A branch.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Branch {
    /// Its repo.
    pub repo: RepoName,
    /// The repo's project.
    pub project: ProjectName,
    /// Its name.
    pub name: BranchName,
    /// Its newest commit, whatever its state.
    pub head: Option<CommitId>,
}

/// One commit upstream of another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    /// The commits that it was made from, where the caller may know them.
    #[serde(default)]
    pub inputs: Vec<CommitId>,
}

/// The answer of `provenance` and `impact`. What the caller may not know of is left out and counted nowhere but in
/// `restricted`, which is true when there is something.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Lineage {
    /// The commit asked about.
    pub commit: CommitId,
    /// Everything up- or downstream of it, nearest first.
    pub upstream: Vec<UpstreamCommit>,
    /// Whether something is hidden.
    #[serde(default)]
    pub restricted: bool,
}

/// Allowed or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// Yes.
    Allow,
    /// No.
    Deny,
}

/// One missing domain of an explanation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingDomain {
    /// `project/repo`, or `restricted upstream #n`.
    pub domain: String,
    /// What is missing and why it is needed, in words.
    pub reason: String,
    /// One path from the domain to the object: `images@… -> detect-red@… -> score-red@…`.
    pub witness: Vec<String>,
    /// Who can grant it: names of people and teams.
    pub who_can_grant: Vec<String>,
}

/// The answer of `access explain`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// Allowed or not.
    pub decision: Decision,
    /// The least set that is missing.
    pub missing: Vec<MissingDomain>,
    /// The releases that the decision rests on.
    pub releases: Vec<ReleaseId>,
    /// The policy epoch it was decided at.
    pub token: u64,
}

/// State of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Waits for its inputs or for the job before it.
    Created,
    /// Its datums are being worked out.
    Starting,
    /// Datums run.
    Running,
    /// Results go to where they were wanted outside.
    Egressing,
    /// The output commit is being put together.
    Finishing,
    /// Done.
    Success,
    /// A datum failed, or the output could not be put together.
    Failure,
    /// Somebody stopped it.
    Killed,
    /// An input errored.
    Unrunnable,
}

impl JobState {
    /// The state's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Egressing => "egressing",
            Self::Finishing => "finishing",
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Killed => "killed",
            Self::Unrunnable => "unrunnable",
        }
    }

    /// Whether it can change no more.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Success | Self::Failure | Self::Killed | Self::Unrunnable)
    }
}

/// How many datums of a job are where. `total` counts all current datums, those that did not have to run too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatumCounts {
    /// All.
    pub total: u64,
    /// Ran and succeeded.
    pub succeeded: u64,
    /// Had succeeded before and were not run again.
    pub skipped: u64,
    /// Failed, and `err_cmd` took care of it.
    pub recovered: u64,
    /// Failed.
    pub failed: u64,
}

/// Where the time of a job's datums went, seconds, summed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Timings {
    /// Waiting for a worker.
    pub queue_s: f64,
    /// Bringing inputs.
    pub download_s: f64,
    /// User code.
    pub process_s: f64,
    /// Storing outputs.
    pub upload_s: f64,
}

/// A job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// Its pipeline.
    pub pipeline: RepoName,
    /// The pipeline's project.
    pub project: ProjectName,
    /// The pipeline's version.
    pub version: u32,
    /// Its state.
    pub state: JobState,
    /// Why it is in that state, where there is something to say.
    pub reason: Option<String>,
    /// The commit it makes.
    pub output_commit: CommitId,
    /// The commit set it belongs to.
    pub commit_set: CommitSetId,
    /// Its datums.
    pub datums: DatumCounts,
    /// Where the time went.
    pub timings: Timings,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When its first datum was planned.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
}

/// State of a datum in a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DatumState {
    /// Waits for a worker.
    Pending,
    /// A worker has it.
    Running,
    /// Done.
    Succeeded,
    /// Was done before.
    Skipped,
    /// Failed for good.
    Failed,
    /// Failed, and `err_cmd` took care of it.
    Recovered,
}

/// A datum of a job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Datum {
    /// Its key, hex: the digest of code and inputs.
    pub id: String,
    /// Its job.
    pub job: JobId,
    /// Its state.
    pub state: DatumState,
    /// Its inputs, `images:/a.tif`.
    pub inputs: Vec<String>,
    /// How often user code was started for it.
    pub attempts: u32,
    /// Why it failed.
    pub reason: Option<String>,
    /// Exit code of the last attempt.
    pub exit_code: Option<i32>,
    /// User code, seconds.
    pub process_s: f64,
}

/// A line that user code printed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LogLine {
    /// When.
    pub at: DateTime<Utc>,
    /// The datum's key.
    pub datum: String,
    /// `stdout`, `stderr` or `system`.
    pub stream: String,
    /// The text.
    pub text: String,
}

/// State of a pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PipelineState {
    /// Works.
    Running,
    /// Stopped by somebody.
    Paused,
    /// May not go on: an input was taken from it.
    Suspended,
    /// Its last job failed.
    Failure,
}

/// A pipeline.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Pipeline {
    /// The domain of its output repo.
    pub id: DomainId,
    /// Its name.
    pub name: RepoName,
    /// Its project.
    pub project: ProjectName,
    /// Its newest version.
    pub version: u32,
    /// Its state.
    pub state: PipelineState,
    /// Why.
    pub reason: Option<String>,
    /// The spec as applied.
    pub spec: serde_json::Value,
    /// Digest of spec and image, hex: what a release names.
    pub spec_digest: String,
    /// The image's digest.
    pub image_digest: Option<String>,
    /// The git revision that CI passed along.
    pub code_revision: Option<String>,
    /// Who applied that version.
    pub actor: Actor,
    /// When that version was applied.
    pub created_at: DateTime<Utc>,
}

/// What `pipeline apply` sends.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApplyPipelines {
    /// The specs, applied in order, all or none.
    pub specs: Vec<serde_json::Value>,
    /// Change nothing, say what would happen.
    #[serde(default)]
    pub dry_run: bool,
    /// Replaces `transform.image` of every spec.
    #[serde(default)]
    pub image: Option<String>,
    /// The git revision of the code.
    #[serde(default)]
    pub code_revision: Option<String>,
    /// Run all datums again.
    #[serde(default)]
    pub reprocess: bool,
}

/// What happened (or would happen) to one pipeline.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AppliedPipeline {
    /// Its name.
    pub name: RepoName,
    /// Its project.
    pub project: ProjectName,
    /// `created`, `updated` or `unchanged`.
    pub change: String,
    /// The version it has now.
    pub version: u32,
    /// JSON pointers of the fields of the spec that differ.
    pub differences: Vec<String>,
    /// The job that was begun, if any.
    pub job: Option<JobId>,
    /// Its first commit set, to wait for.
    pub commit_set: Option<CommitSetId>,
    /// Who loses read on future outputs (R4), in words.
    pub impact: Vec<String>,
}

/// The answer of `wait`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WaitAnswer {
    /// Whether all is finished; otherwise ask again.
    pub done: bool,
    /// The commits.
    pub commits: Vec<Commit>,
    /// The jobs.
    pub jobs: Vec<Job>,
}

/// A new account.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignUp {
    /// The address.
    pub email: String,
    /// The password.
    pub password: String,
    /// An organization to make at once.
    #[serde(default)]
    pub organization: Option<OrganizationName>,
}

/// E-mail and password.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogIn {
    /// The address.
    pub email: String,
    /// The password.
    pub password: String,
}

/// A session was made. The secret is shown once.
#[derive(Serialize, Deserialize)]
pub struct SessionMade {
    /// The account.
    pub account: Account,
    /// The organizations it is a member of.
    pub organizations: Vec<Organization>,
    /// `hwd_ses_…`.
    pub session_token: String,
    /// When it ends.
    pub expires_at: DateTime<Utc>,
}

/// An account.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Account {
    /// Its id.
    pub id: AccountId,
    /// Its address.
    pub email: String,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// An organization as one of its members sees it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Organization {
    /// Its id.
    pub id: OrganizationId,
    /// Its name.
    pub name: OrganizationName,
    /// What the caller is in it.
    pub role: OrganizationRole,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// Who the caller is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WhoAmI {
    /// The principal.
    pub id: Principal,
    /// E-mail address or service account name.
    pub name: String,
    /// The session or token in use.
    pub token: TokenId,
    /// The organizations.
    pub organizations: Vec<Organization>,
}

/// Asks for an access token for an organization's data plane.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessTokenRequest {
    /// The organization's name; `None` = the only one, or the one of the token.
    #[serde(default)]
    pub organization: Option<OrganizationName>,
}

/// An access token for an organization's data plane. Asking for one wakes the plane.
#[derive(Clone, Serialize, Deserialize)]
pub struct AccessTokenMade {
    /// The JWT.
    pub access_token: String,
    /// Seconds that it lives.
    pub expires_in: u64,
    /// The organization.
    pub organization: Organization,
    /// Where the plane is reached through the gateway, `http://127.0.0.1:7433/o/acme`.
    pub plane_url: String,
    /// Where bulk bytes may go directly, where the caller can reach it.
    pub direct_url: Option<String>,
    /// The current policy epoch, to be sent back as `Howdah-Epoch`.
    pub epoch: u64,
}

/// A member.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MemberView {
    /// Who.
    pub id: Principal,
    /// Address or name.
    pub name: String,
    /// What he is.
    pub role: OrganizationRole,
    /// Since when.
    pub joined_at: DateTime<Utc>,
}

/// An invitation. `token` is present in the answer that made it only.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Invitation {
    /// Its id.
    pub id: InvitationId,
    /// For whom.
    pub email: String,
    /// As what.
    pub role: OrganizationRole,
    /// `pending`, `accepted`, `revoked` or `expired`.
    pub state: String,
    /// Until when.
    pub expires_at: DateTime<Utc>,
    /// `hwd_inv_…`, shown once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// An API token. `secret` is present in the answer that made it only.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ApiToken {
    /// Its id.
    pub id: TokenId,
    /// Its name.
    pub name: String,
    /// Whom it stands for.
    pub principal: Principal,
    /// Limits, text form; empty = none.
    pub scopes: Vec<String>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it ends.
    pub expires_at: DateTime<Utc>,
    /// When it was used last, to the minute.
    pub last_used_at: Option<DateTime<Utc>>,
    /// When it was revoked.
    pub revoked_at: Option<DateTime<Utc>>,
    /// `hwd_pat_…`, shown once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

/// A grant as people see it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GrantView {
    /// Its id.
    pub id: String,
    /// `user:E`, `team:T`, `sa:S`.
    pub subject: String,
    /// The role.
    pub role: String,
    /// `org`, `project:NAME`, `project/repo`.
    pub resource: String,
    /// When it was given.
    pub created_at: DateTime<Utc>,
    /// The policy epoch from which on it counts.
    pub epoch: u64,
}

/// Gives a grant: `subject` is `user:E`, `team:T` or `sa:S`; `resource` is `org`, `project:NAME` or `[project/]repo`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewGrant {
    /// Who.
    pub subject: String,
    /// The role.
    pub role: String,
    /// On what.
    pub resource: String,
}

/// What a change of the policy answers (R6, R13).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PolicyChanged {
    /// The epoch from which on it counts.
    pub epoch: u64,
    /// Whether the data plane said that it enforces it; `None` when nobody waited for it or the plane is asleep (then it
    /// reads the policy before it serves).
    pub acknowledged: Option<bool>,
}

/// Makes a release (R9).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewRelease {
    /// What is excused, `[project/]repo` each.
    pub domains: Vec<String>,
    /// The pipeline, `[project/]name`.
    pub pipeline: String,
    /// The digest of spec and image that was looked at.
    pub spec_digest: String,
    /// Why.
    pub purpose: String,
    /// Days until it ends, at most 366.
    pub expires_in_days: u32,
    /// Whether commits made before are covered too.
    #[serde(default)]
    pub retroactive: bool,
}

/// A release as people see it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReleaseView {
    /// Its id.
    pub id: ReleaseId,
    /// What is excused, `project/repo` each.
    pub domains: Vec<String>,
    /// On the edge into which pipeline, `project/name`.
    pub pipeline: String,
    /// The digest of spec and image.
    pub spec_digest: String,
    /// Why.
    pub purpose: String,
    /// `proposed`, `active`, `revoked` or `expired`.
    pub state: String,
    /// Names of those who approved.
    pub approvers: Vec<String>,
    /// Domains that still need an approval.
    pub awaiting: Vec<String>,
    /// Whether older commits are covered.
    pub retroactive: bool,
    /// When it was proposed.
    pub created_at: DateTime<Utc>,
    /// When it ends.
    pub expires_at: DateTime<Utc>,
    /// The policy epoch from which on its state counts.
    pub epoch: u64,
}

/// Who may do what with a commit, and why (R12).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Reader {
    /// Who.
    pub id: Principal,
    /// Address or name.
    pub name: String,
    /// `grants`, or `grants and releases`.
    pub by: String,
}

/// A data plane tells the control plane of a new repo or pipeline output: the domain and its first owner.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegisterDomain {
    /// The domain's id, made by the data plane; sending it again changes nothing.
    pub id: DomainId,
    /// The project.
    pub project: ProjectName,
    /// The name.
    pub name: RepoName,
    /// Who owns it.
    pub owner: Principal,
}

/// What a permission is missing on, for messages.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Missing {
    /// The permission.
    pub permission: Permission,
    /// The domain's name.
    pub domain: String,
}
