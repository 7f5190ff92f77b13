//! Tests of storage through its public API.

mod model;
mod samples;
