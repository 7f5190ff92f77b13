//! What a worker asks for (`Run`) and what it gets back (`Outcome`): plain values, no effects.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One command to run over one datum.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// Program and arguments; the program is looked up in `PATH` unless it holds a `/`.
    pub command: Vec<String>,
    pub stdin: Stdin,
    /// The whole environment of the command besides `PATH`, `HOME` and `LANG`, which it may override.
    pub env: Vec<(String, String)>,
    /// A path as the command sees it; `/tmp` when absent.
    pub working_dir: Option<String>,
    /// Host directory that holds one entry per input and the directory `out`.
    pub pfs: PathBuf,
    /// Names of the inputs to show, each an entry of `pfs`. Files must be readable by the id the command runs as.
    pub inputs: Vec<String>,
    /// Host directory that becomes `/tmp`; must be empty and of this datum alone.
    pub scratch: PathBuf,
    /// The id the command runs as when the caller is root (one per organization, never 0; default: nobody).
    pub uid_gid: Option<(u32, u32)>,
    /// Host directories the command must not see even below a directory it sees: the service's state above all.
    pub masked: Vec<PathBuf>,
    /// Further host paths to show read-only, for programs outside the usual system directories; not below `/tmp`.
    pub visible: Vec<PathBuf>,
    /// Directories and files of this datum alone to show read-only elsewhere than below `/pfs`: host path, and a path that
    /// nothing of the host is shown at. Without namespaces they cannot be.
    pub shown: Vec<(PathBuf, String)>,
    /// Files that stand in memory alone, each list in a directory of its own. Without namespaces they cannot be.
    pub secrets: Vec<SecretFiles>,
    pub network: Network,
    /// A port that the command listens at, to be reached from outside by `connect`.
    pub port: Option<Port>,
    pub limits: Limits,
    /// The root directory that the command sees instead of the host's programs; then nothing can be `visible`.
    pub image: Option<Image>,
}

/// The unpacked file system of a container image, which any number of runs may share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Prepared by `prepare_rootfs`, and owned by the id that the code runs as. Never written to.
    pub rootfs: PathBuf,
    /// Host directory that keeps what the command writes anywhere but below `/tmp` and `/pfs/out`; must be empty and of this
    /// datum alone. Where the kernel makes no overlay of the two the command cannot write there.
    pub writes: PathBuf,
    /// The user and group id that the command sees itself as; outside it is `Run::uid_gid` or the ordinary user.
    pub user: (u32, u32),
}

/// A port inside, and where outside connections to it are handed out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// The port of the command's own loopback.
    pub number: u16,
    /// Host path of the socket that is made; its directory must be one that the command does not see.
    pub socket: PathBuf,
}

/// Files that only the command may read and nobody is shown.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretFiles {
    /// The directory, a path that nothing of the host is shown at.
    pub directory: String,
    /// Names and contents.
    pub files: Vec<(String, String)>,
}

impl std::fmt::Debug for SecretFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} files in {}", self.files.len(), self.directory)
    }
}

/// Where the command's standard input comes from.
#[derive(Clone, Debug, Default)]
pub enum Stdin {
    #[default]
    Empty,
    Bytes(Vec<u8>),
    /// A file of the host.
    File(PathBuf),
}

/// Which network the command has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// A loopback of its own and nothing else.
    #[default]
    None,
    /// The host's network.
    Host,
}

/// Upper bounds; `None` means unlimited, except `processes`, which has a default wherever it can be counted per run.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Limits {
    /// Wall time from the start of the command.
    pub wall: Option<Duration>,
    /// Bytes of address space per process (`RLIMIT_AS`): an allocation fails, nothing is killed.
    pub address_space: Option<u64>,
    /// Bytes of memory of all processes together; beyond it everything is killed.
    pub memory: Option<u64>,
    /// Processes and threads together.
    pub processes: Option<u64>,
    /// Bytes of one written file (`RLIMIT_FSIZE`).
    pub file_size: Option<u64>,
    /// Open files per process.
    pub open_files: Option<u64>,
}

/// How a run ended and what it used.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    pub exit: Exit,
    /// User and system time of all processes of the run.
    pub cpu: Duration,
    /// The largest resident set of one process of the run.
    pub max_rss_bytes: u64,
    /// From the start of the command to its end.
    pub wall: Duration,
}

/// The way a run ended. Only `SandboxFailed` is not the user's affair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// The command ended by itself; 126 and 127 also mean that it could not be started, as in a shell.
    Code(i32),
    /// A signal ended the command; 9 after `Running::kill`.
    Signal(i32),
    TimedOut,
    MemoryExceeded,
    /// What was asked for cannot be done with that image, whenever it is tried.
    Refused(String),
    /// The sandbox could not be set up, or was itself killed: the message names the step.
    SandboxFailed(String),
}
