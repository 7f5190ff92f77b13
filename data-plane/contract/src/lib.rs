//! What the planes, the workers and the command line agree on: ids, names, references, problem kinds, access-token
//! claims, policy snapshots, process configurations and the JSON shapes of the public API. Words only: no I/O,
//! no clock, no randomness but where an id is made from bytes that the caller supplies.

pub mod api;
pub mod audit;
pub mod ci;
pub mod claims;
pub mod cloud;
pub mod config;
pub mod executor;
pub mod ids;
pub mod names;
pub mod openapi;
pub mod policy;
pub mod problem;
pub mod reach;
pub mod record;
pub mod reference;
pub mod schema;
pub mod serving;
pub mod token;
pub mod upload;
