//! Whatever went wrong: once nothing does any more, each pool has the pods that it should have, nothing is left of those that
//! should have none, and then nothing is written. `SEED=7` replays one; `SEEDS=10000` tries more.

use std::collections::BTreeMap;

use chrono::Duration;
use contract::executor::PodsConfig;
use contract::ids::OrganizationId;
use pods::manifest::Plane;
use pods::pass::Rounds;
use pods::plan::shares;
use pods::ports::Demand;
use pods::{Kind, Pool, seen::Phase};
use rand::RngExt;
use serde_json::json;
use uuid::Uuid;

use crate::world::{SERVICE, World};

const PODS_MAX: u32 = 12;
const ROUNDS: u32 = 60;
const SEEDS: u64 = 64;

fn rounds(world: &World) -> Rounds<World, World> {
    let config = json!({ "namespace": "n", "image": "i", "workers_url": "http://plane", "pods_max": PODS_MAX, "parallelism": 4 });
    let config: PodsConfig = serde_json::from_value(config).unwrap();
    let organization = OrganizationId::from_uuid(Uuid::from_u128(1));
    Rounds::new(Plane { organization, config }, world.clone(), world.clone())
}

/// Somebody changes something.
fn disturb(world: &World) {
    let mut state = world.state();
    let serves = state.chance(0.2);
    let pool = Pool {
        pipeline: match serves {
            true => SERVICE,
            false => Uuid::from_u128(state.rng.random_range(1..4)),
        },
        version: state.rng.random_range(1..3),
    };
    let now = state.now;
    let open = state.rng.random_range(0..20);
    let stays = state.chance(0.7);
    let parallelism = state.chance(0.5).then(|| state.rng.random_range(1..10));
    let demand = Demand {
        open: if serves { open.min(1) } else { open },
        parallelism: if serves { Some(1) } else { parallelism },
        stays,
        active_at: Some(now),
        has_secrets: false,
    };
    match state.rng.random_range(0..10) {
        0 => {
            state.demands.remove(&pool);
        }
        1 => {
            state.without_image.insert(pool);
        }
        2 => {
            state.without_image.remove(&pool);
        }
        3 => state.quota = state.rng.random_range(3..20),
        4 => {
            let last = state.pods.keys().next_back().cloned();
            last.and_then(|name| state.pods.remove(&name));
        }
        _ => {
            state.demands.insert(pool, demand);
        }
    }
}

fn holds_always(world: &World, seed: u64) {
    let state = world.state();
    let there = state.pods.values().filter(|pod| pod.phase != Phase::Ended).count();
    assert!(there <= PODS_MAX as usize, "seed {seed}: {there} pods");
}

async fn history(seed: u64) {
    let world = World::new(seed);
    let mut executor = rounds(&world);
    for _ in 0..ROUNDS {
        let (change, dies, seconds) = {
            let mut state = world.state();
            (state.chance(0.4), state.chance(0.1), state.rng.random_range(0..40))
        };
        if change {
            disturb(&world);
        }
        if dies {
            executor = rounds(&world);
        }
        let now = world.state().now;
        let _ = executor.round(now).await;
        holds_always(&world, seed);
        world.state().pass(Duration::seconds(seconds));
    }
    {
        let mut state = world.state();
        state.faults = false;
        state.quota = usize::MAX;
        state.without_image.clear();
    }
    // Holds are over after five minutes, lost pods after one.
    for _ in 0..40 {
        let now = world.state().now;
        executor.round(now).await.unwrap();
        holds_always(&world, seed);
        world.state().pass(Duration::seconds(20));
    }
    settled(&world, &mut executor, seed).await;
}

async fn settled(world: &World, executor: &mut Rounds<World, World>, seed: u64) {
    let (now, before) = {
        let state = world.state();
        (state.now, state.writes)
    };
    executor.round(now).await.unwrap();
    let state = world.state();
    assert_eq!(
        state.writes, before,
        "seed {seed}: something is written although all is as it should be"
    );
    let wanted: BTreeMap<Pool, u32> = state
        .demands
        .iter()
        .filter(|(_, demand)| demand.open > 0)
        .map(|(pool, demand)| {
            (
                *pool,
                demand.parallelism.unwrap_or(4).min(u32::try_from(demand.open).unwrap()),
            )
        })
        .collect();
    let shares = shares(&wanted, PODS_MAX);
    let crowded = wanted.values().sum::<u32>() > PODS_MAX;
    for pod in state.pods.values() {
        let share = shares.get(&pod.pool).copied().unwrap_or(0);
        assert!(
            share > 0 || state.busy.contains(&pod.uid),
            "seed {seed}: `{}` is of no use",
            pod.name
        );
        assert!(pod.is_ready(), "seed {seed}: {pod:?}");
    }
    for (pool, share) in &shares {
        let alive = state.alive(*pool);
        let busy = state
            .pods
            .values()
            .filter(|p| p.pool == *pool && state.busy.contains(&p.uid))
            .count();
        // Pods that hold datums keep their place for as long as they do.
        let datums = state
            .pods
            .values()
            .any(|p| p.kind == Kind::Worker && state.busy.contains(&p.uid));
        let enough = alive >= *share as usize || datums;
        let serves = pool.pipeline == SERVICE;
        assert!(
            !serves || (alive, busy) == (1, 1) || alive == 0 && datums,
            "seed {seed}: a service has {alive} pods, and runs in {busy}"
        );
        assert!(enough, "seed {seed}: {pool} has {alive} pods of {share}");
        assert!(
            !crowded || alive <= busy.max(*share as usize),
            "seed {seed}: {pool} has {alive} pods and not {share}"
        );
        let told = state.told.get(pool).cloned().flatten();
        assert!(*share == 0 || told.is_none(), "seed {seed}: {told:?}");
    }
    for secret in &state.secrets {
        let of = |pool: &Pool| pool.secret() == *secret || pool.pull_secret() == *secret;
        let used = wanted.keys().any(of) || state.pods.values().any(|pod| of(&pod.pool));
        assert!(used, "seed {seed}: the secret `{secret}` is left");
    }
}

#[tokio::test]
async fn once_nothing_fails_any_more_all_is_as_it_should_be_and_nothing_is_written() {
    if let Some(seed) = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()) {
        return history(seed).await;
    }
    let seeds = std::env::var("SEEDS")
        .ok()
        .and_then(|seeds| seeds.parse().ok())
        .unwrap_or(SEEDS);
    for seed in 0..seeds {
        history(seed).await;
    }
}

#[tokio::test]
async fn a_plane_that_stops_takes_its_services_along_and_leaves_what_runs_datums() {
    let world = World::new(0);
    world.state().faults = false;
    let mut executor = rounds(&world);
    let now = world.state().now;
    for pipeline in [SERVICE, Uuid::from_u128(1)] {
        let demand = Demand {
            open: 1,
            stays: true,
            active_at: Some(now),
            ..Demand::default()
        };
        world.state().demands.insert(Pool { pipeline, version: 1 }, demand);
    }
    assert_eq!(executor.round(now).await.unwrap().pods, 0);
    world.state().pass(Duration::seconds(1));
    // A service alone keeps no plane awake.
    assert_eq!(executor.round(now).await.unwrap().pods, 1);
    pods::pass::end_lasting(&world).await.unwrap();
    world.state().pass(Duration::minutes(1));
    let left: Vec<Kind> = world.state().pods.values().map(|pod| pod.kind).collect();
    assert_eq!(left, [Kind::Worker]);
    // When it is back, they are.
    let now = world.state().now;
    rounds(&world).round(now).await.unwrap();
    assert_eq!(world.state().pods.len(), 2);
}

#[tokio::test]
async fn a_thousand_pods_come_once_a_few_of_them_run_and_go_when_they_rested() {
    let world = World::new(0);
    world.state().faults = false;
    let config = json!({ "namespace": "n", "image": "i", "workers_url": "http://plane", "pods_max": 1_000 });
    let organization = OrganizationId::from_uuid(Uuid::from_u128(1));
    let config = serde_json::from_value(config).unwrap();
    let mut executor = Rounds::new(Plane { organization, config }, world.clone(), world.clone());
    let pool = Pool {
        pipeline: Uuid::from_u128(1),
        version: 1,
    };
    let demand = Demand {
        open: 5_000,
        parallelism: Some(1_000),
        stays: true,
        active_at: Some(world.state().now),
        has_secrets: false,
    };
    world.state().demands.insert(pool, demand);
    let mut there = Vec::new();
    for _ in 0..8 {
        let now = world.state().now;
        executor.round(now).await.unwrap();
        there.push(world.state().alive(pool));
        world.state().pass(Duration::seconds(1));
    }
    assert_eq!(there, [8, 208, 408, 608, 808, 1_000, 1_000, 1_000]);
    let now = world.state().now;
    let demand = |open| Demand {
        open,
        active_at: Some(now),
        stays: true,
        ..Demand::default()
    };
    world.state().demands.insert(pool, demand(0));
    for _ in 0..4 {
        let now = world.state().now;
        executor.round(now).await.unwrap();
        world.state().pass(Duration::seconds(60));
    }
    let state = world.state();
    assert!(state.pods.is_empty() && state.secrets.is_empty() && state.noted.is_empty());
}
