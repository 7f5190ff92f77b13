//! The data plane's tests against a real PostgreSQL: its router in this process, with a control plane that signs real
//! tokens and snapshots over real HTTP, and the real binary where a process is killed.

mod app;
mod control;
mod files;
mod repos;
mod revocation;
