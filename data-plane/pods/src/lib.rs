//! The executor `kubernetes`: code runs in pods of the tenant's namespace, in *pools*, one for each version of a pipeline that has datums
//! to run. What there should be follows from what the database says of open datums and from what the cluster says of pods, and nothing
//! else is remembered, so that the plane may die at any moment: [`plan`] is pure, names are the same each time, and what is there
//! already is no failure.
//!
//! A service or a spout is a pool of one pod, whose command has no end. A pod has three containers: `shim` copies the program that runs commands to where the other finds it, and ends; `user` is the
//! user's image with that program; `agent` alone knows the plane and moves the bytes. [`manifest`] writes it, [`trouble`] says in
//! words what keeps one from running, [`pass`] carries out one round over the ports [`Cluster`] and [`Book`], and [`client`] is the real cluster.

pub mod client;
pub mod manifest;
pub mod pass;
pub mod placing;
pub mod plan;
pub mod pool;
pub mod ports;
pub mod seen;
pub mod trouble;

pub use pool::{Kind, Pool};
pub use ports::{Blueprint, Book, Cluster, ClusterError, Secrets};
pub use seen::PodSeen;
