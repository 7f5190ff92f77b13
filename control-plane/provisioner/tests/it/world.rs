//! What there is, what goes wrong, and what others do meanwhile. Everything random comes from one seed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use chrono::{DateTime, Duration, Utc};
use contract::ids::OrganizationId;
use provisioner::ledger::Record;
use provisioner::pass::Environment;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;

/// Kind, namespace, name.
pub type Key = (String, String, String);

/// A row of the ledger.
#[derive(Clone)]
pub struct Row {
    pub record: Record,
    pub password: String,
    pub agent_sha256: Option<Vec<u8>>,
    pub image: Option<String>,
    pub receipt: Vec<(String, String)>,
    pub events: Vec<(String, String)>,
}

pub struct World {
    pub rng: StdRng,
    pub now: DateTime<Utc>,
    /// Of a hundred calls so many go wrong.
    pub trouble: u32,
    pub objects: BTreeMap<Key, Value>,
    /// What a cache that lags behind answers.
    pub stale: BTreeMap<Key, Value>,
    /// What we said last of each object: server-side apply takes away what is not said any more.
    pub applied: BTreeMap<Key, Value>,
    pub version: u64,
    pub databases: BTreeMap<String, String>,
    pub buckets: BTreeMap<String, u32>,
    pub rows: BTreeMap<OrganizationId, Row>,
    /// Whether planes reach their buckets by sessions, and how many were given.
    pub sessions: bool,
    pub given: u64,
    /// How often all buckets were listed.
    pub listed: u64,
    /// Calls that change something, of whatever kind, and all calls of the API server.
    pub writes: u64,
    pub asked: u64,
    /// Images that no node can pull.
    pub bad_images: BTreeSet<String>,
    pub log: Vec<String>,
}

/// How a call goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Luck {
    Good,
    /// Nothing was done.
    Before,
    /// It was done, and nobody heard of it.
    After,
}

#[derive(Clone)]
pub struct Shared(pub Arc<Mutex<World>>);

impl Shared {
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(World {
            rng: StdRng::seed_from_u64(seed),
            now: "2026-11-26T12:00:00Z".parse().unwrap(),
            trouble: 0,
            objects: BTreeMap::new(),
            stale: BTreeMap::new(),
            applied: BTreeMap::new(),
            version: 1,
            databases: BTreeMap::new(),
            buckets: BTreeMap::new(),
            rows: BTreeMap::new(),
            sessions: false,
            given: 0,
            listed: 0,
            writes: 0,
            asked: 0,
            bad_images: BTreeSet::new(),
            log: Vec::new(),
        })))
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A call begins: others may come in between.
    pub async fn call(&self, writes: bool) {
        Interrupted(false).await;
        let mut world = self.world();
        world.writes += u64::from(writes);
    }
}

impl World {
    pub fn one_in(&mut self, n: u32) -> bool {
        self.rng.random_range(0..n) == 0
    }

    pub fn pick(&mut self, n: usize) -> usize {
        self.rng.random_range(0..n)
    }

    pub fn luck(&mut self) -> Luck {
        let trouble = self.trouble;
        if self.rng.random_range(0..100) >= trouble {
            Luck::Good
        } else if self.one_in(2) {
            Luck::Before
        } else {
            Luck::After
        }
    }

    pub fn next_version(&mut self) -> String {
        self.version += 1;
        self.version.to_string()
    }
}

/// Gives way once, so that whatever else runs may go first.
struct Interrupted(bool);

impl Future for Interrupted {
    type Output = ();
    fn poll(mut self: std::pin::Pin<&mut Self>, context: &mut std::task::Context<'_>) -> std::task::Poll<()> {
        if self.0 {
            return std::task::Poll::Ready(());
        }
        self.0 = true;
        context.waker().wake_by_ref();
        std::task::Poll::Pending
    }
}

/// The clock and the entropy of the processes.
pub struct Clock(pub Shared);

impl Environment for Clock {
    fn now(&self) -> DateTime<Utc> {
        self.0.world().now
    }

    fn random(&self) -> [u8; 30] {
        let mut bytes = [0; 30];
        self.0.world().rng.fill(&mut bytes);
        bytes
    }
}

pub fn advance(shared: &Shared, by: Duration) {
    shared.world().now += by;
}
