//! Killing processes the hard way, and finding ports that nobody listens on.

use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait::wait_until_blocking;

/// Sends SIGKILL and waits until the process is gone (or a zombie, which runs nothing any more).
///
/// # Panics
/// When it is still there after 10 seconds.
pub fn kill9(pid: u32) {
    let Ok(number) = i32::try_from(pid) else { return };
    let _ = kill(Pid::from_raw(number), Signal::SIGKILL);
    wait_until_blocking("a killed process to be gone", Duration::from_secs(10), || {
        !is_alive(pid)
    });
}

/// Asks a process to end, as an orchestrator does: SIGTERM.
///
/// # Panics
/// When there is no such process.
pub fn terminate(pid: u32) {
    let sent = i32::try_from(pid).map(|number| kill(Pid::from_raw(number), Signal::SIGTERM));
    assert!(
        matches!(sent, Ok(Ok(()))),
        "process {pid} could not be asked to end: {sent:?}"
    );
}

/// Whether a process runs; a zombie does not.
pub fn is_alive(pid: u32) -> bool {
    if !Path::new("/proc/self").exists() {
        return i32::try_from(pid).is_ok_and(|pid| kill(Pid::from_raw(pid), None).is_ok());
    }
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return false;
    };
    // The name stands in parentheses and may hold any character, so the state is what follows the last one.
    let state = stat.rsplit(')').next().unwrap_or_default().trim().chars().next();
    !matches!(state, None | Some('Z' | 'X'))
}

/// A port of the loopback address that nobody listens on now.
///
/// # Panics
/// When there is none.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .unwrap_or_else(|e| panic!("no free port: {e}"))
        .port()
}
