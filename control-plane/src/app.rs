//! The service: what all handlers share, how it is put together from its configuration, and its router.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use anyhow::Context;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use chassis::Environment;
use chassis::http::{ApiError, Path, with_common_layers};
use chassis::openapi;
use chassis::process::Shutdown;
use chassis::signed::Signer;
use contract::config::ControlPlaneConfig;
use contract::ids::OrganizationId;
use contract::problem::ProblemKind;
use sqlx::PgPool;
use tokio::sync::mpsc;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;

use crate::accounts::passwords::Passwords;
use crate::gateway::PlaneClient;
use crate::planes::Planes;
use crate::policy::Announcer;
use crate::rate_limits::{Limiters, RateLimits};
use crate::serving::Hosts;
use crate::vault::{self, Vault};
use crate::{
    access_requests, access_tokens, accounts, audit, database, deletions, domains, gateway, grants, invitations, keys,
    members, notices, organizations, planes, policy, releases, service_accounts, serving, sessions, teams, tokens,
};

/// What all handlers share.
pub struct App {
    /// The control plane's database.
    pub pool: PgPool,
    /// Time and randomness.
    pub environment: Environment,
    /// Encrypts stored secrets.
    pub vault: Vault,
    /// Binds cursors of lists to their readers.
    pub cursor_key: [u8; 32],
    /// Signs access tokens and policies.
    pub signer: Signer,
    /// The public keys.
    pub jwks: serde_json::Value,
    /// Hashes passwords.
    pub passwords: Passwords,
    /// Counts tries.
    pub limiters: Limiters,
    /// Epochs and who waits for them.
    pub policy: Announcer,
    /// The running planes.
    pub planes: Arc<Planes>,
    /// Speaks to data planes.
    pub plane_client: PlaneClient,
    /// What people reach the service by; the issuer of its tokens.
    pub public_url: String,
    /// The address of services, once it is listened on.
    pub hosts: OnceLock<Hosts>,
    /// A plane that nobody needs for that long is stopped.
    pub idle_seconds: u64,
    /// For how long a deleted organization is kept.
    pub deletion_grace: chrono::Duration,
    /// The process's shutdown.
    pub shutdown: Shutdown,
}

impl App {
    /// Opens the database, brings it up to date, reads the keys. The receiver is the reconciler's.
    ///
    /// # Errors
    /// When the database is away or the master key is not its own.
    pub async fn open(
        config: &ControlPlaneConfig,
        public_url: String,
        environment: Environment,
        limits: &RateLimits,
        shutdown: Shutdown,
    ) -> anyhow::Result<(Arc<Self>, mpsc::UnboundedReceiver<OrganizationId>)> {
        let pool = database::open(&config.database_url).await?;
        let services = vault::services(&config.master_key, &config.previous_master_keys, &environment)?;
        let vault = Vault::open_with(&pool, &environment, services).await?;
        let keys = keys::open(&pool, &vault, &environment).await?;
        let passwords = Passwords::new(environment.clone());
        passwords.warm_up().await.context("a first password hash")?;
        let (planes, signals) = Planes::new();
        let app = Self {
            pool,
            cursor_key: vault.derive("cursors"),
            vault,
            signer: keys.signer,
            jwks: keys.jwks,
            passwords,
            limiters: Limiters::new(limits),
            policy: Announcer::default(),
            planes: Arc::new(planes),
            plane_client: gateway::client(),
            public_url,
            hosts: OnceLock::new(),
            idle_seconds: config.idle_seconds,
            deletion_grace: chrono::Duration::days(i64::from(config.deletion_grace_days)),
            environment,
            shutdown,
        };
        Ok((Arc::new(app), signals))
    }

    /// For how long nobody must have needed a plane before it is stopped.
    pub fn idle_limit(&self) -> chrono::Duration {
        chrono::Duration::seconds(i64::try_from(self.idle_seconds).unwrap_or(i64::MAX / 1000))
    }
}

/// All routes, and what they say of themselves.
fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .merge(accounts::router().into())
        .merge(sessions::router().into())
        .merge(organizations::router().into())
        .merge(deletions::router())
        .merge(members::router().into())
        .merge(invitations::router().into())
        .merge(teams::router())
        .merge(service_accounts::router().into())
        .merge(tokens::router().into())
        .merge(grants::router().into())
        .merge(releases::router().into())
        .merge(access_requests::router().into())
        .merge(audit::router())
        .merge(notices::router())
        .merge(policy::router().into())
        .merge(domains::router().into())
        .merge(access_tokens::router().into())
        .merge(keys::router().into())
        .merge(planes::router().into())
        .merge(serving::router().into())
        .route("/healthz", get(|| async { StatusCode::NO_CONTENT }))
        .route("/readyz", get(ready))
        .route(
            contract::schema::PATH,
            get(|| async { chassis::http::Json(contract::schema::pipeline()) }),
        )
        .route("/problems/{slug}", get(problem_page))
        .merge(gateway::router().into())
}

fn described(api: OpenApi) -> OpenApi {
    openapi::document(
        api,
        "Howdah control plane",
        "Accounts, organizations, tokens and who may read what. Data is at each organization's data plane, \
         below `/o/{organization}`.",
    )
}

/// The OpenAPI document of the control plane.
#[must_use]
pub fn openapi() -> OpenApi {
    described(routes().into_openapi())
}

/// The service.
pub fn router(app: Arc<App>) -> Router {
    let (router, api) = routes().split_for_parts();
    let api = chassis::openapi::served(&described(api));
    with_common_layers(router.route(openapi::PATH, api).with_state(app))
}

async fn ready(State(app): State<Arc<App>>) -> Result<StatusCode, ApiError> {
    sqlx::query("select 1")
        .execute(&app.pool)
        .await
        .map_err(ApiError::overloaded)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn problem_page(
    Path(slug): Path<String>,
) -> Result<([(http::HeaderName, &'static str); 1], &'static str), ApiError> {
    ProblemKind::ALL
        .iter()
        .find(|kind| kind.slug() == slug)
        .map(|kind| {
            (
                [(http::header::CONTENT_TYPE, "text/markdown; charset=utf-8")],
                kind.page(),
            )
        })
        .ok_or_else(ApiError::not_found)
}

/// Serves until the shutdown begins, then finishes the requests that are there, but does not wait for ever.
///
/// # Errors
/// When the listener fails.
pub async fn serve(app: Arc<App>, listener: tokio::net::TcpListener) -> anyhow::Result<()> {
    let shutdown = app.shutdown.clone();
    let service = router(app).into_make_service_with_connect_info::<SocketAddr>();
    let server = axum::serve(chassis::http::prompt(listener), service).with_graceful_shutdown(shutdown.begun());
    tokio::select! {
        ended = std::future::IntoFuture::into_future(server) => ended.context("the server ended"),
        () = async {
            shutdown.begun().await;
            tokio::time::sleep(std::time::Duration::from_secs(5)).await;
        } => Ok(()),
    }
}
