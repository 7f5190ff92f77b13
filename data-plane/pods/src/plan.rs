//! What to do next about the pods of all pools. Pure and total: what is to be done, what was seen and the time give the steps.
//!
//! A pool gets as many pods as it has open datums, up to the parallelism of its spec and to its share of what the plane may have. The
//! first few have to come up before the rest is made, so that an image that is not there costs a handful of pods and not a thousand.
//! Pods stay for a while after the last datum, unless others need their place or they will never be needed again.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use chrono::{DateTime, Duration, Utc};
use uuid::Uuid;

use crate::pool::Pool;
use crate::ports::Demand;
use crate::seen::{Phase, PodSeen};
use crate::trouble::{self, Fate, Trouble};

/// So many pods of a pool are made before one of them was seen to run.
const SCOUTS: usize = 8;
/// So many pods of a pool are made in one round.
const MADE_AT_ONCE: usize = 200;
const PAUSE_LEAST: Duration = Duration::seconds(1);
const PAUSE_MOST: Duration = Duration::minutes(5);

/// Bounds of all pools.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Pods of all pools.
    pub pods: u32,
    /// Pods of a pool whose spec does not say how many.
    pub parallelism: u32,
    /// So long pods without anything to do stay.
    pub idle: Duration,
}

/// Why no pods of a pool are made for a while. It may be forgotten: then one more is tried too soon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// Failures in a row.
    pub failures: u32,
    /// Until then.
    pub until: DateTime<Utc>,
    /// Why, for people.
    pub why: String,
}

impl Hold {
    /// After one more failure.
    pub fn after(before: Option<&Self>, why: String, now: DateTime<Utc>) -> Self {
        let failures = before.map_or(0, |hold| hold.failures).saturating_add(1);
        let doublings = failures.saturating_sub(1).min(16);
        Self {
            failures,
            until: now + (PAUSE_LEAST * 2_i32.pow(doublings)).min(PAUSE_MOST),
            why,
        }
    }
}

/// All that is known.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// The time.
    pub now: DateTime<Utc>,
    /// The bounds.
    pub limits: Limits,
    /// What is to be done, of each pool of which anything is left.
    pub demands: &'a BTreeMap<Pool, Demand>,
    /// The pods.
    pub pods: &'a [PodSeen],
    /// Pods that hold datums.
    pub busy: &'a HashSet<Uuid>,
    /// Pools that have to wait.
    pub holds: &'a HashMap<Pool, Hold>,
    /// What pods are made from now.
    pub templates: &'a HashMap<Pool, String>,
}

/// One call to the cluster or the database. Each may be repeated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// The datums of a pod that will not run again are free; the reason says what they did wrong.
    Lost {
        /// The pod.
        uid: Uuid,
        /// Its pool.
        pool: Pool,
        /// By what; nothing if they are not to blame.
        trouble: Option<Trouble>,
    },
    /// Removes the secrets of a pool without pods.
    DeleteSecrets(Pool),
    /// Removes a pod.
    Delete {
        /// Its pool.
        pool: Pool,
        /// Its name.
        name: String,
        /// Which of that name.
        uid: Uuid,
        /// Its node is not waited for.
        now: bool,
    },
    /// Makes pods, after the secrets that they mount.
    Create {
        /// Whose.
        pool: Pool,
        /// Which.
        slots: Vec<u32>,
    },
    /// A pod is given nothing new: others need its place.
    Rest(Pool, Uuid),
    /// What keeps a pool's jobs, or that nothing does.
    Tell(Pool, Option<String>),
    /// A pool's jobs cannot run.
    GiveUp(Pool, String),
}

impl Action {
    /// Whose it is.
    pub const fn pool(&self) -> Pool {
        match self {
            Self::Lost { pool, .. }
            | Self::DeleteSecrets(pool)
            | Self::Delete { pool, .. }
            | Self::Create { pool, .. }
            | Self::Rest(pool, _)
            | Self::Tell(pool, _)
            | Self::GiveUp(pool, _) => *pool,
        }
    }
}

/// The steps, in the order in which they are to be taken.
pub fn plan(known: &Known<'_>) -> Vec<Action> {
    let mut pods: BTreeMap<Pool, Vec<&PodSeen>> = BTreeMap::new();
    for pod in known.pods {
        pods.entry(pod.pool).or_default().push(pod);
    }
    let wanted = wanted(known);
    let shares = shares(&wanted, known.limits.pods);
    let crowded = is_crowded(&pods, &wanted, &shares, known.limits.pods as usize);
    let occupied = known.pods.iter().filter(|pod| pod.phase != Phase::Ended).count();
    let mut room = (known.limits.pods as usize).saturating_sub(occupied);
    let none = Vec::new();
    let mut actions = Vec::new();
    let pools: BTreeSet<Pool> = pods.keys().chain(known.demands.keys()).copied().collect();
    for pool in pools {
        let demand = known.demands.get(&pool).cloned().unwrap_or_default();
        let view = View {
            known,
            pool,
            pods: pods.get(&pool).unwrap_or(&none),
            share: shares.get(&pool).copied().unwrap_or(0) as usize,
            wanted: wanted.get(&pool).copied().unwrap_or(0) as usize,
            demand,
            crowded,
        };
        view.plan(&mut room, &mut actions);
    }
    actions
}

/// Whether some have less than they could use because of what others have.
fn is_crowded(
    pods: &BTreeMap<Pool, Vec<&PodSeen>>,
    wanted: &BTreeMap<Pool, u32>,
    shares: &BTreeMap<Pool, u32>,
    most: usize,
) -> bool {
    let stays = |pod: &&&PodSeen| pod.phase != Phase::Ended && pod.gone_by.is_none();
    let there = |pool: &Pool| pods.get(pool).map_or(0, |pods| pods.iter().filter(stays).count());
    let pools: BTreeSet<&Pool> = pods.keys().chain(shares.keys()).collect();
    let share = |pool: &Pool| shares.get(pool).map_or(0, |n| *n as usize);
    let together: usize = pools.into_iter().map(|pool| there(pool).max(share(pool))).sum();
    together > most || wanted != shares
}

/// How many pods each pool could use.
fn wanted(known: &Known<'_>) -> BTreeMap<Pool, u32> {
    let some = known.demands.iter().filter(|(_, demand)| demand.open > 0);
    some.map(|(pool, demand)| {
        let most = demand.parallelism.unwrap_or(known.limits.parallelism).max(1);
        (*pool, u32::try_from(demand.open).unwrap_or(u32::MAX).min(most))
    })
    .collect()
}

/// How many each gets of what there may be: nobody more than it can use, and otherwise all the same; who needs few comes first.
pub fn shares(wanted: &BTreeMap<Pool, u32>, most: u32) -> BTreeMap<Pool, u32> {
    let mut order: Vec<(u32, Pool)> = wanted.iter().map(|(pool, n)| (*n, *pool)).collect();
    order.sort_unstable();
    let mut left = most;
    let mut others = u32::try_from(order.len()).unwrap_or(u32::MAX);
    let mut shares = BTreeMap::new();
    for (n, pool) in order {
        let share = n.min(left.div_ceil(others.max(1)));
        shares.insert(pool, share);
        left -= share;
        others -= 1;
    }
    shares
}

/// One pool.
struct View<'a> {
    known: &'a Known<'a>,
    pool: Pool,
    pods: &'a [&'a PodSeen],
    demand: Demand,
    wanted: usize,
    share: usize,
    crowded: bool,
}

/// A pod of which something is known.
type Diagnosed<'a> = (&'a PodSeen, Option<Trouble>);

impl<'a> View<'a> {
    fn plan(&self, room: &mut usize, actions: &mut Vec<Action>) {
        let now = self.known.now;
        let all: Vec<Diagnosed<'a>> = self
            .pods
            .iter()
            .map(|pod| (*pod, trouble::diagnose(pod, now)))
            .collect();
        let is_lost = |(_, trouble): &&Diagnosed<'a>| trouble.as_ref().is_some_and(|t| t.fate() != Fate::Waits);
        for (pod, trouble) in all.iter().filter(is_lost) {
            self.bury(pod, trouble.as_ref(), actions);
        }
        let alive: Vec<&Diagnosed<'a>> = all
            .iter()
            .filter(|one| !is_lost(one) && one.0.gone_by.is_none())
            .collect();
        let leaving = self.leaving(&alive);
        if self.demand.has_secrets && self.pods.is_empty() && self.wanted == 0 {
            actions.push(Action::DeleteSecrets(self.pool));
        }
        actions.extend(leaving.iter().map(|pod| Action::Delete {
            pool: self.pool,
            name: pod.name.clone(),
            uid: pod.uid,
            now: false,
        }));
        self.rest(&alive, leaving.len(), actions);
        let hopeless = self.hopeless(&alive);
        if hopeless.is_none() {
            self.create(&alive, room, actions);
        }
        self.report(&all, &alive, hopeless, actions);
    }

    fn bury(&self, pod: &PodSeen, trouble: Option<&Trouble>, actions: &mut Vec<Action>) {
        let blamed = trouble.filter(|trouble| trouble.fate() == Fate::Lost);
        actions.push(Action::Lost {
            uid: pod.uid,
            pool: self.pool,
            trouble: blamed.cloned(),
        });
        actions.push(Action::Delete {
            pool: self.pool,
            name: pod.name.clone(),
            uid: pod.uid,
            now: matches!(trouble, Some(Trouble::NodeLost)),
        });
    }

    fn is_busy(&self, pod: &PodSeen) -> bool {
        self.known.busy.contains(&pod.uid)
    }

    /// Pods that are needed no more, or made from what is not so any more.
    fn leaving(&self, alive: &[&Diagnosed<'a>]) -> Vec<&'a PodSeen> {
        let mut leaving: Vec<&'a PodSeen> = Vec::new();
        let surplus = alive.len().saturating_sub(self.share);
        let over = self.is_over(alive);
        if surplus > 0 && (over || self.crowded) {
            let mut idle: Vec<&'a PodSeen> = alive.iter().map(|one| one.0).filter(|pod| !self.is_busy(pod)).collect();
            idle.sort_by_key(|pod| (pod.is_ready(), std::cmp::Reverse(pod.slot)));
            leaving.extend(idle.into_iter().take(surplus));
        }
        let template = self.known.templates.get(&self.pool);
        let outdated = |pod: &&'a PodSeen| template.is_some_and(|template| pod.template != *template);
        let old: Vec<&'a PodSeen> = alive.iter().map(|one| one.0).filter(outdated).collect();
        let mut idle = old
            .iter()
            .filter(|pod| !self.is_busy(pod) && !leaving.contains(pod))
            .copied()
            .collect::<Vec<_>>();
        // Of those that work, one at a time, once all others are there.
        let settled = self.pods.iter().all(|pod| pod.is_ready());
        if idle.is_empty() && settled {
            idle.extend(old.first());
        }
        leaving.extend(idle);
        leaving
    }

    /// What works and is too much finishes what it has, where others need its place.
    fn rest(&self, alive: &[&Diagnosed<'a>], leaving: usize, actions: &mut Vec<Action>) {
        if !self.crowded {
            return;
        }
        let surplus = alive.len().saturating_sub(self.share).saturating_sub(leaving);
        let mut working: Vec<&PodSeen> = alive.iter().map(|one| one.0).filter(|pod| self.is_busy(pod)).collect();
        working.sort_by_key(|pod| std::cmp::Reverse(pod.slot));
        actions.extend(working.iter().take(surplus).map(|pod| Action::Rest(self.pool, pod.uid)));
    }

    /// Nothing is to be done, and nothing has been for long enough.
    fn is_over(&self, alive: &[&Diagnosed<'a>]) -> bool {
        let born = alive.iter().map(|(pod, _)| pod.created_at).max();
        let since = born.max(self.demand.active_at);
        let rested = since.is_none_or(|since| self.known.now - since >= self.known.limits.idle);
        self.demand.open == 0 && (rested || !self.demand.stays)
    }

    fn hold(&self) -> Option<&'a Hold> {
        let hold = self.known.holds.get(&self.pool)?;
        (hold.until > self.known.now).then_some(hold)
    }

    fn create(&self, alive: &[&Diagnosed<'a>], room: &mut usize, actions: &mut Vec<Action>) {
        let mut most = self.share;
        if !alive.iter().any(|(pod, _)| pod.is_ready()) {
            most = most.min(SCOUTS);
        }
        let missing = most.saturating_sub(alive.len()).min(*room).min(MADE_AT_ONCE);
        if missing == 0 || self.hold().is_some() {
            return;
        }
        let taken: BTreeSet<u32> = self.pods.iter().map(|pod| pod.slot).collect();
        let slots: Vec<u32> = (0..u32::MAX)
            .filter(|slot| !taken.contains(slot))
            .take(missing)
            .collect();
        *room -= slots.len();
        actions.push(Action::Create { pool: self.pool, slots });
    }

    /// Why none of the pool's pods will ever run.
    fn hopeless(&self, alive: &[&Diagnosed<'a>]) -> Option<String> {
        if self.wanted == 0 || alive.iter().any(|(pod, _)| pod.is_ready()) {
            return None;
        }
        let now = self.known.now;
        let mut found = alive.iter().filter_map(|(pod, trouble)| Some((pod, trouble.as_ref()?)));
        let (_, trouble) = found.find(|(pod, trouble)| trouble::is_hopeless(trouble, pod, now))?;
        Some(trouble.to_string())
    }

    fn report(
        &self,
        all: &[Diagnosed<'a>],
        alive: &[&Diagnosed<'a>],
        hopeless: Option<String>,
        actions: &mut Vec<Action>,
    ) {
        if self.wanted == 0 {
            return;
        }
        if let Some(why) = hopeless {
            actions.push(Action::GiveUp(self.pool, why));
            return;
        }
        let mut troubles: Vec<&Trouble> = all.iter().filter_map(|(_, trouble)| trouble.as_ref()).collect();
        troubles.sort_by_cached_key(|trouble| (trouble.rank(), trouble.to_string()));
        let ready = alive.iter().filter(|(pod, _)| pod.is_ready()).count();
        let why = match (self.hold(), troubles.first()) {
            (Some(hold), _) => Some(hold.why.clone()),
            (None, Some(trouble)) => Some(trouble.to_string()),
            (None, None) if self.share == 0 => Some(format!(
                "waits for a place: this data plane may have {} pods at a time, and other pipelines use them",
                self.known.limits.pods
            )),
            (None, None) => None,
        };
        let told = why.map(|why| match ready {
            0 => why,
            some => format!("{why} (meanwhile it runs in {some} of {} pods)", self.wanted),
        });
        actions.push(Action::Tell(self.pool, told));
    }
}
