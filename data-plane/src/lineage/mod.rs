//! Provenance upward and impact downward.

pub mod routes;
