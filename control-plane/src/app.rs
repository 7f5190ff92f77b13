//! The service: what all handlers share, how it is put together from its configuration, and its router.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use anyhow::Context;
use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use chassis::Environment;
use chassis::etag;
use chassis::http::{ApiError, Json, Path, with_common_layers};
use chassis::openapi;
use chassis::process::Shutdown;
use contract::config::{ControlPlaneConfig, TelemetryConfig, Verification};
use contract::ids::OrganizationId;
use contract::problem::ProblemKind;
use sqlx::PgPool;
use tokio::sync::mpsc;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::accounts::passwords::Passwords;
use crate::gateway::PlaneClient;
use crate::keys::Keyring;
use crate::mail::Post;
use crate::planes::Planes;
use crate::policy::Announcer;
use crate::rate_limits::{Limiters, RateLimits};
use crate::serving::Hosts;
use crate::single_sign_on::Providers;
use crate::token_exchange::issuers::Issuers;
use crate::traffic::{self, Meters, Proxies, Turns};
use crate::vault::{self, Vault};
use crate::{
    access_requests, access_tokens, account_events, accounts, audit, ci_trusts, database, deletions, device_logins,
    domains, gateway, grants, idempotency, invitations, keys, mail, members, notices, organizations, passkeys, planes,
    policy, releases, second_factors, service_accounts, serving, sessions, single_sign_on, teams, token_exchange,
    tokens,
};

/// Bytes of a body at most; those that go through to planes have no limit here.
pub(crate) const BODY_MOST: usize = 256 * 1024;

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
    /// What codes of log-ins by another device are digested with.
    pub device_key: [u8; 32],
    /// Signs access tokens and policies.
    pub keys: Arc<Keyring>,
    /// Hashes passwords.
    pub passwords: Passwords,
    /// Counts tries.
    pub limiters: Limiters,
    /// Counts requests.
    pub traffic: Meters,
    /// Whose turn it is.
    pub turns: Turns,
    /// The operator's own proxies.
    pub proxies: Proxies,
    /// Epochs and who waits for them.
    pub policy: Announcer,
    /// The running planes.
    pub planes: Arc<Planes>,
    /// Speaks to data planes.
    pub plane_client: PlaneClient,
    /// Whose OIDC tokens of CI runs organizations may trust, and their keys.
    pub ci_issuers: Issuers,
    /// What people reach the service by; the issuer of its tokens.
    pub public_url: String,
    /// The address of services, once it is listened on.
    pub hosts: OnceLock<Hosts>,
    /// A plane that nobody needs for that long is stopped.
    pub idle_seconds: u64,
    /// What operators see.
    pub telemetry: TelemetryConfig,
    /// Where mail goes.
    pub post: Post,
    /// Who else says who people are.
    pub providers: Providers,
    /// Checks passkeys; nothing where the service has no name that they can be bound to.
    pub passkeys: Option<webauthn_rs::Webauthn>,
    /// Whether there is no account before its address is verified.
    pub verification_required: bool,
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
        let keys = Keyring::open(&pool, &vault, &environment).await?;
        let passwords = Passwords::new(environment.clone());
        passwords.warm_up().await.context("a first password hash")?;
        let (planes, signals) = Planes::new();
        let providers = Providers::new(&config.people.providers, &public_url)?;
        let passkeys = passkeys::checker(&public_url)
            .inspect_err(|error| tracing::info!("there is no log-in by passkey: {error}"))
            .ok();
        let app = Self {
            pool,
            cursor_key: vault.derive("cursors"),
            device_key: vault.derive("device-codes"),
            vault,
            keys: Arc::new(keys),
            passwords,
            limiters: Limiters::new(limits),
            traffic: Meters::new(&limits.traffic),
            turns: Turns::new(limits.traffic.at_once, limits.traffic.patience),
            proxies: Proxies::new(config.proxies.clone()),
            policy: Announcer::default(),
            planes: Arc::new(planes),
            plane_client: gateway::client(),
            ci_issuers: Issuers::new(&config.ci_issuers)?,
            public_url,
            hosts: OnceLock::new(),
            post: Post::new(&config.people)?,
            providers,
            passkeys,
            verification_required: config.people.mail.is_some() || config.people.verification == Verification::Required,
            idle_seconds: config.idle_seconds,
            telemetry: config.telemetry.clone(),
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
        .merge(accounts::router())
        .merge(sessions::router())
        .merge(organizations::router())
        .merge(members::router())
        .merge(invitations::router())
        .merge(account_events::router())
        .merge(teams::router())
        .merge(service_accounts::router())
        .merge(tokens::router())
        .merge(ci_trusts::router())
        .merge(token_exchange::router())
        .merge(device_logins::router())
        .merge(grants::router())
        .merge(releases::router())
        .merge(access_requests::router())
        .merge(audit::router())
        .merge(notices::router())
        .merge(deletions::router())
        .merge(policy::router().into())
        .merge(domains::router().into())
        .merge(access_tokens::router())
        .merge(keys::router())
        .merge(planes::router())
        .merge(serving::router())
        .routes(routes!(healthy))
        .routes(routes!(ready))
        .routes(routes!(pipeline_schema))
        .routes(routes!(problem_page))
        .merge(second_factors::router())
        .merge(single_sign_on::router())
        .merge(passkeys::router())
        .merge(mail::router())
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
    let telemetry = app.telemetry.clone();
    let counted = axum::middleware::from_fn_with_state(Arc::clone(&app), traffic::counted);
    let keyed = axum::middleware::from_fn_with_state(Arc::clone(&app), idempotency::note);
    let router = router
        .layer(DefaultBodyLimit::max(BODY_MOST))
        .layer(keyed)
        .route(openapi::PATH, api)
        .layer(axum::middleware::from_fn(etag::conditional));
    // Bodies stream through the gateway; what has a key there is the data plane's to keep.
    let router = router.merge(gateway::router()).with_state(app);
    with_common_layers(router.layer(counted), &telemetry)
}

/// Says that the process runs.
#[utoipa::path(get, path = "/healthz", tag = "service", security(()), responses((status = 204)))]
async fn healthy() -> StatusCode {
    StatusCode::NO_CONTENT
}

/// Says that the service can work: its database answers.
#[utoipa::path(get, path = "/readyz", tag = "service", security(()), responses((status = 204)))]
async fn ready(State(app): State<Arc<App>>) -> Result<StatusCode, ApiError> {
    sqlx::query("select 1")
        .execute(&app.pool)
        .await
        .map_err(ApiError::overloaded)?;
    Ok(StatusCode::NO_CONTENT)
}

/// The JSON Schema of a pipeline spec.
#[utoipa::path(
    get,
    path = "/v1/schemas/pipeline",
    tag = "service",
    security(()),
    responses((status = 200, body = Object)),
)]
async fn pipeline_schema() -> Json<serde_json::Value> {
    Json(contract::schema::pipeline())
}

/// What a kind of problem means and what to do, in Markdown.
#[utoipa::path(
    get,
    path = "/problems/{slug}",
    tag = "service",
    security(()),
    params(("slug" = String, Path, description = "the last part of a problem's `type`")),
    responses((status = 200, body = String, content_type = "text/markdown")),
)]
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
