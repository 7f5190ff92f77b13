//! Workers: processes of their own that claim datums under leases, run them in sandboxes and report what they made. This
//! module holds both ends: the process (`process` and what it uses) and the plane's side (`routes`, `queries`), with the
//! words between them in `protocol`, and the `supervisor` that keeps a worker running beside an embedded plane.
//!
//! A worker holds no state that matters. Killing it at any time loses work that was not reported and nothing else: its
//! leases run out, or its supervisor frees them at once, and the datums are claimed again.

pub mod admission;
mod cache;
pub mod capability;
pub mod claims;
mod deliver;
mod desk;
mod environment;
mod execute;
pub mod executor;
mod image;
mod inputs;
mod lazy;
pub mod lending;
pub mod lines;
mod output;
mod plane;
mod pod;
pub mod process;
pub mod protocol;
pub mod queries;
mod report;
pub mod routes;
mod secrets;
mod serving;
mod spouting;
pub mod supervisor;
