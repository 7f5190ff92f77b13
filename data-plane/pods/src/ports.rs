//! What a round needs of the world: the cluster, and the plane's database. Tests put their own in their places.

use std::collections::{BTreeMap, HashSet};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use provenance::spec::PipelineSpec;
use serde_json::Value;
use uuid::Uuid;

use crate::pool::Pool;
use crate::seen::PodSeen;

/// Why the cluster did not do something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    /// The namespace's quota does not admit it: what is asked for, used and allowed, in the cluster's words.
    #[error("the quota of the organization is used up: {0}")]
    Quota(String),
    /// It is not what may be there.
    #[error("the cluster does not take the pod: {0}")]
    Invalid(String),
    /// A rule of the cluster forbids it.
    #[error("the cluster forbids it: {0}")]
    Forbidden(String),
    /// It may go another time.
    #[error("the cluster cannot be asked: {0}")]
    Unavailable(String),
}

/// The cluster, as far as the tenant's namespace goes. All calls may be repeated.
#[async_trait]
pub trait Cluster: Send + Sync {
    /// The worker pods, as they were a moment ago.
    async fn pods(&self) -> Result<Vec<PodSeen>, ClusterError>;
    /// Makes a pod; one of that name may be there already.
    async fn create(&self, pod: &Value) -> Result<(), ClusterError>;
    /// Removes the pod of that name, if it is still that one; `now` does not wait for its node.
    async fn delete(&self, name: &str, uid: Uuid, now: bool) -> Result<(), ClusterError>;
    /// Makes a secret, or sets what is in it.
    async fn apply_secret(&self, secret: &Value) -> Result<(), ClusterError>;
    /// Removes a secret, if there is one.
    async fn delete_secret(&self, name: &str) -> Result<(), ClusterError>;
}

/// What a pool has to do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Demand {
    /// Datums that wait or run.
    pub open: u64,
    /// At most so many pods; `None` = the spec does not say.
    pub parallelism: Option<u32>,
    /// More may come: it is the version of now, of a pipeline that is not stopped.
    pub stays: bool,
    /// When it last had something to do.
    pub active_at: Option<DateTime<Utc>>,
    /// Its secrets were made, and not removed yet.
    pub has_secrets: bool,
}

/// What a pool's pods are made of. It never changes while the plane runs.
#[derive(Debug, Clone)]
pub struct Blueprint {
    /// The spec.
    pub spec: PipelineSpec,
    /// The image by its digest.
    pub image: String,
}

/// What a pool's pods hold besides.
#[derive(Clone)]
pub struct Secrets {
    /// The agents' configuration.
    pub config: String,
    /// Who signs in to the image's registry, as `docker login` writes it.
    pub docker_config: Option<String>,
}

/// The plane's database.
#[async_trait]
pub trait Book: Send + Sync {
    /// What these pools have to do, and all others that have something to do or whose secrets are there.
    async fn demands(&self, seen: &[Pool]) -> anyhow::Result<BTreeMap<Pool, Demand>>;
    /// Of these pods, by their uids, those that hold datums.
    async fn busy(&self, pods: &[PodSeen]) -> anyhow::Result<HashSet<Uuid>>;
    /// These pods are given nothing new, and all others are.
    async fn rest(&self, pods: &[(Pool, Uuid)]) -> anyhow::Result<()>;
    /// What pods of a pool are made of; in words, why none can be made.
    async fn blueprint(&self, pool: Pool) -> anyhow::Result<Result<Blueprint, String>>;
    /// What they hold; in words, why they cannot have it.
    async fn secrets(&self, pool: Pool) -> anyhow::Result<Result<Secrets, String>>;
    /// Secrets of a pool are made next.
    async fn note_secrets(&self, pool: Pool) -> anyhow::Result<()>;
    /// They are gone.
    async fn forget_secrets(&self, pool: Pool) -> anyhow::Result<()>;
    /// A pod is gone: its datums are free. `reason` says what they were lost by, where that was their own doing.
    async fn lost(&self, pool: Pool, pod: Uuid, reason: Option<&str>) -> anyhow::Result<()>;
    /// What keeps a pool's jobs, or that nothing does.
    async fn tell(&self, pool: Pool, reason: Option<&str>) -> anyhow::Result<()>;
    /// A pool's jobs cannot run.
    async fn give_up(&self, pool: Pool, reason: &str) -> anyhow::Result<()>;
}
