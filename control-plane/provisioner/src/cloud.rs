//! What the pass needs of a cloud. Two implementations: `local` of the control plane (child processes, directories, databases
//! of the service's own PostgreSQL) and `kubernetes` here. Every call is idempotent, deterministic in its names, and returns
//! soon: what takes long is begun, and seen when the pass looks again.

use async_trait::async_trait;
use contract::ids::OrganizationId;
use secrecy::SecretString;

use crate::plan::{Kit, Process};

/// Which plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlaneIdentity {
    /// Its organization.
    pub organization: OrganizationId,
    /// Its number on this service, from 1; what cannot be named by an id is derived from it.
    pub number: u32,
}

/// What only this plane may know.
#[derive(Clone)]
pub struct PlaneSecrets {
    /// Of its database role.
    pub database_password: SecretString,
    /// What its packs are encrypted with, in hex; `None`: they are not.
    pub data_key: Option<SecretString>,
    /// Its credential at the control plane; empty where the call has no use for it, since only its digest is kept.
    pub agent_token: SecretString,
}

/// What is said to a cloud of a plane.
#[derive(Clone)]
pub struct Order {
    /// Which one.
    pub identity: PlaneIdentity,
    /// Of which generation the instruction is: clouds refuse those that are older than what is there.
    pub generation: i64,
    /// The image of this plane, where its cloud has images and this one is not to have the usual.
    pub image: Option<String>,
    /// What it is given.
    pub secrets: PlaneSecrets,
    /// The digest of the credential that it has at the control plane now.
    pub agent_sha256: Option<Vec<u8>>,
}

/// What a cloud sees of a plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudSeen {
    /// Role and database.
    pub database: bool,
    /// The bucket.
    pub bucket: bool,
    /// The state directory.
    pub home: bool,
    /// What stands around the process.
    pub kit: Kit,
    /// The process.
    pub process: Process,
    /// Why the process has to be started again although it is there: its image or its configuration is another one.
    pub outdated: Option<String>,
}

/// Somebody else wrote in between: look again.
#[derive(Debug, thiserror::Error)]
#[error("{0} was changed by somebody else at the same moment")]
pub struct Raced(pub String);

/// This process leads no more: whoever does now decides what is to be done.
#[derive(Debug, thiserror::Error)]
#[error("another process makes planes be as wanted now")]
pub struct Fenced;

/// What is there was made by a newer instruction than this one.
#[derive(Debug, thiserror::Error)]
#[error("{what} is of generation {theirs}, newer than the instruction's {ours}: it is left alone")]
pub struct Outranked {
    /// The object.
    pub what: String,
    /// Its generation.
    pub theirs: i64,
    /// The instruction's.
    pub ours: i64,
}

/// Where planes live.
#[async_trait]
pub trait Cloud: Send + Sync + 'static {
    /// Names the version that the plane is to have; a change means that schemas have to be brought up to date.
    async fn version(&self, order: &Order) -> anyhow::Result<String>;
    /// Looks.
    async fn observe(&self, order: &Order) -> anyhow::Result<CloudSeen>;
    /// Makes role and database.
    async fn create_database(&self, order: &Order) -> anyhow::Result<()>;
    /// Makes the bucket.
    async fn create_bucket(&self, order: &Order) -> anyhow::Result<()>;
    /// Makes what stands around the process, and what protects the stores, be as it ought to. Answers what of that the cloud could
    /// not give, in words.
    async fn apply_kit(&self, order: &Order) -> anyhow::Result<Vec<String>>;
    /// Brings the schema up to date.
    async fn migrate(&self, order: &Order) -> anyhow::Result<()>;
    /// Starts the process, or starts it again as it ought to be now.
    async fn start(&self, order: &Order) -> anyhow::Result<()>;
    /// Stops it, or forgets that it crashed.
    async fn stop(&self, order: &Order) -> anyhow::Result<()>;
    /// Removes database and role.
    async fn remove_database(&self, order: &Order) -> anyhow::Result<()>;
    /// Removes the bucket and all in it, or as much of it as one call can.
    async fn remove_bucket(&self, order: &Order) -> anyhow::Result<()>;
    /// Removes what stands around the process.
    async fn remove_kit(&self, order: &Order) -> anyhow::Result<()>;
    /// Removes the state directory and the logs.
    async fn remove_home(&self, order: &Order) -> anyhow::Result<()>;
    /// What a deletion removed, store by store, for the receipt.
    fn receipt(&self, order: &Order) -> Vec<(&'static str, String)>;
    /// The control plane stops.
    async fn shut_down(&self);
}
