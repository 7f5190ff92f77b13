//! What the reconciler needs of a cloud. One implementation so far, `local`: child processes, directories, databases of
//! the service's own PostgreSQL. Every call is idempotent and deterministic in its names.

use async_trait::async_trait;
use contract::ids::OrganizationId;
use secrecy::SecretString;

use super::plan::Process;

/// Which plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlaneIdentity {
    /// Its organization.
    pub organization: OrganizationId,
    /// Its number on this service, from 1; what cannot be named by an id is derived from it.
    pub number: u32,
}

/// What only this plane may know.
pub struct PlaneSecrets {
    /// Of its database role.
    pub database_password: SecretString,
    /// What its packs are encrypted with, in hex; `None`: they are not.
    pub data_key: Option<SecretString>,
    /// Its credential at the control plane.
    pub agent_token: SecretString,
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
    /// The process.
    pub process: Process,
}

/// Where planes live.
#[async_trait]
pub trait Cloud: Send + Sync + 'static {
    /// Names the version of the data plane's binary; a change means that schemas have to be brought up to date.
    async fn version(&self) -> anyhow::Result<String>;
    /// Looks.
    async fn observe(&self, plane: &PlaneIdentity) -> anyhow::Result<CloudSeen>;
    /// Makes role and database.
    async fn create_database(&self, plane: &PlaneIdentity, secrets: &PlaneSecrets) -> anyhow::Result<()>;
    /// Makes the bucket.
    async fn create_bucket(&self, plane: &PlaneIdentity) -> anyhow::Result<()>;
    /// Brings the schema up to date.
    async fn migrate(&self, plane: &PlaneIdentity, secrets: &PlaneSecrets) -> anyhow::Result<()>;
    /// Starts the process and waits until it serves.
    async fn start(&self, plane: &PlaneIdentity, secrets: &PlaneSecrets) -> anyhow::Result<()>;
    /// Stops it, or forgets that it crashed.
    async fn stop(&self, plane: &PlaneIdentity) -> anyhow::Result<()>;
    /// Removes database and role.
    async fn remove_database(&self, plane: &PlaneIdentity) -> anyhow::Result<()>;
    /// Removes the bucket and all in it.
    async fn remove_bucket(&self, plane: &PlaneIdentity) -> anyhow::Result<()>;
    /// Removes the state directory and the logs.
    async fn remove_home(&self, plane: &PlaneIdentity) -> anyhow::Result<()>;
    /// Stops all processes, because the control plane stops.
    async fn shut_down(&self);
}
