//! The ports of the `provisioner`'s cloud of clusters for real: the API server (kube), PostgreSQL (sqlx), the object store (the SDK
//! of S3); and who leads, by a lease in the cluster. No decisions are made here; what is decided and in which order is the
//! provisioner's, and simulated there.

pub mod api_server;
pub mod buckets;
pub mod credentials;
pub mod lease;
pub mod postgres;
mod scram;
pub mod watch;

pub use kube::Client;
