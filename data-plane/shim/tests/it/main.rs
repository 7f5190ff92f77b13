//! The real program with real processes; only the container around it is missing.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod commands;
mod connections;
mod rig;
