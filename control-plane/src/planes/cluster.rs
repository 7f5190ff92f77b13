//! Planes in a cluster: puts the cloud together, and runs what goes with it. One process of several makes planes be as wanted; the
//! others learn from the database where they are reached.

use std::collections::{BTreeSet, HashMap};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clusters::api_server::{self, ApiServer};
use clusters::buckets::TenantBuckets;
use clusters::lease::{Candidate, Leadership};
use clusters::postgres::TenantDatabases;
use clusters::watch;
use contract::cloud::KubernetesConfig;
use contract::config::ControlPlaneConfig;
use contract::ids::OrganizationId;
use futures::StreamExt;
use provisioner::kit::Targets;
use provisioner::kubernetes::ports::{Buckets, Cluster, Databases};
use provisioner::kubernetes::{KubernetesCloud, Settings};
use provisioner::pass::Environment;
use provisioner::sweep::{Grounds, Sweeper};
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use tokio::sync::mpsc;

use super::reconciler::{Clockwork, Reconciler};
use super::{Route, queries, rollouts};
use crate::app::App;
use crate::authz::System;

const PROOF: System = System::because("planes of a cluster are made be as wanted");
/// Connections to the server of the tenants' databases.
const CONNECTIONS_MAX: u32 = 4;
/// How often it is looked who leads, and where planes are reached.
const FOLLOW: Duration = Duration::from_secs(1);
/// How often what the cluster has once for all is looked at.
const SHARED: Duration = Duration::from_secs(60);
/// How often it is looked whose session of its bucket has to be followed by another, and how many are asked for at once.
const SESSIONS: Duration = Duration::from_secs(5);
const SESSIONS_AT_ONCE: usize = 8;
/// How often what is nobody's is looked for.
const SWEEP: Duration = Duration::from_secs(3600);

/// A cluster and its stores.
pub(crate) struct Parts {
    client: clusters::Client,
    leadership: Arc<Leadership>,
    cloud: Arc<KubernetesCloud>,
    cluster: Arc<dyn Cluster>,
    databases: Arc<dyn Databases>,
    buckets: Arc<dyn Buckets>,
    installation: String,
    config: KubernetesConfig,
}

/// Reaches the cluster and its stores.
///
/// # Errors
/// When the configuration does not say how, or the API server does not answer.
pub(crate) async fn open(
    app: &Arc<App>,
    config: &ControlPlaneConfig,
    kubernetes: &KubernetesConfig,
) -> anyhow::Result<Parts> {
    let leadership = Arc::new(Leadership::default());
    let client = api_server::connect(kubernetes).await?;
    let server = ApiServer::new(client.clone(), Arc::clone(&leadership));
    let api = match kubernetes.api_targets.is_empty() {
        true => server
            .own_targets()
            .await
            .context("the cluster's API server does not answer")?,
        false => Vec::new(),
    };
    let installation = queries::get_installation(&app.pool, &PROOF).await?;
    let (place, admin) = (&kubernetes.databases, admin_pool(app, kubernetes)?);
    let databases: Arc<dyn Databases> = Arc::new(TenantDatabases::new(
        admin,
        &place.host,
        place.port,
        &place.ssl_mode,
        installation.clone(),
    )?);
    let clock: Arc<dyn Environment> = Arc::new(Clockwork(app.environment.clone()));
    let buckets = TenantBuckets::open(kubernetes.buckets.clone(), installation.clone(), Arc::clone(&clock)).await?;
    let buckets: Arc<dyn Buckets> = Arc::new(buckets);
    let settings = Settings {
        targets: Targets::of(kubernetes, &api)?,
        config: kubernetes.clone(),
        issuer: app.public_url.clone(),
        jwks: {
            let keys = Arc::clone(&app.keys);
            Arc::new(move || keys.jwks())
        },
        imports: config.imports.clone(),
        logs: config.logs,
        telemetry: config.telemetry.clone(),
        installation: installation.clone(),
    };
    let cluster: Arc<dyn Cluster> = Arc::new(server);
    let cloud = KubernetesCloud::new(
        settings,
        Arc::clone(&cluster),
        Arc::clone(&databases),
        Arc::clone(&buckets),
        clock,
    );
    Ok(Parts {
        client,
        leadership,
        cloud: Arc::new(cloud),
        cluster,
        databases,
        buckets,
        installation,
        config: kubernetes.clone(),
    })
}

fn admin_pool(app: &App, kubernetes: &KubernetesConfig) -> anyhow::Result<PgPool> {
    let Some(url) = &kubernetes.databases.admin_url else {
        return Ok(app.pool.clone());
    };
    let options = PgConnectOptions::from_str(url).context("`cloud.databases.admin_url` is not a PostgreSQL URL")?;
    Ok(PgPoolOptions::new()
        .max_connections(CONNECTIONS_MAX)
        .acquire_timeout(Duration::from_secs(10))
        .connect_lazy_with(options))
}

impl Parts {
    /// Runs everything that planes of a cluster need, until the shutdown.
    pub(crate) fn spawn(self, app: &Arc<App>, signals: mpsc::UnboundedReceiver<OrganizationId>) {
        let parts = Arc::new(self);
        let random: [u8; 8] = app.environment.random();
        let candidate = Candidate {
            client: parts.client.clone(),
            namespace: parts.config.system_namespace.clone(),
            identity: format!("howdah-{}", hex::encode(random)),
            environment: Arc::new(Clockwork(app.environment.clone())),
            leadership: Arc::clone(&parts.leadership),
        };
        let reconciler = Reconciler::new(Arc::clone(app), parts.cloud.clone()).under(Arc::clone(&parts.leadership));
        let shutdown = &app.shutdown;
        shutdown.spawn("reconciler", reconciler.run(signals));
        shutdown.spawn("lease", candidate.run(shutdown.begun()));
        shutdown.spawn("routes", until(app, follow(Arc::clone(app), Arc::clone(&parts))));
        shutdown.spawn("watch", until(app, listen(Arc::clone(app), Arc::clone(&parts))));
        shutdown.spawn("wishes", until(app, hear_wishes(Arc::clone(app))));
        shutdown.spawn("shared objects", until(app, keep_shared(Arc::clone(&parts))));
        shutdown.spawn("bucket sessions", until(app, renew_sessions(Arc::clone(&parts))));
        shutdown.spawn("rollouts", until(app, roll_out(Arc::clone(app), Arc::clone(&parts))));
        shutdown.spawn("sweeper", until(app, sweep(Arc::clone(app), parts)));
    }

    async fn led(&self) {
        while !self.leadership.is_held() {
            tokio::time::sleep(FOLLOW).await;
        }
    }
}

/// Runs it until the shutdown.
fn until(app: &App, task: impl Future<Output = ()> + Send + 'static) -> impl Future<Output = ()> + Send + 'static {
    let stop = app.shutdown.begun();
    async move {
        tokio::select! {
            () = stop => {}
            () = task => {}
        }
    }
}

/// Who does not lead learns where planes are reached from who does.
async fn follow(app: Arc<App>, parts: Arc<Parts>) {
    let mut timer = tokio::time::interval(FOLLOW);
    loop {
        timer.tick().await;
        if parts.leadership.is_held() {
            continue;
        }
        match queries::list_routes(&app.pool, &PROOF).await {
            Ok(running) => {
                let routes: HashMap<OrganizationId, Route> = running
                    .into_iter()
                    .map(|(id, name, url)| (id, Route { name, url }))
                    .collect();
                app.planes.follow(routes);
            }
            Err(error) => tracing::debug!("where planes are reached is read later: {error}"),
        }
    }
}

/// What changes in the cluster is looked at by who leads.
async fn listen(app: Arc<App>, parts: Arc<Parts>) {
    loop {
        parts.led().await;
        let tell = |heard: watch::Heard| {
            if heard.touched {
                parts.cloud.touched(heard.organization);
            }
            app.planes.signal(heard.organization);
        };
        let lost = async {
            while parts.leadership.is_held() {
                tokio::time::sleep(FOLLOW).await;
            }
        };
        tokio::select! {
            () = watch::watch_all(parts.client.clone(), tell) => {}
            () = lost => {}
        }
    }
}

/// Other processes say which plane is wished to run.
async fn hear_wishes(app: Arc<App>) {
    loop {
        if let Err(error) = listen_for_wishes(&app).await {
            tracing::info!("wishes of other processes are heard again soon: {error}");
        }
        tokio::time::sleep(FOLLOW).await;
    }
}

async fn listen_for_wishes(app: &App) -> Result<(), sqlx::Error> {
    let mut listener = PgListener::connect_with(&app.pool).await?;
    listener.listen(queries::CHANNEL).await?;
    loop {
        if let Ok(organization) = listener.recv().await?.payload().parse() {
            app.planes.signal(organization);
        }
    }
}

/// What the cluster has once for all organizations.
async fn keep_shared(parts: Arc<Parts>) {
    loop {
        parts.led().await;
        let wait = match parts.cloud.apply_system().await {
            Ok(()) => SHARED,
            Err(error) => {
                tracing::warn!("what the cluster has for all organizations is not as it ought to be: {error:#}");
                FOLLOW * 10
            }
        };
        tokio::time::sleep(wait).await;
    }
}

/// Planes that run have a session of their bucket with enough time before it, where they have sessions at all.
async fn renew_sessions(parts: Arc<Parts>) {
    loop {
        parts.led().await;
        let renewals = parts.cloud.sessions_due().into_iter().map(|organization| {
            let cloud = Arc::clone(&parts.cloud);
            async move {
                if let Err(error) = cloud.renew_session(organization).await {
                    tracing::warn!(organization.id = %organization, "{organization} gets another session of its bucket later: {error:#}");
                }
            }
        });
        futures::stream::iter(renewals)
            .buffer_unordered(SESSIONS_AT_ONCE)
            .collect::<()>()
            .await;
        tokio::time::sleep(SESSIONS).await;
    }
}

/// Planes get a new image in waves.
async fn roll_out(app: Arc<App>, parts: Arc<Parts>) {
    loop {
        parts.led().await;
        match rollouts::step(&app, &PROOF, &parts.config.plane_image, &parts.config.waves).await {
            Ok(true) => continue,
            Ok(false) => {}
            Err(error) => tracing::info!("the rollout goes on later: {error:#}"),
        }
        tokio::time::sleep(FOLLOW * 5).await;
    }
}

/// What belongs to nobody goes after its grace.
async fn sweep(app: Arc<App>, parts: Arc<Parts>) {
    let mut sweeper = Sweeper::default();
    loop {
        parts.led().await;
        let grounds = Grounds {
            installation: &parts.installation,
            cluster: &*parts.cluster,
            databases: &*parts.databases,
            buckets: &*parts.buckets,
        };
        let pool = &app.pool;
        let known = |found: Vec<OrganizationId>| async move {
            let known = queries::list_known(pool, &PROOF, &found).await?;
            Ok(known.into_iter().collect::<BTreeSet<_>>())
        };
        match sweeper.sweep(&grounds, known, app.environment.now()).await {
            Ok(swept) => {
                for organization in &swept.removed {
                    tracing::warn!(organization.id = %organization, "what was left of {organization}, which nobody knows, is removed");
                }
                for organization in &swept.waiting {
                    tracing::info!(organization.id = %organization, "{organization} has something here and is not known");
                }
            }
            Err(error) => tracing::info!("what is nobody's is looked for later: {error:#}"),
        }
        tokio::time::sleep(SWEEP).await;
    }
}
