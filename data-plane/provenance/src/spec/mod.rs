//! The pipeline spec: what people write, read into types that cannot hold a mistake. Everything wrong with a spec is
//! reported at once, each at its place. Fields that this release knows nothing of are refused,
//! never ignored; what a plane cannot carry out is its executor's to say.

mod cluster;
#[cfg(test)]
mod cluster_tests;
mod defaults;
mod digest;
mod egress;
mod fields;
#[cfg(test)]
mod fixed;
mod input;
mod port;
mod quantity;
mod read;
#[cfg(test)]
mod refused;
#[cfg(test)]
mod schema_tests;
mod secrets;
mod spout;
#[cfg(test)]
mod spouts_tests;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use contract::names::{BranchName, ProjectName, RepoName, SecretName};
use contract::problem::FieldError;
use serde_json::Value;

use crate::glob::Glob;

pub use cluster::{DatumSet, Distributed, Scheduling, Toleration};
pub use defaults::{check_defaults, merged, project_named};
pub use digest::{canonical_json, differences};
pub use egress::{BUCKET_KEYS, BucketTarget, DatabaseTarget, Egress, EgressSecret, EgressTarget, RowFormat};
pub(crate) use quantity::duration;

/// A whole spec.
#[derive(Debug, Clone, PartialEq)]
pub struct PipelineSpec {
    /// The project that the pipeline is in.
    pub project: ProjectName,
    /// The pipeline's name, and that of its output repo.
    pub name: RepoName,
    /// What it is for.
    pub description: String,
    /// What runs.
    pub transform: Transform,
    /// What it runs on; with `transform.code` that is one more part of it, crossed with what the spec says. A spout has a
    /// cross of nothing.
    pub input: InputSpec,
    /// The branch of the output repo that outputs go to.
    pub output_branch: BranchName,
    /// How many datums run at the same time; `None` = as many as there are processors.
    pub parallelism: Option<u32>,
    /// Workers may go to sleep between jobs.
    pub autoscaling: bool,
    /// The longest that user code may run for one datum.
    pub datum_timeout: Option<Duration>,
    /// How often user code may fail on a datum before the datum fails.
    pub datum_tries: u32,
    /// The longest that a job may take.
    pub job_timeout: Option<Duration>,
    /// When datums that were done before are run again.
    pub reprocess: Reprocess,
    /// Changing it makes every datum new.
    pub salt: String,
    /// What a worker gets at least.
    pub resource_requests: Resources,
    /// What a worker gets at most.
    pub resource_limits: Resources,
    /// Labels and annotations, passed through.
    pub metadata: BTreeMap<String, Value>,
    /// The origins that the output may have (R5).
    pub max_origins: Option<MaxOrigins>,
    /// What user code can reach.
    pub network: Network,
    /// What becomes of a path that several datums write.
    pub path_collision: PathCollision,
    /// Where outputs are sent.
    pub egress: Option<Egress>,
    /// The command runs until it is replaced and answers at a port.
    pub service: Option<Service>,
    /// In which portions workers take datums.
    pub datum_set: DatumSet,
    /// Which machines of a cluster the code runs on.
    pub scheduling: Scheduling,
    /// Taints of machines that the code may run in spite of.
    pub tolerations: Vec<Toleration>,
    /// Changes to the pods of a cluster: the operations of a JSON patch.
    pub pod_patch: Vec<Value>,
    /// One datum over several nodes at the same time.
    pub distributed: Option<Distributed>,
    /// The command reads nothing, runs until it is stopped and makes commits itself.
    pub spout: Option<Spout>,
}

/// A command that makes commits of what it receives from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spout {
    /// Each commit has the files that it was made of, and none of those before.
    pub overwrite: bool,
}

/// A command that answers at a port of its own loopback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Service {
    /// The port.
    pub internal_port: u16,
}

/// What runs for each datum.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Transform {
    /// The image; without one the code runs among the programs of a machine.
    pub image: Option<String>,
    /// The command with its arguments, never empty.
    pub cmd: Vec<String>,
    /// Lines that the command gets on its standard input.
    pub stdin: Vec<String>,
    /// The command to run when `cmd` failed; empty = none.
    pub err_cmd: Vec<String>,
    /// Lines that it gets on its standard input.
    pub err_stdin: Vec<String>,
    /// Exit codes other than 0 that are a success too.
    pub accept_return_code: Vec<i32>,
    /// Environment variables.
    pub env: BTreeMap<String, String>,
    /// The user in the image that runs it.
    pub user: Option<String>,
    /// Where it runs; the directory is made if it does not exist.
    pub working_dir: Option<String>,
    /// Secrets of the pipeline's project that user code gets.
    pub secrets: Vec<SecretUse>,
    /// Secrets by which the image is pulled, for executors that pull it themselves.
    pub image_pull_secrets: Vec<SecretName>,
    /// The repo of ours that the code is in. It is the last leaf of the whole spec's input too.
    pub code: Option<CodeInput>,
}

/// A secret that user code gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretUse {
    /// Its name.
    pub name: SecretName,
    /// Which of its values; `None` = all.
    pub key: Option<String>,
    /// How.
    pub target: SecretTarget,
}

/// How user code gets a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretTarget {
    /// As this variable of its environment.
    Variable(String),
    /// As files named by the keys, in this directory.
    Files(String),
}

/// An input, freely nested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InputSpec {
    /// Matches of a glob in a branch.
    Pfs(Box<PfsInput>),
    /// Every combination of one datum of each.
    Cross(Vec<InputSpec>),
    /// The datums of all, equal ones once.
    Union(Vec<InputSpec>),
    /// The combinations of one datum of each that have the same key; where one has none, those of the outer inputs alone.
    Join(Vec<InputSpec>),
    /// One datum for each key, with everything of that key.
    Group(Vec<InputSpec>),
}

/// A leaf of an input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PfsInput {
    /// The repo's project.
    pub project: ProjectName,
    /// The repo.
    pub repo: RepoName,
    /// The branch.
    pub branch: BranchName,
    /// Where it appears: `/pfs/<name>`.
    pub name: RepoName,
    /// Which paths are datums.
    pub glob: Glob,
    /// User code sees names only, every file is empty.
    pub empty_files: bool,
    /// Contents of files are fetched when they are read.
    pub lazy: bool,
    /// The key under a join, `$1` for the first capture of the glob.
    pub join_on: Option<String>,
    /// Kept by a join where another of its inputs has nothing of that key.
    pub outer_join: bool,
    /// The key under a group, `$1` for the first capture of the glob.
    pub group_by: Option<String>,
    /// The repo is the pipeline's own and gets its files by a schedule.
    pub cron: Option<CronInput>,
    /// `branch` is followed by one of the pipeline's own, which is what it reads.
    pub trigger: Option<TriggerInput>,
    /// The content is the pipeline's code and appears at `/code`: of `transform.code`.
    pub is_code: bool,
}

/// By what the branch that a pipeline reads follows the one that its input names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TriggerInput {
    /// The branch that is watched.
    pub source: BranchName,
    /// It has grown by so many bytes.
    pub size_bytes: Option<u64>,
    /// It is ahead by so many commits.
    pub commits: Option<u64>,
    /// A tick of this cron expression of five fields has passed.
    pub cron: Option<String>,
    /// All conditions have to hold, and not one of them.
    pub all: bool,
}

/// Where a pipeline's code comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodeInput {
    /// The repo's project.
    pub project: ProjectName,
    /// The repo.
    pub repo: RepoName,
    /// The branch.
    pub branch: BranchName,
    /// The directory, or file, in it: `/` for the whole repo.
    pub path: String,
}

/// By what a cron input gets its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CronInput {
    /// When, as [`crate::ticks::Ticks`] reads it.
    pub spec: String,
    /// Only the file of the last tick stays.
    pub overwrite: bool,
    /// Ticks count from here; `None` = from when the pipeline was made.
    pub start: Option<DateTime<Utc>>,
}

impl InputSpec {
    /// The pfs inputs from left to right. Everything that talks of a leaf by number means its place here.
    pub fn leaves(&self) -> Vec<&PfsInput> {
        match self {
            Self::Pfs(leaf) => vec![leaf],
            Self::Cross(parts) | Self::Union(parts) | Self::Join(parts) | Self::Group(parts) => {
                parts.iter().flat_map(Self::leaves).collect()
            }
        }
    }
}

/// When datums that were done before are run again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reprocess {
    /// Never, once they succeeded.
    #[default]
    UntilSuccess,
    /// In every job.
    EveryJob,
}

impl Reprocess {
    /// The word in a spec.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UntilSuccess => "until_success",
            Self::EveryJob => "every_job",
        }
    }
}

/// What becomes of a path that several datums write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PathCollision {
    /// The job fails.
    #[default]
    Fail,
    /// Their contents stand in it one after the other, in the order of the datums.
    Append,
}

/// What user code can reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Network {
    /// Nothing.
    #[default]
    None,
    /// The internet.
    Internet,
}

impl Network {
    /// The word in a spec.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Internet => "internet",
        }
    }
}

/// Amounts of resources; `None` = not said.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resources {
    /// Thousandths of a processor.
    pub cpu_millis: Option<u64>,
    /// Bytes of memory.
    pub memory_bytes: Option<u64>,
    /// Bytes of disk.
    pub disk_bytes: Option<u64>,
    /// GPUs.
    pub gpu: Option<Gpu>,
}

/// GPUs, given whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// As Kubernetes names it: `nvidia.com/gpu`.
    pub kind: String,
    /// How many.
    pub number: u32,
}

/// A pin on the origins of a repo's commits (R5), besides the repo itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MaxOrigins {
    /// At most so many required domains.
    Count(u32),
    /// Only these, `project/repo` each.
    Named(Vec<String>),
}

/// A text that is not YAML.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the file is neither YAML nor JSON: {0}")]
pub struct YamlError(String);

/// Reads a file of one or more YAML documents (or one of JSON) into specs that are not looked into yet. A document that
/// is a list holds a spec in each item; empty documents are left out.
pub fn parse_yaml(text: &str) -> Result<Vec<Value>, YamlError> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).map_err(|e| YamlError(e.to_string()))?;
    let flat = documents.into_iter().flat_map(|d| match d {
        Value::Null => Vec::new(),
        Value::Array(items) => items,
        one => vec![one],
    });
    Ok(flat.collect())
}

impl PipelineSpec {
    /// Reads a spec. `default_project` counts where the spec names none. All mistakes come at once.
    pub fn parse(value: &Value, default_project: &ProjectName) -> Result<Self, Vec<FieldError>> {
        read::spec(value, default_project)
    }

    /// The fields by which something of it leaves the organization (R10).
    pub fn ways_out(&self) -> Vec<&'static str> {
        let egress = self.egress.as_ref().map(|_| "egress");
        let network = (self.network != Network::None).then_some("network: internet");
        egress.into_iter().chain(network).collect()
    }

    /// Whether it uses secrets of its project.
    pub fn uses_secrets(&self) -> bool {
        !self.transform.secrets.is_empty() || self.egress.as_ref().is_some_and(|egress| egress.secret.is_some())
    }

    /// The input as JSON, without what only says how its files are brought.
    pub fn read_input(&self) -> Value {
        digest::read_input(self)
    }

    /// The spec with every default filled in, as JSON that `parse` reads again.
    pub fn to_value(&self) -> Value {
        digest::whole(self)
    }

    /// What a release names (R9): digest of everything that decides what the code does and sees, and of the image.
    /// Description, metadata, parallelism and resources are left out.
    pub fn spec_digest(&self, image_digest: Option<&str>) -> [u8; 32] {
        digest::spec(self, image_digest)
    }

    /// The bytes that [`PipelineSpec::spec_digest`] is of, so that others can compute it.
    pub fn sealed(&self, image_digest: Option<&str>) -> String {
        digest::sealed(self, image_digest)
    }

    /// What a release names of a spec whose code stands in a repo of ours: that code too, so that other code is not what
    /// was released. `code` is the digest of what stands at its path.
    pub fn digest_with_code(spec_digest: &[u8], code: &[u8; 32]) -> [u8; 32] {
        digest::with_code(spec_digest, code)
    }

    /// The code's part of a datum's key: image, commands, environment, salt, network.
    pub fn code_digest(&self, image_digest: Option<&str>) -> [u8; 32] {
        digest::code(self, image_digest)
    }
}
