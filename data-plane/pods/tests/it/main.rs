//! The executor's parts, case by case, and its rounds against a simulated cluster that fails.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod manifest;
mod plan;
mod simulation;
mod trouble;
mod world;
