//! How user code of a pipeline runs on one Linux machine: `/pfs/<name>` read-only, `/pfs/out` writable, and nothing
//! else of the host but its programs. The library is what a worker calls (`spawn`, `Running`, `collect_outputs`); the
//! binary `howdah-sandbox` is what it starts per datum, because a threaded daemon can neither be forked nor enter a
//! user namespace. Both are synchronous, and the specification travels over a socket, never in arguments or variables.

pub mod inside;
mod isolation;
mod outputs;
mod plain;
mod run;
mod running;
mod wire;

pub use isolation::{Examination, Isolation, examine, probe};
pub use outputs::{Output, OutputError, OutputKind, collect_outputs, open_output};
pub use run::{Exit, Limits, Network, Outcome, Run, Stdin};
pub use running::{Killer, Launcher, Running, SpawnError, spawn};
