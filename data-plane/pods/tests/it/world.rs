//! A cluster, a database and a clock that are simulated, with faults between any two calls.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use chrono::{DateTime, Duration, Utc};
use contract::names::ProjectName;
use pods::ports::Demand;
use pods::seen::{ContainerSeen, Part, Phase, Told};
use pods::{Blueprint, Book, Cluster, ClusterError, PodSeen, Pool, Secrets};
use provenance::spec::PipelineSpec;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use uuid::Uuid;

/// The pipeline of this world that is a service.
pub const SERVICE: Uuid = Uuid::from_u128(9);

/// What is, and what was done.
pub struct State {
    pub now: DateTime<Utc>,
    pub rng: StdRng,
    /// Calls fail, and what is listed may be old.
    pub faults: bool,
    pub pods: BTreeMap<String, PodSeen>,
    pub secrets: BTreeSet<String>,
    pub noted: BTreeSet<Pool>,
    pub demands: BTreeMap<Pool, Demand>,
    /// Pools whose image is not there.
    pub without_image: BTreeSet<Pool>,
    /// Workers that hold a datum.
    pub busy: HashSet<Uuid>,
    /// Pods that take nothing new.
    pub resting: HashSet<Uuid>,
    /// Pods that the quota admits.
    pub quota: usize,
    pub told: BTreeMap<Pool, Option<String>>,
    /// Changes of the cluster.
    pub writes: usize,
    before: Vec<PodSeen>,
    made: u128,
}

#[derive(Clone)]
pub struct World(Arc<Mutex<State>>);

impl World {
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            now: "2026-11-26T12:00:00Z".parse().unwrap(),
            rng: StdRng::seed_from_u64(seed),
            faults: true,
            pods: BTreeMap::new(),
            secrets: BTreeSet::new(),
            noted: BTreeSet::new(),
            demands: BTreeMap::new(),
            without_image: BTreeSet::new(),
            busy: HashSet::new(),
            resting: HashSet::new(),
            quota: usize::MAX,
            told: BTreeMap::new(),
            writes: 0,
            before: Vec::new(),
            made: 0,
        })))
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// A call to the cluster: it may fail before it does anything, or after.
    fn call<T>(&self, what: impl FnOnce(&mut State) -> Result<T, ClusterError>) -> Result<T, ClusterError> {
        let mut state = self.state();
        let lost = || ClusterError::Unavailable("no answer".to_owned());
        if state.fails() {
            return Err(lost());
        }
        let done = what(&mut state)?;
        if state.fails() { Err(lost()) } else { Ok(done) }
    }

    fn ask<T>(&self, what: impl FnOnce(&mut State) -> T) -> anyhow::Result<T> {
        let mut state = self.state();
        anyhow::ensure!(!state.fails(), "the database is away");
        let done = what(&mut state);
        anyhow::ensure!(!state.fails(), "the database went away");
        Ok(done)
    }
}

impl State {
    pub fn chance(&mut self, of: f64) -> bool {
        self.rng.random_bool(of)
    }

    fn fails(&mut self) -> bool {
        self.faults && self.chance(0.08)
    }

    /// Time passes, and what kubelets do happens. With faults, nodes and pods are lost too.
    pub fn pass(&mut self, time: Duration) {
        self.before = self.pods.values().cloned().collect();
        self.now += time;
        let now = self.now;
        let names: Vec<String> = self.pods.keys().cloned().collect();
        for name in names {
            let (lost, evicted, quick) = (self.chance(0.02), self.chance(0.02), self.chance(0.5));
            let faults = self.faults;
            let Some(pod) = self.pods.get_mut(&name) else { continue };
            // What has ended stays so, whatever becomes of its node.
            if faults && lost && pod.phase != Phase::Ended {
                pod.phase = Phase::Unknown;
            } else if faults && evicted && pod.phase == Phase::Running {
                pod.phase = Phase::Ended;
                pod.told.reason = "Evicted".to_owned();
                pod.told.message = "it exceeds the limit".to_owned();
            }
            let gone = pod.gone_by.is_some_and(|at| at <= now) && pod.phase != Phase::Unknown;
            if gone || (pod.gone_by.is_some() && pod.phase == Phase::Ended) {
                self.pods.remove(&name);
                continue;
            }
            let has_secret = self.secrets.contains(&pod.pool.secret());
            if pod.phase == Phase::Pending && has_secret && (quick || !faults) {
                let without = self.without_image.contains(&pod.pool);
                pod.containers = containers(!without);
                pod.phase = if without { Phase::Pending } else { Phase::Running };
            }
        }
        self.work();
    }

    /// Pods take datums and bring them back.
    fn work(&mut self) {
        let ready: Vec<(Pool, Uuid)> = self
            .pods
            .values()
            .filter(|p| p.is_ready())
            .map(|p| (p.pool, p.uid))
            .collect();
        let alive: HashSet<Uuid> = ready.iter().map(|(_, uid)| *uid).collect();
        self.busy.retain(|uid| alive.contains(uid));
        self.serve(&ready);
        if !self.faults {
            return;
        }
        for (pool, uid) in ready.into_iter().filter(|(pool, _)| pool.pipeline != SERVICE) {
            let ends = self.chance(0.3);
            let now = self.now;
            let Some(demand) = self.demands.get_mut(&pool) else {
                continue;
            };
            if self.busy.contains(&uid) && ends {
                self.busy.remove(&uid);
                demand.open = demand.open.saturating_sub(1);
                demand.active_at = Some(now);
            } else if (self.busy.len() as u64) < demand.open && !self.resting.contains(&uid) {
                self.busy.insert(uid);
            }
        }
    }

    /// A service runs in one pod, for as long as it is wanted.
    fn serve(&mut self, ready: &[(Pool, Uuid)]) {
        for (pool, uid) in ready.iter().filter(|(pool, _)| pool.pipeline == SERVICE) {
            let wanted = self.demands.get(pool).is_some_and(|demand| demand.open > 0);
            let runs = |(of, other): &(Pool, Uuid)| of == pool && self.busy.contains(other);
            if !wanted {
                self.busy.remove(uid);
            } else if !ready.iter().any(runs) {
                self.busy.insert(*uid);
            }
        }
    }

    pub fn alive(&self, pool: Pool) -> usize {
        let mine = self
            .pods
            .values()
            .filter(|pod| pod.pool == pool && pod.gone_by.is_none());
        mine.filter(|pod| pod.phase != Phase::Ended && pod.phase != Phase::Unknown)
            .count()
    }
}

fn containers(has_image: bool) -> Vec<ContainerSeen> {
    let container = |part, waits: bool| ContainerSeen {
        part,
        restarts: 0,
        ready: !waits,
        waiting: waits.then(|| Told {
            reason: "ImagePullBackOff".to_owned(),
            message: "not found".to_owned(),
        }),
        ended: None,
    };
    vec![container(Part::User, !has_image), container(Part::Agent, false)]
}

#[async_trait]
impl Cluster for World {
    async fn pods(&self) -> Result<Vec<PodSeen>, ClusterError> {
        self.call(|state| {
            let stale = state.faults && state.chance(0.2);
            Ok(if stale {
                state.before.clone()
            } else {
                state.pods.values().cloned().collect()
            })
        })
    }

    async fn create(&self, pod: &Value) -> Result<(), ClusterError> {
        self.call(|state| {
            let name = pod["metadata"]["name"].as_str().unwrap().to_owned();
            if state.pods.contains_key(&name) {
                return Ok(());
            }
            if state.pods.len() >= state.quota {
                return Err(ClusterError::Quota("plan, requested: pods=1".to_owned()));
            }
            let mut whole = pod.clone();
            state.made += 1;
            whole["metadata"]["uid"] = json!(Uuid::from_u128(state.made));
            whole["metadata"]["creationTimestamp"] = json!(state.now);
            let seen = PodSeen::read(&whole).unwrap();
            assert!(
                state.secrets.contains(&seen.pool.secret()),
                "a pod was made before what it mounts"
            );
            state.writes += 1;
            state.pods.insert(name, seen);
            Ok(())
        })
    }

    async fn delete(&self, name: &str, uid: Uuid, now: bool) -> Result<(), ClusterError> {
        self.call(|state| {
            let at = state.now + Duration::seconds(if now { 0 } else { 30 });
            let Some(pod) = state.pods.get_mut(name).filter(|pod| pod.uid == uid) else {
                return Ok(());
            };
            state.writes += 1;
            pod.gone_by = Some(pod.gone_by.map_or(at, |before| before.min(at)));
            if now || pod.phase == Phase::Ended {
                state.pods.remove(name);
            }
            Ok(())
        })
    }

    async fn apply_secret(&self, secret: &Value) -> Result<(), ClusterError> {
        self.call(|state| {
            state.writes += 1;
            state
                .secrets
                .insert(secret["metadata"]["name"].as_str().unwrap().to_owned());
            Ok(())
        })
    }

    async fn delete_secret(&self, name: &str) -> Result<(), ClusterError> {
        self.call(|state| {
            state.writes += 1;
            state.secrets.remove(name);
            Ok(())
        })
    }
}

#[async_trait]
impl Book for World {
    async fn demands(&self, seen: &[Pool]) -> anyhow::Result<BTreeMap<Pool, Demand>> {
        self.ask(|state| {
            let known = state
                .demands
                .iter()
                .filter(|(pool, demand)| demand.open > 0 || seen.contains(pool));
            let mut demands: BTreeMap<Pool, Demand> = known.map(|(pool, demand)| (*pool, demand.clone())).collect();
            for pool in &state.noted {
                let all = state.demands.get(pool).cloned().unwrap_or_default();
                demands.entry(*pool).or_insert(all).has_secrets = true;
            }
            demands
        })
    }

    async fn busy(&self, _: &[PodSeen]) -> anyhow::Result<HashSet<Uuid>> {
        self.ask(|state| state.busy.clone())
    }

    async fn rest(&self, pods: &[(Pool, Uuid)]) -> anyhow::Result<()> {
        self.ask(|state| state.resting = pods.iter().map(|(_, uid)| *uid).collect())
    }

    async fn blueprint(&self, pool: Pool) -> anyhow::Result<Result<Blueprint, String>> {
        let mut value = json!({ "pipeline": { "name": "p" }, "transform": { "cmd": ["a"], "image": "a:1" },
            "input": { "pfs": { "repo": "r", "glob": "/" } } });
        if pool.pipeline == SERVICE {
            value["service"] = json!({ "internal_port": 8080 });
        }
        let spec = PipelineSpec::parse(&value, &ProjectName::default_project()).unwrap();
        self.ask(|_| {
            Ok(Blueprint {
                spec,
                image: "a".to_owned(),
            })
        })
    }

    async fn secrets(&self, _: Pool) -> anyhow::Result<Result<Secrets, String>> {
        self.ask(|_| {
            Ok(Secrets {
                config: "{}".to_owned(),
                docker_config: None,
            })
        })
    }

    async fn note_secrets(&self, pool: Pool) -> anyhow::Result<()> {
        self.ask(|state| {
            state.noted.insert(pool);
        })
    }

    async fn forget_secrets(&self, pool: Pool) -> anyhow::Result<()> {
        self.ask(|state| {
            state.noted.remove(&pool);
        })
    }

    async fn lost(&self, _: Pool, pod: Uuid, _: Option<&str>) -> anyhow::Result<()> {
        self.ask(|state| {
            state.busy.remove(&pod);
        })
    }

    async fn tell(&self, pool: Pool, reason: Option<&str>) -> anyhow::Result<()> {
        self.ask(|state| {
            state.told.insert(pool, reason.map(str::to_owned));
        })
    }

    async fn give_up(&self, pool: Pool, reason: &str) -> anyhow::Result<()> {
        self.ask(|state| {
            state.told.insert(pool, Some(reason.to_owned()));
            if let Some(demand) = state.demands.get_mut(&pool) {
                demand.open = 0;
            }
        })
    }
}
