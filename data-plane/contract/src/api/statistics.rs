//! Where the time of jobs goes.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::pipelines::{Datum, DatumCounts, JobState, Timings};
use crate::ids::{CommitSetId, JobId};
use crate::names::{ProjectName, RepoName};

/// A stretch of a job's time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Phase {
    /// `upstream` (inputs were not finished), `queue`, `planning`, `running` or `finishing`.
    pub name: String,
    /// How long.
    pub seconds: f64,
}

/// What a spec asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Requested {
    /// Processors of `resource_requests`.
    pub cpu: Option<f64>,
    /// Bytes of memory of `resource_requests`.
    pub memory_bytes: Option<u64>,
    /// Bytes of memory of `resource_limits`.
    pub memory_limit_bytes: Option<u64>,
}

/// Where the time of a job went.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct JobStatistics {
    /// The job.
    pub job: JobId,
    /// Its state.
    pub state: JobState,
    /// From when it was made to its end, or to now, seconds.
    pub wall_s: f64,
    /// The same in pieces, in order.
    pub phases: Vec<Phase>,
    /// What its datums took, summed.
    pub timings: Timings,
    /// Its datums.
    pub datums: DatumCounts,
    /// Bytes of the inputs that were brought to datums; left out where an input is hidden from the caller.
    pub bytes_in: Option<u64>,
    /// Bytes of the outputs of datums that ran.
    pub bytes_out: u64,
    /// Peak memory of one process.
    pub memory_bytes: u64,
    /// Processor time, seconds.
    pub cpu_s: f64,
    /// Processors that the code used on the average while it ran.
    pub cpu_used: Option<f64>,
    /// GPU time, where an executor measures it.
    pub gpu_s: Option<f64>,
    /// What the spec asks for.
    pub requested: Requested,
    /// What user code took when the results were made that this job did not have to make again, seconds.
    pub saved_s: f64,
    /// The datums that took longest, the longest first.
    pub slowest: Vec<Datum>,
    /// What could make it faster, in words.
    pub hints: Vec<String>,
}

/// One job in the history of a pipeline.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PipelineRun {
    /// The job.
    pub job: JobId,
    /// The pipeline's version.
    pub version: u32,
    /// Its state.
    pub state: JobState,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// From its beginning to its end, or to now, seconds; 0 while it waits.
    pub ran_s: f64,
    /// What its datums took, summed.
    pub timings: Timings,
    /// Its datums.
    pub datums: DatumCounts,
    /// Processor time, seconds.
    pub cpu_s: f64,
    /// What it did not have to do again, seconds.
    pub saved_s: f64,
}

/// The last jobs of a pipeline.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PipelineStatistics {
    /// Newest first.
    pub runs: Vec<PipelineRun>,
    /// The median of `ran_s` of those that succeeded.
    pub median_s: Option<f64>,
    /// The longest `ran_s` of those that succeeded.
    pub longest_s: Option<f64>,
}

/// One job on a critical path.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CriticalStep {
    /// The job.
    pub job: JobId,
    /// Its project.
    pub project: ProjectName,
    /// Its pipeline.
    pub pipeline: RepoName,
    /// Its state.
    pub state: JobState,
    /// Its time in pieces.
    pub phases: Vec<Phase>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// The job before it in its pipeline, where it had to wait for that longer than for its inputs.
    pub behind: Option<JobId>,
}

/// The chain of jobs that a commit set waited for.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CriticalPath {
    /// The commit set.
    pub commit_set: CommitSetId,
    /// From when the first of its jobs was made to when the last one ended, or to now, seconds.
    pub wall_s: f64,
    /// First to last.
    pub steps: Vec<CriticalStep>,
}
