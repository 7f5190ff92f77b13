//! What a worker and its plane say to each other: claims, heartbeats, completions, all in batches, because a datum may
//! take a millisecond and a round trip does too. A lease covers one claimed batch; whoever holds none may report nothing.

use chrono::{DateTime, Utc};
use contract::ids::{CommitId, JobId, LeaseId};
use contract::names::SecretName;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use uuid::Uuid;

use contract::config::{ImportConfig, StoreConfig};

pub use pods::Pool;
pub use pods::manifest::{ADDRESS_VARIABLE, WORKER_VARIABLE};

use crate::images::Login;

/// The header by which a worker shows the secret of this boot of the plane, or the capability of its pool.
pub const SECRET_HEADER: &str = "howdah-worker-secret";
/// The header by which a worker of a pool says of which: `<pipeline>-<version>`.
pub const POOL_HEADER: &str = "howdah-worker-pool";

/// What `howdah-data-plane worker` reads.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerConfig {
    /// The plane, `http://127.0.0.1:40123`.
    pub plane_url: String,
    /// Made anew at each boot of the plane: a worker of an earlier boot is refused. Nothing when it is of a pool.
    #[serde(default)]
    pub secret: String,
    /// The pool whose datums it claims, and no others; `None`: all.
    #[serde(default)]
    pub pool: Option<Pool>,
    /// Lets it in as a worker of that pool, whichever boot of the plane it is ([`super::capability`]).
    #[serde(default)]
    pub capability: Option<String>,
    /// It keeps the service or spout of its pool running, and claims no datums.
    #[serde(default)]
    pub lasting: bool,
    /// Names this worker in its leases. One of a pool, whose workers share their configuration, takes the name of its pod
    /// ([`WORKER_VARIABLE`]), or makes one.
    #[serde(default)]
    pub worker: Uuid,
    /// The bucket.
    pub store: StoreConfig,
    /// What its packs are encrypted with, if they are.
    pub data_key: Option<String>,
    /// Caches and datum directories lie below it.
    pub home: PathBuf,
    /// What runs user code.
    #[serde(default)]
    pub runner: RunnerConfig,
    /// The sandbox's binary; nothing where there is another runner.
    #[serde(default)]
    pub sandbox_binary: PathBuf,
    /// What user code must not see.
    #[serde(default)]
    pub masked: Vec<PathBuf>,
    /// Datums at once; in a pod one.
    pub slots: usize,
    /// The uid and gid of user code when started by root.
    pub sandbox_uid: u32,
    /// Bytes that the cache of inputs may take.
    pub cache_bytes_max: u64,
    /// Who may be reached for images.
    #[serde(default)]
    pub imports: ImportConfig,
}

/// What runs user code.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum RunnerConfig {
    /// A sandbox of this machine for each datum.
    #[default]
    Sandbox,
    /// The other container of this pod, through the shim in it.
    Pod {
        /// The shim's socket.
        socket: PathBuf,
        /// What both containers see as `/pfs`.
        pfs: PathBuf,
        /// What both see as `/code`.
        code: PathBuf,
        /// The port at which it listens for the plane while a service runs; 0: any.
        #[serde(default)]
        door: u16,
    },
}

/// Asks for work; answered when there is some or after a while.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ClaimRequest {
    /// Who asks.
    pub worker: Uuid,
    /// At most so many.
    pub datums_max: u32,
    /// How long the plane may wait for work, milliseconds.
    pub wait_ms: u64,
    /// The isolation that the worker runs code under.
    pub isolation: String,
}

/// Work, or none.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Claimed {
    /// The lease on all of `datums`; `None` when there is nothing to do.
    pub lease: Option<LeaseId>,
    /// What the datums' jobs have in common.
    pub jobs: Vec<JobTask>,
    /// The datums.
    pub datums: Vec<DatumTask>,
}

/// What all datums of a job have in common.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JobTask {
    /// The job.
    pub job: JobId,
    /// `project/name`.
    pub pipeline: String,
    /// The commit that it makes.
    pub output_commit: CommitId,
    /// The image that the code runs in; `None` = among the programs of the machine.
    pub image: Option<ImageTask>,
    /// Program and arguments; empty = as the image says.
    pub cmd: Vec<String>,
    /// Lines for its standard input.
    pub stdin: Vec<String>,
    /// What runs when it fails.
    pub err_cmd: Vec<String>,
    /// Lines for that one's standard input.
    pub err_stdin: Vec<String>,
    /// Exit codes that count as success besides 0.
    pub accept_return_code: Vec<i32>,
    /// Variables of the spec.
    pub env: Vec<(String, String)>,
    /// Where the command starts.
    pub working_dir: Option<String>,
    /// Limit of one run of user code, milliseconds.
    pub datum_timeout_ms: Option<u64>,
    /// Bytes of memory.
    pub memory_bytes: Option<u64>,
    /// Bytes that one datum's outputs may have.
    pub disk_bytes: Option<u64>,
    /// Whether the code may use the network.
    pub network: bool,
    /// At most so many datums of this job at once.
    pub parallelism: Option<u32>,
    /// The inputs by position.
    pub inputs: Vec<InputTree>,
    /// What user code gets of secrets.
    #[serde(default)]
    pub secrets: Vec<SecretFor>,
    /// Their versions. A job that was planned again has others.
    #[serde(default)]
    pub secret_versions: BTreeMap<SecretName, i32>,
    /// Why no datum can be run: a secret is not there any more.
    #[serde(default)]
    pub refused: Option<String>,
}

/// A text that no log shows.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hidden(pub String);

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("hidden")
    }
}

/// Values of a secret for user code, by their keys.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecretFor {
    /// One value, as a variable.
    Variable {
        /// Its name.
        name: String,
        /// The value.
        values: Vec<(String, Hidden)>,
    },
    /// Values, as files.
    Files {
        /// The directory.
        path: String,
        /// The values.
        values: Vec<(String, Hidden)>,
    },
}

impl SecretFor {
    /// The values.
    pub fn values(&self) -> &[(String, Hidden)] {
        match self {
            Self::Variable { values, .. } | Self::Files { values, .. } => values,
        }
    }
}

/// Keys of the bucket, good for some minutes at least.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LentKeys {
    /// The key's id.
    pub access_key_id: String,
    /// Its secret.
    pub secret_access_key: Hidden,
    /// What is shown beside them, if anything is.
    #[serde(default)]
    pub session_token: Option<Hidden>,
}

/// The image of a job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ImageTask {
    /// Its name, as in the spec.
    pub name: String,
    /// What that stood for when the pipeline was applied.
    pub digest: String,
    /// Who runs the code, when the spec says so.
    pub user: Option<String>,
    /// Who signs in at its registry.
    #[serde(default)]
    pub logins: Vec<Login>,
}

/// The tree that an input reads.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct InputTree {
    /// The name below `/pfs`.
    pub name: String,
    /// The commit.
    pub commit: CommitId,
    /// `storage::TreeRef`, hex.
    pub root: String,
    /// Show the files' names with empty contents.
    pub empty_files: bool,
    /// Fetch contents when they are read.
    #[serde(default)]
    pub lazy: bool,
    /// It is shown at `/code`, from this path in it on, and not below `/pfs`.
    #[serde(default)]
    pub code: Option<String>,
}

/// One datum to run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DatumTask {
    /// Its job.
    pub job: JobId,
    /// Its position in the job.
    pub position: i64,
    /// Its key, hex.
    pub key: String,
    /// Counts the claims of this datum: tells log lines of two runs apart.
    pub run: i32,
    /// What it reads.
    pub inputs: Vec<TaskInput>,
}

/// A file or directory that a datum reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskInput {
    /// Position of the input in `JobTask::inputs`.
    #[serde(rename = "i")]
    pub position: u32,
    /// Absolute path, `/a.tif`, a directory ends in `/`.
    #[serde(rename = "p")]
    pub path: String,
    /// The value of `join_on`.
    #[serde(rename = "j", default, skip_serializing_if = "Option::is_none")]
    pub join_on: Option<String>,
    /// The value of `group_by`.
    #[serde(rename = "g", default, skip_serializing_if = "Option::is_none")]
    pub group_by: Option<String>,
}

/// A line of user code on its way to the plane.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SentLine {
    /// The job.
    pub job: JobId,
    /// The datum's key, hex.
    pub key: String,
    /// The claim that it belongs to.
    pub run: i32,
    /// Counts the lines of this run.
    pub line: i32,
    /// When.
    pub at: DateTime<Utc>,
    /// `stdout`, `stderr` or `system`.
    pub stream: String,
    /// The text.
    pub text: String,
}

/// Renews leases and brings log lines.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HeartbeatRequest {
    /// Who.
    pub worker: Uuid,
    /// The leases still worked on.
    pub leases: Vec<LeaseId>,
    /// Jobs that the worker runs datums of.
    pub jobs: Vec<JobId>,
    /// What user code printed since.
    pub logs: Vec<SentLine>,
}

/// What became of them.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct HeartbeatAnswer {
    /// Leases that ran out: stop working on them.
    pub lost: Vec<LeaseId>,
    /// Jobs that are over: kill their datums.
    pub ended: Vec<JobId>,
}

/// Gives back all that a worker holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LeaveRequest {
    /// Who.
    pub worker: Uuid,
    /// It has just begun, and one of its name before it did not end by itself. Else it was told to stop: that says nothing of its
    /// datums.
    #[serde(default)]
    pub died: bool,
}

/// What was given back.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct LeaveAnswer {
    /// Datums that others may have now.
    pub freed: u64,
}

/// How a datum ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Ending {
    /// User code succeeded: what it made, `storage::encode_entries`, hex.
    Succeeded {
        /// The entries.
        outputs: String,
    },
    /// User code failed, and `err_cmd` took care of it.
    Recovered,
    /// User code failed.
    Failed {
        /// What happened.
        reason: String,
    },
    /// Not the user's fault: try again, which costs no try.
    Lost {
        /// What happened.
        reason: String,
    },
}

/// A datum's result.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DatumReport {
    /// Its job.
    pub job: JobId,
    /// Its position.
    pub position: i64,
    /// The lease that it was claimed under.
    pub lease: LeaseId,
    /// How it ended.
    pub ending: Ending,
    /// Exit code of user code.
    pub exit_code: Option<i32>,
    /// Bringing inputs, milliseconds.
    pub download_ms: i64,
    /// User code, milliseconds.
    pub process_ms: i64,
    /// Storing outputs, milliseconds.
    pub upload_ms: i64,
    /// When user code was started.
    pub started_at: DateTime<Utc>,
    /// Peak memory of one process, bytes.
    pub memory_bytes: u64,
    /// Processor time, milliseconds.
    pub cpu_ms: i64,
    /// Bytes of what it reads.
    pub bytes_in: u64,
    /// Bytes of what it made.
    pub bytes_out: u64,
}

impl DatumReport {
    /// Bytes of what it made, if that is kept: nothing is of what did not succeed.
    pub fn kept_bytes(&self) -> u64 {
        match self.ending {
            Ending::Succeeded { .. } => self.bytes_out,
            Ending::Recovered | Ending::Failed { .. } | Ending::Lost { .. } => 0,
        }
    }
}

/// Brings results and the log lines that belong to them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CompleteRequest {
    /// Who.
    pub worker: Uuid,
    /// The results.
    pub datums: Vec<DatumReport>,
    /// What user code printed.
    pub logs: Vec<SentLine>,
}

/// What was taken.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct CompleteAnswer {
    /// How many results counted; the others' leases had run out.
    pub accepted: u64,
}

/// Says which services a worker keeps running, and asks which it should.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ServicesRequest {
    /// Who.
    pub worker: Uuid,
    /// All that it runs, and those that ended since it was last told to run them.
    pub services: Vec<ServiceReport>,
    /// The isolation that the worker runs code under.
    pub isolation: String,
    /// How long the plane may wait for something else to be wanted, milliseconds.
    pub wait_ms: u64,
}

/// A spout's command asked for a commit, whose files are stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CommitRequest {
    /// Who.
    pub worker: Uuid,
    /// The spout's job.
    pub job: JobId,
    /// The run.
    pub run: i32,
    /// Names this commit, however often it is asked for.
    pub request: Uuid,
    /// What the command calls it, however often it starts again.
    pub key: Option<String>,
    /// What the command says.
    pub message: String,
    /// The files, `storage::encode_entries`, hex.
    pub outputs: String,
}

/// The commit that is there now.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CommitAnswer {
    /// Its id.
    pub commit: CommitId,
}

/// A run of a service.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ServiceReport {
    /// Its job.
    pub job: JobId,
    /// The run.
    pub run: i32,
    /// How it is.
    pub standing: ServiceStanding,
}

/// How a run of a service is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum ServiceStanding {
    /// Nothing listens at its port yet.
    Starting,
    /// It runs, and has no port: a spout.
    Running,
    /// It does.
    Answering {
        /// Where connections to it are had.
        door: Entrance,
    },
    /// It ended by itself.
    Ended {
        /// Why, for people.
        reason: String,
        /// With which code.
        exit_code: Option<i32>,
    },
}

/// What an agent answers the plane that said its word, when the service was connected to; anything else when it was not.
pub const CONNECTED: u8 = 1;

/// Where connections to a service are had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entrance {
    /// A socket on the plane's own machine that hands them out (`sandbox::connect`).
    Socket(PathBuf),
    /// The agent of a pod, which passes on what comes from the plane ([`super::capability::door_word`]).
    Agent(SocketAddr),
}

/// All services that a worker should keep running, and no others.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ServicesAnswer {
    /// Those.
    pub services: Vec<ServiceTask>,
}

/// A service to run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ServiceTask {
    /// Its job.
    pub job: JobTask,
    /// Its one datum; its `run` tells starts apart.
    pub datum: DatumTask,
    /// The port that it listens at inside; a spout has none.
    pub port: Option<u16>,
    /// The key of a spout's newest commit that has one.
    #[serde(default)]
    pub last_key: Option<String>,
}
