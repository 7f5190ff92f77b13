//! The control plane against a real PostgreSQL: slices through HTTP, the reconciler against a cloud that fails, and the
//! real process with a data plane that is a script.
//!
//! Tests run on a runtime with a thread beside their own: the end of a test blocks it while its database is dropped, and
//! PostgreSQL waits with that for connections which the service has only half made.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod accounts;
mod app;
mod audit;
mod audit_reading;
mod authorization;
mod cloud;
mod deletions;
mod gateway;
mod members;
mod notices;
mod planes;
mod policy;
mod process;
mod releases;
mod tokens;
mod vault;
mod walls;
