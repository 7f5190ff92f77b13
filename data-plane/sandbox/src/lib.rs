//! How user code of a pipeline runs on one Linux machine: `/pfs/<name>` read-only, `/pfs/out` writable, and nothing
//! else of the host but its programs, or the files of an image instead of these. The library is what a worker calls
//! (`spawn`, `Running`, `collect_outputs`); the binary `howdah-sandbox` is what it starts per datum, because a threaded
//! daemon can neither be forked nor enter a user namespace. Both are synchronous, and the specification travels over a
//! socket, never in arguments or variables.
//!
//! Callers must know:
//! - Started by root, the command runs as `Run::uid_gid`: input files must be readable to others. Directories above
//!   `Run::pfs` need not be open, except under `Isolation::Plain`.
//! - Started by an ordinary user, the command keeps that user's supplementary groups, which only root can give up.
//! - `Network::Host` brings the host's abstract sockets and its loopback along.
//! - A `Run` with a `port` needs a network namespace: neither `Network::Host` nor `Isolation::Bubblewrap` or `Plain`.
//!
//! Not done: limits of processor time share and of disk space (only of each file's size), a filter of system calls,
//! session keyrings, and exact memory limits for ordinary users (measured every 20 ms instead; `/dev/shm` is limited by
//! itself). Under `bwrap` the command can make user namespaces of its own, in which it finds nothing new. Without
//! namespaces a command survives the `kill -9` of its supervisor, though not that of the worker.

mod image;
pub mod inside;
mod isolation;
mod outputs;
mod plain;
mod port;
mod run;
mod running;
mod wire;

pub use image::{overlay_trial, prepare_rootfs};
pub use inside::{end_everything, kill_everything};
pub use isolation::{Examination, Isolation, examine, probe};
pub use outputs::{Output, OutputError, OutputKind, OutputLimits, collect_outputs, discard, empty, open_output};
pub use port::connect;
pub use run::{Exit, Image, Limits, Network, Outcome, Port, Run, SecretFiles, Stdin};
pub use running::{Killer, Launcher, Running, SpawnError, spawn};
