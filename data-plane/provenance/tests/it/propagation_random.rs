//! Propagation on random graphs against a naive one that settles by repetition.

use std::collections::{BTreeMap, BTreeSet};

use contract::ids::{CommitId, DomainId};
use contract::names::BranchName;
use proptest::prelude::*;
use provenance::propagation::{BranchOf, Dag, NewOutputCommit, PipelineNode, plan, would_cycle};
use uuid::Uuid;

use crate::seed::Seed;

fn domain(n: usize) -> DomainId {
    DomainId::from_uuid(Uuid::from_u128(n as u128))
}

fn main_of(n: usize) -> BranchOf {
    BranchOf {
        repo: domain(n),
        branch: BranchName::main(),
    }
}

fn staging_of(n: usize) -> BranchOf {
    BranchOf {
        repo: domain(n),
        branch: "staging".parse().unwrap(),
    }
}

fn commit(n: u128) -> CommitId {
    CommitId::from_uuid(Uuid::from_u128(n))
}

fn node(n: usize, inputs: Vec<BranchOf>) -> PipelineNode {
    PipelineNode {
        pipeline: domain(n),
        output_branch: BranchName::main(),
        inputs,
        stopped: false,
    }
}

/// The commit that a pipeline makes is known by the pipeline, so that orders can be compared.
fn made(pipeline: DomainId) -> CommitId {
    commit(1_000_000 + pipeline.uuid().as_u128())
}

fn run(dag: &Dag, heads: &BTreeMap<BranchOf, CommitId>, moved: &[usize], started: &[usize]) -> Vec<NewOutputCommit> {
    let moved: Vec<_> = moved.iter().map(|n| (main_of(*n), commit(500 + *n as u128))).collect();
    let started: Vec<_> = started.iter().map(|n| domain(*n)).collect();
    plan(dag, heads, &moved, &started, &mut made).unwrap()
}

fn reached(commits: &[NewOutputCommit]) -> Vec<u128> {
    commits.iter().map(|c| c.pipeline.uuid().as_u128()).collect()
}

#[test]
fn one_change_makes_one_commit_for_each_pipeline_downstream() {
    // 1 -> 10 -> 11, 1 -> 12, {11, 12} -> 13: a diamond; 2 -> 14 is not reached.
    let mut dag = Dag {
        pipelines: vec![
            node(13, vec![main_of(11), main_of(12)]),
            node(11, vec![main_of(10)]),
            node(12, vec![main_of(1)]),
            node(10, vec![main_of(1)]),
            node(14, vec![main_of(2), main_of(3)]),
        ],
    };
    let heads = BTreeMap::from([(main_of(2), commit(2)), (main_of(3), commit(3))]);
    let commits = run(&dag, &heads, &[1], &[]);
    assert_eq!(reached(&commits), [10, 11, 12, 13]);
    assert_eq!(commits[3].inputs, [(0, made(domain(11))), (1, made(domain(12)))]);
    // A transaction over two inputs of one pipeline is one commit.
    let commits = run(&dag, &heads, &[2, 3], &[]);
    assert_eq!(reached(&commits), [14]);
    assert_eq!(commits[0].inputs, [(0, commit(502)), (1, commit(503))]);
    // A branch that is not reached keeps its head.
    let commits = run(&dag, &heads, &[3], &[]);
    assert_eq!(commits[0].inputs, [(0, commit(2)), (1, commit(503))]);
    // Stopping a pipeline stops propagation; starting it makes one job for the current heads.
    dag.pipelines[1].stopped = true;
    assert_eq!(reached(&run(&dag, &heads, &[1], &[])), [10, 12, 13]);
    dag.pipelines[1].stopped = false;
    let heads = BTreeMap::from([(main_of(10), commit(77)), (main_of(12), commit(78))]);
    let commits = run(&dag, &heads, &[], &[11]);
    assert_eq!(reached(&commits), [11, 13]);
    assert_eq!(commits[0].inputs, [(0, commit(77))]);
    assert_eq!(commits[1].inputs, [(0, made(domain(11))), (1, commit(78))]);
    // Nothing to run on yet.
    assert_eq!(reached(&run(&dag, &BTreeMap::new(), &[], &[11])), [0u128; 0]);
}

#[test]
fn circles_are_refused_and_two_branches_of_a_repo_are_none() {
    let dag = Dag {
        pipelines: vec![
            node(10, vec![main_of(1)]),
            node(11, vec![main_of(10)]),
            node(12, vec![main_of(11)]),
        ],
    };
    let circle = would_cycle(&dag, &node(10, vec![main_of(12)])).unwrap();
    assert_eq!(circle.pipelines.len(), 3);
    assert!(would_cycle(&dag, &node(13, vec![main_of(12), main_of(1)])).is_none());
    assert!(would_cycle(&dag, &node(13, vec![main_of(13)])).is_some());
    assert!(would_cycle(&dag, &node(13, vec![staging_of(13)])).is_some());
    assert!(would_cycle(&dag, &node(10, vec![main_of(1), staging_of(1)])).is_none());
    assert!(would_cycle(&dag, &node(10, vec![staging_of(12)])).is_none());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_plan_is_what_repetition_arrives_at(number in any::<u64>()) {
        let seed = &mut Seed::new(number);
        let (sources, pipelines) = (1 + seed.below(4), 1 + seed.below(8));
        let mut dag = Dag::default();
        for n in 0..pipelines {
            let inputs = (0..1 + seed.below(3)).map(|_| {
                let up = seed.below(sources + n);
                if seed.one_in(6) { staging_of(up) } else { main_of(up) }
            });
            let mut pipeline = node(sources + n, inputs.collect());
            pipeline.stopped = seed.one_in(6);
            prop_assert!(would_cycle(&dag, &pipeline).is_none(), "seed {}", number);
            dag.pipelines.push(pipeline);
        }
        for _ in 0..5 {
            let (a, b) = (seed.below(pipelines), seed.below(pipelines));
            dag.pipelines.swap(a, b);
        }
        let all: Vec<usize> = (0..sources + pipelines).collect();
        let heads: BTreeMap<BranchOf, CommitId> =
            seed.some(&all, 2).into_iter().map(|n| (main_of(n), commit(n as u128))).collect();
        let moved = seed.some(&all[..sources], 2);
        let started: Vec<usize> = seed.some(&all[sources..], 5);
        let commits = run(&dag, &heads, &moved, &started);

        // Naive: every pipeline that can run does, again and again, until nothing changes.
        let mut now = heads.clone();
        now.extend(moved.iter().map(|n| (main_of(*n), commit(500 + *n as u128))));
        let mut fresh: BTreeSet<BranchOf> = moved.iter().map(|n| main_of(*n)).collect();
        let mut expected: BTreeMap<DomainId, Vec<(usize, CommitId)>> = BTreeMap::new();
        for _ in 0..=pipelines {
            for p in &dag.pipelines {
                let started = started.iter().any(|n| domain(*n) == p.pipeline);
                let inputs: Vec<_> =
                    p.inputs.iter().enumerate().filter_map(|(i, b)| now.get(b).map(|c| (i, *c))).collect();
                let runs = started || p.inputs.iter().any(|b| fresh.contains(b));
                if !p.stopped && runs && !inputs.is_empty() {
                    expected.insert(p.pipeline, inputs);
                    fresh.insert(main_of(p.pipeline.uuid().as_u128() as usize));
                    now.insert(main_of(p.pipeline.uuid().as_u128() as usize), made(p.pipeline));
                }
            }
        }
        let found: BTreeMap<_, _> = commits.iter().map(|c| (c.pipeline, c.inputs.clone())).collect();
        prop_assert_eq!(found.len(), commits.len(), "seed {}", number);
        prop_assert_eq!(found, expected, "seed {}", number);
        let order: BTreeMap<_, _> = commits.iter().enumerate().map(|(i, c)| (c.commit, i)).collect();
        for (i, c) in commits.iter().enumerate() {
            let later = c.inputs.iter().filter_map(|(_, input)| order.get(input)).any(|at| *at >= i);
            prop_assert!(!later, "seed {}", number);
        }
        // Closing any path back makes a circle.
        if let Some(first) = dag.pipelines.iter().find(|p| p.pipeline == domain(sources)) {
            let mut closed = first.clone();
            closed.inputs.push(main_of(*seed.pick(&all[sources..])));
            let last = closed.inputs.last().unwrap().clone();
            let mut below = BTreeSet::from([first.pipeline]);
            for _ in 0..pipelines {
                let grown: Vec<_> = dag.pipelines.iter()
                    .filter(|p| p.inputs.iter().any(|b| b.branch == BranchName::main() && below.contains(&b.repo)))
                    .map(|p| p.pipeline).collect();
                below.extend(grown);
            }
            prop_assert_eq!(would_cycle(&dag, &closed).is_some(), below.contains(&last.repo), "seed {}", number);
        }
    }
}
