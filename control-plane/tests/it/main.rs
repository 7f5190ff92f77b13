//! The control plane against a real PostgreSQL: slices through HTTP, the reconciler against a cloud that fails, and the
//! real process with a data plane that is a script.

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
