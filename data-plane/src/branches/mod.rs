//! Branches: names that move along commits. The head of a branch is its newest commit whatever its state; readers see the
//! newest finished one.

pub mod queries;
pub mod routes;
pub mod triggers;
