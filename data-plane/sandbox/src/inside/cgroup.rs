//! A memory cgroup of its own per run, version 1 or 2, where root can make one. Best effort by design: the supervisor
//! measures memory too, so a machine whose cgroups belong to somebody else still has the limit, only less sharply.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// The cgroup this process joined, and where it came from.
pub(super) struct Group {
    path: PathBuf,
    home: PathBuf,
    /// The file that counts kills at the limit.
    events: &'static str,
}

/// Where memory cgroups are made on this machine.
struct Place {
    parent: PathBuf,
    home: PathBuf,
    limit: &'static str,
    events: &'static str,
}

impl Group {
    /// Makes a group limited to so many bytes and moves this process into it; what it starts is in it too.
    pub(super) fn join(memory_bytes: u64) -> Option<Self> {
        let place = place()?;
        let group = Self {
            path: place.parent.join(format!("howdah-{}", std::process::id())),
            home: place.home,
            events: place.events,
        };
        // Left by a process of the same number that was killed.
        let _ = fs::remove_dir(&group.path);
        let joined = fs::create_dir(&group.path)
            .and_then(|()| fs::write(group.path.join(place.limit), memory_bytes.to_string()))
            .and_then(|()| enter(&group.path));
        if joined.is_err() {
            let _ = fs::remove_dir(&group.path);
            return None;
        }
        // Without swap the limit means what it says; absent where the kernel does not account for swap.
        let _ = fs::write(group.path.join("memory.swap.max"), "0");
        let _ = fs::write(group.path.join("memory.memsw.limit_in_bytes"), memory_bytes.to_string());
        Some(group)
    }

    /// The file to ask `has_killed` about.
    pub(super) fn events(&self) -> PathBuf {
        self.path.join(self.events)
    }

    /// Moves back and removes the group. True when the kernel killed something at the limit.
    pub(super) fn leave(self) -> bool {
        let killed = has_killed(&self.events());
        // A group that cannot be removed is empty and harmless.
        if enter(&self.home).is_ok() {
            remove(&self.path);
        }
        killed
    }
}

/// Removes an empty group. The kernel may take a process out of its group a moment after its parent was told of its end.
fn remove(group: &Path) {
    for wait_ms in [0, 1, 2, 5, 10, 20, 50, 100] {
        thread::sleep(Duration::from_millis(wait_ms));
        if !matches!(fs::remove_dir(group), Err(error) if error.kind() == io::ErrorKind::ResourceBusy) {
            return;
        }
    }
}

/// Whether the kernel killed a process of the group at its limit.
pub(super) fn has_killed(events: &Path) -> bool {
    let events = fs::read_to_string(events).unwrap_or_default();
    let kills = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
    kills.is_some_and(|count| count.trim() != "0")
}

/// Moves this process.
fn enter(group: &Path) -> io::Result<()> {
    fs::write(group.join("cgroup.procs"), "0")
}

/// Finds the memory controller: version 1 below our own group, version 2 in a group of ours at the top, since a group
/// with processes of its own can have no limited children.
fn place() -> Option<Place> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mut second = None;
    for line in mounts.lines() {
        let (left, right) = line.split_once(" - ")?;
        let mount_point = Path::new(left.split(' ').nth(4)?);
        let mut right = right.split(' ');
        match right.next()? {
            "cgroup" if right.nth(1)?.split(',').any(|option| option == "memory") => {
                let home = own_group(&own, mount_point, |controllers| {
                    controllers.split(',').any(|c| c == "memory")
                })?;
                return Some(Place {
                    parent: home.clone(),
                    home,
                    limit: "memory.limit_in_bytes",
                    events: "memory.oom_control",
                });
            }
            "cgroup2" => second = Some(mount_point.to_path_buf()),
            _ => {}
        }
    }
    let top = second?;
    let parent = top.join("howdah");
    if !parent.is_dir() {
        fs::create_dir(&parent).ok()?;
    }
    // Fails when it is so already and busy; then making the group's limit file tells.
    let _ = fs::write(top.join("cgroup.subtree_control"), "+memory");
    let _ = fs::write(parent.join("cgroup.subtree_control"), "+memory");
    let home = own_group(&own, &top, str::is_empty)?;
    Some(Place {
        parent,
        home,
        limit: "memory.max",
        events: "memory.events",
    })
}

/// The directory of the group this process is in. In a container the path may be one of the host's: then the top.
fn own_group(own: &str, mount_point: &Path, wanted: impl Fn(&str) -> bool) -> Option<PathBuf> {
    let path = own.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        wanted(fields.next()?).then(|| fields.next())?
    })?;
    let directory = mount_point.join(path.trim_start_matches('/'));
    Some(if directory.is_dir() {
        directory
    } else {
        mount_point.to_path_buf()
    })
}
