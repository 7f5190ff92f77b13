//! A job's beginning. Its output commit got its origins when the job was made, and an input that was open then may have
//! got more since: so they are computed again now that all inputs are finished and never change, and what depends on them
//! is asked again, in the transaction that starts the job.

use contract::ids::{CommitId, DomainId, JobId};
use provenance::origins::{OriginSet, matching_releases};
use uuid::Uuid;

use super::{SELF, queries, releases};
use crate::commits::lock::lock_dag;
use crate::commits::{self, origins};
use crate::failure::{Answer, Failure};
use crate::jobs;
use crate::pipelines;
use crate::plane::Plane;

/// Starts a job whose inputs are finished, or ends it because of their origins. Answers whether it waited for that.
///
/// # Errors
/// When the database is away, nothing is known of the policy, or something stored is damaged.
pub async fn start(plane: &Plane, id: Uuid) -> Answer<bool> {
    let mut tx = plane.begin().await?;
    lock_dag(&mut tx).await?;
    if !queries::start(&mut tx, &SELF, id, plane.now()).await? {
        return Ok(false);
    }
    let job = JobId::from_uuid(id);
    let missing = || Failure::internal("a job lacks its pipeline's version or its output commit");
    let (output, run) = pipelines::queries::run_of_job(&mut tx, &SELF, job)
        .await?
        .ok_or_else(missing)?;
    let output = commits::queries::find_commit(&mut tx, &SELF, CommitId::from_uuid(output))
        .await?
        .ok_or_else(missing)?;
    let policy = plane
        .policy
        .last_known()
        .ok_or_else(pipelines::propagate::unknown_policy)?;
    let mut inputs = Vec::new();
    for input in jobs::queries::inputs(&mut tx, &SELF, job).await? {
        inputs.push(origins::get(plane, &mut tx, &SELF, input.origin_set_id).await?);
    }
    let pipeline = DomainId::from_uuid(run.id);
    let edge = matching_releases(&policy, pipeline, &hex::encode(&run.spec_digest), output.started_at);
    let parents: Vec<_> = inputs.iter().map(|set| (set.as_ref(), edge.clone())).collect();
    let set = OriginSet::combine(pipeline, &parents);
    let recorded = origins::get(plane, &mut tx, &SELF, output.origin_set).await?;
    if *recorded != set {
        // What waits for this output in turn gets them too.
        releases::recompute_from(plane, &mut tx, &policy, output.id).await?;
    }
    if let Some(reason) = pipelines::conditions::refusal(plane, &run, &inputs, &set)? {
        jobs::end::fail(plane, &mut tx, job, &reason).await?;
    }
    tx.commit().await?;
    plane.signals.commits_changed();
    Ok(true)
}
