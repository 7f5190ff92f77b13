//! The control plane against a real PostgreSQL: slices through HTTP, the reconciler against a cloud that fails, and the
//! real process with a data plane that is a script.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod accounts;
mod app;
mod authorization;
mod cloud;
mod gateway;
mod members;
mod planes;
mod policy;
mod process;
mod releases;
mod tokens;
