//! What takes something out of the past. `squash` gives up the content of a commit whose data lives on in the commits after
//! it; `drop` gives up a commit with everything that was made from it. The rows stay, with their digests, origins and
//! provenance: what is left goes on to name them (R3), and the chain of records can still be verified. `purge` takes a path
//! out of every commit of a repo. Each is one transaction under the lock of the DAG; a dry run is the same transaction,
//! undone at its end.

mod commits;
pub mod heads;
mod named;
pub mod purge;
pub mod queries;
pub mod routes;
