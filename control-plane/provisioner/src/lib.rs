//! Makes data planes be as wanted. `plan` (pure) says from what is wanted and what was seen what to do next, `pass` does it
//! over what it is given: a `Ledger` (what the control plane's database keeps of a plane), a `Cloud` (where planes live) and an
//! `Environment` (time, randomness). The service and the simulation of `tests/` run this very code.
//!
//! `kit` (pure) says which objects an organization has in a Kubernetes cluster, `kubernetes` is the cloud of clusters over three ports:
//! `Cluster`, `Databases`, `Buckets`. `sweep` finds what belongs to nobody, `waves` says who gets a new image when.

pub mod cloud;
pub mod kit;
pub mod kubernetes;
pub mod ledger;
pub mod pass;
pub mod plan;
pub mod sweep;
pub mod waves;
