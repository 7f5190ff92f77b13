//! What a change of branch heads sets in motion: which pipelines get a new output commit, from which inputs, in which
//! order. Everything that one change causes belongs to one commit set, and a pipeline is in it at most once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use contract::ids::{CommitId, DomainId};
use contract::names::BranchName;

use crate::origins::{Edge, OriginSet};

/// A branch of a repo.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BranchOf {
    /// The repo's domain.
    pub repo: DomainId,
    /// The branch.
    pub branch: BranchName,
}

/// A pipeline as a node of the graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PipelineNode {
    /// The domain of its output repo.
    pub pipeline: DomainId,
    /// The branch that its output goes to.
    pub output_branch: BranchName,
    /// The branch that each leaf of its input reads, in leaf order.
    pub inputs: Vec<BranchOf>,
    /// Paused or suspended: nothing propagates through it.
    pub stopped: bool,
}

impl PipelineNode {
    fn output(&self) -> BranchOf {
        BranchOf {
            repo: self.pipeline,
            branch: self.output_branch.clone(),
        }
    }
}

/// All pipelines of a data plane.
#[derive(Debug, Clone, Default)]
pub struct Dag {
    /// The pipelines, in any order, each output branch at most once.
    pub pipelines: Vec<PipelineNode>,
}

/// A commit that a pipeline is to make, with a job of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewOutputCommit {
    /// The pipeline.
    pub pipeline: DomainId,
    /// The branch that the commit becomes the head of.
    pub output_branch: BranchName,
    /// Its id, made by `new_commit`.
    pub commit: CommitId,
    /// For each leaf of the input the commit that it reads, in leaf order. A leaf whose branch has no commit yet is left
    /// out: nothing matches there.
    pub inputs: Vec<(usize, CommitId)>,
}

/// Pipelines that feed each other, each reading the one before it and the first reading the last.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the pipelines would feed each other in a cycle of {}: change an input of one of them", pipelines.len())]
pub struct Cycle {
    /// The pipelines on the cycle.
    pub pipelines: Vec<DomainId>,
}

/// Plans the output commits of a change: the branches in `moved` have new heads, and the pipelines in `started` run on
/// current heads whether an input moved or not (new ones, changed ones, and those that were stopped until now). Inputs
/// come before what reads them. Branches that are not reached keep the head of `heads`.
pub fn plan(
    dag: &Dag,
    heads: &BTreeMap<BranchOf, CommitId>,
    moved: &[(BranchOf, CommitId)],
    started: &[DomainId],
    new_commit: &mut dyn FnMut(DomainId) -> CommitId,
) -> Result<Vec<NewOutputCommit>, Cycle> {
    let moved: BTreeMap<&BranchOf, CommitId> = moved.iter().map(|(b, c)| (b, *c)).collect();
    let mut made: BTreeMap<BranchOf, CommitId> = BTreeMap::new();
    let mut commits = Vec::new();
    for node in ordered(dag)? {
        let reached = |b: &BranchOf| made.contains_key(b) || moved.contains_key(b);
        let runs = started.contains(&node.pipeline) || node.inputs.iter().any(reached);
        if node.stopped || !runs {
            continue;
        }
        let head = |b: &BranchOf| made.get(b).or_else(|| moved.get(b)).or_else(|| heads.get(b)).copied();
        let leaves = node.inputs.iter().enumerate();
        let inputs: Vec<_> = leaves.filter_map(|(leaf, b)| head(b).map(|c| (leaf, c))).collect();
        // Nothing to run on: the first commit of an input will start it.
        if inputs.is_empty() {
            continue;
        }
        let commit = new_commit(node.pipeline);
        made.insert(node.output(), commit);
        commits.push(NewOutputCommit {
            pipeline: node.pipeline,
            output_branch: node.output_branch.clone(),
            commit,
            inputs,
        });
    }
    Ok(commits)
}

/// The origins that the next output of each pipeline would have, by its domain: made from these heads' origins, with what `edge`
/// says is released into it. A branch without a head counts with its repo alone, and so does one that nobody knows.
///
/// # Errors
/// When pipelines feed each other in a cycle.
pub fn next_origins(
    dag: &Dag,
    heads: &BTreeMap<BranchOf, Arc<OriginSet>>,
    edge: &dyn Fn(DomainId) -> Edge,
) -> Result<BTreeMap<DomainId, Arc<OriginSet>>, Cycle> {
    let mut made: BTreeMap<BranchOf, Arc<OriginSet>> = BTreeMap::new();
    for node in ordered(dag)? {
        let of = |b: &BranchOf| {
            let known = made.get(b).or_else(|| heads.get(b));
            known.map_or_else(|| Arc::new(OriginSet::own(b.repo)), Arc::clone)
        };
        let parents: Vec<Arc<OriginSet>> = node.inputs.iter().map(of).collect();
        let parents: Vec<(&OriginSet, Edge)> = parents.iter().map(|p| (&**p, edge(node.pipeline))).collect();
        made.insert(node.output(), Arc::new(OriginSet::combine(node.pipeline, &parents)));
    }
    Ok(made.into_iter().map(|(branch, set)| (branch.repo, set)).collect())
}

/// Whether applying `candidate` (in place of the pipeline of that name, if there is one) would make pipelines feed each
/// other in a cycle; a pipeline that reads its own output is a cycle of one.
pub fn would_cycle(dag: &Dag, candidate: &PipelineNode) -> Option<Cycle> {
    let others = dag.pipelines.iter().filter(|n| n.pipeline != candidate.pipeline);
    let by_output: BTreeMap<BranchOf, &PipelineNode> = others.chain([candidate]).map(|n| (n.output(), n)).collect();
    let mut path = Vec::new();
    let mut seen = BTreeSet::new();
    leads_back(candidate, candidate, &by_output, &mut seen, &mut path).then(|| {
        path.reverse();
        Cycle { pipelines: path }
    })
}

/// Depth first from `node` towards its inputs; on success `path` holds the pipelines from `node` to one that reads `goal`.
fn leads_back(
    node: &PipelineNode,
    goal: &PipelineNode,
    by_output: &BTreeMap<BranchOf, &PipelineNode>,
    seen: &mut BTreeSet<DomainId>,
    path: &mut Vec<DomainId>,
) -> bool {
    if !seen.insert(node.pipeline) {
        return false;
    }
    path.push(node.pipeline);
    for input in &node.inputs {
        // Any branch of the own repo: what is there was made from the own output.
        if input.repo == goal.pipeline && (node.pipeline == goal.pipeline || input.branch == goal.output_branch) {
            return true;
        }
        let upstream = by_output.get(input);
        if upstream.is_some_and(|up| leads_back(up, goal, by_output, seen, path)) {
            return true;
        }
    }
    path.pop();
    false
}

/// The pipelines with every one behind those that it reads; ties by id, so that plans are the same everywhere.
fn ordered(dag: &Dag) -> Result<Vec<&PipelineNode>, Cycle> {
    let by_output: BTreeMap<BranchOf, usize> = dag.pipelines.iter().enumerate().map(|(i, n)| (n.output(), i)).collect();
    let mut readers: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); dag.pipelines.len()];
    let mut waits: Vec<usize> = vec![0; dag.pipelines.len()];
    for (i, node) in dag.pipelines.iter().enumerate() {
        let upstream: BTreeSet<usize> = node.inputs.iter().filter_map(|b| by_output.get(b).copied()).collect();
        waits[i] = upstream.len();
        for up in upstream {
            readers[up].insert(i);
        }
    }
    let ready = (0..dag.pipelines.len()).filter(|i| waits[*i] == 0);
    let mut ready: BTreeSet<(DomainId, usize)> = ready.map(|i| (dag.pipelines[i].pipeline, i)).collect();
    let mut order = Vec::new();
    while let Some((_, i)) = ready.pop_first() {
        order.push(&dag.pipelines[i]);
        for reader in &readers[i] {
            waits[*reader] -= 1;
            if waits[*reader] == 0 {
                ready.insert((dag.pipelines[*reader].pipeline, *reader));
            }
        }
    }
    if order.len() == dag.pipelines.len() {
        return Ok(order);
    }
    let stuck = (0..dag.pipelines.len()).filter(|i| waits[*i] > 0);
    Err(Cycle {
        pipelines: stuck.map(|i| dag.pipelines[i].pipeline).collect(),
    })
}
