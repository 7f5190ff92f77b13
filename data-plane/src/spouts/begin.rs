//! What applying or starting a spout makes: its repo of what is not attested, and a job that lasts.

use std::sync::Arc;

use contract::api::Actor;
use contract::ids::{CommitSetId, DomainId, JobId};
use contract::names::BranchName;
use provenance::origins::OriginSet;

use super::{Outside, queries};
use crate::commits::put::united;
use crate::commits::{NewCommit, PipelineStamp, origins};
use crate::failure::{Answer, Failure};
use crate::permissions::System;
use crate::pipelines::propagate::Begun;
use crate::pipelines::queries::{NewJob, RunRow, insert_job, runs};
use crate::plane::{Plane, Tx};
use crate::repos;

const SELF: System = System::because("who applied or started the spout was allowed to");

/// Makes the repo of a spout's new version if it is not there.
///
/// # Errors
/// `already-exists` when somebody made a repo of that name meanwhile.
pub async fn save(plane: &Plane, tx: &mut Tx, pipeline: DomainId, outside: &Outside, actor: &Actor) -> Answer<()> {
    if outside.new {
        let repo = repos::queries::NewRepo {
            id: outside.id,
            project: outside.project,
            name: &outside.name,
            description: "always empty: who may read it may read what the spout received and nobody attested",
            pipeline: true,
            created_at: plane.now(),
            created_by: actor,
        };
        repos::queries::insert_repo(tx, &SELF, &repo).await?;
    }
    queries::upsert(tx, &SELF, pipeline, outside.id).await
}

/// The origins of what has been received and not attested, beside those of `before`.
pub fn origins_of(pipeline: DomainId, unattested: DomainId, before: Option<Arc<OriginSet>>) -> OriginSet {
    let mut from: Vec<Arc<OriginSet>> = before.into_iter().collect();
    from.push(Arc::new(OriginSet::own(unattested)));
    united(pipeline, &from)
}

/// Begins a job of each of these pipelines that is a spout and was not stopped. The transaction holds the lock of the DAG.
///
/// # Errors
/// When the database is away.
pub async fn jobs(plane: &Plane, tx: &mut Tx, set: CommitSetId, started: &[DomainId]) -> Answer<Vec<Begun>> {
    let mut begun = Vec::new();
    for (pipeline, unattested, branch) in queries::list_startable(tx, &SELF, started).await? {
        let run = runs(tx, &SELF, &[pipeline.uuid()]).await?.pop();
        let run = run.ok_or_else(|| Failure::internal("a pipeline has no version"))?;
        begun.push(job(plane, tx, set, (&run, pipeline, unattested, branch)).await?);
    }
    Ok(begun)
}

async fn job(
    plane: &Plane,
    tx: &mut Tx,
    set: CommitSetId,
    (run, pipeline, unattested, branch): (&RunRow, DomainId, DomainId, BranchName),
) -> Answer<Begun> {
    let origins = origins_of(pipeline, unattested, None);
    let commit = NewCommit {
        id: plane.id(),
        repo: pipeline,
        branch,
        commit_set: set,
        parent: None,
        message: "a spout's job; its commits are those of the branch".to_owned(),
        actor: run.actor.0.clone(),
        pipeline: Some(stamp(pipeline, run)),
        origin_set: origins::intern(tx, &SELF, &origins).await?,
        inputs: Vec::new(),
        started_at: plane.now(),
    };
    queries::insert_carrier(tx, &SELF, &commit, unattested).await?;
    let job = NewJob {
        id: plane.id::<JobId>(),
        run,
        output: commit.id,
        set,
        reprocess: false,
        inputs: Vec::new(),
        at: plane.now(),
        traceparent: chassis::telemetry::traceparent(),
    };
    insert_job(tx, &SELF, &job).await?;
    Ok(Begun {
        pipeline,
        job: job.id,
        commit: commit.id,
    })
}

/// What made a commit of a spout.
pub fn stamp(pipeline: DomainId, run: &RunRow) -> PipelineStamp {
    PipelineStamp {
        id: pipeline,
        version: run.version,
        image_digest: run.image_digest.clone(),
        code_revision: run.code_revision.clone(),
    }
}
