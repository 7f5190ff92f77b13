//! Pipelines, jobs, datums, logs.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::data::Actor;
use super::data::Commit;
use crate::ids::{CommitId, CommitSetId, DomainId, JobId};
use crate::names::{ProjectName, RepoName};

/// State of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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
    /// All states.
    pub const ALL: [Self; 9] = [
        Self::Created,
        Self::Starting,
        Self::Running,
        Self::Egressing,
        Self::Finishing,
        Self::Success,
        Self::Failure,
        Self::Killed,
        Self::Unrunnable,
    ];

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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
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
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
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
    /// It is a service's that runs: it has no end by itself, and its output commit is finished.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub serving: bool,
    /// What its code runs under (`namespaces`, `user-namespaces`, `bubblewrap`, `none`), once a worker took it.
    #[serde(default)]
    pub isolation: Option<String>,
    /// What ran its code: `process` = among the programs of a machine, `container` = in an image.
    #[serde(default)]
    pub executor: Option<String>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When its first datum was planned.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
}

/// State of a datum in a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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

impl DatumState {
    /// All states.
    pub const ALL: [Self; 6] = [
        Self::Pending,
        Self::Running,
        Self::Succeeded,
        Self::Skipped,
        Self::Failed,
        Self::Recovered,
    ];

    /// The state's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Skipped => "skipped",
            Self::Failed => "failed",
            Self::Recovered => "recovered",
        }
    }
}

/// A datum of a job.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
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
    /// User code, seconds; as the other times, of all attempts together.
    pub process_s: f64,
    /// Waiting for a worker, seconds.
    #[serde(default)]
    pub queue_s: f64,
    /// Bringing inputs, seconds.
    #[serde(default)]
    pub download_s: f64,
    /// Storing outputs, seconds.
    #[serde(default)]
    pub upload_s: f64,
    /// Bytes that it reads; left out where an input is hidden from the caller.
    #[serde(default)]
    pub bytes_in: Option<u64>,
    /// Bytes that it made.
    #[serde(default)]
    pub bytes_out: u64,
    /// Peak memory of one process.
    #[serde(default)]
    pub memory_bytes: u64,
    /// Processor time, seconds.
    #[serde(default)]
    pub cpu_s: f64,
    /// GPU time, where an executor measures it.
    #[serde(default)]
    pub gpu_s: Option<f64>,
    /// When a worker took it last.
    #[serde(default)]
    pub started_at: Option<DateTime<Utc>>,
    /// When it was settled.
    #[serde(default)]
    pub finished_at: Option<DateTime<Utc>>,
}

/// A line that user code printed.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct LogLine {
    /// When.
    pub at: DateTime<Utc>,
    /// The datum's key; empty where a line tells of lines that are not kept any more.
    pub datum: String,
    /// `stdout`, `stderr` or `system`.
    pub stream: String,
    /// The text.
    pub text: String,
}

/// State of a pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PipelineState {
    /// Was applied, and its first job has no datums yet.
    Starting,
    /// Works.
    Running,
    /// Has nothing to do, and its workers sleep.
    Standby,
    /// Stopped by somebody.
    Paused,
    /// May not go on: an input was taken from it.
    Suspended,
    /// Its last job failed.
    Failure,
    /// Its service ends again and again.
    Crashing,
}

/// State of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ServiceState {
    /// Nothing listens at its port yet.
    Starting,
    /// It does.
    Answering,
    /// It ended, and waits to be started again.
    Waiting,
}

impl ServiceState {
    /// The state's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Answering => "answering",
            Self::Waiting => "waiting",
        }
    }
}

/// What a pipeline serves now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServiceView {
    /// The job, with its log.
    pub job: JobId,
    /// The port that its command listens at.
    pub internal_port: u16,
    /// Its state.
    pub state: ServiceState,
    /// How often in a row it ended by itself.
    pub restarts: u32,
}

/// The address at which a person reaches a service.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct OpenedService {
    /// For a browser: good once, and for a minute.
    pub url: String,
    /// For programs, with `Authorization: Bearer`: an access token.
    pub api_url: String,
    /// How the service is.
    pub service: ServiceView,
}

/// A pipeline.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
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
    /// What it serves now, if its spec says `service` and it is not stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceView>,
}

/// What `pipeline apply` sends.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
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
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
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
    /// The same with what they were and are. What they were is left out where it may name what the caller may not know.
    #[serde(default)]
    pub changes: Vec<SpecChange>,
    /// The job that was begun, if any.
    pub job: Option<JobId>,
    /// Its first commit set, to wait for.
    pub commit_set: Option<CommitSetId>,
    /// Who loses read on future outputs (R4), in words.
    pub impact: Vec<String>,
    /// What of the spec has no effect on this data plane, in words.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// What a job of it would have to do; of a dry run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dry_run: Option<DryRun>,
}

/// A field of a spec that differs from the version before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SpecChange {
    /// Its JSON pointer.
    pub pointer: String,
    /// What it was; none where it was absent.
    pub before: Option<serde_json::Value>,
    /// What it is; none where it is absent.
    pub after: Option<serde_json::Value>,
}

/// What applying a spec would set in motion.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct DryRun {
    /// The datums that there would be.
    pub datums: Option<u64>,
    /// Those that would run.
    pub to_run: Option<u64>,
    /// Those that succeeded before, so that their outputs are taken.
    pub known: Option<u64>,
    /// There are at least so many: not everything was looked at.
    pub at_least: bool,
    /// Why counts are left out, or no job begins.
    pub reason: Option<String>,
    /// What those that would run may take.
    pub estimate: Option<Estimate>,
    /// The pipelines that run after it, `project/name`; their datums depend on what it makes.
    pub downstream: Vec<String>,
}

/// What datums may take, by what others of their pipeline took.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Estimate {
    /// Seconds of processors of all of them.
    pub cpu_s: Option<f64>,
    /// Seconds until all are done, with nothing else running.
    pub wall_s: Option<f64>,
    /// How many run at once.
    pub at_once: u64,
    /// So many datums it is made from.
    pub from_datums: u64,
    /// What one takes from its inputs to its outputs, on average.
    pub datum_s: Option<f64>,
    /// The same of the middle one.
    pub datum_median_s: Option<f64>,
    /// Processor seconds of one, on average.
    pub datum_cpu_s: Option<f64>,
    /// Why nothing can be said.
    pub reason: Option<String>,
}

/// The answer of `wait`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct WaitAnswer {
    /// Whether all is finished; otherwise ask again.
    pub done: bool,
    /// The commits.
    pub commits: Vec<Commit>,
    /// The jobs.
    pub jobs: Vec<Job>,
}
