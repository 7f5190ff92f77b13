//! The provisioner against a simulated world: Kubernetes with its controllers, PostgreSQL, an object store, the ledger and the clock,
//! all of which fail between any two calls, as a seed says. See `simulation.rs`.

#![expect(clippy::unwrap_used, reason = "a broken world must fail the test")]

mod api_server;
mod controllers;
mod ledger;
mod runner;
mod sessions;
mod simulation;
mod stores;
mod sweeping;
mod thousand;
mod warm;
mod world;
