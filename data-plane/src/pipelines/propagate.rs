//! From a moved head to jobs: the open output commits and jobs of everything downstream, inserted in the transaction that
//! moved the head and under its lock, so that a commit set is whole or not there.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use contract::ids::{CommitId, CommitSetId, DomainId, JobId};
use contract::problem::ProblemKind;
use provenance::origins::{OriginSet, matching_releases};
use provenance::propagation::{BranchOf, Dag, NewOutputCommit, PipelineNode, plan};
use provenance::spec::PipelineSpec;
use uuid::Uuid;

use super::conditions::Purpose;
use super::queries::{self, NewJob, RunRow};
use super::released::Look;
use super::{MovedHead, conditions, released, sponsors};
use crate::commits::{self, NewCommit, PipelineStamp, origins};
use crate::failure::{Answer, Failure};
use crate::jobs;
use crate::permissions::System;
use crate::plane::{Plane, Tx};
use crate::spouts;

const SELF: System = System::because("what a commit sets in motion was allowed when the pipelines were applied (R4)");

/// A job that was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begun {
    /// Of which pipeline.
    pub pipeline: DomainId,
    /// The job.
    pub job: JobId,
    /// The commit that it makes.
    pub commit: CommitId,
}

/// Inserts the open output commits and the jobs of every pipeline downstream of these branches, all in that commit set.
/// The transaction holds the plane's lock for its DAG; the moved heads are in it already. Wake the scheduler
/// (`signals.work_changed`) after the transaction was committed.
///
/// # Errors
/// When the database is away, or nothing is known of the access policy: origins could not be made (R2).
pub async fn propagate(plane: &Plane, tx: &mut Tx, set: CommitSetId, moved: &[MovedHead]) -> Answer<()> {
    let moved: Vec<(BranchOf, CommitId)> = moved.iter().map(MovedHead::at).collect();
    begin(plane, tx, set, &moved, &[], false).await.map(drop)
}

/// The pipelines as the pure rules see them.
///
/// # Errors
/// When the database is away.
pub async fn load_dag(tx: &mut Tx) -> Answer<Dag> {
    let mut inputs: HashMap<Uuid, Vec<BranchOf>> = HashMap::new();
    for (pipeline, _, _, repo, branch) in queries::inputs(tx, &SELF, None).await? {
        inputs.entry(pipeline).or_default().push(BranchOf {
            repo: DomainId::from_uuid(repo),
            branch: branch.parse()?,
        });
    }
    let mut dag = Dag::default();
    for (id, output_branch, stopped) in queries::nodes(tx, &SELF).await? {
        dag.pipelines.push(PipelineNode {
            pipeline: DomainId::from_uuid(id),
            output_branch: output_branch.parse()?,
            inputs: inputs.remove(&id).unwrap_or_default(),
            stopped,
        });
    }
    Ok(dag)
}

/// As [`propagate`], and the pipelines in `started` run on the current heads, if each of their inputs has one; with `reprocess` all
/// datums of these. Spouts among them begin anew.
///
/// # Errors
/// As [`propagate`].
pub async fn begin(
    plane: &Plane,
    tx: &mut Tx,
    set: CommitSetId,
    moved: &[(BranchOf, CommitId)],
    started: &[DomainId],
    reprocess: bool,
) -> Answer<Vec<Begun>> {
    let spouts = spouts::queries::among(tx, &SELF, started).await?;
    let started: Vec<DomainId> = started.iter().filter(|id| !spouts.contains(id)).copied().collect();
    let mut begun = spouts::begin::jobs(plane, tx, set, &spouts).await?;
    begun.extend(begin_reading(plane, tx, set, moved, &started, reprocess).await?);
    Ok(begun)
}

/// The jobs of pipelines that read something.
async fn begin_reading(
    plane: &Plane,
    tx: &mut Tx,
    set: CommitSetId,
    moved: &[(BranchOf, CommitId)],
    started: &[DomainId],
    reprocess: bool,
) -> Answer<Vec<Begun>> {
    let dag = load_dag(tx).await?;
    if dag.pipelines.is_empty() {
        return Ok(Vec::new());
    }
    let mut heads = BTreeMap::new();
    for (repo, branch, commit) in queries::heads(tx, &SELF).await? {
        let branch = BranchOf {
            repo: DomainId::from_uuid(repo),
            branch: branch.parse()?,
        };
        heads.insert(branch, CommitId::from_uuid(commit));
    }
    let started = with_heads(&dag, &heads, started);
    let planned = plan(&dag, &heads, moved, &started, &mut |_| plane.id()).map_err(Failure::internal)?;
    if planned.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<Uuid> = planned.iter().map(|p| p.pipeline.uuid()).collect();
    let runs: HashMap<Uuid, RunRow> = queries::runs(tx, &SELF, &ids)
        .await?
        .into_iter()
        .map(|r| (r.id, r))
        .collect();
    let mut making = Making {
        plane,
        set,
        again: if reprocess { started.clone() } else { Vec::new() },
        sets: HashMap::new(),
        heads,
        leaf_names: leaf_names(tx, &ids).await?,
        unsure: HashSet::new(),
    };
    let mut begun = Vec::new();
    for commit in planned {
        let run = runs
            .get(&commit.pipeline.uuid())
            .ok_or_else(|| Failure::internal("a pipeline has no version"))?;
        begun.push(making.make(tx, run, &commit).await?);
    }
    sponsors::note(plane, tx, &ids, false).await?;
    Ok(begun)
}

/// Those whose inputs all have a head, or will be made by another one of them.
fn with_heads(dag: &Dag, heads: &BTreeMap<BranchOf, CommitId>, started: &[DomainId]) -> Vec<DomainId> {
    let mut fit: Vec<DomainId> = Vec::new();
    loop {
        let before = fit.len();
        for node in dag
            .pipelines
            .iter()
            .filter(|n| started.contains(&n.pipeline) && !n.stopped)
        {
            let has = |b: &BranchOf| {
                let made = dag
                    .pipelines
                    .iter()
                    .any(|up| up.pipeline == b.repo && up.output_branch == b.branch && fit.contains(&up.pipeline));
                heads.contains_key(b) || made
            };
            if !fit.contains(&node.pipeline) && node.inputs.iter().all(has) {
                fit.push(node.pipeline);
            }
        }
        if fit.len() == before {
            return fit;
        }
    }
}

async fn leaf_names(tx: &mut Tx, ids: &[Uuid]) -> Answer<HashMap<(Uuid, usize), String>> {
    let rows = queries::inputs(tx, &SELF, Some(ids)).await?;
    let named = |(pipeline, position, name, ..): (Uuid, i32, String, Uuid, String)| {
        ((pipeline, usize::try_from(position).unwrap_or(0)), name)
    };
    Ok(rows.into_iter().map(named).collect())
}

struct Making<'a> {
    plane: &'a Plane,
    set: CommitSetId,
    /// Of these all datums run. What is downstream of them runs what changed for it, as always.
    again: Vec<DomainId>,
    /// Origin sets of the commits read or made so far.
    sets: HashMap<CommitId, Arc<OriginSet>>,
    heads: BTreeMap<BranchOf, CommitId>,
    leaf_names: HashMap<(Uuid, usize), String>,
    /// Commits of which it is not known yet what releases excuse.
    unsure: HashSet<CommitId>,
}

impl Making<'_> {
    async fn make(&mut self, tx: &mut Tx, run: &RunRow, new: &NewOutputCommit) -> Answer<Begun> {
        let plane = self.plane;
        let now = plane.now();
        let released = self.release_digest(tx, run, new).await?;
        let set = Arc::new(self.origins(tx, (run, released.as_deref()), new).await?);
        let interned = origins::intern(tx, &SELF, &set).await?;
        let name = |leaf: usize| self.leaf_names.get(&(run.id, leaf)).cloned().unwrap_or_default();
        let branch = BranchOf {
            repo: new.pipeline,
            branch: new.output_branch.clone(),
        };
        let commit = NewCommit {
            id: new.commit,
            repo: new.pipeline,
            branch: new.output_branch.clone(),
            commit_set: self.set,
            parent: self.heads.get(&branch).copied(),
            message: String::new(),
            actor: run.actor.0.clone(),
            pipeline: Some(PipelineStamp {
                id: new.pipeline,
                version: run.version,
                image_digest: run.image_digest.clone(),
                code_revision: run.code_revision.clone(),
            }),
            origin_set: interned,
            inputs: new.inputs.iter().map(|(leaf, commit)| (*commit, name(*leaf))).collect(),
            started_at: now,
        };
        commits::queries::insert_commit(tx, &SELF, &commit).await?;
        if let Some(digest) = &released {
            released::update_release_digest(tx, &SELF, new.commit, digest).await?;
        }
        let job = NewJob {
            id: plane.id(),
            run,
            output: new.commit,
            set: self.set,
            reprocess: self.again.contains(&new.pipeline),
            inputs: new
                .inputs
                .iter()
                .map(|(leaf, commit)| (*leaf, name(*leaf), *commit))
                .collect(),
            at: now,
            traceparent: chassis::telemetry::traceparent(),
        };
        queries::insert_job(tx, &SELF, &job).await?;
        let inputs: Vec<_> = new
            .inputs
            .iter()
            .filter_map(|(_, c)| self.sets.get(c).cloned())
            .collect();
        // Code that is being made may be what was released: its job asks again when it starts.
        let unsure = |commit: &CommitId| self.unsure.contains(commit);
        if released.is_some_and(|digest| digest.is_empty()) || new.inputs.iter().any(|(_, c)| unsure(c)) {
            self.unsure.insert(new.commit);
        } else if let Some(reason) = conditions::refusal(plane, run, Purpose::Output, &inputs, &set)? {
            jobs::end::fail(plane, tx, job.id, &reason).await?;
        }
        self.sets.insert(new.commit, set);
        Ok(Begun {
            pipeline: new.pipeline,
            job: job.id,
            commit: new.commit,
        })
    }

    /// What a release of the new commit must name, where that is not its version's digest.
    async fn release_digest(&self, tx: &mut Tx, run: &RunRow, new: &NewOutputCommit) -> Answer<Option<Vec<u8>>> {
        let Ok(spec) = PipelineSpec::parse(&run.spec.0, &run.project.parse()?) else {
            // `refusal` says so.
            return Ok(None);
        };
        let code = released::code_commit(&spec, &new.inputs);
        released::digest(self.plane, tx, (&spec, &run.spec_digest), code, Look::InMemory).await
    }

    /// The parents' origins, less what releases of this very spec and code excuse (R9), and the own domain.
    async fn origins(
        &mut self,
        tx: &mut Tx,
        (run, released): (&RunRow, Option<&[u8]>),
        new: &NewOutputCommit,
    ) -> Answer<OriginSet> {
        let policy = self.plane.policy.last_known().ok_or_else(unknown_policy)?;
        let unknown = new.inputs.iter().filter(|(_, commit)| !self.sets.contains_key(commit));
        let unknown: Vec<Uuid> = unknown.map(|(_, commit)| commit.uuid()).collect();
        for (commit, id) in queries::origin_sets_of(tx, &SELF, &unknown).await? {
            let set = origins::get(self.plane, tx, &SELF, id).await?;
            self.sets.insert(CommitId::from_uuid(commit), set);
        }
        let edge = matching_releases(
            &policy,
            new.pipeline,
            &hex::encode(released.unwrap_or(&run.spec_digest)),
            self.plane.now(),
        );
        let mut parents = Vec::new();
        for (_, commit) in &new.inputs {
            // A parent that is not there: nobody could be allowed what came of it (R2).
            let set = self
                .sets
                .get(commit)
                .ok_or_else(|| Failure::internal("an input commit is missing"))?;
            parents.push((set.as_ref(), edge.clone()));
        }
        Ok(OriginSet::combine(new.pipeline, &parents))
    }
}

/// The answer while there is no policy: origins could not be made (R2).
pub fn unknown_policy() -> Failure {
    Failure::new(
        ProblemKind::PolicyUnreachable,
        "nothing is known of the access policy, so no commit can be derived",
    )
    .hint("repeat the request after a few seconds")
}
