//! What a decision costs: warm from the cache on one core, cold by weighing, and an explanation. An organization of 2,000 people in 50
//! teams with 5,000 repos, and 1,000 origin sets of up to 60 domains, which is what a plane with a million commits has.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use contract::ids::{AccountId, CommitId, DomainId, GrantId, OrganizationId, TeamId};
use contract::policy::{
    Domain, Grant, Grantee, Member, OrganizationRole, OrganizationState, PolicySnapshot, Principal, Resource, Role,
    Team,
};
use provenance::access::{DecisionCache, Lineage, LineageNode, Policy, Subject, Verb, decide, explain};
use provenance::origins::{Edge, OriginSet};
use uuid::Uuid;

const PEOPLE: usize = 2000;
const TEAMS: usize = 50;
const REPOS: usize = 5000;
const SETS: usize = 1000;
const DECISIONS: usize = 2_000_000;
const EXPLANATIONS: usize = 2000;

fn main() {
    let now: DateTime<Utc> = DateTime::UNIX_EPOCH + chrono::TimeDelta::days(20_000);
    let world = World::new();
    warm(&world, now);
    cold(&world, now);
    explanations(&world, now);
}

struct World {
    policy: Policy,
    people: Vec<Principal>,
    repos: Vec<DomainId>,
    sets: Vec<OriginSet>,
}

fn id(kind: u64, n: usize) -> Uuid {
    Uuid::from_u64_pair(kind, n as u64 + 1)
}

/// A number that looks like chance and is the same each time.
fn mixed(n: usize, salt: usize) -> usize {
    let x = (n as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (salt as u64).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    ((x ^ (x >> 31)).wrapping_mul(0x94D0_49BB_1331_11EB) >> 33) as usize
}

impl World {
    fn new() -> Self {
        let people: Vec<Principal> = (0..PEOPLE)
            .map(|n| Principal::Account(AccountId::from_uuid(id(1, n))))
            .collect();
        let repos: Vec<DomainId> = (0..REPOS).map(|n| DomainId::from_uuid(id(2, n))).collect();
        let project = |n: usize| format!("p{}", n % 40).parse().unwrap_or_else(|e| panic!("{e}"));
        let snapshot = PolicySnapshot {
            organization: OrganizationId::from_uuid(id(3, 0)),
            epoch: 7,
            state: OrganizationState::Active,
            members: people
                .iter()
                .enumerate()
                .map(|(n, principal)| Member {
                    principal: *principal,
                    name: format!("person-{n}"),
                    role: OrganizationRole::Member,
                })
                .collect(),
            teams: (0..TEAMS)
                .map(|t| Team {
                    id: TeamId::from_uuid(id(4, t)),
                    name: format!("team-{t}").parse().unwrap_or_else(|e| panic!("{e}")),
                    members: (0..PEOPLE).filter(|n| n % TEAMS == t).map(|n| people[n]).collect(),
                })
                .collect(),
            grants: (0..20_000)
                .map(|n| Grant {
                    id: GrantId::from_uuid(id(5, n)),
                    grantee: match n % 4 {
                        0 => Grantee::Team(TeamId::from_uuid(id(4, mixed(n, 1) % TEAMS))),
                        _ => Grantee::Account(AccountId::from_uuid(id(1, mixed(n, 2) % PEOPLE))),
                    },
                    role: Role::Viewer,
                    resource: match n % 10 {
                        0 => Resource::Project(project(mixed(n, 3))),
                        _ => Resource::Domain(repos[mixed(n, 4) % REPOS]),
                    },
                })
                .collect(),
            domains: repos
                .iter()
                .enumerate()
                .map(|(n, repo)| Domain {
                    id: *repo,
                    project: project(n),
                    name: format!("r{n}").parse().unwrap_or_else(|e| panic!("{e}")),
                    deleted: false,
                })
                .collect(),
            releases: Vec::new(),
            revoked_tokens: Vec::new(),
        };
        let sets = (0..SETS)
            .map(|n| {
                let parents: Vec<OriginSet> = (0..mixed(n, 5) % 60)
                    .map(|p| OriginSet::own(repos[mixed(n * 64 + p, 6) % REPOS]))
                    .collect();
                let parents: Vec<(&OriginSet, Edge)> = parents.iter().map(|p| (p, Edge::plain())).collect();
                OriginSet::combine(repos[n], &parents)
            })
            .collect();
        Self {
            policy: Policy::new(snapshot),
            people,
            repos,
            sets,
        }
    }

    fn subject(&self, n: usize) -> Subject {
        Subject::unlimited(self.people[mixed(n, 7) % 40])
    }

    fn set(&self, n: usize) -> &OriginSet {
        &self.sets[mixed(n, 8) % SETS]
    }
}

fn percentile(times: &mut [Duration], share: f64) -> Duration {
    times.sort_unstable();
    times[((times.len() - 1) as f64 * share) as usize]
}

fn warm(world: &World, now: DateTime<Utc>) {
    let cache = DecisionCache::new();
    // As many pairs as a busy plane sees within an epoch.
    let subjects: Vec<Subject> = (0..40).map(|n| world.subject(n)).collect();
    let asked: Vec<(usize, usize)> = (0..DECISIONS)
        .map(|n| (mixed(n, 9) % 40, mixed(n, 10) % SETS))
        .collect();
    for (who, what) in &asked[..200_000] {
        std::hint::black_box(cache.decide(&world.policy, &subjects[*who], Verb::Read, &world.sets[*what], now));
    }
    let began = Instant::now();
    let mut allowed = 0;
    for (who, what) in &asked {
        let found = cache.decide(&world.policy, &subjects[*who], Verb::Read, &world.sets[*what], now);
        allowed += usize::from(std::hint::black_box(found).is_allowed());
    }
    let took = began.elapsed();
    let mut times: Vec<Duration> = asked[..200_000]
        .iter()
        .map(|(who, what)| {
            let began = Instant::now();
            std::hint::black_box(cache.decide(&world.policy, &subjects[*who], Verb::Read, &world.sets[*what], now));
            began.elapsed()
        })
        .collect();
    println!(
        "decisions, warm, one core: {:.2} million/s (target 1), p50 {:?}, p99 {:?} (target 20 µs); {} of {DECISIONS} allowed",
        DECISIONS as f64 / took.as_secs_f64() / 1e6,
        percentile(&mut times, 0.5),
        percentile(&mut times, 0.99),
        allowed
    );
}

fn cold(world: &World, now: DateTime<Utc>) {
    let mut times: Vec<Duration> = (0..100_000)
        .map(|n| {
            let (subject, set) = (world.subject(n), world.set(n));
            let began = Instant::now();
            std::hint::black_box(decide(&world.policy, &subject, Verb::Read, set, now));
            began.elapsed()
        })
        .collect();
    println!(
        "decisions, weighed anew: p50 {:?}, p99 {:?}",
        percentile(&mut times, 0.5),
        percentile(&mut times, 0.99)
    );
}

/// Chains of 200 commits, each made from the one before and two more.
fn explanations(world: &World, now: DateTime<Utc>) {
    let commits: Vec<CommitId> = (0..200).map(|n| CommitId::from_uuid(id(6, n))).collect();
    let nodes: HashMap<CommitId, LineageNode> = commits
        .iter()
        .enumerate()
        .map(|(n, commit)| {
            let node = LineageNode {
                domain: world.repos[n],
                pipeline: Some(world.repos[n]),
                inputs: (1..=3)
                    .filter(|back| *back <= n)
                    .map(|back| commits[n - back])
                    .collect(),
                edge: Edge::plain(),
                unattested: None,
            };
            (*commit, node)
        })
        .collect();
    let lineage = Lineage {
        object: commits[199],
        nodes,
    };
    let parents: Vec<OriginSet> = world.repos[..199].iter().map(|r| OriginSet::own(*r)).collect();
    let parents: Vec<(&OriginSet, Edge)> = parents.iter().map(|p| (p, Edge::plain())).collect();
    let set = OriginSet::combine(world.repos[199], &parents);
    let mut told = 0;
    let mut times: Vec<Duration> = (0..EXPLANATIONS)
        .map(|n| {
            let subject = Subject::unlimited(world.people[n % PEOPLE]);
            let began = Instant::now();
            let found = explain(&world.policy, &subject, &subject, Verb::Read, &set, &lineage, now);
            told += usize::from(std::hint::black_box(found).is_some());
            began.elapsed()
        })
        .collect();
    println!(
        "explanations of 200 commits deep, without the database: p50 {:?}, p99 {:?} (target 50 ms with it); {told} of {EXPLANATIONS} told something",
        percentile(&mut times, 0.5),
        percentile(&mut times, 0.99)
    );
}
