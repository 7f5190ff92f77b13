//! Domains: what grants are given on. A data plane registers one before it makes the repo, and its tombstone stays.

pub mod queries;
mod routes;

pub use routes::router;
