//! The local cloud: databases and roles in the service's own PostgreSQL, buckets as directories, planes as child
//! processes whose standard input is held open. When the control plane is killed that pipe ends and they stop.

mod directories;
mod process;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use async_trait::async_trait;
use clusters::postgres as database;
use contract::config::{DataPlaneConfig, ImportConfig, LogsConfig, StoreConfig, TelemetryConfig};
use contract::executor::ExecutorConfig;
use contract::ids::OrganizationId;
use process::Processes;
use provisioner::cloud::{Cloud, CloudSeen, Order, PlaneIdentity};
use provisioner::plan::Kit;
use secrecy::ExposeSecret;
use sqlx::PgPool;
use sqlx::postgres::PgConnectOptions;

use crate::keys::Keyring;

/// The first uid of user code; each organization has one of its own above it.
const SANDBOX_UID_BASE: u32 = 200_000;

/// What the local cloud is told by the service.
pub struct LocalSettings {
    /// State directory of the service.
    pub home: PathBuf,
    /// The data plane's binary.
    pub data_plane_binary: PathBuf,
    /// The sandbox's binary.
    pub sandbox_binary: PathBuf,
    /// The control plane, as planes reach it.
    pub control_url: String,
    /// The issuer of access tokens.
    pub issuer: String,
    /// The keys that planes are told at their start.
    pub keys: Arc<Keyring>,
    /// The service's database, whose server the tenants' databases are made on.
    pub database: PgConnectOptions,
    /// What the planes may fetch, and from where.
    pub imports: ImportConfig,
    /// How much of logs the planes keep.
    pub logs: LogsConfig,
    /// What the planes tell operators.
    pub telemetry: TelemetryConfig,
}

/// The local cloud.
pub struct LocalCloud {
    settings: LocalSettings,
    pool: PgPool,
    processes: Processes,
}

impl LocalCloud {
    /// A cloud that calls `exited` when a process ends by itself.
    pub fn new(settings: LocalSettings, pool: PgPool, exited: impl Fn(OrganizationId) + Send + Sync + 'static) -> Self {
        Self {
            settings,
            pool,
            processes: Processes::new(exited),
        }
    }

    fn config(&self, order: &Order) -> DataPlaneConfig {
        let (plane, secrets) = (&order.identity, &order.secrets);
        let name = database::name(plane.organization);
        let place = self.directories(plane);
        DataPlaneConfig {
            organization: plane.organization,
            database_url: database::url(
                &self.settings.database,
                &name,
                secrets.database_password.expose_secret(),
            ),
            listen: "127.0.0.1:0".to_owned(),
            store: StoreConfig::Local {
                directory: place.bucket,
            },
            home: place.home,
            control_url: self.settings.control_url.clone(),
            issuer: self.settings.issuer.clone(),
            data_key: secrets.data_key.as_ref().map(|key| key.expose_secret().to_owned()),
            agent_token: secrets.agent_token.expose_secret().to_owned(),
            jwks: self.settings.keys.jwks(),
            sandbox_binary: self.settings.sandbox_binary.clone(),
            masked: vec![self.settings.home.clone()],
            slots: std::thread::available_parallelism().map_or(2, usize::from),
            sandbox_uid: SANDBOX_UID_BASE + plane.number,
            fail_closed_seconds: 60,
            handover: true,
            imports: self.settings.imports.clone(),
            logs: self.settings.logs,
            telemetry: self.settings.telemetry.clone(),
            executor: ExecutorConfig::Processes,
        }
    }

    fn directories(&self, plane: &PlaneIdentity) -> directories::Directories {
        directories::Directories::of(&self.settings.home, plane.organization)
    }
}

#[async_trait]
impl Cloud for LocalCloud {
    /// Size and time of the binary: another build is another version, whatever it calls itself.
    async fn version(&self, _order: &Order) -> anyhow::Result<String> {
        let binary = &self.settings.data_plane_binary;
        let about = tokio::fs::metadata(binary)
            .await
            .with_context(|| format!("the data plane's binary `{}` is not there", binary.display()))?;
        let changed = about.modified()?.duration_since(std::time::UNIX_EPOCH)?;
        Ok(format!("{}-{}", about.len(), changed.as_micros()))
    }

    async fn observe(&self, order: &Order) -> anyhow::Result<CloudSeen> {
        let (organization, place) = (order.identity.organization, self.directories(&order.identity));
        Ok(CloudSeen {
            database: database::exists(&self.pool, &database::name(organization)).await?,
            bucket: directories::exists(&place.bucket).await?,
            home: directories::exists(&place.tenant).await? || directories::exists(&place.log).await?,
            kit: Kit::Unneeded,
            process: self.processes.observe(organization),
            outdated: None,
        })
    }

    async fn create_database(&self, order: &Order) -> anyhow::Result<()> {
        let name = database::name(order.identity.organization);
        database::create(&self.pool, &name, order.secrets.database_password.expose_secret()).await
    }

    async fn create_bucket(&self, order: &Order) -> anyhow::Result<()> {
        self.directories(&order.identity).create().await
    }

    async fn apply_kit(&self, _order: &Order) -> anyhow::Result<Vec<String>> {
        Ok(Vec::new())
    }

    async fn migrate(&self, order: &Order) -> anyhow::Result<()> {
        let log = self.directories(&order.identity).log;
        let config = self.config(order);
        process::run_to_end(&self.settings.data_plane_binary, "migrate", &config, &log).await
    }

    async fn start(&self, order: &Order) -> anyhow::Result<()> {
        let log = self.directories(&order.identity).log;
        let config = self.config(order);
        self.processes
            .start(
                order.identity.organization,
                &self.settings.data_plane_binary,
                &config,
                &log,
            )
            .await
    }

    async fn stop(&self, order: &Order) -> anyhow::Result<()> {
        self.processes.stop(order.identity.organization).await;
        Ok(())
    }

    async fn remove_database(&self, order: &Order) -> anyhow::Result<()> {
        database::remove(&self.pool, &database::name(order.identity.organization)).await
    }

    async fn remove_bucket(&self, order: &Order) -> anyhow::Result<()> {
        directories::remove(&self.directories(&order.identity).bucket).await
    }

    async fn remove_kit(&self, _order: &Order) -> anyhow::Result<()> {
        Ok(())
    }

    async fn remove_home(&self, order: &Order) -> anyhow::Result<()> {
        let place = self.directories(&order.identity);
        directories::remove(&place.tenant).await?;
        directories::remove(&place.log).await
    }

    fn receipt(&self, order: &Order) -> Vec<(&'static str, String)> {
        let id = order.identity.organization;
        vec![
            ("database", format!("database and role of {id} dropped")),
            ("bucket", format!("bucket of {id} removed with all packs in it")),
            ("state", format!("state directory and logs of {id} removed")),
        ]
    }

    async fn shut_down(&self) {
        self.processes.stop_all().await;
    }
}
