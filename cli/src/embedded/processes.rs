//! Processes that are not our direct children: those that a killed supervisor left behind, and grandchildren that came to us
//! because their parent ended first (we are a subreaper).

use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

/// Asks a process to stop.
pub(super) fn terminate(pid: u32) {
    signal(pid, Signal::SIGTERM);
}

/// Ends a process at once.
pub(super) fn kill_now(pid: u32) {
    signal(pid, Signal::SIGKILL);
}

fn signal(pid: u32, signal: Signal) {
    if let Ok(pid) = i32::try_from(pid)
        && pid > 1
    {
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

/// The name of a process's program, which a number that was given to another process since does not have.
fn program(pid: u32) -> Option<String> {
    let path = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    // After a rebuild it is "… (deleted)".
    let name = path.file_name()?.to_str()?;
    Some(name.trim_end_matches(" (deleted)").to_owned())
}

fn is_ours(pid: u32) -> bool {
    program(pid).is_some_and(|name| name.starts_with("howdah-"))
}

/// Programs of ours that work in a home: they are started there, so a number alone need not be believed.
pub(super) fn working_in(home: &Path) -> Vec<u32> {
    let Ok(home) = home.canonicalize() else {
        return Vec::new();
    };
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| is_ours(*pid))
        .filter(|pid| std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == home))
        .collect()
}

/// Whether a process has that file open.
pub(super) fn holds(pid: u32, file: &Path) -> bool {
    let Ok(file) = file.canonicalize() else { return false };
    let open = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .flatten();
    open.into_iter()
        .any(|entry| std::fs::read_link(entry.path()).is_ok_and(|path| path == file))
}

/// Stops processes of ours that have lost their supervisor; answers whether there were any. They notice the broken pipe by
/// themselves, so this mostly waits.
pub(super) async fn stop_left_over(pids: &[u32]) -> bool {
    let mut left: Vec<u32> = pids.iter().copied().filter(|pid| is_ours(*pid)).collect();
    let found = !left.is_empty();
    left.iter().copied().for_each(terminate);
    let began = Instant::now();
    while !left.is_empty() {
        if began.elapsed() > Duration::from_secs(20) {
            left.iter().copied().for_each(kill_now);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        left.retain(|pid| is_ours(*pid));
    }
    found
}

/// Makes this process the parent of what its children leave behind, so that nothing escapes.
pub(super) fn adopt_orphans() {
    #[cfg(target_os = "linux")]
    let _ = nix::sys::prctl::set_child_subreaper(true);
}

/// A child of this process.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Child {
    pub(super) pid: u32,
    pub(super) zombie: bool,
}

/// All children of this process, adopted ones included.
pub(super) fn children() -> Vec<Child> {
    let me = std::process::id();
    let entries = std::fs::read_dir(Path::new("/proc")).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let (parent, zombie) = parse_stat(&std::fs::read_to_string(entry.path().join("stat")).ok()?)?;
            (parent == me).then_some(Child { pid, zombie })
        })
        .collect()
}

/// Parent and whether it is a zombie, from `/proc/<pid>/stat`. The name in parentheses may hold anything.
fn parse_stat(text: &str) -> Option<(u32, bool)> {
    let mut rest = text.rsplit(')').next()?.split_whitespace();
    let zombie = rest.next()? == "Z";
    Some((rest.next()?.parse().ok()?, zombie))
}

/// Buries adopted children that have ended. Those in `except` belong to somebody who waits for them.
pub(super) fn bury_orphans(except: &[u32]) {
    for child in children().iter().filter(|c| c.zombie && !except.contains(&c.pid)) {
        if let Ok(pid) = i32::try_from(child.pid) {
            let _ = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
        }
    }
}

/// Stops adopted data planes that outlive the control plane.
pub(super) async fn stop_orphans() {
    let began = Instant::now();
    loop {
        bury_orphans(&[]);
        let left: Vec<u32> = children().iter().map(|c| c.pid).filter(|pid| is_ours(*pid)).collect();
        if left.is_empty() {
            return;
        }
        for pid in left {
            if began.elapsed() > Duration::from_secs(20) {
                kill_now(pid);
            } else {
                terminate(pid);
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_is_read_behind_a_name_with_parentheses() {
        assert_eq!(parse_stat("12 (a) b) S 7 12 12 0"), Some((7, false)));
        assert_eq!(parse_stat("12 (x) Z 7 12 12 0"), Some((7, true)));
        assert_eq!(parse_stat("nonsense"), None);
    }

    #[test]
    fn a_number_of_another_program_is_not_ours() {
        assert!(!is_ours(std::process::id()));
        assert!(!is_ours(u32::MAX));
    }

    #[test]
    fn a_process_is_known_by_the_file_that_it_holds() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(holds(std::process::id(), file.path()));
        assert!(!holds(u32::MAX, file.path()));
        let path = file.into_temp_path();
        assert!(!holds(std::process::id(), &path));
    }
}
