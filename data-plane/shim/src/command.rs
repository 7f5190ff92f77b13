//! One command, from its order to the last word about it.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::unistd::geteuid;
use sandbox::{Exit, Isolation, Killer, Outcome, Run, Running, Stdin};

use crate::emptied::{self, Shown};
use crate::outputs::{Allowance, Line, pass_on};
use crate::wire::{Command, Ended, Kind, Report};

/// Who runs user code when this was started by root, as no pod does.
const USER: (u32, u32) = (65532, 65532);
/// This program, which is the supervisor of a command too.
const MYSELF: &str = "/proc/self/exe";
/// Where the kernel counts what it killed at the container's memory limit, of either version of cgroups.
const MEMORY_EVENTS: [&str; 2] = [
    "/sys/fs/cgroup/memory.events",
    "/sys/fs/cgroup/memory/memory.oom_control",
];

/// A command that was ordered.
pub struct Current {
    over: Arc<AtomicBool>,
    handle: Arc<Mutex<Handle>>,
    thread: JoinHandle<()>,
}

/// By what it is killed.
enum Handle {
    /// Nothing runs yet.
    Starting,
    Started(Killer),
    Killed,
}

fn lock(handle: &Mutex<Handle>) -> MutexGuard<'_, Handle> {
    handle.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Current {
    /// Runs it in a thread of its own, which reports its end.
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn start(command: Command, line: Line, scratch: PathBuf) -> io::Result<Self> {
        let (over, handle) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Handle::Starting)));
        let (is_over, mine) = (Arc::clone(&over), Arc::clone(&handle));
        let thread = thread::Builder::new().spawn(move || {
            let allowance = Allowance::new(command.printed_bytes_max);
            let outcome = run(&command, (&line, &allowance), &scratch, &mine);
            // Whatever fails here is found again, and told, before the next one.
            let _ = emptied::empty_all(&scratch);
            *lock(&mine) = Handle::Killed;
            is_over.store(true, Ordering::SeqCst);
            // Nobody may be there to hear it.
            let _ = line.say(&Report::Ended(ended(outcome, &allowance)));
        })?;
        Ok(Self { over, handle, thread })
    }

    /// Whether it is reported, or about to be.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// Kills it with all that belongs to it.
    pub fn kill(&self) {
        let before = std::mem::replace(&mut *lock(&self.handle), Handle::Killed);
        if let Handle::Started(killer) = before {
            killer.kill();
            // The supervisor does so too, unless user code got hold of it.
            sandbox::kill_everything();
        }
    }

    /// Waits until nothing of it is left.
    pub fn join(self) {
        let _ = self.thread.join();
    }
}

fn ended(outcome: Outcome, allowance: &Allowance) -> Ended {
    let microseconds = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    Ended {
        cpu_us: microseconds(outcome.cpu),
        wall_us: microseconds(outcome.wall),
        max_rss_bytes: outcome.max_rss_bytes,
        exit: outcome.exit,
        left_out_bytes: allowance.left_out(),
    }
}

fn failed(reason: String) -> Outcome {
    Outcome {
        exit: Exit::SandboxFailed(reason),
        cpu: Duration::ZERO,
        max_rss_bytes: 0,
        wall: Duration::ZERO,
    }
}

fn run(command: &Command, printed: (&Line, &Allowance), scratch: &Path, handle: &Mutex<Handle>) -> Outcome {
    if let Err(error) = emptied::empty_all(scratch) {
        return failed(format!("`{}` could not be emptied: {error}", scratch.display()));
    }
    let owner = geteuid().is_root().then_some(USER);
    let _shown = match Shown::write(&command.secrets, owner) {
        Ok(shown) => shown,
        Err(reason) => return failed(reason),
    };
    let before = memory_kills();
    let mut outcome = supervise(&as_run(command, scratch, owner), printed, handle).unwrap_or_else(failed);
    // Also when the command survived the loss of a child: its output depends on what was killed.
    if memory_kills() > before {
        outcome.exit = Exit::MemoryExceeded;
    }
    outcome
}

/// Starts it and waits until nothing of it is left.
fn supervise(run: &Run, (line, allowance): (&Line, &Allowance), handle: &Mutex<Handle>) -> Result<Outcome, String> {
    let thread_failed = |error: io::Error| format!("a thread could not be started: {error}");
    thread::scope(|scope| {
        // Before user code runs: it could else keep them from being started.
        let (give_out, out) = channel();
        let (give_err, err) = channel();
        let copy_out = move || copy(&out, Kind::Stdout, line, allowance);
        let copy_err = move || copy(&err, Kind::Stderr, line, allowance);
        thread::Builder::new()
            .spawn_scoped(scope, copy_out)
            .map_err(thread_failed)?;
        thread::Builder::new()
            .spawn_scoped(scope, copy_err)
            .map_err(thread_failed)?;
        let mut running =
            sandbox::spawn(Path::new(MYSELF), Isolation::Plain, run).map_err(|error| error.to_string())?;
        if let Some(stdout) = running.stdout.take() {
            let _ = give_out.send(stdout);
        }
        if let Some(stderr) = running.stderr.take() {
            let _ = give_err.send(stderr);
        }
        drop((give_out, give_err));
        may_be_killed(&running, handle)?;
        let outcome = running.wait();
        // What outlived its supervisor, and holds the pipes open.
        sandbox::end_everything();
        Ok(outcome)
    })
}

fn copy<R: Read>(from: &Receiver<R>, kind: Kind, line: &Line, allowance: &Allowance) {
    if let Ok(from) = from.recv() {
        pass_on(from, kind, line, allowance);
    }
}

fn may_be_killed(running: &Running, handle: &Mutex<Handle>) -> Result<(), String> {
    let mut handle = lock(handle);
    match &*handle {
        Handle::Killed => running.kill(),
        Handle::Starting | Handle::Started(_) => {
            // What cannot be killed must not run: it is dropped by the caller, which ends it.
            *handle = Handle::Started(running.killer().map_err(|error| error.to_string())?);
        }
    }
    Ok(())
}

fn as_run(command: &Command, scratch: &Path, uid_gid: Option<(u32, u32)>) -> Run {
    let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    let lines = command.stdin.iter().flat_map(|line| [line.as_bytes(), b"\n"]);
    Run {
        command: command.argv.clone(),
        stdin: match command.stdin.is_empty() {
            true => Stdin::Empty,
            false => Stdin::Bytes(lines.flatten().copied().collect()),
        },
        env: container_env().chain(command.env.iter().cloned()).collect(),
        working_dir: Some(
            command
                .working_dir
                .clone()
                .unwrap_or_else(|| here.display().to_string()),
        ),
        pfs: command.pfs.clone(),
        scratch: scratch.to_owned(),
        uid_gid,
        limits: command.limits,
        ..Run::default()
    }
}

/// The variables that the image gives its programs: those of this process, less what the cluster added.
fn container_env() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, value)| {
            // An id that the image does not know is at home in `/`, where it may write nothing.
            let homeless = name == "HOME" && value == "/";
            !homeless && !name.starts_with("KUBERNETES_")
        })
}

/// Processes of this container that the kernel has killed at its memory limit; 0 where nobody counts.
fn memory_kills() -> u64 {
    if std::process::id() != 1 {
        // What is counted there is not about this container.
        return 0;
    }
    let texts = MEMORY_EVENTS.iter().filter_map(|path| fs::read_to_string(path).ok());
    texts.map(|text| kills_in(&text)).max().unwrap_or(0)
}

fn kills_in(text: &str) -> u64 {
    let count = |line: &str| line.strip_prefix("oom_kill ")?.trim().parse().ok();
    text.lines().find_map(count).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_found_in_the_words_of_both_kinds_of_cgroups() {
        let second = "low 0\nhigh 0\nmax 31\noom 2\noom_kill 3\noom_group_kill 1\n";
        let first = "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n";
        assert_eq!((kills_in(second), kills_in(first), kills_in("")), (3, 4, 0));
    }
}
