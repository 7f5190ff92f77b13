//! The process: its routes, its background tasks, how it starts and stops.

use std::future::Future;
use std::io::Write;

use anyhow::Context;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use axum::{Router, body::Body};
use chassis::Environment;
use chassis::process::Shutdown;
use chassis::{etag, openapi};
use contract::config::{DataPlaneConfig, DataPlaneReady};
use contract::executor::ExecutorConfig;
use futures::StreamExt;
use tokio::net::TcpListener;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::plane::Plane;
use crate::{
    audit, branches, commits, cron, defaults, executor, files, fsck, garbage, history, idempotency, imports, jobs,
    lineage, permissions, pipelines, policy, projects, readings, repos, scheduler, secrets, serving, statistics,
    stores, uploads, worker,
};

/// How long running requests may go on after the plane was asked to stop.
const DRAIN: std::time::Duration = std::time::Duration::from_secs(5);
/// No pack takes that long to be written.
const ABANDONED_AFTER: chrono::Duration = chrono::Duration::hours(1);
const CLOSE: std::time::Duration = std::time::Duration::from_secs(1);

/// What a plane offers, and what it says of itself. What workers ask for is not part of it.
fn routes() -> OpenApiRouter<Plane> {
    OpenApiRouter::new()
        .merge(projects::routes::router())
        .merge(repos::routes::router())
        .merge(branches::routes::router())
        .merge(commits::routes::router())
        .merge(history::routes::router())
        .merge(files::routes::router())
        .merge(imports::routes::router())
        .merge(uploads::routes::router())
        .merge(lineage::routes::router())
        .merge(permissions::routes::router())
        .merge(permissions::what_if::router())
        .merge(readings::routes::router())
        .merge(fsck::routes::router())
        .merge(garbage::routes::router())
        .merge(statistics::routes::router())
        .merge(audit::routes::router())
        .merge(pipelines::routes::router())
        .merge(secrets::routes::router())
        .merge(defaults::routes::router())
        .merge(jobs::routes::router())
        .merge(jobs::reproductions::router())
        .merge(serving::routes::router())
}

fn described(api: OpenApi) -> OpenApi {
    openapi::document(
        api,
        "Howdah data plane",
        "Versioned data and pipelines of one organization. At the control plane's address it stands below \
         `/o/{organization}`; the bearer is an access token from `POST /v1/access-tokens` there. `Howdah-Epoch` may name \
         the highest policy epoch that the caller has seen: the answer is by that policy or a newer one.",
    )
}

/// The OpenAPI document of a data plane.
#[must_use]
pub fn openapi() -> OpenApi {
    described(routes().routes(routes!(healthy)).into_openapi())
}

/// All routes of a plane.
pub fn router(plane: Plane) -> Router {
    let telemetry = plane.config.telemetry.clone();
    let (router, _) = routes().split_for_parts();
    let routes = router
        .route(openapi::PATH, openapi::served(&openapi()))
        .layer(axum::middleware::from_fn_with_state(plane.clone(), idempotency::note))
        .layer(axum::middleware::from_fn(etag::conditional))
        .layer(axum::middleware::from_fn_with_state(plane.clone(), busy))
        .merge(worker::routes::router())
        .merge(Router::from(OpenApiRouter::new().routes(routes!(healthy))))
        .with_state(plane);
    chassis::http::with_common_layers(routes, &telemetry)
}

/// Says that the process runs.
#[utoipa::path(get, path = "/healthz", tag = "service", security(()), responses((status = 200, body = String, content_type = "text/plain")))]
async fn healthy() -> &'static str {
    "ok\n"
}

/// A request keeps the plane busy until the last byte of its answer is gone.
async fn busy(State(plane): State<Plane>, request: Request, next: Next) -> Response {
    let busy = plane.activity.begin(&plane.environment);
    let response = next.run(request).await;
    response.map(|body| {
        let mut held = Some(busy);
        let frames = body.into_data_stream();
        let end = futures::stream::poll_fn(move |_| {
            held.take();
            std::task::Poll::Ready(None)
        });
        Body::from_stream(frames.chain(end))
    })
}

/// Begins the background tasks of a plane.
pub fn spawn_background(plane: &Plane, shutdown: &Shutdown) {
    shutdown.spawn("policy", policy::follow(plane.clone(), shutdown.clone()));
    shutdown.spawn("heartbeat", policy::send_heartbeats(plane.clone(), shutdown.clone()));
    shutdown.spawn("scheduler", scheduler::run(plane.clone(), shutdown.clone()));
    shutdown.spawn("ticks", cron::follow(plane.clone(), shutdown.clone()));
    shutdown.spawn("garbage", garbage::follow(plane.clone(), shutdown.clone()));
    shutdown.spawn("logs", jobs::retention::follow(plane.clone(), shutdown.clone()));
    shutdown.spawn("handovers", uploads::handover::follow(plane.clone(), shutdown.clone()));
    shutdown.spawn("sponsors", pipelines::sponsors::follow(plane.clone(), shutdown.clone()));
    shutdown.spawn("releases", scheduler::releases::follow(plane.clone(), shutdown.clone()));
}

/// Serves until the shutdown begins.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn serve(mut config: DataPlaneConfig, shutdown: Shutdown) -> anyhow::Result<()> {
    std::fs::create_dir_all(&config.home)
        .with_context(|| format!("the state directory `{}` cannot be made", config.home.display()))?;
    let listener = TcpListener::bind(&config.listen)
        .await
        .with_context(|| format!("`{}` cannot be listened on; is the port in use?", config.listen))?;
    let address = listener.local_addr()?;
    let environment = Environment::system();
    executor::check(&config)?;
    stores::settle(&mut config.store, &config.home);
    let storage = stores::open_encrypted(&config.store, config.data_key.as_deref(), &environment).await?;
    remove_abandoned(&storage, &environment);
    let plane = Plane::new(config, storage, environment)?;
    if let Err(error) = plane.policy.load() {
        tracing::warn!(error = %error, "the policy of the last run was not used: {error}");
    }
    spawn_background(&plane, &shutdown);
    // Workers in pods go on while no plane is there.
    if let ExecutorConfig::Kubernetes(pods) = &plane.config.executor {
        let pods = executor::run(plane.clone(), (**pods).clone(), shutdown.clone());
        shutdown.spawn("pods", pods);
    } else if plane.config.slots > 0 {
        let supervisor = worker::supervisor::supervise(
            plane.clone(),
            std::env::current_exe()?,
            format!("http://{address}"),
            shutdown.clone(),
        );
        shutdown.spawn("worker", supervisor);
    }
    let ready = DataPlaneReady {
        url: format!("http://{address}"),
    };
    let mut line = serde_json::to_string(&ready)?;
    line.push('\n');
    // Connections wait in the listener's queue until the server below takes them.
    std::io::stdout().write_all(line.as_bytes())?;
    std::io::stdout().flush()?;
    let server =
        axum::serve(chassis::http::prompt(listener), router(plane.clone())).with_graceful_shutdown(shutdown.begun());
    with_deadline(async { server.await }, &shutdown).await?;
    let _ = tokio::time::timeout(DRAIN, shutdown.finished()).await;
    policy::leave_alarm(&plane).await;
    // What still holds a connection now is cut off by the end of the process.
    let _ = tokio::time::timeout(CLOSE, plane.pool.close()).await;
    Ok(())
}

/// What a killed process left half written in the bucket. Nothing refers to it, but it takes room.
fn remove_abandoned(storage: &storage::Storage, environment: &Environment) {
    let before = environment.now() - ABANDONED_AFTER;
    match storage.store().remove_abandoned(before.into()) {
        Ok(0) => {}
        Ok(removed) => tracing::info!("removed {removed} files that an earlier process left half written"),
        Err(error) => tracing::warn!("half-written files of earlier processes were not removed: {error}"),
    }
}

/// Streams may go on for ever, so waiting for running requests has an end.
async fn with_deadline(server: impl Future<Output = std::io::Result<()>>, shutdown: &Shutdown) -> std::io::Result<()> {
    tokio::select! {
        ended = server => ended,
        () = async { shutdown.begun().await; tokio::time::sleep(DRAIN).await } => Ok(()),
    }
}

/// Brings the tenant's database to the schema of this version.
///
/// # Errors
/// When the database is away or a migration fails; nothing of that migration is kept.
pub async fn migrate(config: &DataPlaneConfig) -> anyhow::Result<()> {
    let pool = sqlx::postgres::PgPoolOptions::new()
        .max_connections(1)
        .connect(&config.database_url)
        .await
        .context("the tenant's database did not answer")?;
    MIGRATIONS
        .run(&pool)
        .await
        .context("a migration failed; nothing of it was kept")?;
    pool.close().await;
    Ok(())
}

/// The tenant's schema, for tests too.
pub static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../migrations/tenant");
