//! What is done about pods, case by case.

use std::collections::{BTreeMap, HashMap, HashSet};

use chrono::{DateTime, Duration, Utc};
use pods::plan::{Action, Hold, Known, Limits, plan, shares};
use pods::ports::Demand;
use pods::seen::{ContainerSeen, Part, Phase, Told};
use pods::trouble::{Eviction, Trouble};
use pods::{Kind, PodSeen, Pool};
use uuid::Uuid;

/// So many pods are made before one was seen to run.
const SCOUTS: usize = 8;

fn now() -> DateTime<Utc> {
    "2026-11-26T12:00:00Z".parse().unwrap()
}

fn pool(n: u128) -> Pool {
    Pool {
        pipeline: Uuid::from_u128(n),
        version: 1,
    }
}

fn demand(open: u64) -> Demand {
    Demand {
        open,
        parallelism: Some(100),
        stays: true,
        active_at: Some(now()),
        has_secrets: false,
    }
}

/// A pod that was made ten minutes ago and runs.
fn pod(n: u128, slot: u32) -> PodSeen {
    let ready = |part| ContainerSeen {
        part,
        restarts: 0,
        ready: true,
        waiting: None,
        ended: None,
    };
    PodSeen {
        name: pool(n).pod(slot),
        uid: Uuid::from_u128(n * 1_000 + u128::from(slot)),
        pool: pool(n),
        slot,
        kind: Kind::Worker,
        template: "t".to_owned(),
        phase: Phase::Running,
        told: Told::default(),
        created_at: now() - Duration::minutes(10),
        gone_by: None,
        unplaced: None,
        disrupted: None,
        containers: vec![ready(Part::User), ready(Part::Agent)],
    }
}

fn without_image(n: u128, slot: u32) -> PodSeen {
    let mut pod = pod(n, slot);
    pod.phase = Phase::Pending;
    pod.containers[0].ready = false;
    pod.containers[0].waiting = Some(Told {
        reason: "ErrImagePull".to_owned(),
        message: "not found".to_owned(),
    });
    pod
}

#[derive(Default)]
struct World {
    demands: BTreeMap<Pool, Demand>,
    pods: Vec<PodSeen>,
    busy: HashSet<Uuid>,
    holds: HashMap<Pool, Hold>,
    most: u32,
}

impl World {
    fn of(demands: &[(u128, Demand)], pods: Vec<PodSeen>) -> Self {
        Self {
            demands: demands.iter().map(|(n, demand)| (pool(*n), demand.clone())).collect(),
            pods,
            most: 50,
            ..Self::default()
        }
    }

    fn plan(&self) -> Vec<Action> {
        let templates = self.demands.keys().map(|pool| (*pool, "t".to_owned())).collect();
        plan(&Known {
            now: now(),
            limits: Limits {
                pods: self.most,
                parallelism: 8,
                idle: Duration::seconds(60),
            },
            demands: &self.demands,
            pods: &self.pods,
            busy: &self.busy,
            holds: &self.holds,
            templates: &templates,
        })
    }

    fn made(&self) -> usize {
        let made = self.plan().into_iter().map(|action| match action {
            Action::Create { slots, .. } => slots.len(),
            _ => 0,
        });
        made.sum()
    }

    fn removed(&self) -> Vec<String> {
        let removed = self.plan().into_iter().filter_map(|action| match action {
            Action::Delete { name, .. } => Some(name),
            _ => None,
        });
        removed.collect()
    }

    fn told(&self, n: u128) -> Option<String> {
        let told = self.plan().into_iter().find_map(|action| match action {
            Action::Tell(of, told) if of == pool(n) => Some(told),
            _ => None,
        });
        told.flatten()
    }
}

#[test]
fn a_pool_gets_as_many_pods_as_it_has_datums_up_to_its_parallelism() {
    let running = |n: u32| (0..n).map(|slot| pod(1, slot)).collect::<Vec<_>>();
    for (open, parallelism, there, made) in [
        (3, Some(5), 0, 3),
        (30, Some(5), 0, 5),
        (30, Some(5), 2, 3),
        (30, None, 0, 8),
        // The rest waits until one of the first is seen to run.
        (30, Some(20), 0, SCOUTS),
        (30, Some(20), 1, 19),
        (0, Some(5), 0, 0),
        (5, Some(5), 5, 0),
    ] {
        let wanted = Demand {
            parallelism,
            ..demand(open)
        };
        let world = World::of(&[(1, wanted)], running(there));
        assert_eq!(world.made(), made, "{open} {parallelism:?} {there}");
        assert!(world.removed().is_empty());
    }
}

#[test]
fn shares_are_even_and_nobody_gets_more_than_can_be_used() {
    for (wanted, most, expected) in [
        (vec![10, 10], 20, vec![10, 10]),
        (vec![2, 100, 100], 20, vec![2, 9, 9]),
        (vec![1, 1, 1], 2, vec![1, 1, 0]),
        (vec![5], 0, vec![0]),
        (vec![], 5, vec![]),
        (vec![3, 7], 9, vec![3, 6]),
    ] {
        let all: BTreeMap<Pool, u32> = wanted.iter().zip(1..).map(|(n, id)| (pool(id), *n)).collect();
        let shares: Vec<u32> = shares(&all, most).into_values().collect();
        assert_eq!(shares, expected, "{wanted:?} {most}");
    }
}

#[test]
fn no_more_pods_are_made_than_the_plane_may_have_whatever_is_on_its_way_out() {
    let mut leaving = pod(2, 0);
    leaving.gone_by = Some(now());
    let mut world = World::of(&[(1, demand(30))], vec![pod(1, 0), leaving]);
    world.most = 4;
    assert_eq!(world.made(), 2);
    world.most = 1;
    assert_eq!(world.made(), 0);
    world.pods.remove(0);
    world.demands.insert(pool(3), demand(1));
    assert!(world.told(1).is_some_and(|told| told.contains("may have 1 pods")));
}

#[test]
fn slots_of_pods_that_are_there_are_left_alone() {
    let mut leaving = pod(1, 1);
    leaving.gone_by = Some(now());
    let world = World::of(&[(1, demand(3))], vec![pod(1, 0), leaving]);
    let made = world.plan().into_iter().find_map(|action| match action {
        Action::Create { slots, .. } => Some(slots),
        _ => None,
    });
    assert_eq!(made, Some(vec![2, 3]));
}

#[test]
fn pods_stay_for_a_while_after_the_last_datum_unless_none_will_come() {
    let rested = |seconds: i64, stays: bool| Demand {
        active_at: Some(now() - Duration::seconds(seconds)),
        stays,
        ..demand(0)
    };
    let there = vec![pod(1, 0), pod(1, 1)];
    assert!(World::of(&[(1, rested(59, true))], there.clone()).removed().is_empty());
    assert_eq!(World::of(&[(1, rested(60, true))], there.clone()).removed().len(), 2);
    assert_eq!(World::of(&[(1, rested(0, false))], there.clone()).removed().len(), 2);
    assert_eq!(
        World::of(&[], there.clone()).removed().len(),
        2,
        "nobody knows of the pipeline any more"
    );
    let with_secrets = Demand {
        has_secrets: true,
        ..rested(60, true)
    };
    let secrets = |world: World| world.plan().contains(&Action::DeleteSecrets(pool(1)));
    assert!(!secrets(World::of(&[(1, with_secrets.clone())], there)));
    assert!(secrets(World::of(&[(1, with_secrets.clone())], Vec::new())));
    let open = Demand {
        open: 1,
        ..with_secrets
    };
    assert!(!secrets(World::of(&[(1, open)], Vec::new())));
}

#[test]
fn a_pod_that_holds_datums_is_not_taken_for_an_idle_one() {
    let mut world = World::of(
        &[(1, demand(1)), (2, demand(3))],
        (0..3).map(|slot| pod(1, slot)).collect(),
    );
    world.busy.insert(pod(1, 2).uid);
    // What is too much makes room where others have none.
    world.most = 3;
    assert_eq!(world.removed(), [pool(1).pod(1), pool(1).pod(0)]);
    assert!(
        !world.plan().iter().any(|action| matches!(action, Action::Rest(..))),
        "one may stay"
    );
    // Those that work are given nothing new, until no more are left than their share.
    world.busy.extend([pod(1, 0).uid, pod(1, 1).uid]);
    assert!(world.removed().is_empty());
    let rest: Vec<Action> = world
        .plan()
        .into_iter()
        .filter(|a| matches!(a, Action::Rest(..)))
        .collect();
    assert_eq!(rest, [2, 1].map(|slot| Action::Rest(pool(1), pod(1, slot).uid)));
    world.busy = [pod(1, 2).uid].into();
    world.most = 50;
    assert!(world.removed().is_empty(), "there is room for all");
}

#[test]
fn a_pod_that_will_not_run_again_is_replaced_and_its_datums_are_free_first() {
    let mut lost = pod(1, 0);
    lost.phase = Phase::Ended;
    lost.told = Told {
        reason: "Evicted".to_owned(),
        message: "exceeds the limit".to_owned(),
    };
    let world = World::of(&[(1, demand(2))], vec![lost.clone(), pod(1, 1)]);
    let actions = world.plan();
    let disk = Trouble::Evicted(Eviction::Disk);
    assert_eq!(
        actions[0],
        Action::Lost {
            uid: lost.uid,
            pool: pool(1),
            trouble: Some(disk.clone())
        }
    );
    assert!(matches!(&actions[1], Action::Delete { name, now: false, .. } if *name == lost.name));
    assert_eq!(world.made(), 1);
    assert!(world.told(1).unwrap().starts_with(&disk.to_string()));
    let mut gone = pod(1, 0);
    gone.phase = Phase::Unknown;
    let actions = World::of(&[(1, demand(1))], vec![gone]).plan();
    assert!(
        matches!(&actions[0], Action::Lost { trouble: None, .. }),
        "its datums are not to blame"
    );
    assert!(
        matches!(&actions[1], Action::Delete { now: true, .. }),
        "nobody there would say that it ended"
    );
}

#[test]
fn pods_from_what_was_before_are_replaced_idle_ones_at_once_and_others_in_turn() {
    let mut old: Vec<PodSeen> = (0..3).map(|slot| pod(1, slot)).collect();
    for pod in &mut old {
        pod.template = "before".to_owned();
    }
    let mut world = World::of(&[(1, demand(9))], old);
    assert_eq!(world.removed().len(), 3);
    world.busy = world.pods.iter().map(|pod| pod.uid).collect();
    assert_eq!(world.removed().len(), 1);
    world.pods[2].containers[0].ready = false;
    assert!(world.removed().is_empty(), "one is on its way already");
}

#[test]
fn what_keeps_a_pool_is_told_and_what_never_passes_ends_its_jobs() {
    let fine = World::of(&[(1, demand(1))], vec![pod(1, 0)]);
    assert!(fine.plan().contains(&Action::Tell(pool(1), None)));
    let broken = World::of(&[(1, demand(5))], vec![without_image(1, 0), without_image(1, 1)]);
    assert!(
        broken
            .plan()
            .iter()
            .any(|action| matches!(action, Action::GiveUp(_, why) if why.contains("cannot be pulled"))),
    );
    assert_eq!(broken.made(), 0);
    let mut young = broken;
    for pod in &mut young.pods {
        pod.created_at = now();
    }
    assert!(young.told(1).unwrap().contains("cannot be pulled"));
    young.pods.push(pod(1, 2));
    let told = young.told(1).unwrap();
    assert!(told.ends_with("(meanwhile it runs in 1 of 5 pods)"), "{told}");
    let nothing = World::of(&[(1, demand(0))], vec![without_image(1, 0)]);
    assert!(
        !nothing
            .plan()
            .iter()
            .any(|a| matches!(a, Action::GiveUp(..) | Action::Tell(..)))
    );
}

#[test]
fn a_pool_on_hold_makes_no_pods_and_says_why() {
    let mut world = World::of(&[(1, demand(2))], Vec::new());
    let hold = Hold::after(None, "the quota is used up".to_owned(), now());
    world.holds.insert(pool(1), hold.clone());
    assert_eq!(
        (world.made(), world.told(1)),
        (0, Some("the quota is used up".to_owned()))
    );
    world.holds.insert(
        pool(1),
        Hold {
            until: now(),
            ..hold.clone()
        },
    );
    assert_eq!(world.made(), 2);
    let mut pauses = Vec::new();
    let mut last = Some(hold);
    for _ in 0..40 {
        pauses.push(last.as_ref().unwrap().until - now());
        last = Some(Hold::after(last.as_ref(), String::new(), now()));
    }
    assert_eq!(
        (pauses[0], pauses[1], pauses[39]),
        (Duration::seconds(1), Duration::seconds(2), Duration::minutes(5))
    );
}
