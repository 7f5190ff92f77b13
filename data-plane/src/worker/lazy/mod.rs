//! Inputs whose files are fetched when they are read: `lazy: true`. Each is a file system of its own (FUSE), served by the
//! worker from the tree that the datum matched, mounted where an input laid out on the disk would be and shown read-only like
//! it. The datum's log says so where that cannot be; then its files are fetched as any other's.
//!
//! A file system ends with its datum: what reads it afterwards gets an error. What a killed worker left is unmounted when the
//! next one starts ([`unmount_below`]).

mod blocks;
mod filesystem;
mod tree;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fuser::{BackgroundSession, MountOption, Session, SessionACL};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub use blocks::Blocks;
use filesystem::Served;
use tree::Tree;

use super::inputs::{Place, Seen};
use super::output::RunLog;

/// What `mount` shows as its source.
const NAME: &str = "howdah-lazy";

/// The lazy inputs of one run. Dropped, they are unmounted.
#[derive(Default)]
pub struct Mounts {
    sessions: Vec<BackgroundSession>,
    names: Vec<String>,
    over: CancellationToken,
    cut: Arc<Notify>,
    read: Arc<AtomicU64>,
}

impl Drop for Mounts {
    fn drop(&mut self) {
        self.end();
        let sessions = std::mem::take(&mut self.sessions);
        // Unmounting may wait for the kernel.
        match Handle::try_current() {
            Ok(runtime) if !sessions.is_empty() => drop(runtime.spawn_blocking(move || drop(sessions))),
            _ => drop(sessions),
        }
    }
}

impl Mounts {
    /// Whether there are any.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Whether that input is one of them.
    pub fn has(&self, name: &str) -> bool {
        self.names.iter().any(|mounted| mounted == name)
    }

    /// Nobody is to read any more: all reads end with an error, those too that wait for storage. A process in one cannot be
    /// killed before.
    pub fn end(&self) {
        self.over.cancel();
    }

    /// As [`Mounts::end`], when something else has ended.
    pub async fn end_after(&self, over: impl Future<Output = ()>) {
        over.await;
        self.end();
    }

    /// Ends the reads that go on now with an error.
    pub fn cut(&self) {
        self.cut.notify_waiters();
    }

    /// Ends and unmounts them, and waits for that.
    pub async fn unmount(mut self) {
        self.end();
        let sessions = std::mem::take(&mut self.sessions);
        if !sessions.is_empty() {
            let _ = tokio::task::spawn_blocking(move || drop(sessions)).await;
        }
    }

    /// Bytes that were read of them so far.
    pub fn read_bytes(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Mounts the inputs whose files are all lazy, and takes those files out of what is to be laid out; answers the rest.
    /// Where it does not work nothing is taken out, and the log says why.
    pub async fn mount(&mut self, blocks: &Arc<Blocks>, place: &Place, seen: &[Seen], log: &RunLog<'_>) -> Vec<Seen> {
        let mut by_name: BTreeMap<&str, Vec<&Seen>> = BTreeMap::new();
        for one in seen {
            by_name.entry(&one.name).or_default().push(one);
        }
        let mut told = false;
        for (name, files) in by_name {
            if !files.iter().all(|one| one.lazy && !one.empty) {
                continue;
            }
            let served = Served {
                tree: Tree::of(files.iter().map(|one| (one.path.as_str(), &one.file))),
                blocks: Arc::clone(blocks),
                over: self.over.clone(),
                cut: Arc::clone(&self.cut),
                read: Arc::clone(&self.read),
                runtime: Handle::current(),
            };
            let point = place.pfs.join(name);
            let attached = tokio::task::spawn_blocking(move || attach(served, &point)).await;
            match attached.map_err(io::Error::other).and_then(|session| session) {
                Ok(session) => {
                    self.sessions.push(session);
                    self.names.push(name.to_owned());
                }
                Err(error) if !told => {
                    told = true;
                    let text = format!("lazy inputs are fetched whole, because FUSE does not work here: {error}");
                    log.line("system", &text);
                }
                Err(_) => {}
            }
        }
        let rest = seen.iter().filter(|one| !self.has(&one.name));
        rest.cloned().collect()
    }
}

fn attach(served: Served, point: &Path) -> io::Result<BackgroundSession> {
    std::fs::create_dir_all(point)?;
    let mut config = fuser::Config::default();
    config.mount_options = vec![
        MountOption::FSName(NAME.to_owned()),
        MountOption::RO,
        MountOption::NoAtime,
        MountOption::DefaultPermissions,
    ];
    // User code runs as another id then.
    if nix::unistd::geteuid().is_root() {
        config.acl = SessionACL::All;
    }
    Session::new(served, point, &config)?.spawn()
}

/// Unmounts what a worker that is gone left below a directory.
pub fn unmount_below(directory: &Path) {
    let Ok(directory) = directory.canonicalize() else {
        return;
    };
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    // The newest first.
    for point in table.lines().rev().filter_map(mount_point) {
        if !point.starts_with(&directory) {
            continue;
        }
        let detached = nix::mount::umount2(&point, nix::mount::MntFlags::MNT_DETACH);
        if detached.is_ok() {
            continue;
        }
        let told = Command::new("fusermount3")
            .args(["-u", "-z", "--"])
            .arg(&point)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if !told.is_ok_and(|status| status.success()) {
            tracing::warn!("`{}` could not be unmounted: {detached:?}", point.display());
        }
    }
}

/// The fifth field of a line, with its escapes undone, of a file system of ours.
fn mount_point(line: &str) -> Option<PathBuf> {
    let (fields, rest) = line.split_once(" - ")?;
    let mut rest = rest.split(' ');
    if !rest.next()?.starts_with("fuse") || rest.next()? != NAME {
        return None;
    }
    let field = fields.split(' ').nth(4)?;
    let pairs = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    let plain = pairs
        .iter()
        .fold(field.to_owned(), |text, (from, to)| text.replace(from, to));
    Some(PathBuf::from(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_file_systems_of_ours_are_unmounted() {
        let line = |kind: &str, from: &str| {
            format!("36 35 0:40 / /h/a\\040b/pfs/in rw,nosuid shared:1 - {kind} {from} rw,user_id=0")
        };
        let ours = Some(PathBuf::from("/h/a b/pfs/in"));
        assert_eq!(mount_point(&line("fuse", NAME)), ours);
        assert_eq!(mount_point(&line("fuse.other", NAME)), ours);
        assert_eq!(mount_point(&line("fuse", "other")), None);
        assert_eq!(mount_point(&line("ext4", NAME)), None);
    }
}
