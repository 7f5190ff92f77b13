//! `howdah mount` and `howdah unmount`: a commit as a directory of read-only files that are fetched when they are read.

mod ahead;
mod blocks;
mod detach;
mod disk;
mod filesystem;
mod place;
mod source;
mod standing;
mod tree;
mod view;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use clap::Args;
use contract::api::{Commit, CommitState};
use fuser::{INodeNo, MountOption, Notifier, Session, SessionACL};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::client::{Client, Request};
use crate::clock;
use crate::failure::{Exit, Failure, Outcome};
use crate::output::Output;
use crate::references::{bytes, commit, duration};
use blocks::Blocks;
use disk::Disk;
use filesystem::{Facts, Mounted};
use source::Plane;
use view::View;

/// Threads that take the kernel's requests; what takes long is not done on them.
const THREADS: usize = 4;
/// How long the file system may take to end after it was unmounted.
const END_PATIENCE: Duration = Duration::from_secs(2);
/// What the kernel reads ahead where we may tell it, in KiB.
const READ_AHEAD_KIB: &str = "1024";

/// Mount a commit as a directory of read-only files, fetched when they are read. A branch is its newest commit of now.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: howdah mount images@main tiles\n         howdah mount images@main tiles --detach && ls tiles && howdah unmount tiles\n\nRuns until Ctrl-C or `howdah unmount`. What was read is kept in the user's cache directory, for all mounts of the service.\nUsers other than root need the program fusermount3, and a directory that they may write to."
)]
pub struct Mount {
    /// `REF`: branch or commit
    reference: String,
    /// An empty directory; made if it is missing
    directory: PathBuf,
    /// Return when it is mounted, and go on in the background
    #[arg(long)]
    detach: bool,
    #[arg(long, hide = true)]
    detached: bool,
    /// At most so much on this machine's disk, of all mounts of a service together; 0 = nothing
    #[arg(long, value_name = "SIZE", default_value = "10GiB", value_parser = bytes)]
    cache_size: u64,
    /// At most so much in memory
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = bytes)]
    memory: u64,
    /// How long a read waits for a service that does not answer before it fails
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    patience: Duration,
    /// Let other users of this machine read it too, root included, who else may not; who is not root needs `user_allow_other`
    /// in /etc/fuse.conf for it
    #[arg(long)]
    allow_other: bool,
}

/// Unmount a commit.
#[derive(Debug, Args)]
#[command(after_help = "Example: howdah unmount tiles")]
pub struct Unmount {
    /// The directory
    directory: PathBuf,
    /// Also while it is in use
    #[arg(long)]
    force: bool,
}

/// What was mounted, as it is printed.
#[derive(Debug, Serialize, Deserialize)]
struct Shown {
    /// `project/repo@commit`.
    commit: String,
    directory: PathBuf,
    /// The process that serves it.
    pid: u32,
    /// Where it writes what goes wrong, when it is detached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    log: Option<PathBuf>,
}

impl Shown {
    fn text(&self) -> String {
        format!("{} at {}", self.commit, self.directory.display())
    }
}

/// `howdah mount`.
///
/// # Errors
/// What the service answers, and why this machine cannot mount.
pub async fn run(arguments: Mount, client: Client, output: Output) -> Outcome {
    if arguments.detached {
        // The terminal's Ctrl-C and its end are not ours; fails only in a session of our own already.
        let _ = nix::unistd::setsid();
    }
    let reference = commit(&arguments.reference, &client.settings.project)?;
    let found: Commit = client
        .plane(Request::get("/v1/commits").query("ref", &reference))
        .await?;
    let pinned = format!("{}/{}@{}", found.project, found.repo, found.id);
    if found.state != CommitState::Finished {
        return Err(Failure::new(
            format!("cannot mount {reference}"),
            "the commit is not finished, so what is in it may still change",
            "wait for it with `howdah wait REF`, or finish it with `howdah commit finish`",
        )
        .with_exit(Exit::Conflict));
    }
    let (point, cleared) = place::prepare(&arguments.directory)?;
    if let Some(cleared) = cleared {
        let why = "whose process was killed, was still mounted there, and is cleared away";
        output.hint(&format!("{}, {why}", cleared.commit()));
    }
    if arguments.detach {
        let shown = detach::start(&arguments, &pinned, &point, &client.settings.cache).await?;
        return output.result(&shown, || shown.text());
    }
    let shown = Shown {
        commit: pinned.clone(),
        directory: point.clone(),
        pid: std::process::id(),
        log: arguments
            .detached
            .then(|| detach::log(&client.settings.cache, &point))
            .filter(|log| log.exists()),
    };
    serve(&arguments, client, &found, &shown, output).await
}

async fn serve(arguments: &Mount, client: Client, found: &Commit, shown: &Shown, output: Output) -> Outcome {
    let mut signals = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(signal);
    let directory = disk::directory(&client.settings.cache, &client.settings.url);
    let disk = disk(&directory, arguments.cache_size, output).await;
    let source = Arc::new(Plane::new(Arc::new(client), shown.commit.clone()));
    let (memory, patience) = (arguments.memory, arguments.patience);
    let blocks = Arc::new(Blocks::new(source.clone(), memory, disk, patience, Handle::current()));
    let view = Arc::new(View::new(source, blocks, memory, patience));
    let (end, mut ended) = watch::channel(false);
    let facts = Facts {
        time: SystemTime::from(found.finished_at.unwrap_or(found.started_at)),
        bytes: found.size_bytes,
        files: found.files,
        uid: nix::unistd::getuid().as_raw(),
        gid: nix::unistd::getgid().as_raw(),
    };
    let mounted = Mounted::new(view.clone(), facts, Handle::current(), end);
    let (point, name) = (shown.directory.clone(), place::source(&shown.commit));
    let allow_other = arguments.allow_other;
    let notifier = tokio::task::spawn_blocking(move || attach(mounted, &point, name, allow_other))
        .await
        .map_err(|e| cannot(&shown.directory, &io::Error::other(e)))?
        .map_err(|e| cannot(&shown.directory, &e))?;
    view.when_revoked(Box::new(move |open| {
        let notifier = notifier.clone();
        // The kernel may wait for a read that we have to answer meanwhile.
        tokio::task::spawn_blocking(move || {
            for inode in open {
                let _ = notifier.inval_inode(INodeNo(inode), 0, 0);
            }
        });
    }));
    let device = place::mounted_at(&shown.directory).map(|entry| entry.device);
    read_ahead(device.as_deref());
    output.result(shown, || shown.text())?;
    output.hint(&format!(
        "unmount it with Ctrl-C or `howdah unmount {}`",
        shown.directory.display()
    ));
    let watching = tokio::spawn(async move { view.watch().await });
    let [interrupt, terminate, hangup] = &mut signals;
    tokio::select! {
        _ = ended.wait_for(|ended| *ended) => {}
        () = received(interrupt) => {}
        () = received(terminate) => {}
        () = received(hangup) => {}
    }
    watching.abort();
    // Only what is ours: somebody may have unmounted it and mounted another one there.
    if device.is_some() && place::mounted_at(&shown.directory).map(|entry| entry.device) == device {
        place::unmount(&shown.directory, true)?;
        let _ = tokio::time::timeout(END_PATIENCE, ended.wait_for(|ended| *ended)).await;
    }
    Ok(())
}

async fn received(signal: &mut io::Result<tokio::signal::unix::Signal>) {
    match signal {
        Ok(signal) => {
            signal.recv().await;
        }
        Err(_) => std::future::pending().await,
    }
}

/// The cache on the disk. What is too much or too old in it goes beside the mount's work.
async fn disk(directory: &Path, limit: u64, output: Output) -> Option<Arc<Disk>> {
    if limit == 0 {
        return None;
    }
    match Disk::open(directory, limit) {
        Ok(disk) => {
            let disk = Arc::new(disk);
            let shrunk = disk.clone();
            tokio::task::spawn_blocking(move || shrunk.shrink(Some(SystemTime::from(clock::now()))));
            Some(disk)
        }
        Err(error) => {
            output.hint(&format!(
                "nothing is kept on the disk: {}: {error}",
                directory.display()
            ));
            None
        }
    }
}

/// Mounts, and serves on threads of its own until it is unmounted.
fn attach(mounted: Mounted<Plane>, point: &Path, name: String, allow_other: bool) -> io::Result<Notifier> {
    let mut config = fuser::Config::default();
    config.mount_options = vec![
        MountOption::FSName(name),
        MountOption::Subtype("howdah".to_owned()),
        MountOption::RO,
        MountOption::NoAtime,
        MountOption::DefaultPermissions,
    ];
    if allow_other {
        config.acl = SessionACL::All;
    }
    config.n_threads = Some(THREADS);
    let session = Session::new(mounted, point, &config)?.spawn()?;
    let notifier = session.notifier();
    // Dropped it would unmount whatever is mounted there by then; `place::unmount` looks first.
    std::mem::forget(session);
    Ok(notifier)
}

/// The kernel asks for little at a time unless it is told otherwise, which only root may.
fn read_ahead(device: Option<&str>) {
    if let Some(device) = device {
        let _ = std::fs::write(format!("/sys/class/bdi/{device}/read_ahead_kb"), READ_AHEAD_KIB);
    }
}

fn cannot(point: &Path, error: &io::Error) -> Failure {
    let what = format!("cannot mount on {}", point.display());
    let (why, hint) = obstacle(error);
    Failure::new(
        what,
        why,
        format!("{hint}; `howdah get -r` copies the files without FUSE"),
    )
}

/// Why FUSE does not work here, and what to do.
fn obstacle(error: &io::Error) -> (String, &'static str) {
    let device = Path::new("/dev/fuse");
    let is_root = nix::unistd::Uid::effective().is_root();
    if !device.exists() {
        let hint = "load it with `modprobe fuse`; start a container with `--device /dev/fuse --cap-add SYS_ADMIN`";
        return ("FUSE is not there: this machine has no /dev/fuse".to_owned(), hint);
    }
    if error.kind() == io::ErrorKind::NotFound && !is_root {
        let why = "FUSE needs the program fusermount3 for users other than root".to_owned();
        return (why, "install it: `apt-get install fuse3`");
    }
    let said = error.to_string();
    if said.contains("user_allow_other") {
        let why = "FUSE does not allow --allow-other on this machine".to_owned();
        return (why, "write `user_allow_other` into /etc/fuse.conf as root");
    }
    if said.contains("mountpoint") {
        let hint = "choose a directory that you may write to";
        return (format!("FUSE does not let you mount there: {said}"), hint);
    }
    let opened = std::fs::OpenOptions::new().read(true).write(true).open(device);
    if !is_root && opened.is_err_and(|e| e.kind() == io::ErrorKind::PermissionDenied) {
        let why = "FUSE is for other users here: you may not open /dev/fuse".to_owned();
        return (
            why,
            "let everybody, as it usually is, with `chmod 666 /dev/fuse` as root",
        );
    }
    let hint = match is_root {
        true => "in a container, start it with `--device /dev/fuse --cap-add SYS_ADMIN`",
        false => "check that you may write to the directory and to /dev/fuse",
    };
    (format!("FUSE is not permitted here: {error}"), hint)
}

/// Tries whether this machine can mount, by mounting something empty for a moment.
///
/// # Errors
/// Why it cannot, and what to do.
pub fn probe() -> Result<(), (String, &'static str)> {
    struct Empty;
    impl fuser::Filesystem for Empty {}
    let tried = tempfile::tempdir().and_then(|directory| {
        let mut config = fuser::Config::default();
        config.mount_options = vec![MountOption::FSName("howdah-probe".to_owned()), MountOption::RO];
        fuser::spawn_mount(Empty, directory.path(), &config)?.umount_and_join()
    });
    tried.map_err(|error| obstacle(&error))
}

/// `howdah unmount`.
///
/// # Errors
/// When nothing of ours is mounted there, or it is in use.
pub fn unmount(arguments: &Unmount, output: Output) -> Outcome {
    let point = place::absolute(&arguments.directory)?;
    let there = place::mounted_at(&point);
    let Some(ours) = there.filter(place::Entry::is_ours) else {
        return Err(Failure::new(
            format!("cannot unmount {}", point.display()),
            "no commit is mounted there",
            "see what is mounted with `findmnt -t fuse,fuse.howdah`",
        )
        .with_exit(Exit::NotFound));
    };
    place::unmount(&point, arguments.force)?;
    let shown = serde_json::json!({ "commit": ours.commit(), "directory": point });
    output.result(&shown, || format!("unmounted {}", point.display()))
}
