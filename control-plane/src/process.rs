//! The process: from its configuration to a serving control plane with its reconciler, and back down again.

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use chassis::Environment;
use chassis::process::Shutdown;
use contract::cloud::CloudConfig;
use contract::config::{ControlPlaneConfig, ServicesConfig};
use contract::ids::OrganizationId;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection, PgPool};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::app::{self, App};
use crate::authz::System;
use crate::planes::cluster;
use crate::planes::local::{LocalCloud, LocalSettings};
use crate::planes::reconciler::Reconciler;
use crate::rate_limits::RateLimits;
use crate::serving::{self, Hosts};
use crate::vault::Vault;
use crate::{
    database, device_logins, idempotency, keys, mail, mailed_codes, passkeys, single_sign_on, token_exchange, vault,
};

/// Any number that only this service uses: the advisory lock of the one reconciler.
const RECONCILER_LOCK: i64 = 0x686f_7764_6168;
/// How often a process that serves looks whether the signing keys were changed.
const SIGNING_KEYS_EVERY: Duration = Duration::from_secs(1);

/// Serves until the shutdown; calls `ready` with the address once requests are answered.
///
/// # Errors
/// When it cannot start, with what to do.
pub async fn serve(
    config: ControlPlaneConfig,
    environment: Environment,
    shutdown: Shutdown,
    ready: impl FnOnce(&str),
) -> anyhow::Result<()> {
    make_home(&config.home)?;
    let listener = TcpListener::bind(&config.listen).await.with_context(|| {
        format!(
            "the address `{}` cannot be listened on; choose another with `--listen`",
            config.listen
        )
    })?;
    let local = format!("http://{}", listener.local_addr()?);
    let public_url = match config.public_url.trim_end_matches('/') {
        url if url.is_empty() || url.ends_with(":0") => local.clone(),
        url => url.to_owned(),
    };
    let (app, signals) = App::open(
        &config,
        public_url,
        environment,
        &RateLimits::default(),
        shutdown.clone(),
    )
    .await?;
    close_own_database(&app).await;
    match &config.cloud {
        CloudConfig::Local => spawn_local(&config, &app, local, signals)?,
        CloudConfig::Kubernetes(kubernetes) => cluster::open(&app, &config, kubernetes).await?.spawn(&app, signals),
    }
    spawn_forgetting(&app);
    mail::spawn(&app);
    spawn_key_refresh(&app);
    spawn_signing_key_refresh(&app);
    if let Some(services) = config.services.clone() {
        shutdown.spawn("services", serve_services(Arc::clone(&app), services));
    }
    ready(&app.public_url);
    let served = app::serve(Arc::clone(&app), listener).await;
    shutdown.begin();
    shutdown.finished().await;
    app.pool.close().await;
    served
}

/// Planes on this machine, of whichever process has the lock.
fn spawn_local(
    config: &ControlPlaneConfig,
    app: &Arc<App>,
    control_url: String,
    signals: mpsc::UnboundedReceiver<OrganizationId>,
) -> anyhow::Result<()> {
    let cloud = cloud(config, app, control_url)?;
    let reconciler = Reconciler::new(Arc::clone(app), Arc::new(cloud));
    let (url, stop) = (config.database_url.clone(), app.shutdown.clone());
    app.shutdown.spawn("reconciler", async move {
        let lease = tokio::select! {
            lease = lease(&url) => lease,
            () = stop.begun() => return,
        };
        reconciler.run(signals).await;
        drop(lease);
    });
    Ok(())
}

/// The database, and the vault that opens what is sealed in it.
async fn opened(config: &ControlPlaneConfig, environment: &Environment) -> anyhow::Result<(PgPool, Vault)> {
    let pool = database::open(&config.database_url).await?;
    let services = vault::services(&config.master_key, &config.previous_master_keys, environment)?;
    let vault = Vault::open_with(&pool, environment, services).await?;
    Ok((pool, vault))
}

/// Lets the next key sign from now on.
///
/// # Errors
/// When the database is away, or the master key is not its own.
pub async fn rotate_keys(config: &ControlPlaneConfig, environment: &Environment) -> anyhow::Result<()> {
    let (pool, vault) = opened(config, environment).await?;
    keys::rotate(&pool, &vault, environment).await
}

/// Withdraws a signing key that somebody else has.
///
/// # Errors
/// As [`rotate_keys`], and when there is no such key.
pub async fn withdraw_key(
    config: &ControlPlaneConfig,
    environment: &Environment,
    kid: &str,
) -> anyhow::Result<keys::Withdrawn> {
    let (pool, vault) = opened(config, environment).await?;
    keys::withdraw(&pool, &vault, environment, kid).await
}

/// Serves services until the shutdown. An address that cannot be listened on is tried again: the API does not depend on it.
async fn serve_services(app: Arc<App>, services: ServicesConfig) {
    while !app.shutdown.has_begun() {
        let served = match listen_for_services(&app, &services).await {
            Ok(listener) => serving::serve(Arc::clone(&app), listener).await,
            Err(error) => Err(error),
        };
        if let Err(error) = served {
            tracing::warn!("services are not reached, which is tried again: {error:#}");
        }
        tokio::select! {
            () = app.shutdown.begun() => return,
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
}

/// Takes the address of services; port 0 is replaced in what browsers are told.
async fn listen_for_services(app: &App, services: &ServicesConfig) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(&services.listen).await.with_context(|| {
        format!(
            "the address of services `{}` cannot be listened on; choose another with `--services-listen`",
            services.listen
        )
    })?;
    let url = match services.url.strip_suffix(":0") {
        Some(host) => format!("{host}:{}", listener.local_addr()?.port()),
        None => services.url.clone(),
    };
    let hosts = Hosts::parse(&url).map_err(|error| anyhow::anyhow!("{}", error.0.detail))?;
    let _ = app.hosts.set(hosts);
    Ok(listener)
}

fn cloud(config: &ControlPlaneConfig, app: &Arc<App>, control_url: String) -> anyhow::Result<LocalCloud> {
    let told = !config.data_plane_binary.as_os_str().is_empty() && !config.sandbox_binary.as_os_str().is_empty();
    anyhow::ensure!(
        told,
        "`data_plane_binary` and `sandbox_binary` must say what runs on this machine, or `cloud` where planes run"
    );
    let settings = LocalSettings {
        home: config.home.clone(),
        data_plane_binary: config.data_plane_binary.clone(),
        sandbox_binary: config.sandbox_binary.clone(),
        control_url,
        issuer: app.public_url.clone(),
        keys: Arc::clone(&app.keys),
        database: PgConnectOptions::from_str(&config.database_url).context("`database_url` is not a PostgreSQL URL")?,
        imports: config.imports.clone(),
        logs: config.logs,
        telemetry: config.telemetry.clone(),
    };
    let planes = Arc::clone(&app.planes);
    Ok(LocalCloud::new(settings, app.pool.clone(), move |organization| {
        planes.signal(organization);
    }))
}

/// Waits until no other reconciler works on this database. The lock ends with the connection.
async fn lease(url: &str) -> PgConnection {
    loop {
        match try_lease(url).await {
            Ok(Some(connection)) => return connection,
            Ok(None) => tracing::info!("another control plane reconciles the planes; waiting for it to end"),
            Err(error) => tracing::warn!("the reconciler's lease cannot be taken: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn try_lease(url: &str) -> Result<Option<PgConnection>, sqlx::Error> {
    let mut connection = PgConnection::connect(url).await?;
    let (taken,): (bool,) = sqlx::query_as("select pg_try_advisory_lock($1)")
        .bind(RECONCILER_LOCK)
        .fetch_one(&mut connection)
        .await?;
    Ok(taken.then_some(connection))
}

/// Tenants' roles have no business in the control plane's database.
async fn close_own_database(app: &App) {
    let closed = sqlx::query(
        "do $$ begin execute format('revoke connect on database %I from public', current_database()); end $$",
    )
    .execute(&app.pool)
    .await;
    if let Err(error) = closed {
        tracing::warn!("the control plane's database could not be closed to other roles: {error}");
    }
}

fn spawn_forgetting(app: &Arc<App>) {
    let (app, shutdown) = (Arc::clone(app), app.shutdown.clone());
    shutdown.clone().spawn("forget old tries", async move {
        let mut timer = tokio::time::interval(Duration::from_secs(300));
        loop {
            tokio::select! {
                () = shutdown.begun() => return,
                _ = timer.tick() => {
                    app.limiters.forget_old();
                    app.traffic.forget_old();
                    if let Err(error) = app.keys.keep(&app.pool, &app.vault, &app.environment).await {
                        tracing::warn!("the signing keys stay what they are: {error:#}");
                    }
                    let proof = System::because("what is over is nobody's any more");
                    if let Err(error) = token_exchange::forget_expired(&app.pool, &proof, app.environment.now()).await {
                        tracing::debug!("CI tokens that are over are forgotten later: {error}");
                    }
                    if let Err(error) = idempotency::forget_expired(&app.pool, &proof, app.environment.now()).await {
                        tracing::debug!("old answers are forgotten later: {error}");
                    }
                    if let Err(error) = device_logins::forget_expired(&app.pool, &proof, app.environment.now()).await {
                        tracing::debug!("log-ins that are over are forgotten later: {error}");
                    }
                    if let Err(error) = serving::forget_expired(&app.pool, &proof, app.environment.now()).await {
                        tracing::debug!("old entries of services are forgotten later: {error}");
                    }
                    if let Err(error) = mailed_codes::delete_expired(&app.pool, &proof, app.environment.now()).await {
                        tracing::debug!("old codes are forgotten later: {error}");
                    }
                    if let Err(error) = single_sign_on::delete_expired(&app.pool, &proof, app.environment.now()).await {
                        tracing::debug!("old log-ins are forgotten later: {error}");
                    }
                    if let Err(error) = passkeys::delete_expired(&app.pool, &proof, app.environment.now()).await {
                        tracing::debug!("old challenges are forgotten later: {error}");
                    }
                    if let Err(error) = mail::forget_old(&app.pool, &proof, app.environment.now()).await {
                        tracing::debug!("old mails are forgotten later: {error}");
                    }
                }
            }
        }
    });
}

/// Reads the data keys again now and then: while keys are changed, other processes seal with newer ones.
fn spawn_key_refresh(app: &Arc<App>) {
    let (app, shutdown) = (Arc::clone(app), app.shutdown.clone());
    shutdown.clone().spawn("data keys", async move {
        let mut timer = tokio::time::interval(vault::rotation::REFRESH);
        loop {
            tokio::select! {
                () = shutdown.begun() => return,
                _ = timer.tick() => {
                    if let Err(error) = app.vault.refresh(&app.pool).await {
                        tracing::warn!("the data keys could not be read again, which is tried later: {error:#}");
                    }
                }
            }
        }
    });
}

/// Takes over signing keys that another process changed: one that was withdrawn must not be believed for minutes.
fn spawn_signing_key_refresh(app: &Arc<App>) {
    let (app, shutdown) = (Arc::clone(app), app.shutdown.clone());
    shutdown.clone().spawn("signing keys", async move {
        let mut timer = tokio::time::interval(SIGNING_KEYS_EVERY);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.begun() => return,
                _ = timer.tick() => {
                    if let Err(error) = app.keys.refresh(&app.pool, &app.vault, &app.environment).await {
                        tracing::warn!("the signing keys could not be read again, which is tried later: {error:#}");
                    }
                }
            }
        }
    });
}

/// `rotate-key`: everything depends on the current master key afterwards.
///
/// # Errors
/// When the database or a key is away; what was done stays done, and it can be run again.
pub async fn rotate_key(
    config: &ControlPlaneConfig,
    environment: &Environment,
    data: bool,
) -> anyhow::Result<vault::rotation::Rotated> {
    let (pool, vault) = opened(config, environment).await?;
    vault::rotation::rotate(&pool, environment, &vault, data, vault::rotation::HEARD_AFTER).await
}

fn make_home(home: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        // Others may pass through it, not list it: PostgreSQL runs as another user when root starts the service.
        .mode(0o711)
        .create(home)
        .with_context(|| format!("the state directory `{}` cannot be made", home.display()))
}
