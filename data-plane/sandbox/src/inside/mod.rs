//! What runs in the `howdah-sandbox` process. Stage one leaves the host's process namespace and starts stage two, the
//! first process of the new one, which builds the root directory, gives up every privilege and starts the command.
//! Two stages, because a process namespace holds only children of the one that made it.

mod cgroup;
mod identity;
mod image_root;
mod limits;
mod loopback;
mod new_root;
mod secrets;
mod supervise;

use std::fs;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid};

use self::supervise::{Scope, Supervisor};
pub use self::supervise::{end_everything, kill_everything};
use crate::isolation::{self, Isolation};
use crate::port;
use crate::run::Network;
use crate::wire::{self, Report, Spec, StdinSpec};

/// Where `bwrap` shows this binary to run in it, and the file that is standard input.
const BINARY_IN_BUBBLEWRAP: &str = "/run/howdah-sandbox";
const STDIN_IN_BUBBLEWRAP: &str = "/run/howdah-stdin";
/// Keeps the C library from reserving 64 MiB per thread of ours, which `RLIMIT_AS` would count.
pub(crate) const ONE_ARENA: (&str, &str) = ("MALLOC_ARENA_MAX", "1");
/// Top-level entries of the host that programs need; read-only, and nothing else of the host is visible.
const PROGRAM_DIRECTORIES: [&str; 9] = [
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/opt",
];
/// Device nodes that programs need.
const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];

/// A step of the set-up that failed.
pub(crate) enum Failure {
    /// It may succeed elsewhere, or later.
    Broken(String),
    /// What was asked for cannot be done.
    Refused(String),
}

type Setup<T> = Result<T, Failure>;

/// Turns any error into a `Failure` that names the step.
trait Step<T> {
    fn step(self, what: impl FnOnce() -> String) -> Setup<T>;
}

impl<T, E: std::fmt::Display> Step<T> for Result<T, E> {
    fn step(self, what: impl FnOnce() -> String) -> Setup<T> {
        self.map_err(|error| Failure::Broken(format!("cannot {}: {error}", what())))
    }
}

/// What a sandbox must know before it is told the specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub network: Network,
    pub memory: Option<u64>,
}

/// The command line that enters `isolation`, except `bwrap`. Holds words and numbers only: arguments are public.
pub(crate) fn arguments(binary: &Path, isolation: Isolation, shape: Shape) -> Command {
    let mut command = Command::new(binary);
    let network = network_word(shape.network);
    match isolation {
        Isolation::Root => {
            command.args(["root", network]);
            command.args(shape.memory.map(|memory| memory.to_string()));
        }
        Isolation::UserNamespace => drop(command.args(["user", network])),
        Isolation::Plain | Isolation::Bubblewrap => drop(command.arg("plain")),
    }
    command
}

fn network_word(network: Network) -> &'static str {
    match network {
        Network::None => "none",
        Network::Host => "host",
    }
}

/// `bwrap` with the same view of the host, and this binary in it for limits, timeouts and reports.
pub(crate) fn bubblewrap(binary: &Path, spec: &mut Spec) -> Command {
    let mut command = Command::new("bwrap");
    command.args([
        "--unshare-all",
        "--die-with-parent",
        "--new-session",
        "--cap-drop",
        "ALL",
    ]);
    command.args(["--uid", "1000", "--gid", "1000", "--hostname", "howdah"]);
    if spec.network == Network::Host {
        command.arg("--share-net");
    }
    for path in PROGRAM_DIRECTORIES {
        match fs::read_link(path) {
            Ok(target) => command.arg("--symlink").arg(target).arg(path),
            Err(_) => command.args(["--ro-bind-try", path, path]),
        };
    }
    for path in &spec.visible {
        command.arg("--ro-bind").args([path, path]);
    }
    for path in spec
        .masked
        .iter()
        .filter(|masked| is_below_program_directory(masked, &spec.visible))
    {
        command.arg("--tmpfs").arg(path).arg("--remount-ro").arg(path);
    }
    command.args(["--dev", "/dev", "--proc", "/proc"]);
    command.arg("--bind").arg(&spec.scratch).arg("/tmp");
    for name in &spec.inputs {
        command
            .arg("--ro-bind")
            .arg(spec.pfs.join(name))
            .arg(format!("/pfs/{name}"));
    }
    for (source, path) in &spec.shown {
        command.arg("--ro-bind").arg(source).arg(path);
    }
    for secret in &spec.secrets {
        command.args(["--perms", "0755", "--tmpfs", &secret.directory]);
    }
    command.arg("--bind").arg(spec.pfs.join("out")).arg("/pfs/out");
    command.arg("--ro-bind").arg(binary).arg(BINARY_IN_BUBBLEWRAP);
    if let StdinSpec::File(path) = &mut spec.stdin {
        command.arg("--ro-bind").arg(&*path).arg(STDIN_IN_BUBBLEWRAP);
        *path = PathBuf::from(STDIN_IN_BUBBLEWRAP);
    }
    command.args(["--dir", "/var", "--symlink", "../tmp", "/var/tmp", "--remount-ro", "/"]);
    command.args(["--", BINARY_IN_BUBBLEWRAP, "plain"]);
    command
}

fn is_below_program_directory(path: &Path, visible: &[PathBuf]) -> bool {
    PROGRAM_DIRECTORIES.iter().any(|directory| path.starts_with(directory))
        || visible.iter().any(|directory| path.starts_with(directory))
}

/// The whole of the binary: dispatches on the stage, and reports over standard input what failed.
pub fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if words.as_slice() == ["probe"] {
        return probe();
    }
    // Whatever umask the daemon was started with, the command must get through the directories that are made here, and its
    // outputs must be readable to the worker.
    umask(Mode::from_bits_truncate(0o022));
    if words.first() != Some(&"init") {
        close_inherited();
    }
    let socket = match io::stdin().as_fd().try_clone_to_owned() {
        Ok(descriptor) => UnixStream::from(descriptor),
        Err(_) => return ExitCode::from(2),
    };
    let result = match words.as_slice() {
        ["root", network] => enter_as_root(network, None, &socket),
        ["root", network, memory] => enter_as_root(network, memory.parse().ok(), &socket),
        ["user", network] => enter_as_user(network),
        ["plain"] => run_plain(&socket),
        ["init", mode, network] => run_as_init(&socket, *mode == "root", *network == "none"),
        _ => {
            // A person started it: there is nobody at the other end of standard input to report to.
            let _ = writeln!(
                io::stderr(),
                "howdah-sandbox is started by `howdah`; by itself it can only `probe` what this machine allows"
            );
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let report = match failure {
                Failure::Broken(message) => Report::Failed(message),
                Failure::Refused(message) => Report::Refused(message),
            };
            let _ = wire::report(&mut &socket, &report);
            ExitCode::FAILURE
        }
    }
}

/// Says on standard output which isolation this machine allows, and on further lines what is better and why not.
fn probe() -> ExitCode {
    let binary = match std::env::current_exe() {
        Ok(binary) => binary,
        Err(error) => {
            let _ = writeln!(io::stderr(), "howdah-sandbox cannot find itself: {error}");
            return ExitCode::FAILURE;
        }
    };
    let found = isolation::examine(&binary);
    let mut text = format!("{}\n", found.chosen.as_str());
    for (refused, reason) in found.refused {
        text.push_str(&format!("not {}: {}\n", refused.as_str(), reason.replace('\n', " ")));
    }
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Stage one as root: no user namespace, and a memory cgroup where there is a limit.
fn enter_as_root(network: &str, memory: Option<u64>, socket: &UnixStream) -> Setup<()> {
    // Without a usable cgroup the supervisor's own measuring still enforces the limit.
    let group = memory.and_then(cgroup::Group::join);
    if let Some(group) = &group {
        // Before the namespace: a process that left its own can start no thread.
        end_after_kill(group.events(), socket)?;
    }
    let left = unshare(CloneFlags::CLONE_NEWPID).step(|| "make a process namespace".to_owned());
    let result = left.and_then(|()| start_init("root", network));
    if group.is_some_and(cgroup::Group::leave) {
        let _ = wire::report(&mut &*socket, &Report::OutOfMemory);
    }
    result
}

/// Ends the whole run when the kernel kills one process of it at the memory limit: by closing the life line that stage
/// two watches, so that it still reports what was used.
fn end_after_kill(events: PathBuf, socket: &UnixStream) -> Setup<()> {
    const ASK_EVERY: Duration = Duration::from_millis(50);
    let socket = socket.try_clone().step(|| "watch the memory limit".to_owned())?;
    let watch = move || {
        while !cgroup::has_killed(&events) {
            thread::sleep(ASK_EVERY);
        }
        let _ = socket.shutdown(Shutdown::Read);
    };
    thread::Builder::new()
        .spawn(watch)
        .map(drop)
        .step(|| "watch the memory limit".to_owned())
}

/// Stage one as an ordinary user: root of a new user namespace, for the set-up only.
fn enter_as_user(network: &str) -> Setup<()> {
    let (uid, gid) = (Uid::effective(), Gid::effective());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWPID).step(|| "make a user namespace".to_owned())?;
    identity::map_ids((0, uid.as_raw()), (0, gid.as_raw()))?;
    start_init("user", network)
}

/// Starts stage two as the first process of the new namespace and waits for it; it reports by itself.
fn start_init(mode: &str, network: &str) -> Setup<()> {
    Command::new("/proc/self/exe")
        .args(["init", mode, network])
        .env(ONE_ARENA.0, ONE_ARENA.1)
        .stdin(Stdio::inherit())
        .status()
        .map(drop)
        .step(|| "start the first process of the namespace".to_owned())
}

/// Stage two.
fn run_as_init(socket: &UnixStream, root: bool, no_network: bool) -> Setup<()> {
    die_with_parent()?;
    nix::unistd::setsid().step(|| "start a session".to_owned())?;
    let mut flags = CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
    if no_network {
        flags |= CloneFlags::CLONE_NEWNET;
    }
    unshare(flags).step(|| "make network, ipc and uts namespaces".to_owned())?;
    if no_network {
        // Best effort: few programs need it.
        let _ = loopback::bring_up();
    }
    nix::unistd::sethostname("howdah").step(|| "set the host name".to_owned())?;
    let (spec, stdin) = wire::receive(&mut &*socket).step(|| "read the specification".to_owned())?;
    // Only now: what the worker mounted since this process was started must be in the copy.
    unshare(CloneFlags::CLONE_NEWNS).step(|| "make a mount namespace".to_owned())?;
    let input = supervise::open_input(&spec.stdin, stdin)?;
    // While the host's directories are visible.
    let port = match &spec.port {
        Some(port) => Some((
            port::listen(&port.socket).step(|| "listen for callers".to_owned())?,
            port.number,
        )),
        None => None,
    };
    image_root::make_directories(&spec)?;
    if root {
        identity::give_directories(&spec)?;
    }
    new_root::enter(&spec, root)?;
    let inside = spec.image.as_ref().map(|image| image.user);
    let nested = if root {
        identity::become_user(spec.uid_gid, inside.unwrap_or(spec.uid_gid))?
    } else {
        identity::become_nobody_in_particular(inside)?
    };
    // Changing ids forgets the wish to die with the parent.
    die_with_parent()?;
    let supervisor = Supervisor::new(&spec, input, Scope::Namespace, socket)?;
    if let Some((listener, number)) = port {
        supervise::background(move || port::serve(&listener, number))?;
    }
    limits::apply(&spec.limits, nested)?;
    supervisor.run(&spec)
}

/// The only stage without namespaces of our own: on a machine that allows none, or inside `bwrap`. Does not ask to die
/// with its parent: that would be the worker's thread, which may end before the run, and nobody would kill the command.
fn run_plain(socket: &UnixStream) -> Setup<()> {
    nix::unistd::setsid().step(|| "start a session".to_owned())?;
    prctl::set_child_subreaper(true).step(|| "adopt orphaned processes".to_owned())?;
    let (spec, stdin) = wire::receive(&mut &*socket).step(|| "read the specification".to_owned())?;
    let input = supervise::open_input(&spec.stdin, stdin)?;
    if Uid::effective().is_root() {
        identity::give_directories(&spec)?;
        identity::drop_to(spec.uid_gid)?;
    }
    // Without `bwrap` there are none.
    for secret in &spec.secrets {
        secrets::write(Path::new(&secret.directory), secret, None)?;
    }
    prctl::set_dumpable(false).step(|| "hide the supervisor's memory".to_owned())?;
    let supervisor = Supervisor::new(&spec, input, Scope::Descendants, socket)?;
    limits::apply(&spec.limits, false)?;
    supervisor.run(&spec)
}

/// The kernel kills this process when its parent dies.
fn die_with_parent() -> Setup<()> {
    prctl::set_pdeathsig(Signal::SIGKILL).step(|| "ask to die with the parent".to_owned())
}

/// Closes whatever the daemon leaked, before anything of our own is open: user code must inherit three descriptors and
/// no more.
fn close_inherited() {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else {
        return;
    };
    let numbers: Vec<i32> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    for number in numbers.into_iter().filter(|number| *number > 2) {
        // One of them is that of the listing, which is gone by now.
        let _ = nix::unistd::close(number);
    }
}
