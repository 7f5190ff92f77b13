//! Whether the server of a data directory runs. `postmaster.pid` alone proves nothing: after a crash its number may belong
//! to anybody, so the process itself is asked what directory it works in.

use std::path::{Path, PathBuf};

use nix::sys::signal::kill;
use nix::unistd::Pid;

/// A running server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Postmaster {
    pub(crate) pid: i32,
    pub(crate) socket: PathBuf,
    pub(crate) ready: bool,
}

/// The running server of a data directory.
pub(crate) fn running(data: &Path) -> Option<Postmaster> {
    let text = std::fs::read_to_string(data.join("postmaster.pid")).ok()?;
    let found = parse(&text)?;
    is_server_of(found.pid, data).then_some(found)
}

fn parse(text: &str) -> Option<Postmaster> {
    let lines: Vec<&str> = text.lines().collect();
    // A standalone backend (initdb) writes a negative number.
    let pid = lines.first()?.trim().parse().ok().filter(|pid| *pid > 0)?;
    Some(Postmaster {
        pid,
        socket: PathBuf::from(lines.get(4).copied().unwrap_or_default().trim()),
        ready: lines.get(7).is_some_and(|status| status.trim() == "ready"),
    })
}

fn is_server_of(pid: i32, data: &Path) -> bool {
    if !Path::new("/proc/self").exists() {
        return kill(Pid::from_raw(pid), None).is_ok();
    }
    let works_in = std::fs::read_link(format!("/proc/{pid}/cwd"));
    match (works_in, data.canonicalize()) {
        (Ok(works_in), Ok(data)) => works_in == data,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pid_file_is_read_as_postgres_writes_it() {
        let text = "4711\n/d/data\n1700000000\n5432\n/d/socket\n\n  123   456\nready   \n";
        let found = parse(text).unwrap();
        assert_eq!((found.pid, found.ready), (4711, true));
        assert_eq!(found.socket, Path::new("/d/socket"));
    }

    #[test]
    fn a_number_that_belongs_to_another_process_is_not_our_server() {
        let data = tempfile::tempdir().unwrap();
        let text = format!(
            "{}\n{}\n1\n5432\n/s\n\n\nready\n",
            std::process::id(),
            data.path().display()
        );
        std::fs::write(data.path().join("postmaster.pid"), text).unwrap();
        assert_eq!(running(data.path()), None);
    }
}
