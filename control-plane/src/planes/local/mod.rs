//! The local cloud: databases and roles in the service's own PostgreSQL, buckets as directories, planes as child
//! processes whose standard input is held open. When the control plane is killed that pipe ends and they stop.

mod database;
mod directories;
mod process;
mod scram;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use async_trait::async_trait;
use contract::config::{DataPlaneConfig, ImportConfig, LogsConfig, StoreConfig, TelemetryConfig};
use contract::executor::ExecutorConfig;
use contract::ids::OrganizationId;
use secrecy::ExposeSecret;
use sqlx::PgPool;
use sqlx::postgres::PgConnectOptions;

use crate::keys::Keyring;

use super::cloud::{Cloud, CloudSeen, PlaneIdentity, PlaneSecrets};
use process::Processes;

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

    fn config(&self, plane: &PlaneIdentity, secrets: &PlaneSecrets) -> DataPlaneConfig {
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
    async fn version(&self) -> anyhow::Result<String> {
        let binary = &self.settings.data_plane_binary;
        let about = tokio::fs::metadata(binary)
            .await
            .with_context(|| format!("the data plane's binary `{}` is not there", binary.display()))?;
        let changed = about.modified()?.duration_since(std::time::UNIX_EPOCH)?;
        Ok(format!("{}-{}", about.len(), changed.as_micros()))
    }

    async fn observe(&self, plane: &PlaneIdentity) -> anyhow::Result<CloudSeen> {
        let place = self.directories(plane);
        Ok(CloudSeen {
            database: database::exists(&self.pool, &database::name(plane.organization)).await?,
            bucket: directories::exists(&place.bucket).await?,
            home: directories::exists(&place.tenant).await? || directories::exists(&place.log).await?,
            process: self.processes.observe(plane.organization),
        })
    }

    async fn create_database(&self, plane: &PlaneIdentity, secrets: &PlaneSecrets) -> anyhow::Result<()> {
        let name = database::name(plane.organization);
        database::create(&self.pool, &name, secrets.database_password.expose_secret()).await
    }

    async fn create_bucket(&self, plane: &PlaneIdentity) -> anyhow::Result<()> {
        self.directories(plane).create().await
    }

    async fn migrate(&self, plane: &PlaneIdentity, secrets: &PlaneSecrets) -> anyhow::Result<()> {
        let log = self.directories(plane).log;
        process::run_to_end(
            &self.settings.data_plane_binary,
            "migrate",
            &self.config(plane, secrets),
            &log,
        )
        .await
    }

    async fn start(&self, plane: &PlaneIdentity, secrets: &PlaneSecrets) -> anyhow::Result<()> {
        let log = self.directories(plane).log;
        let config = self.config(plane, secrets);
        self.processes
            .start(plane.organization, &self.settings.data_plane_binary, &config, &log)
            .await
    }

    async fn stop(&self, plane: &PlaneIdentity) -> anyhow::Result<()> {
        self.processes.stop(plane.organization).await;
        Ok(())
    }

    async fn remove_database(&self, plane: &PlaneIdentity) -> anyhow::Result<()> {
        database::remove(&self.pool, &database::name(plane.organization)).await
    }

    async fn remove_bucket(&self, plane: &PlaneIdentity) -> anyhow::Result<()> {
        directories::remove(&self.directories(plane).bucket).await
    }

    async fn remove_home(&self, plane: &PlaneIdentity) -> anyhow::Result<()> {
        let place = self.directories(plane);
        directories::remove(&place.tenant).await?;
        directories::remove(&place.log).await
    }

    async fn shut_down(&self) {
        self.processes.stop_all().await;
    }
}
