//! The rules of Howdah as pure functions: origins and access, globs, pipeline specs, datums, propagation, job states. No
//! I/O, no async, no clock, no randomness: both planes decide by the same code, and tests can run it a million times.

pub mod access;
pub mod datums;
pub mod glob;
pub mod jobs;
pub mod origins;
pub mod propagation;
pub mod spec;
pub mod ticks;
pub mod timing;
pub mod triggers;
