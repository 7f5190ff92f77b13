//! Starts the command, reaps everything, enforces the wall time and the memory limit, and reports. As the first process
//! of its namespace its end is the end of everything in there; elsewhere it adopts and kills its descendants.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use super::{Failure, Setup, Step};
use crate::run::Limits;
use crate::wire::{self, End, Report, Spec, StdinSpec};

const DEFAULT_ENVIRONMENT: [(&str, &str); 3] = [
    ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ("HOME", "/tmp"),
    ("LANG", "C.UTF-8"),
];
/// What fits into a pipe without a reader.
const PIPE_BYTES: usize = 64 << 10;
/// How often memory is measured when there is a limit.
const MEASURE_EVERY: Duration = Duration::from_millis(20);
/// Enough for a loop without recursion, and small because `RLIMIT_AS` counts for us too.
const WATCHER_STACK_BYTES: usize = 128 << 10;
const PAGE_BYTES: u64 = 4096;

/// Why the watcher killed everything.
const NOT_KILLED: u8 = 0;
const TIMED_OUT: u8 = 1;
const MEMORY_EXCEEDED: u8 = 2;
const HUNG_UP: u8 = 3;

/// Which processes belong to the run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// All but this one, the first of its namespace.
    Namespace,
    /// The descendants of this one, which adopts orphans.
    Descendants,
}

/// Standard input, opened while the host is still visible.
pub(super) enum Input {
    File(File),
    Bytes(Vec<u8>),
}

/// Opens what the specification names.
pub(super) fn open_input(stdin: &StdinSpec, inline: Vec<u8>) -> Setup<Input> {
    Ok(match stdin {
        StdinSpec::Empty => Input::Bytes(Vec::new()),
        StdinSpec::Inline(_) => Input::Bytes(inline),
        StdinSpec::File(path) => {
            Input::File(File::open(path).step(|| format!("open standard input `{}`", path.display()))?)
        }
    })
}

/// The supervisor before it starts the command. All its threads run already: user code at its limit of processes, which
/// counts ours too, could else keep them from being started.
pub(super) struct Supervisor<'a> {
    scope: Scope,
    socket: &'a UnixStream,
    stdin: Stdio,
    begin: Sender<Instant>,
    killed: Arc<AtomicU8>,
}

impl<'a> Supervisor<'a> {
    /// Starts the threads that feed and watch the command to come.
    pub(super) fn new(spec: &Spec, input: Input, scope: Scope, socket: &'a UnixStream) -> Setup<Self> {
        let killed = Arc::new(AtomicU8::new(NOT_KILLED));
        let begin = watch(spec.limits, scope, socket, &killed)?;
        Ok(Self {
            scope,
            socket,
            stdin: feed(input)?,
            begin,
            killed,
        })
    }

    /// Runs the command to its end and reports; returns when nothing of the run is left.
    pub(super) fn run(self, spec: &Spec) -> Setup<()> {
        let started = Instant::now();
        let end = match start(spec, self.stdin)? {
            Started::Refused(code) => End::Code(code),
            Started::As(pid) => {
                // Fails only when the watcher is gone, which ends when it killed everything.
                let _ = self.begin.send(started);
                reap_until(pid)?
            }
        };
        let wall = started.elapsed();
        kill_all(self.scope);
        reap_rest(self.scope);
        let end = match self.killed.load(Ordering::SeqCst) {
            TIMED_OUT => End::TimedOut,
            MEMORY_EXCEEDED => End::MemoryExceeded,
            HUNG_UP => End::Signal(Signal::SIGKILL as i32),
            _ => end,
        };
        // The worker may be gone: then nobody asks.
        let _ = wire::report(&mut &*self.socket, &finished(end, wall)?);
        Ok(())
    }
}

/// The report, with what all processes that were reaped used.
fn finished(end: End, wall: Duration) -> Setup<Report> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).step(|| "read resource usage".to_owned())?;
    let microseconds = |time: nix::sys::time::TimeVal| time.tv_sec() * 1_000_000 + time.tv_usec();
    Ok(Report::Finished {
        end,
        cpu_us: u64::try_from(microseconds(usage.user_time()) + microseconds(usage.system_time())).unwrap_or(0),
        // Linux counts kibibytes.
        max_rss_bytes: u64::try_from(usage.max_rss()).unwrap_or(0) * 1024,
        wall_us: u64::try_from(wall.as_micros()).unwrap_or(u64::MAX),
    })
}

/// Makes standard input of bytes, by a thread when a pipe does not hold them.
fn feed(input: Input) -> Setup<Stdio> {
    let bytes = match input {
        Input::File(file) => return Ok(Stdio::from(file)),
        Input::Bytes(bytes) if bytes.is_empty() => return Ok(Stdio::null()),
        Input::Bytes(bytes) => bytes,
    };
    let (reader, mut writer) = std::io::pipe().step(|| "make a pipe".to_owned())?;
    if bytes.len() <= PIPE_BYTES {
        writer.write_all(&bytes).step(|| "fill standard input".to_owned())?;
    } else {
        // A command that does not read its input to the end is no error.
        background(move || drop(writer.write_all(&bytes)))?;
    }
    Ok(Stdio::from(reader))
}

enum Started {
    As(Pid),
    /// The command cannot be run: the exit code a shell would give; the reason went to standard error.
    Refused(i32),
}

fn start(spec: &Spec, stdin: Stdio) -> Setup<Started> {
    let refuse = |code: i32, message: String| {
        let _ = writeln!(std::io::stderr(), "howdah: {message}");
        Ok(Started::Refused(code))
    };
    if spec.image.is_some() {
        // As engines do; what may not be made is told below.
        let _ = fs::create_dir_all(&spec.working_dir);
    }
    if !Path::new(&spec.working_dir).is_dir() {
        return refuse(
            126,
            format!(
                "no working directory `{}`: make it in the image or command",
                spec.working_dir
            ),
        );
    }
    let [program, arguments @ ..] = spec.command.as_slice() else {
        return Err(Failure::Broken("cannot start an empty command".to_owned()));
    };
    let path = spec
        .env
        .iter()
        .rev()
        .find(|(name, _)| name == "PATH")
        .map_or(DEFAULT_ENVIRONMENT[0].1, |(_, path)| path);
    let Some(file) = find_program(program, path) else {
        return refuse(127, format!("no program `{program}` in `{path}`"));
    };
    let mut command = Command::new(&file);
    command
        .args(arguments)
        .env_clear()
        .envs(DEFAULT_ENVIRONMENT)
        .envs(spec.env.iter().map(|(name, value)| (name, value)))
        .current_dir(&spec.working_dir)
        .stdin(stdin);
    match command.spawn() {
        Ok(child) => Ok(Started::As(Pid::from_raw(
            i32::try_from(child.id()).step(|| "number the process".to_owned())?,
        ))),
        Err(error) if error.kind() == ErrorKind::NotFound => refuse(
            127,
            format!("cannot run `{program}`: {error} (or its interpreter is not there)"),
        ),
        Err(error) => refuse(126, format!("cannot run `{program}`: {error}")),
    }
}

/// Looks the program up as a shell would.
fn find_program(program: &str, path: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return Some(PathBuf::from(program));
    }
    let executable = |file: &PathBuf| {
        file.metadata()
            .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    };
    path.split(':')
        .filter(|part| !part.is_empty())
        .map(|part| Path::new(part).join(program))
        .find(executable)
}

/// Starts the thread that watches the life line, the clock and the memory, and kills everything when one of them says
/// so. It begins when it is told when the command was started.
fn watch(limits: Limits, scope: Scope, socket: &UnixStream, killed: &Arc<AtomicU8>) -> Setup<Sender<Instant>> {
    let mut socket = socket.try_clone().step(|| "watch the worker".to_owned())?;
    let killed = Arc::clone(killed);
    let (begin, begun) = channel();
    background(move || {
        let Ok(started): Result<Instant, _> = begun.recv() else {
            return;
        };
        let reason = loop {
            let rest = limits.wall.map(|wall| wall.saturating_sub(started.elapsed()));
            if rest.is_some_and(|rest| rest.is_zero()) {
                break TIMED_OUT;
            }
            let tick = limits.memory.map(|_| MEASURE_EVERY);
            let patience = match (rest, tick) {
                (Some(rest), Some(tick)) => Some(rest.min(tick)),
                (rest, tick) => rest.or(tick),
            };
            let _ = socket.set_read_timeout(patience);
            match socket.read(&mut [0]) {
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                // The worker sends nothing after the specification: this is the end of the line.
                Ok(_) | Err(_) => break HUNG_UP,
            }
            if limits.memory.is_some_and(|limit| memory_bytes(scope) > limit) {
                break MEMORY_EXCEEDED;
            }
        };
        killed.store(reason, Ordering::SeqCst);
        kill_all(scope);
    })?;
    Ok(begin)
}

pub(super) fn background(body: impl FnOnce() + Send + 'static) -> Setup<()> {
    let thread = thread::Builder::new().stack_size(WATCHER_STACK_BYTES).spawn(body);
    thread.map(drop).step(|| "start a thread".to_owned())
}

/// Reaps whatever ends until it is the command.
fn reap_until(command: Pid) -> Setup<End> {
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, code)) if pid == command => return Ok(End::Code(code)),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == command => return Ok(End::Signal(signal as i32)),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).step(|| "wait for the command".to_owned()),
        }
    }
}

/// Reaps what `kill_all` killed, so that its use of the processor is counted.
fn reap_rest(scope: Scope) {
    loop {
        match waitpid(None, None) {
            // Killing a parent makes its children ours: they are the next round.
            Ok(_) if scope == Scope::Descendants => kill_all(scope),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return,
        }
    }
}

/// The processes that this one answers for: of a process namespace whose first it is, all; else its descendants.
fn own_scope() -> Scope {
    match std::process::id() {
        1 => Scope::Namespace,
        _ => Scope::Descendants,
    }
}

/// Kills every process below this one, and when it is the first of a container every other one in there.
pub fn kill_everything() {
    kill_all(own_scope());
}

/// As [`kill_everything`], and waits until they are gone. Not while this process waits for one of them elsewhere.
pub fn end_everything() {
    kill_everything();
    reap_rest(own_scope());
}

fn kill_all(scope: Scope) {
    match scope {
        // Everything this process may signal: from the first of a namespace, all others in it.
        Scope::Namespace => drop(kill(Pid::from_raw(-1), Signal::SIGKILL)),
        Scope::Descendants => {
            for pid in descendants() {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }
}

/// Anonymous memory of all processes of the run: resident pages that no file backs.
fn memory_bytes(scope: Scope) -> u64 {
    let pids = match scope {
        Scope::Namespace => numbers("/proc").into_iter().filter(|pid| *pid != 1).collect(),
        Scope::Descendants => descendants(),
    };
    let anonymous = |pid: i32| -> Option<u64> {
        let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
        let mut fields = statm.split(' ').skip(1).map(|field| field.parse::<u64>().ok());
        let (resident, shared) = (fields.next()??, fields.next()??);
        Some(resident.saturating_sub(shared) * PAGE_BYTES)
    };
    pids.into_iter().filter_map(anonymous).sum()
}

/// All processes below this one.
fn descendants() -> Vec<i32> {
    let mut found = Vec::new();
    let mut next = vec![i32::try_from(std::process::id()).unwrap_or(0)];
    while let Some(parent) = next.pop() {
        for task in numbers(&format!("/proc/{parent}/task")) {
            let children = fs::read_to_string(format!("/proc/{parent}/task/{task}/children")).unwrap_or_default();
            let children = children
                .split_ascii_whitespace()
                .filter_map(|pid| pid.parse::<i32>().ok());
            let before = next.len();
            next.extend(children);
            found.extend_from_slice(&next[before..]);
        }
    }
    found
}

/// The numeric names in a directory.
fn numbers(directory: &str) -> Vec<i32> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect()
}
