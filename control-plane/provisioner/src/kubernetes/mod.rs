//! The cloud of clusters: each organization has a namespace with its kit, a database, a bucket, and GPU nodes where it asks for
//! them. All logic is here and stands on three ports; it holds nothing that it could not read again.

mod bucket;
mod drift;
mod look;
pub mod ports;
mod words;
mod write;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use chrono::{DateTime, Duration, Utc};
use contract::cloud::KubernetesConfig;
use contract::config::{ImportConfig, LogsConfig, TelemetryConfig};
use contract::ids::OrganizationId;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::cloud::{Cloud, CloudSeen, Order};
use crate::kit::names::{GPU_CLASS, ORGANIZATION, OURS, PORT, namespace};
use crate::kit::{Targets, TenantKit, Workload};
use crate::pass::Environment;
use ports::{Buckets, Cluster, ClusterError, Databases, Expected};

/// A kit that was found to be right is looked at in full again after that, where nothing says sooner that it was changed.
const LOOK_AGAIN: Duration = Duration::minutes(10);

/// Of the pods that an organization may have, so many are not for its code: the plane, and the one that comes after it.
const RESERVED_PODS: u32 = 2;

/// What the cloud is told by the service.
pub struct Settings {
    /// The cluster and what stands beside it.
    pub config: KubernetesConfig,
    /// Whom pods may reach.
    pub targets: Targets,
    /// The issuer of access tokens.
    pub issuer: String,
    /// The public keys of now: a plane is never told of one that was withdrawn.
    pub jwks: Arc<dyn Fn() -> Value + Send + Sync>,
    /// What the planes may fetch, and from where.
    pub imports: ImportConfig,
    /// How much of logs the planes keep.
    pub logs: LogsConfig,
    /// What the planes tell operators.
    pub telemetry: TelemetryConfig,
    /// Names this installation among others of a cluster.
    pub installation: String,
}

/// The cloud of clusters.
pub struct KubernetesCloud {
    settings: Settings,
    cluster: Arc<dyn Cluster>,
    databases: Arc<dyn Databases>,
    buckets: Arc<dyn Buckets>,
    environment: Arc<dyn Environment>,
    verified: Mutex<HashMap<OrganizationId, (String, DateTime<Utc>)>>,
    /// When planes that run need another session of their bucket.
    sessions: Mutex<HashMap<OrganizationId, DateTime<Utc>>>,
}

impl KubernetesCloud {
    /// A cloud over these ports.
    pub fn new(
        settings: Settings,
        cluster: Arc<dyn Cluster>,
        databases: Arc<dyn Databases>,
        buckets: Arc<dyn Buckets>,
        environment: Arc<dyn Environment>,
    ) -> Self {
        Self {
            settings,
            cluster,
            databases,
            buckets,
            environment,
            verified: Mutex::default(),
            sessions: Mutex::default(),
        }
    }

    /// Something of the organization was changed, maybe by somebody else: it is looked at in full next time.
    pub fn touched(&self, organization: OrganizationId) {
        self.table().remove(&organization);
    }

    /// Makes what the cluster has once for all organizations be as it ought to.
    ///
    /// # Errors
    /// When the API server does not do it.
    pub async fn apply_system(&self) -> anyhow::Result<()> {
        let (config, installation) = (&self.settings.config, &self.settings.installation);
        for object in crate::kit::system() {
            write::apply_shared(&*self.cluster, &object).await?;
        }
        for object in crate::kit::warm(config, installation) {
            match config.warm.planes {
                0 => write::remove_shared(&*self.cluster, &object).await?,
                _ => write::apply_shared(&*self.cluster, &object).await?,
            }
        }
        Ok(())
    }

    fn table(&self) -> std::sync::MutexGuard<'_, HashMap<OrganizationId, (String, DateTime<Utc>)>> {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sessions(&self) -> std::sync::MutexGuard<'_, HashMap<OrganizationId, DateTime<Utc>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kit(&self, order: &Order) -> TenantKit<'_> {
        self.kit_of(order.identity.organization)
    }

    fn kit_of(&self, organization: OrganizationId) -> TenantKit<'_> {
        TenantKit {
            organization,
            installation: &self.settings.installation,
            config: &self.settings.config,
            targets: &self.settings.targets,
        }
    }

    fn image<'a>(&'a self, order: &'a Order) -> &'a str {
        order.image.as_deref().unwrap_or(&self.settings.config.plane_image)
    }

    /// The plane's configuration, without its credential and the keys, which change while it runs.
    async fn config(&self, order: &Order) -> anyhow::Result<Value> {
        let organization = order.identity.organization;
        let (cluster, image) = (&self.settings.config, self.image(order));
        let store = self.store(organization).await?;
        let database = self.databases.url(organization, &order.secrets.database_password);
        Ok(json!({
            "organization": organization,
            "database_url": database.expose_secret(),
            "listen": format!("0.0.0.0:{PORT}"),
            "store": store,
            "data_key": order.secrets.data_key.as_ref().map(|key| key.expose_secret()),
            "home": "/var/lib/howdah",
            "control_url": cluster.control_url,
            "issuer": self.settings.issuer,
            "agent_token": "",
            "jwks": null,
            "sandbox_binary": "/usr/local/bin/howdah-sandbox",
            "masked": [],
            "slots": 1,
            "sandbox_uid": 65532,
            "imports": self.settings.imports,
            "logs": self.settings.logs,
            "telemetry": self.settings.telemetry,
            "executor": self.executor(organization, image),
        }))
    }

    /// What runs code there: pods in the plane's own namespace.
    fn executor(&self, organization: OrganizationId, image: &str) -> Value {
        let (cluster, name) = (&self.settings.config, namespace(organization));
        let of_class = |class: &contract::cloud::GpuClass| {
            json!({
                "name": class.name,
                "kind": "nvidia.com/gpu",
                "node_selector": { ORGANIZATION: organization.to_string(), GPU_CLASS: class.name },
                "taints": [{ "key": ORGANIZATION, "value": organization.to_string(), "effect": "NoSchedule" }],
            })
        };
        let mut executor = json!({
            "kind": "kubernetes",
            "namespace": name,
            "image": image,
            "workers_url": format!("http://plane.{name}.svc:{PORT}"),
            "pods_max": cluster.quota.pods.saturating_sub(RESERVED_PODS).max(1),
            "gpu_classes": cluster.gpu.classes.iter().map(of_class).collect::<Vec<_>>(),
        });
        for (name, value) in &cluster.executor {
            executor[name] = value.clone();
        }
        executor
    }

    /// The plane's deployment as it is wanted.
    fn deployment(&self, order: &Order, config: &Value, replicas: u8) -> Value {
        let workload = Workload {
            image: self.image(order),
            config,
            agent_sha256: order.agent_sha256.as_deref(),
        };
        crate::kit::deployment(&self.kit(order), &workload, replicas)
    }
}

#[async_trait]
impl Cloud for KubernetesCloud {
    /// The image: it brings its schema up to date itself, before each start.
    async fn version(&self, order: &Order) -> anyhow::Result<String> {
        Ok(self.image(order).to_owned())
    }

    async fn observe(&self, order: &Order) -> anyhow::Result<CloudSeen> {
        self.look(order).await
    }

    async fn create_database(&self, order: &Order) -> anyhow::Result<()> {
        let password = &order.secrets.database_password;
        self.databases.create(order.identity.organization, password).await
    }

    async fn create_bucket(&self, order: &Order) -> anyhow::Result<()> {
        self.buckets.create(order.identity.organization).await
    }

    async fn apply_kit(&self, order: &Order) -> anyhow::Result<Vec<String>> {
        // The kit says that it is complete once everything else is.
        let missing = self.buckets.lock_down(order.identity.organization).await?;
        self.write_kit(order).await?;
        Ok(missing)
    }

    /// The plane's pod does that before it serves; a failure of it is one of the start.
    async fn migrate(&self, _order: &Order) -> anyhow::Result<()> {
        Ok(())
    }

    async fn start(&self, order: &Order) -> anyhow::Result<()> {
        self.write_workload(order).await
    }

    async fn stop(&self, order: &Order) -> anyhow::Result<()> {
        self.scale_down(order).await
    }

    async fn remove_database(&self, order: &Order) -> anyhow::Result<()> {
        self.databases.remove(order.identity.organization).await
    }

    async fn remove_bucket(&self, order: &Order) -> anyhow::Result<()> {
        self.buckets.remove(order.identity.organization).await
    }

    async fn remove_kit(&self, order: &Order) -> anyhow::Result<()> {
        self.touched(order.identity.organization);
        self.forget_session(order.identity.organization);
        write::remove_cluster_objects(&*self.cluster, order).await
    }

    async fn remove_home(&self, _order: &Order) -> anyhow::Result<()> {
        Ok(())
    }

    fn receipt(&self, order: &Order) -> Vec<(&'static str, String)> {
        let id = order.identity.organization;
        vec![
            ("database", format!("database and role of {id} dropped")),
            (
                "bucket",
                format!(
                    "bucket `{}` removed with all packs in it, and its keys",
                    self.buckets.name(id)
                ),
            ),
            (
                "cluster",
                format!(
                    "namespace `{}` removed with its pods, secrets and volumes, and the node pools of {id}",
                    namespace(id)
                ),
            ),
        ]
    }

    /// Planes go on without it.
    async fn shut_down(&self) {}
}

/// Selects what is ours of an organization.
fn of(organization: OrganizationId) -> String {
    format!("{OURS},{ORGANIZATION}={organization}")
}
