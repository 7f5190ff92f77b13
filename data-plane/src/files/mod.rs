//! Files of commits.

pub mod routes;
