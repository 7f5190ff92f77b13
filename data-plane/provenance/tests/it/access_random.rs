//! The access rule on random graphs with diamonds, releases, teams, scopes and tombstones, against the naive walk.

use chrono::TimeDelta;
use contract::api::{Decision, MissingDomain};
use contract::ids::DomainId;
use contract::policy::{OrganizationRole, Permission};
use proptest::prelude::*;
use provenance::access::{
    Access, Change, DecisionCache, Pair, Policy, Subject, Verb, can, decide, explain, read, shifts, who_can_read,
};
use provenance::origins::{OriginSet, required};

use crate::seed::Seed;
use crate::world::{Sizes, World};

// So few releases cannot make a formula too large: the answer must be exact.
const EXACT: Sizes = Sizes {
    commits: 11,
    releases: 4,
};
const MANY: Sizes = Sizes {
    commits: 14,
    releases: 60,
};
const VERBS: [Verb; 3] = [Verb::Read, Verb::Derive, Verb::Egress];

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_decision_is_what_the_naive_walk_over_all_paths_says(number in any::<u64>()) {
        let seed = &mut Seed::new(number);
        let world = World::random(seed, &EXACT);
        let subject = world.random_subject(seed);
        let verb = *seed.pick(&VERBS);
        for (i, commit) in world.commits.iter().enumerate() {
            let needed: Vec<DomainId> =
                world.all_domains().into_iter().filter(|d| world.naively_exposes(i, *d)).collect();
            let active = world.policy.active_releases(world.now);
            prop_assert_eq!(required(&commit.set, &active), needed.clone(), "seed {}, commit {}", number, i);
            let lacks = |d: &DomainId| !world.naively_holds(&subject, verb.permission(), *d);
            let missing: Vec<DomainId> = needed.into_iter().filter(lacks).collect();
            let stands = world.naively_stands(&subject);
            match decide(&world.policy, &subject, verb, &commit.set, world.now) {
                Access::Allowed(permit) => {
                    prop_assert!(stands && missing.is_empty(), "seed {}, commit {}", number, i);
                    prop_assert_eq!(permit.set_digest(), commit.set.digest());
                }
                Access::Denied(denial) if stands => prop_assert_eq!(denial.missing, missing, "seed {}", number),
                Access::Denied(denial) => prop_assert!(denial.missing.is_empty(), "seed {}", number),
            }
        }
    }

    #[test]
    fn too_many_releases_never_allow_more_than_the_naive_walk(number in any::<u64>()) {
        let world = World::random(&mut Seed::new(number), &MANY);
        let active = world.policy.active_releases(world.now);
        for (i, commit) in world.commits.iter().enumerate() {
            let needed = required(&commit.set, &active);
            for domain in world.all_domains() {
                let exposed = world.naively_exposes(i, domain);
                prop_assert!(!exposed || needed.contains(&domain), "seed {}, commit {}", number, i);
            }
            let back = OriginSet::decode(&commit.set.encode());
            prop_assert_eq!(back, Ok(commit.set.clone()), "seed {}", number);
        }
    }

    #[test]
    fn an_explanation_and_a_cached_decision_are_the_decision(number in any::<u64>()) {
        let seed = &mut Seed::new(number);
        let world = World::random(seed, &EXACT);
        let cache = DecisionCache::new();
        for _ in 0..4 {
            let (viewer, verb) = (world.random_subject(seed), *seed.pick(&VERBS));
            let asked = if seed.one_in(3) { world.random_subject(seed) } else { viewer.clone() };
            let i = seed.below(world.commits.len());
            let (policy, set) = (&world.policy, &world.commits[i].set);
            let decided = decide(policy, &asked, verb, set, world.now);
            for later in [0, 0, 40, 0] {
                let now = world.now + TimeDelta::days(later);
                let plain = decide(policy, &asked, verb, set, now);
                prop_assert_eq!(cache.decide(policy, &asked, verb, set, now), plain, "seed {}", number);
            }
            let knows = |d: DomainId| can(policy, &viewer, Permission::Discover, d);
            let told = explain(policy, &viewer, &asked, verb, set, &world.lineage(i), world.now);
            let manager = policy.member(viewer.principal).map(|m| m.role).is_some_and(OrganizationRole::manages)
                && viewer.scopes.is_empty();
            let may_ask = viewer.principal == asked.principal || manager
                || can(policy, &viewer, Permission::Admin, set.home());
            prop_assert_eq!(told.is_some(), knows(set.home()) && may_ask, "seed {}", number);
            let Some(told) = told else { continue };
            prop_assert_eq!(told.decision == Decision::Allow, decided.is_allowed(), "seed {}", number);
            let Access::Denied(denial) = decided else { continue };
            if denial.missing.is_empty() { continue }
            prop_assert_eq!(told.missing.len(), denial.missing.len(), "seed {}", number);
            let text = serde_json::to_string(&told).unwrap();
            for hidden in policy.snapshot().domains.iter().filter(|d| !knows(d.id)) {
                prop_assert!(!text.contains(&format!("{}/{}", hidden.project, hidden.name)), "seed {}: {}", number, text);
                prop_assert!(!text.contains(&hidden.id.to_string()), "seed {}", number);
                for commit in world.commits.iter().filter(|c| c.domain == hidden.id) {
                    prop_assert!(!text.contains(&commit.id.to_string()), "seed {}", number);
                }
            }
            for missing in &told.missing {
                prop_assert!(is_witness(&world, i, missing), "seed {}: {:?}", number, missing);
            }
        }
    }

    #[test]
    fn what_a_change_would_do_is_what_the_rule_says_once_it_is_made(number in any::<u64>()) {
        let seed = &mut Seed::new(number);
        let world = World::random(seed, &EXACT);
        let change = world.random_change(seed);
        let after = world.policy.changed(&change, world.now).unwrap();
        let sets: Vec<&OriginSet> = world.commits.iter().map(|c| &c.set).collect();
        let pairs: Vec<Pair<'_>> = sets.iter().map(|set| Pair { before: set, after: set }).collect();
        let found = shifts(&world.policy, &after, &pairs, world.now);
        for member in &world.policy.snapshot().members {
            let subject = Subject::unlimited(member.principal);
            let reads = |policy: &Policy, set: &OriginSet| read(policy, &subject, set, world.now).is_ok();
            let shift = found.iter().find(|s| s.principal == member.principal);
            for (at, set) in sets.iter().enumerate() {
                let (before, then) = (reads(&world.policy, set), reads(&after, set));
                let gains = shift.is_some_and(|s| s.gains.contains(&at));
                let loses = shift.is_some_and(|s| s.loses.contains(&at));
                prop_assert_eq!((gains, loses), (!before && then, before && !then), "seed {}: {:?}", number, change);
            }
        }
        if matches!(change, Change::Grant { .. }) {
            prop_assert!(found.iter().all(|s| s.loses.is_empty()), "seed {}", number);
        }
    }

    #[test]
    fn another_ancestor_never_adds_readers(number in any::<u64>()) {
        let seed = &mut Seed::new(number);
        let world = World::random(seed, &EXACT);
        let last = world.commits.len() - 1;
        let before = &world.commits[last];
        let mut inputs = before.inputs.clone();
        inputs.push(seed.below(last));
        let more = crate::world::MadeCommit {
            inputs,
            id: before.id,
            domain: before.domain,
            digest: before.digest.clone(),
            at: before.at,
            set: before.set.clone(),
        };
        let after = world.origins(&more);
        let readers = |set: &OriginSet| -> Vec<String> {
            who_can_read(&world.policy, set, world.now).into_iter().map(|r| r.name).collect()
        };
        let old = readers(&before.set);
        for reader in readers(&after) {
            prop_assert!(old.contains(&reader), "seed {}", number);
        }
        for principal in &world.principals {
            let subject = provenance::access::Subject::unlimited(*principal);
            let name = world.policy.member(*principal).map(|m| m.name.clone());
            let listed = name.is_some_and(|n| old.contains(&n));
            prop_assert_eq!(read(&world.policy, &subject, &before.set, world.now).is_ok(), listed, "seed {}", number);
        }
    }
}

/// Whether the witness leads from the missing domain to the object, on edges that no active release excuses, with hidden
/// steps in a row told as one.
fn is_witness(world: &World, object: usize, missing: &MissingDomain) -> bool {
    let known = |step: &String| {
        let (_, id) = step.split_once('@')?;
        world.commits.iter().position(|c| c.id.to_string() == id)
    };
    let named = |c: usize| world.policy.name_of(world.commits[c].domain);
    let domain = world
        .all_domains()
        .into_iter()
        .find(|d| world.policy.name_of(*d).as_ref() == Some(&missing.domain));
    let steps = &missing.witness;
    let ends = steps[0].starts_with(&missing.domain) && known(&steps[steps.len() - 1]) == Some(object);
    ends && steps.windows(2).all(|pair| match (known(&pair[0]), known(&pair[1])) {
        (None, None) => false,
        (Some(from), Some(to)) => {
            let excused = domain.is_some_and(|d| world.naively_excuses(to, d));
            let names = pair[1].starts_with(&named(to).unwrap_or_default());
            world.commits[to].inputs.contains(&from) && !excused && names
        }
        _ => true,
    })
}
