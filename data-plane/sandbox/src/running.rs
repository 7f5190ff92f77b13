//! Starts `howdah-sandbox` for one `Run` and waits for its report. The worker keeps one end of a socket that is the
//! sandbox's standard input: when that end closes, by `kill` or by the worker's death, everything inside is killed.

use std::fmt;
use std::io::{self, Read};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::inside::Shape;
use crate::isolation::Isolation;
use crate::run::{Exit, Image, Network, Outcome, Run, Stdin};
use crate::wire::{self, End, Report, Spec, StdinSpec};
use crate::{inside, plain};

/// Who runs the code when a root caller names nobody: `nobody`.
const DEFAULT_ID: (u32, u32) = (65534, 65534);
/// Directories of which every run has its own: nothing of the host can be shown there.
const OWN_DIRECTORIES: [&str; 5] = ["/tmp", "/var/tmp", "/pfs", "/proc", "/dev"];
/// How long after the wall limit the sandbox may take to report before it is killed from outside.
const REPORT_GRACE: Duration = Duration::from_secs(10);

/// Why nothing was started.
#[derive(Debug)]
pub enum SpawnError {
    /// The `Run` is wrong: the message says what and what to do.
    BadRun(String),
    /// `howdah-sandbox` or `bwrap` could not be started.
    Start { program: PathBuf, source: io::Error },
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadRun(message) => f.write_str(message),
            Self::Start { program, source } => write!(f, "cannot start `{}`: {source}", program.display()),
        }
    }
}

impl std::error::Error for SpawnError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::BadRun(_) => None,
            Self::Start { source, .. } => Some(source),
        }
    }
}

/// A command inside its sandbox. Take `stdout` and `stderr` and drain both, or the command blocks on a full pipe.
/// Dropping it kills everything inside.
#[derive(Debug)]
pub struct Running {
    pub stdout: Option<ChildStdout>,
    pub stderr: Option<ChildStderr>,
    child: Child,
    socket: UnixStream,
    killed: Arc<AtomicBool>,
    waited: bool,
    patience: Option<Duration>,
}

/// Kills a `Running` from another thread than the one that waits for it.
#[derive(Debug)]
pub struct Killer {
    socket: UnixStream,
    killed: Arc<AtomicBool>,
}

impl Killer {
    /// Kills everything inside; harmless after the end.
    pub fn kill(&self) {
        self.killed.store(true, Ordering::SeqCst);
        // Only fails when the other end is gone already.
        let _ = self.socket.shutdown(Shutdown::Write);
    }
}

/// Starts `run` under `isolation` (from `probe`) through the binary `howdah-sandbox` at `sandbox_binary`.
pub fn spawn(sandbox_binary: &Path, isolation: Isolation, run: &Run) -> Result<Running, SpawnError> {
    let (mut spec, stdin) = specify(isolation, run)?;
    let started = start(sandbox_binary, isolation, &mut spec)?;
    // One that ended already says why when it is waited for.
    Ok(started.hand_over(&spec, &stdin).unwrap_or_else(|(running, _)| running))
}

/// Starts runs faster than `spawn`: it keeps one empty sandbox waiting, so that starting processes and making most
/// namespaces is done while the run before goes on. Of use to a worker that does one datum after another.
#[derive(Debug)]
pub struct Launcher {
    binary: PathBuf,
    isolation: Isolation,
    waiting: Mutex<Option<(Shape, Started)>>,
}

impl Launcher {
    /// Starts nothing yet: the first run says what to keep ready.
    pub fn new(sandbox_binary: PathBuf, isolation: Isolation) -> Self {
        Self {
            binary: sandbox_binary,
            isolation,
            waiting: Mutex::default(),
        }
    }

    /// As `spawn`.
    pub fn spawn(&self, run: &Run) -> Result<Running, SpawnError> {
        let (mut spec, stdin) = specify(self.isolation, run)?;
        if self.isolation == Isolation::Bubblewrap {
            // All of its specification is in its arguments.
            return spawn(&self.binary, self.isolation, run);
        }
        let shape = Shape {
            network: spec.network,
            memory: spec.limits.memory,
        };
        let ready = self.exchange(None).filter(|(ready, _)| *ready == shape);
        // One that was killed while it waited refuses the specification.
        let running = match ready.map(|(_, started)| started.hand_over(&spec, &stdin)) {
            Some(Ok(running)) => running,
            Some(Err(_)) | None => {
                let started = start(&self.binary, self.isolation, &mut spec)?;
                started.hand_over(&spec, &stdin).unwrap_or_else(|(running, _)| running)
            }
        };
        // A failure here will be the next run's.
        if let Ok(next) = start(&self.binary, self.isolation, &mut spec) {
            drop(self.exchange(Some((shape, next))));
        }
        Ok(running)
    }

    fn exchange(&self, next: Option<(Shape, Started)>) -> Option<(Shape, Started)> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *waiting, next)
    }
}

/// A sandbox that waits for its specification. Ends when dropped, as `Running` does.
#[derive(Debug)]
struct Started(Running);

impl Started {
    /// Sends the specification. An error means that the sandbox ended already; its report or silence tells why.
    fn hand_over(mut self, spec: &Spec, stdin: &[u8]) -> Result<Running, (Running, io::Error)> {
        self.0.patience = spec.limits.wall.map(|wall| wall.saturating_add(REPORT_GRACE));
        match wire::send(&mut self.0.socket, spec, stdin) {
            Ok(()) => Ok(self.0),
            Err(source) => Err((self.0, source)),
        }
    }
}

fn start(binary: &Path, isolation: Isolation, spec: &mut Spec) -> Result<Started, SpawnError> {
    let shape = Shape {
        network: spec.network,
        memory: spec.limits.memory,
    };
    let mut command = match isolation {
        Isolation::Bubblewrap => inside::bubblewrap(binary, spec),
        _ => inside::arguments(binary, isolation, shape),
    };
    let program = PathBuf::from(command.get_program());
    let start_error = |source| SpawnError::Start {
        program: program.clone(),
        source,
    };
    let (socket, theirs) = UnixStream::pair().map_err(start_error)?;
    command
        .env_clear()
        .env(inside::ONE_ARENA.0, inside::ONE_ARENA.1)
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // Afterwards the command goes, and with it our copy of the far end: else the sandbox's end would never be seen.
    let mut child = command.spawn().map_err(start_error)?;
    Ok(Started(Running {
        stdout: child.stdout.take(),
        stderr: child.stderr.take(),
        child,
        socket,
        killed: Arc::default(),
        waited: false,
        patience: None,
    }))
}

impl Running {
    /// A handle that can kill this run from elsewhere.
    pub fn killer(&self) -> io::Result<Killer> {
        Ok(Killer {
            socket: self.socket.try_clone()?,
            killed: Arc::clone(&self.killed),
        })
    }

    /// Kills everything inside; `wait` then says `Signal(9)`.
    pub fn kill(&self) {
        self.killed.store(true, Ordering::SeqCst);
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    /// Blocks until nothing of the run is left.
    pub fn wait(mut self) -> Outcome {
        let (text, status) = self.await_end(self.patience);
        let fallback = match status {
            _ if self.killed.load(Ordering::SeqCst) => Exit::Signal(9),
            Ok(status) => Exit::SandboxFailed(format!("the sandbox ended without a report ({status})")),
            Err(source) => Exit::SandboxFailed(format!("the sandbox could not be waited for: {source}")),
        };
        outcome(&text, fallback)
    }

    /// Reads reports until the sandbox is gone, and ends it if that takes longer than `patience`.
    fn await_end(&mut self, patience: Option<Duration>) -> (Vec<u8>, io::Result<ExitStatus>) {
        let mut text = Vec::new();
        // A duration of zero would be an error, and cannot occur: the grace is in it.
        let _ = self.socket.set_read_timeout(patience);
        if self.socket.read_to_end(&mut text).is_err() {
            // The sandbox is stuck (or the socket broke): its death takes everything inside along.
            let _ = self.child.kill();
        }
        self.waited = true;
        (text, self.child.wait())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.waited {
            self.kill();
            // Nobody asks how it ended.
            drop(self.await_end(Some(REPORT_GRACE)));
        }
    }
}

/// Reads the report lines; `fallback` when there is none.
fn outcome(text: &[u8], fallback: Exit) -> Outcome {
    let mut outcome = Outcome {
        exit: fallback,
        cpu: Duration::ZERO,
        max_rss_bytes: 0,
        wall: Duration::ZERO,
    };
    let mut out_of_memory = false;
    for line in text.split(|byte| *byte == b'\n') {
        match serde_json::from_slice(line) {
            Ok(Report::Finished {
                end,
                cpu_us,
                max_rss_bytes,
                wall_us,
            }) => {
                outcome.cpu = Duration::from_micros(cpu_us);
                outcome.wall = Duration::from_micros(wall_us);
                outcome.max_rss_bytes = max_rss_bytes;
                outcome.exit = match end {
                    End::Code(code) => Exit::Code(code),
                    End::Signal(signal) => Exit::Signal(signal),
                    End::TimedOut => Exit::TimedOut,
                    End::MemoryExceeded => Exit::MemoryExceeded,
                };
            }
            Ok(Report::OutOfMemory) => out_of_memory = true,
            Ok(Report::Failed(message)) => outcome.exit = Exit::SandboxFailed(message),
            Ok(Report::Refused(message)) => outcome.exit = Exit::Refused(message),
            // The empty rest after the last line, or a line cut off by a kill.
            Err(_) => {}
        }
    }
    // Also when the command survived the loss of a child and ended well: its output depends on what was killed.
    if out_of_memory {
        outcome.exit = Exit::MemoryExceeded;
    }
    outcome
}

/// Without namespaces there is no way to put anything anywhere.
fn can_show(isolation: Isolation, run: &Run) -> Result<(), SpawnError> {
    if isolation == Isolation::Plain && !(run.shown.is_empty() && run.secrets.is_empty()) {
        return Err(SpawnError::BadRun(
            "without namespaces nothing can be shown elsewhere than below /pfs: run this on a machine that has them"
                .to_owned(),
        ));
    }
    check_port(isolation, run)
}

/// A port is told apart from those of the host by a network of its own only.
fn check_port(isolation: Isolation, run: &Run) -> Result<(), SpawnError> {
    let own_network = matches!(isolation, Isolation::Root | Isolation::UserNamespace) && run.network == Network::None;
    if run.port.is_none() || own_network {
        return Ok(());
    }
    Err(SpawnError::BadRun(format!(
        "a port is reached in a network of its own, which isolation `{}` or the network of the spec does not give: `howdah doctor` says what this machine allows",
        isolation.as_str()
    )))
}

/// Checks a `Run` and makes its paths absolute.
fn specify(isolation: Isolation, run: &Run) -> Result<(Spec, Vec<u8>), SpawnError> {
    can_show(isolation, run)?;
    let bad = |message: String| SpawnError::BadRun(message);
    if run.command.first().is_none_or(String::is_empty) {
        return Err(bad("the command is empty: give `transform.cmd` a program".to_owned()));
    }
    let holds_nul = |text: &String| text.contains('\0');
    if run.command.iter().any(holds_nul) || run.env.iter().any(|(k, v)| holds_nul(k) || holds_nul(v)) {
        return Err(bad(
            "the command or its environment holds a NUL byte: remove it".to_owned()
        ));
    }
    if let Some((name, _)) = run.env.iter().find(|(name, _)| name.is_empty() || name.contains('=')) {
        return Err(bad(format!(
            "`{name}` is no name of an environment variable: it is empty or holds `=`"
        )));
    }
    if let Some(name) = run.inputs.iter().find(|name| !is_input_name(name)) {
        return Err(bad(format!(
            "`{name}` is no name of an input: use one path part other than `out`"
        )));
    }
    if run.uid_gid.is_some_and(|(uid, gid)| uid == 0 || gid == 0) {
        return Err(bad(
            "user code never runs as root: give a user id and a group id other than 0".to_owned(),
        ));
    }
    if let Some(path) = run
        .visible
        .iter()
        .find(|path| OWN_DIRECTORIES.iter().any(|own| path.starts_with(own)))
    {
        return Err(bad(format!(
            "cannot make `{}` visible: {} are the command's own, so put it elsewhere",
            path.display(),
            OWN_DIRECTORIES.join(", ")
        )));
    }
    let pfs = absolute(&run.pfs)?;
    let scratch = absolute(&run.scratch)?;
    let (stdin, mut bytes) = match &run.stdin {
        Stdin::Empty => (StdinSpec::Empty, Vec::new()),
        Stdin::Bytes(bytes) => (StdinSpec::Inline(bytes.len() as u64), bytes.clone()),
        Stdin::File(path) => (StdinSpec::File(absolute(path)?), Vec::new()),
    };
    let mut spec = Spec {
        command: run.command.clone(),
        stdin,
        env: run.env.clone(),
        working_dir: run.working_dir.clone().unwrap_or_else(|| "/tmp".to_owned()),
        inputs: run.inputs.clone(),
        uid_gid: run.uid_gid.unwrap_or(DEFAULT_ID),
        // What does not exist cannot be seen.
        masked: run.masked.iter().filter_map(|path| path.canonicalize().ok()).collect(),
        shown: run.shown.clone(),
        secrets: run.secrets.clone(),
        visible: run.visible.iter().filter_map(|path| path.canonicalize().ok()).collect(),
        network: run.network,
        port: run.port.clone(),
        limits: run.limits,
        image: image_of(isolation, run)?,
        pfs,
        scratch,
    };
    if isolation == Isolation::Plain {
        bytes = without_namespaces(&mut spec, &bytes);
    }
    Ok((spec, bytes))
}

fn absolute(path: &Path) -> Result<PathBuf, SpawnError> {
    path.canonicalize()
        .map_err(|source| SpawnError::BadRun(format!("cannot use directory `{}`: {source}", path.display())))
}

/// Checks a run in an image and makes its paths absolute.
fn image_of(isolation: Isolation, run: &Run) -> Result<Option<Image>, SpawnError> {
    let Some(image) = &run.image else { return Ok(None) };
    if !matches!(isolation, Isolation::Root | Isolation::UserNamespace) {
        return Err(SpawnError::BadRun(format!(
            "an image needs namespaces, and this machine allows isolation `{}` only: see `howdah doctor`",
            isolation.as_str()
        )));
    }
    if !run.visible.is_empty() {
        let why = "nothing of the host can be made visible in an image";
        return Err(SpawnError::BadRun(why.to_owned()));
    }
    Ok(Some(Image {
        rootfs: absolute(&image.rootfs)?,
        writes: absolute(&image.writes)?,
        user: image.user,
    }))
}

/// Points a specification at the host's directories, and returns standard input rewritten likewise.
fn without_namespaces(spec: &mut Spec, stdin: &[u8]) -> Vec<u8> {
    spec.command = spec
        .command
        .iter()
        .map(|argument| plain::rewrite_argument(argument, &spec.pfs))
        .collect();
    spec.working_dir = match spec.working_dir.as_str() {
        "/tmp" => spec.scratch.display().to_string(),
        other => plain::rewrite_argument(other, &spec.pfs),
    };
    let scratch = spec.scratch.display().to_string();
    let mut env = vec![
        ("PFS".to_owned(), spec.pfs.display().to_string()),
        ("HOME".to_owned(), scratch.clone()),
        ("TMPDIR".to_owned(), scratch),
    ];
    env.append(&mut spec.env);
    spec.env = env;
    let stdin = plain::rewrite_bytes(stdin, &spec.pfs);
    if matches!(spec.stdin, StdinSpec::Inline(_)) {
        spec.stdin = StdinSpec::Inline(stdin.len() as u64);
    }
    stdin
}

fn is_input_name(name: &str) -> bool {
    !name.is_empty() && !matches!(name, "." | ".." | "out") && !name.contains(['/', '\0'])
}
