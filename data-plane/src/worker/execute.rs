//! Runs one datum: lays out its inputs, starts the command in its sandbox, keeps what it prints, and says how it ended.
//! Whether the end is the user's fault is decided here: only that costs a try.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chassis::Environment;
use chrono::{DateTime, Utc};
use contract::ids::LeaseId;
use sandbox::{Exit, Isolation, Launcher, Limits, Network, Outcome, Run, Running, Stdin};
use storage::Storage;

use super::cache::Cache;
use super::desk::{JobShared, Queued, Stop};
use super::environment::variables;
use super::image::{self, InImage};
use super::inputs::{self, Place, Seen};
use super::lazy::{Blocks, Mounts};
use super::output::{Outbox, RunLog};
use super::pod::{self, Ordered, Pod};
use super::protocol::{DatumTask, JobTask, WorkerConfig};
use super::secrets;
use crate::images::Store;

/// What all datums of a worker share.
pub struct Bench {
    /// The configuration.
    pub config: WorkerConfig,
    /// What runs datums.
    pub runner: Runner,
    /// How code is kept apart from the host. In a pod the container does that.
    pub isolation: Isolation,
    /// The bucket.
    pub storage: Storage,
    /// Inputs on this machine.
    pub cache: Arc<Cache>,
    /// Contents of lazy inputs.
    pub blocks: Arc<Blocks>,
    /// Images on this machine.
    pub images: Arc<Store>,
    /// Lines to send.
    pub outbox: Outbox,
    /// The clock.
    pub environment: Environment,
    /// Where datums are laid out.
    pub datums: PathBuf,
}

/// What runs datums.
pub enum Runner {
    /// A sandbox of this machine for each.
    Sandbox,
    /// The other container of this pod.
    Pod(Pod),
}

impl Bench {
    /// What jobs' records call the isolation.
    pub fn isolation_word(&self) -> &'static str {
        match self.runner {
            Runner::Sandbox => self.isolation.as_str(),
            Runner::Pod(_) => pod::ISOLATION,
        }
    }

    /// Where something of that name is laid out.
    pub fn place(&self, unique: &str) -> Place {
        let place = Place::below(&self.datums, unique);
        match &self.runner {
            Runner::Sandbox => place,
            Runner::Pod(pod) => place.shared(pod.pfs()),
        }
    }
}

/// The end of a datum that nobody wants any more.
pub(super) const OVER: &str = "its job ended, or its lease was lost";
/// The signal of a process that writes beyond the limit of a file's size.
const FILE_TOO_LARGE: i32 = nix::sys::signal::Signal::SIGXFSZ as i32;
/// So long after its time limit is a command killed for sure, and that often are its reads ended from then on.
const LATE: Duration = Duration::from_secs(1);
const CUT_EVERY: Duration = Duration::from_millis(200);
const SHELL_FILE_TOO_LARGE: i32 = 128 + FILE_TOO_LARGE;
/// Bytes that a datum may leave in its outputs, and write into one file, when the spec says nothing.
pub(super) const DISK_BYTES_DEFAULT: u64 = 64 << 30;

impl JobShared {
    /// Bytes that one datum's outputs may have, together and so in each file.
    pub fn disk_bytes_max(&self) -> u64 {
        self.task.disk_bytes.unwrap_or(DISK_BYTES_DEFAULT)
    }
}

/// How user code ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunEnd {
    /// Well.
    Succeeded,
    /// `err_cmd` took care of it.
    Recovered,
    /// Not well.
    Failed(String),
    /// Not the user's fault.
    Lost(String),
}

/// A datum that ran; its outputs lie in `place` still.
pub struct Ran {
    /// The job.
    pub job: Arc<JobShared>,
    /// The datum.
    pub datum: DatumTask,
    /// The lease.
    pub lease: LeaseId,
    /// Says when nobody wants it any more.
    pub stop: Stop,
    /// Where it ran.
    pub place: Place,
    /// What it saw.
    pub seen: Vec<Seen>,
    /// What is shown elsewhere than below `/pfs`.
    pub shown: Vec<(PathBuf, String)>,
    /// Its lazy inputs, until its code has ended.
    pub lazy: Mounts,
    /// Bytes of inputs that were brought.
    pub bytes_in: u64,
    /// How it ended.
    pub end: RunEnd,
    /// Exit code of the command.
    pub exit_code: Option<i32>,
    /// Bringing inputs.
    pub download: Duration,
    /// User code.
    pub process: Duration,
    /// When it was begun.
    pub started_at: DateTime<Utc>,
    /// Peak memory, bytes.
    pub memory_bytes: u64,
    /// Processor time.
    pub cpu: Duration,
}

/// Runs a datum; never fails, what goes wrong is in `end`.
pub async fn run(bench: &Bench, launcher: &Arc<Launcher>, queued: Queued) -> Ran {
    let Queued {
        job,
        datum,
        lease,
        stop,
    } = queued;
    // One lease has datums of several jobs, each counting its positions from 0.
    let unique = format!(
        "{}-{}-{}",
        lease.uuid().simple(),
        datum.job.uuid().simple(),
        datum.position
    );
    let place = bench.place(&unique);
    let mut ran = Ran {
        started_at: bench.environment.now(),
        job,
        datum,
        lease,
        stop: stop.clone(),
        place,
        seen: Vec::new(),
        shown: Vec::new(),
        lazy: Mounts::default(),
        bytes_in: 0,
        end: RunEnd::Succeeded,
        exit_code: None,
        download: Duration::ZERO,
        process: Duration::ZERO,
        memory_bytes: 0,
        cpu: Duration::ZERO,
    };
    let began = Instant::now();
    let log_datum = ran.datum.clone();
    let shared = Arc::clone(&ran.job);
    let log = RunLog::new(&bench.outbox, &bench.environment, &log_datum, &shared.masks);
    let laid_out = tokio::select! {
        biased;
        () = stop.over() => Err(RunEnd::Lost(OVER.to_owned())),
        laid_out = prepare(bench, &mut ran, &log) => laid_out,
    };
    ran.download = began.elapsed();
    ran.started_at = bench.environment.now();
    ran.end = match laid_out {
        Ok(image) => command((bench, launcher), &mut ran, image.as_ref(), &log).await,
        Err(end) => end,
    };
    let lazy = std::mem::take(&mut ran.lazy);
    ran.bytes_in += lazy.read_bytes();
    lazy.unmount().await;
    log.close();
    ran
}

/// The image and the inputs.
async fn prepare(bench: &Bench, ran: &mut Ran, log: &RunLog<'_>) -> Result<Option<InImage>, RunEnd> {
    if let Runner::Pod(pod) = &bench.runner {
        return prepare_pod((bench, pod), ran).await.map(|()| None);
    }
    let image = match &ran.job.task.image {
        Some(task) => Some(image::prepare(bench, &ran.job.task, task, log).await?),
        None => None,
    };
    lay_out(bench, ran, log)
        .await
        .map_err(|error| RunEnd::Lost(error.to_string()))?;
    Ok(image)
}

/// The image is what the pod is made of.
async fn prepare_pod((bench, pod): (&Bench, &Pod), ran: &mut Ran) -> Result<(), RunEnd> {
    if let Some(reason) = pod::refusal(&ran.job) {
        return Err(RunEnd::Failed(reason.to_owned()));
    }
    let lost = |error: inputs::InputError| RunEnd::Lost(error.to_string());
    ran.place.turn = pod.turn().await;
    ran.seen = inputs::seen(&bench.storage, &ran.job.trees, &ran.datum)
        .await
        .map_err(lost)?;
    let names = below_pfs(&ran.job, &ran.datum);
    pod.lay_out(&bench.cache, &ran.job, &names, &ran.seen)
        .await
        .map_err(lost)?;
    ran.bytes_in = ran.seen.iter().filter(|one| !one.empty).map(|one| one.file.size).sum();
    Ok(())
}

async fn lay_out(bench: &Bench, ran: &mut Ran, log: &RunLog<'_>) -> Result<(), inputs::InputError> {
    ran.seen = inputs::seen(&bench.storage, &ran.job.trees, &ran.datum).await?;
    // Without namespaces user code could change the cache through a link.
    let copy = bench.isolation == Isolation::Plain;
    let rest = ran.lazy.mount(&bench.blocks, &ran.place, &ran.seen, log).await;
    let mut names = names(&ran.job, &ran.datum);
    names.retain(|name| !ran.lazy.has(name));
    inputs::lay_out(&bench.cache, &ran.place, &names, &rest, copy).await?;
    ran.bytes_in = rest.iter().filter(|one| !one.empty).map(|one| one.file.size).sum();
    ran.shown = shown(&ran.job, &ran.place);
    Ok(())
}

/// What is shown elsewhere than below `/pfs`: code of a repo.
pub(super) fn shown(job: &JobShared, place: &Place) -> Vec<(PathBuf, String)> {
    code(job, place).into_iter().collect()
}

/// Whom user code runs as, if that is somebody else.
fn user(bench: &Bench) -> Option<u32> {
    let root = bench.isolation == Isolation::Root || nix::unistd::geteuid().is_root();
    root.then_some(bench.config.sandbox_uid)
}

/// The inputs that the datum has, each once.
pub(super) fn names(job: &JobShared, datum: &DatumTask) -> Vec<String> {
    let mut names: Vec<String> = datum
        .inputs
        .iter()
        .filter_map(|input| job.trees.get(input.position as usize))
        .map(|tree| tree.name.clone())
        .collect();
    names.sort();
    names.dedup();
    names
}

/// Whether an input is shown at `/code`.
pub(super) fn is_code(job: &JobShared, name: &str) -> bool {
    job.trees.iter().any(|tree| tree.code.is_some() && tree.name == name)
}

/// The names of the inputs that are shown below `/pfs`.
fn below_pfs(job: &JobShared, datum: &DatumTask) -> Vec<String> {
    let mut names = names(job, datum);
    let is_code = |name: &String| is_code(job, name);
    names.retain(|name| !is_code(name));
    names
}

/// What is shown at `/code`: the directory of the spec, or of the file that it names.
fn code(job: &JobShared, place: &Place) -> Option<(PathBuf, String)> {
    let (tree, path) = job.trees.iter().find_map(|tree| Some((tree, tree.code.as_ref()?)))?;
    let laid_out = place.pfs.join(&tree.name).join(path.trim_start_matches('/'));
    let shown = match laid_out.is_dir() {
        true => laid_out,
        false => laid_out.parent()?.to_owned(),
    };
    Some((shown, "/code".to_owned()))
}

/// The command, and `err_cmd` if that fails.
async fn command(
    (bench, launcher): (&Bench, &Arc<Launcher>),
    ran: &mut Ran,
    image: Option<&InImage>,
    log: &RunLog<'_>,
) -> RunEnd {
    let task = &ran.job.task;
    let (cmd, stdin) = (image.map_or(&task.cmd, |image| &image.cmd).clone(), task.stdin.clone());
    let (err_cmd, err_stdin) = (task.err_cmd.clone(), task.err_stdin.clone());
    if let Some(reason) = &task.refused {
        return RunEnd::Failed(reason.clone());
    }
    let outcome = match start((bench, launcher), (ran, image), cmd, &stdin, log).await {
        Ok(outcome) => outcome,
        Err(reason) => return RunEnd::Lost(reason),
    };
    ran.process = outcome.wall;
    ran.cpu = outcome.cpu;
    ran.memory_bytes = outcome.max_rss_bytes;
    // It was killed by us, or might as well have been: no reason for `err_cmd`.
    if ran.stop.is_over() {
        return RunEnd::Lost(OVER.to_owned());
    }
    if let Exit::Code(code) = outcome.exit {
        ran.exit_code = Some(code);
        if provenance::jobs::accepts(code, &ran.job.task.accept_return_code) {
            return RunEnd::Succeeded;
        }
    }
    let reason = match failure(&outcome.exit, &ran.job) {
        Ok(reason) => reason,
        Err(lost) => return RunEnd::Lost(lost),
    };
    if err_cmd.is_empty() {
        return RunEnd::Failed(reason);
    }
    match start((bench, launcher), (ran, image), err_cmd, &err_stdin, log).await {
        Ok(Outcome {
            exit: Exit::Code(0),
            wall,
            cpu,
            max_rss_bytes,
            ..
        }) => {
            ran.process += wall;
            ran.cpu += cpu;
            ran.memory_bytes = ran.memory_bytes.max(max_rss_bytes);
            RunEnd::Recovered
        }
        Ok(_) => RunEnd::Failed(reason),
        Err(lost) => RunEnd::Lost(lost),
    }
}

/// Why user code failed, in words, or (as the error) why it was not its fault.
pub(super) fn failure(exit: &Exit, job: &JobShared) -> Result<String, String> {
    let task: &JobTask = &job.task;
    match exit {
        Exit::Code(126 | 127) => Ok(format!(
            "`{}` could not be started: look at its log, and check that the program exists {}",
            task.cmd.first().map_or("what the image runs", String::as_str),
            if task.image.is_some() {
                "in the image"
            } else {
                "on this machine"
            }
        )),
        // A shell says so of the program that it ran.
        Exit::Signal(FILE_TOO_LARGE) | Exit::Code(SHELL_FILE_TOO_LARGE) => Ok(format!(
            "wrote a file larger than resource_limits.disk admits, {} bytes: write less per datum, or raise it",
            job.disk_bytes_max()
        )),
        Exit::Code(code) => Ok(format!("exit code {code}")),
        Exit::Signal(signal) => Ok(format!("ended by signal {signal}")),
        Exit::TimedOut => Ok(format!(
            "ran longer than datum_timeout, {} s",
            task.datum_timeout_ms.unwrap_or(0) as f64 / 1000.0
        )),
        Exit::MemoryExceeded => Ok("took more memory than resource_limits.memory admits".to_owned()),
        Exit::Refused(reason) => Ok(reason.clone()),
        Exit::SandboxFailed(reason) => Err(reason.clone()),
    }
}

/// Starts one command and waits until nothing of it is left and everything that it printed is kept. One that nobody wants
/// any more is not started, or killed.
async fn start(
    (bench, launcher): (&Bench, &Arc<Launcher>),
    (ran, image): (&Ran, Option<&InImage>),
    cmd: Vec<String>,
    stdin: &[String],
    log: &RunLog<'_>,
) -> Result<Outcome, String> {
    if ran.stop.is_over() {
        return Err(OVER.to_owned());
    }
    if let Runner::Pod(pod) = &bench.runner {
        let ordered = Ordered {
            argv: cmd,
            stdin,
            env: Vec::new(),
            lasts: false,
        };
        return pod.run((&ran.job, &ran.datum), ordered, log, ran.stop.over()).await;
    }
    let mut run = sandbox_run(bench, (&ran.job, &ran.datum, &ran.place), image, cmd, stdin);
    run.shown.clone_from(&ran.shown);
    let spawned = if ran.lazy.is_empty() {
        let launcher = Arc::clone(launcher);
        tokio::task::spawn_blocking(move || launcher.spawn(&run)).await
    } else {
        // One that was kept ready has the mounts of the time at which it was started.
        let (binary, isolation) = (bench.config.sandbox_binary.clone(), bench.isolation);
        tokio::task::spawn_blocking(move || sandbox::spawn(&binary, isolation, &run)).await
    };
    let running = spawned.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
    let over = async {
        tokio::select! {
            () = ran.stop.over() => {}
            () = cut_when_late(ran) => {}
        }
    };
    attend(running, log, ran.lazy.end_after(over)).await
}

/// Ends reads of lazy inputs once the command was killed for its time: it dies when they return. Never returns itself.
async fn cut_when_late(ran: &Ran) {
    if let Some(limit) = ran.job.task.datum_timeout_ms.filter(|_| !ran.lazy.is_empty()) {
        tokio::time::sleep(Duration::from_millis(limit) + LATE).await;
        loop {
            ran.lazy.cut();
            tokio::time::sleep(CUT_EVERY).await;
        }
    }
    std::future::pending::<()>().await;
}

/// Waits until nothing of a command is left and everything that it printed is kept; kills it when `over` returns.
///
/// # Errors
/// When it cannot be waited for.
pub(super) async fn attend(
    mut running: Running,
    log: &RunLog<'_>,
    over: impl Future<Output = ()>,
) -> Result<Outcome, String> {
    // What cannot be killed must not run: it is dropped here, which ends it.
    let killer = running.killer().map_err(|e| e.to_string())?;
    let (stdout, stderr) = (running.stdout.take(), running.stderr.take());
    let ended = tokio::task::spawn_blocking(move || running.wait());
    let out = async {
        if let Some(Ok(from)) = stdout.map(tokio::process::ChildStdout::from_std) {
            log.drain("stdout", from).await;
        }
    };
    let err = async {
        if let Some(Ok(from)) = stderr.map(tokio::process::ChildStderr::from_std) {
            log.drain("stderr", from).await;
        }
    };
    let all = async { tokio::join!(ended, out, err) };
    tokio::pin!(all);
    let (ended, (), ()) = tokio::select! {
        ended = &mut all => ended,
        () = over => {
            killer.kill();
            all.await
        }
    };
    ended.map_err(|e| e.to_string())
}

/// A command over a datum, as the sandbox is told.
pub(super) fn sandbox_run(
    bench: &Bench,
    (job, datum, place): (&JobShared, &DatumTask, &Place),
    image: Option<&InImage>,
    command: Vec<String>,
    stdin: &[String],
) -> Run {
    let task = &job.task;
    let config = &bench.config;
    Run {
        command,
        stdin: if stdin.is_empty() {
            Stdin::Empty
        } else {
            Stdin::Bytes(
                stdin
                    .iter()
                    .flat_map(|line| [line.as_bytes(), b"\n"])
                    .flatten()
                    .copied()
                    .collect(),
            )
        },
        env: {
            let image = image.map(InImage::env).unwrap_or_default();
            image.into_iter().chain(variables(job, datum)).collect()
        },
        working_dir: task.working_dir.clone().or_else(|| image.map(InImage::working_dir)),
        pfs: place.pfs.clone(),
        inputs: below_pfs(job, datum),
        shown: Vec::new(),
        secrets: secrets::files(&task.secrets),
        scratch: place.scratch.clone(),
        uid_gid: user(bench).map(|id| (id, id)),
        masked: config.masked.clone(),
        visible: Vec::new(),
        network: if task.network { Network::Host } else { Network::None },
        port: None,
        limits: Limits {
            wall: task.datum_timeout_ms.map(Duration::from_millis),
            memory: task.memory_bytes,
            file_size: Some(job.disk_bytes_max()),
            ..Limits::default()
        },
        image: image.map(|image| image.root(place)),
    }
}
