//! The three ports of the cloud of clusters: the API server, PostgreSQL, the object store. Real ones are in the crate `clusters`,
//! simulated ones in the tests.

use async_trait::async_trait;
use contract::config::BucketSession;
use contract::ids::OrganizationId;
use secrecy::SecretString;
use serde_json::Value;

use crate::cloud::{Fenced, Raced};
use crate::kit::names::Kind;

/// What a write expects to be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// Nothing.
    Absent,
    /// The object as it was read: its `resourceVersion`.
    Version(String),
}

/// Why the API server did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    /// 409: what is there is not what was expected.
    #[error("{0} was changed by somebody else at the same moment")]
    Conflict(String),
    /// 410: the list is too old to be gone on with.
    #[error("the API server does not remember so far back")]
    Gone,
    /// 429, 503.
    #[error("the API server has too much to do")]
    Busy,
    /// 403, 422 and the like: asking again helps nobody.
    #[error("the API server refuses it: {0}")]
    Refused(String),
    /// Nothing was asked: this process leads no more.
    #[error("another process makes planes be as wanted now")]
    Fenced,
    /// Whatever else; it may have been done.
    #[error("the API server did not answer as it ought to: {0}")]
    Failed(String),
}

impl ClusterError {
    /// What looking again settles by itself is no failure.
    pub(crate) fn or_raced(self) -> anyhow::Error {
        match self {
            Self::Conflict(what) => Raced(what).into(),
            Self::Fenced => Fenced.into(),
            other => other.into(),
        }
    }
}

/// Where an object is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place<'a> {
    /// Its kind.
    pub kind: &'a Kind,
    /// Its namespace, where its kind has one.
    pub namespace: Option<&'a str>,
    /// Its name.
    pub name: &'a str,
}

/// A cluster's API server.
#[async_trait]
pub trait Cluster: Send + Sync + 'static {
    /// Server-side apply with our field manager, by force, of an object that names its kind, and answers what is there then.
    async fn apply(&self, object: &Value, expected: &Expected) -> Result<Value, ClusterError>;
    /// Reads one object.
    async fn get(&self, place: &Place<'_>) -> Result<Option<Value>, ClusterError>;
    /// Reads all objects of a kind with these labels, in one namespace or everywhere. The answer may lag behind, but that of
    /// pods: one that is overlooked could be started a second time.
    async fn list(&self, kind: &Kind, namespace: Option<&str>, labels: &str) -> Result<Vec<Value>, ClusterError>;
    /// Begins to remove that very object; one that is gone is removed already. What depends on it goes too.
    async fn delete(&self, place: &Place<'_>, uid: &str) -> Result<(), ClusterError>;
}

/// PostgreSQL of the tenants.
#[async_trait]
pub trait Databases: Send + Sync + 'static {
    /// Whether role and database are there.
    async fn exists(&self, organization: OrganizationId) -> anyhow::Result<bool>;
    /// Makes both, with that password, whatever of them is there.
    async fn create(&self, organization: OrganizationId, password: &SecretString) -> anyhow::Result<()>;
    /// Removes both, under whoever is connected.
    async fn remove(&self, organization: OrganizationId) -> anyhow::Result<()>;
    /// Whose databases there are, of those that we made.
    async fn list(&self) -> anyhow::Result<Vec<OrganizationId>>;
    /// How the plane connects.
    fn url(&self, organization: OrganizationId, password: &SecretString) -> SecretString;
}

/// How a plane reaches its bucket.
#[derive(Clone)]
pub enum BucketKeys {
    /// With keys that last.
    Lasting {
        /// The key's id.
        access_key_id: String,
        /// Its secret.
        secret_access_key: SecretString,
    },
    /// With sessions, one after another.
    Sessions,
    /// As a role of the object store's, which it gives to whoever shows the token of the plane's account.
    Role {
        /// The role.
        arn: String,
        /// Who gives it, where that is not AWS.
        sts_endpoint: Option<String>,
    },
}

/// The object store of the tenants.
#[async_trait]
pub trait Buckets: Send + Sync + 'static {
    /// The name of an organization's bucket.
    fn name(&self, organization: OrganizationId) -> String;
    /// Whether it is there.
    async fn exists(&self, organization: OrganizationId) -> anyhow::Result<bool>;
    /// Makes it.
    async fn create(&self, organization: OrganizationId) -> anyhow::Result<()>;
    /// Closes it to the public, encrypts it, cleans up behind uploads that broke off, says whose it is. Answers what of that the service
    /// could not do, in words.
    async fn lock_down(&self, organization: OrganizationId) -> anyhow::Result<Vec<String>>;
    /// How whoever reads and writes it does so: the same for the same bucket. Keys are made where there are none.
    async fn keys(&self, organization: OrganizationId) -> anyhow::Result<BucketKeys>;
    /// A new session, which may do in this bucket what a plane does, and nothing elsewhere.
    async fn session(&self, organization: OrganizationId) -> anyhow::Result<BucketSession>;
    /// Removes as much of it as one call can, the bucket itself and its keys last.
    async fn remove(&self, organization: OrganizationId) -> anyhow::Result<()>;
    /// Whose buckets there are, of those that we made.
    async fn list(&self) -> anyhow::Result<Vec<OrganizationId>>;
}
