//! Resource limits, and the promise that nothing started from here gains privileges. Set on the supervisor, because
//! what it starts inherits them and there is no safe way to run code between a fork and its exec.

use std::fs;

use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::{Setup, Step};
use crate::run::Limits;

/// Against fork bombs when the specification says nothing.
const DEFAULT_PROCESSES: u64 = 4096;
/// What the supervisor runs itself under the same limit: its own thread, one that watches and one that feeds.
const SUPERVISOR_THREADS: u64 = 3;
/// The kernel takes user code before any daemon when the whole machine runs out of memory.
const OOM_SCORE_ADJUSTMENT: &str = "500";

/// Applies everything. `own_count`: processes are counted per run, not over all of the user's.
pub(super) fn apply(limits: &Limits, own_count: bool) -> Setup<()> {
    // Best effort: refused where /proc is not writable, and only a courtesy.
    let _ = fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJUSTMENT);
    let processes = limits.processes.or(own_count.then_some(DEFAULT_PROCESSES));
    let processes = processes.map(|processes| processes.saturating_add(SUPERVISOR_THREADS));
    let wanted = [
        // Not 0: where crashes go to a program of the host, only 1 keeps the kernel from starting that program.
        (Resource::RLIMIT_CORE, Some(1)),
        (Resource::RLIMIT_FSIZE, limits.file_size),
        (Resource::RLIMIT_NOFILE, limits.open_files),
        (Resource::RLIMIT_NPROC, processes),
        (Resource::RLIMIT_AS, limits.address_space),
    ];
    for (resource, limit) in wanted {
        if let Some(limit) = limit {
            let (_, hard) = getrlimit(resource).step(|| format!("read {resource:?}"))?;
            let limit = limit.min(hard);
            setrlimit(resource, limit, limit).step(|| format!("set {resource:?}"))?;
        }
    }
    prctl::set_no_new_privs().step(|| "forbid new privileges".to_owned())
}
