//! Tests of storage through its public API.

mod conformance;
mod corruption;
mod crash;
mod faulty;
mod fixture;
mod hostile;
mod model;
mod s3;
mod samples;
