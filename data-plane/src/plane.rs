//! What a running data plane is made of: the database, the bucket, the policy, time and randomness, and the signals by
//! which its parts wake each other. Handlers and background tasks hold it; nothing in it is global.

use std::collections::HashSet;
use std::ops::Deref;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use chassis::Environment;
use chrono::{DateTime, Utc};
use contract::config::DataPlaneConfig;
use contract::ids::{GenerateId, OrganizationId};
use object_store::aws::AwsCredentialProvider;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{Postgres, Transaction};
use storage::Storage;
use tokio::sync::{Mutex, Semaphore, SemaphorePermit, watch};
use uuid::Uuid;

use crate::activity::Activity;
use crate::commits::origins::OriginSets;
use crate::commits::turns::Turns;
use crate::control::ControlPlane;
use crate::egress;
use crate::failure::{Answer, Failure};
use crate::files::upload::BATCHES_OF_ALL_MAX;
use crate::images::Images;
use crate::imports::Importer;
use crate::jobs::retention::Retention;
use crate::pipelines::released::Codes;
use crate::pipelines::sponsors::Settled;
use crate::policy::PolicyHolder;
use crate::readings::Readings;
use crate::serving::Doors;
use crate::stores;
use crate::uploads::handover::Handovers;
use crate::uploads::packs::{Digests, TAKEN_AT_ONCE};
use crate::worker::capability::Capabilities;
use crate::worker::executor::Executor;
use crate::worker::routes::LEASE;

/// A database transaction. What it did is undone when it is dropped without `commit`.
pub type Tx = Transaction<'static, Postgres>;

/// So long a request waits for a connection. On a machine that has everything to do at once an upload that has arrived
/// should not be thrown away for a few seconds.
const CONNECTION_WAIT: Duration = Duration::from_secs(15);
/// Connections to the database at most.
const CONNECTIONS: u32 = 24;

/// The data plane of one organization. Cheap to clone.
#[derive(Clone)]
pub struct Plane(Arc<Parts>);

/// The parts of a [`Plane`].
pub struct Parts {
    /// Whose it is.
    pub organization: OrganizationId,
    /// The configuration it was started with. Holds secrets: never printed.
    pub config: DataPlaneConfig,
    /// The tenant's database.
    pub pool: PgPool,
    /// The tenant's bytes.
    pub storage: Storage,
    /// Keys of the bucket, where they do not last: workers are lent them.
    pub bucket_keys: Option<AwsCredentialProvider>,
    /// Time and randomness.
    pub environment: Environment,
    /// The access policy in force.
    pub policy: PolicyHolder,
    /// The control plane, for what only it can change.
    pub control: ControlPlane,
    /// Origin sets by id: they never change, so they are read once.
    pub origin_sets: OriginSets,
    /// Turns of puts to one branch.
    pub turns: Turns,
    /// Held from looking whether a name is free until its repo is there. The control plane takes a second domain of one
    /// name for the successor of a first that never got its repo, and buries that one.
    pub naming: Mutex<()>,
    /// Who may store a batch of small files now.
    pub upload_batches: Arc<Semaphore>,
    /// Files that clients on this machine have handed over.
    pub handovers: Handovers,
    /// Who may take over a pack that a client has put into the bucket.
    pub packs_taken: Semaphore,
    /// Digests of files that arrive in such packs.
    pub digests: Digests,
    /// Where services that answer are reached.
    pub doors: Doors,
    /// What fetches files from elsewhere.
    pub importer: Importer,
    /// What finds the images that pipelines run from.
    pub images: Images,
    /// The digests of code that stands in repos.
    pub codes: Codes,
    /// Up to which policy it was decided which pipelines may run.
    pub sponsors: Settled,
    /// Who read what.
    pub readings: Readings,
    /// Whether lines of logs have to go.
    pub retention: Retention,
    /// The memory for outputs that are sent elsewhere.
    pub egress: egress::Room,
    /// Who may wait for the lock of the DAG with a connection in hand.
    changes: Semaphore,
    /// Held while garbage is collected.
    pub collecting: tokio::sync::Mutex<()>,
    /// Held while it is found out what a repo takes: one at a time, since each reads the trees of all repos.
    pub measuring: tokio::sync::Mutex<()>,
    /// How parts wake each other.
    pub signals: Signals,
    /// Since when the plane has had nothing to do.
    pub activity: Activity,
    /// Binds cursors to their callers.
    pub cursor_key: [u8; 32],
    /// Lets this plane's workers in; another one at each start.
    pub worker_secret: String,
    /// Workers of pools that are given nothing new, so that others get their place.
    pub resting: std::sync::Mutex<HashSet<Uuid>>,
    /// Lets the workers of pools in.
    pub capabilities: Capabilities,
    /// When this process began.
    pub started_at: DateTime<Utc>,
}

/// Wake-up calls between parts. They carry nothing: whoever is woken looks into the database, so one that is lost costs
/// a little time (each listener also has a timer) and one too many costs a query.
#[derive(Clone)]
pub struct Signals {
    work: watch::Sender<u64>,
    commits: watch::Sender<u64>,
}

impl Default for Signals {
    fn default() -> Self {
        Self {
            work: watch::Sender::new(0),
            commits: watch::Sender::new(0),
        }
    }
}

impl Signals {
    /// There may be work for the scheduler: a job was made, a datum ended, an input was finished.
    pub fn work_changed(&self) {
        self.work.send_modify(|n| *n += 1);
    }

    /// A commit or job has a new state: whoever waits for one looks again.
    pub fn commits_changed(&self) {
        self.commits.send_modify(|n| *n += 1);
    }

    /// Wakes at `work_changed`.
    pub fn work(&self) -> watch::Receiver<u64> {
        self.work.subscribe()
    }

    /// Wakes at `commits_changed`.
    pub fn commits(&self) -> watch::Receiver<u64> {
        self.commits.subscribe()
    }
}

impl Deref for Plane {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl Plane {
    /// What runs the code of its pipelines.
    pub fn executor(&self) -> &'static Executor {
        Executor::of(&self.config.executor)
    }

    /// Puts the parts together. Nothing is connected yet: the database may be away and come back.
    ///
    /// # Errors
    /// When the configuration makes no sense (database URL, JWKS, bucket).
    pub fn new(config: DataPlaneConfig, storage: Storage, environment: Environment) -> anyhow::Result<Self> {
        // What is answered must survive a killed server, however that server is set up.
        let options = PgConnectOptions::from_str(&config.database_url)?.options([("synchronous_commit", "on")]);
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .min_connections(0)
            .acquire_timeout(CONNECTION_WAIT)
            .connect_lazy_with(options);
        Ok(Self(Arc::new(Parts {
            organization: config.organization,
            pool,
            storage,
            bucket_keys: stores::lent_keys(&config.store, &environment)?,
            policy: PolicyHolder::new(&config)?,
            control: ControlPlane::new(&config)?,
            importer: Importer::new(&config.imports)?,
            images: Images::new(&config.imports)?,
            codes: Codes::default(),
            sponsors: Settled::default(),
            readings: Readings::default(),
            retention: Retention::default(),
            egress: egress::Room::default(),
            origin_sets: OriginSets::default(),
            turns: Turns::default(),
            naming: Mutex::default(),
            handovers: Handovers::default(),
            doors: Doors::default(),
            upload_batches: Arc::new(Semaphore::new(BATCHES_OF_ALL_MAX)),
            packs_taken: Semaphore::new(TAKEN_AT_ONCE),
            digests: Digests::default(),
            changes: Semaphore::new(CONNECTIONS as usize / 3),
            collecting: tokio::sync::Mutex::default(),
            measuring: tokio::sync::Mutex::default(),
            signals: Signals::default(),
            activity: Activity::new(environment.now()),
            cursor_key: blake3::derive_key("howdah data plane 2026 list cursors", config.agent_token.as_bytes()),
            worker_secret: hex::encode(environment.random::<32>()),
            resting: std::sync::Mutex::default(),
            capabilities: Capabilities::new(config.data_key.as_deref(), &config.agent_token),
            started_at: environment.now(),
            environment,
            config,
        })))
    }

    /// The time.
    pub fn now(&self) -> DateTime<Utc> {
        self.environment.now()
    }

    /// Leases that run out after that time are good. While the plane has just begun all are that are there: their workers could
    /// not renew them before.
    pub fn leases_good_after(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        match now < self.started_at + LEASE {
            true => DateTime::UNIX_EPOCH,
            false => now,
        }
    }

    /// Whether a worker is given nothing new.
    pub fn rests(&self, worker: Uuid) -> bool {
        self.resting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(&worker)
    }

    /// A new id of any kind.
    pub fn id<T: GenerateId>(&self) -> T {
        self.environment.id()
    }

    /// A turn to wait for the lock of the DAG with a connection in hand: readers and workers need connections too.
    ///
    /// # Errors
    /// Never while the plane runs.
    pub async fn change(&self) -> Answer<SemaphorePermit<'_>> {
        self.changes.acquire().await.map_err(Failure::internal)
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// `overloaded` when the database is away.
    pub async fn begin(&self) -> Answer<Tx> {
        Ok(self.pool.begin().await?)
    }

    /// Where this plane keeps its state.
    pub fn home(&self) -> &PathBuf {
        &self.config.home
    }
}
