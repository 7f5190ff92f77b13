//! A PostgreSQL cluster that belongs to us alone: found binaries, an own data directory, a socket that only we can reach,
//! a password that only we know. The embedded service keeps its state in one, and every test run has one.
//!
//! PostgreSQL refuses to run as root, so a service that root started runs it as another user (`account`), in a
//! directory that this user can reach (`place`). The cluster outlives us when we are killed: whoever comes next adopts it
//! (`postmaster`). Nothing here is asynchronous: call it from a blocking thread.

mod account;
mod binaries;
mod cluster;
mod error;
mod place;
mod postmaster;

pub use binaries::Binaries;
pub use cluster::{Cluster, Options, SecretUrl};
pub use error::PostgresError;
