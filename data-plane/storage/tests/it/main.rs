//! Tests of storage through its public API.

#![expect(clippy::unwrap_used, reason = "a test that fails may panic, its helpers included")]

mod cached;
mod conformance;
mod corruption;
mod crash;
mod encrypted;
mod faulty;
mod fixture;
mod hostile;
mod incoming;
mod insertions;
mod listing;
mod model;
mod moto;
mod objects;
mod repacking;
mod s3;
mod samples;
mod troubled;
mod weather;
