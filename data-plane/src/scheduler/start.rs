//! A job's beginning. Its output commit got its origins when the job was made, and an input that was open then may have
//! got more since: so they are computed again now that all inputs are finished and never change, and what depends on them
//! is asked again, in the transaction that starts the job.

use contract::ids::{CommitId, DomainId, JobId};
use provenance::origins::{Edge, OriginSet, matching_releases};
use provenance::spec::PipelineSpec;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{SELF, queries, releases};
use crate::commits::lock::lock_dag;
use crate::commits::{self, origins};
use crate::failure::{Answer, Failure};
use crate::jobs;
use crate::pipelines::conditions::Purpose;
use crate::pipelines::released::Look;
use crate::pipelines::{self, queries::RunRow};
use crate::plane::Plane;
use crate::spouts;

/// Starts a job whose inputs are finished, or ends it because of their origins. Answers whether it waited for that.
///
/// # Errors
/// When the database is away, nothing is known of the policy, or something stored is damaged.
pub async fn start(plane: &Plane, id: Uuid) -> Answer<bool> {
    let looked = look_at_code(plane, JobId::from_uuid(id)).await?;
    let mut tx = plane.begin().await?;
    lock_dag(&mut tx).await?;
    pipelines::sponsors::settle_in(plane, &mut tx).await?;
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
    let released = released_as(plane, &mut tx, job, &run, Look::InMemory).await?;
    if released != looked {
        // Its code was purged from meanwhile: it is looked at again.
        return Ok(true);
    }
    if let Some(digest) = &released {
        pipelines::released::update_release_digest(&mut tx, &SELF, output.id, digest).await?;
    }
    let released = hex::encode(released.as_ref().unwrap_or(&run.spec_digest));
    let edge = matching_releases(&policy, pipeline, &released, output.started_at);
    let unattested = spouts::queries::find_unattested(&mut tx, &SELF, output.id).await?;
    let outside = unattested.map(OriginSet::own);
    let parents = inputs.iter().map(|set| (set.as_ref(), edge.clone()));
    let parents: Vec<_> = parents.chain(outside.iter().map(|set| (set, Edge::plain()))).collect();
    let set = OriginSet::combine(pipeline, &parents);
    let recorded = origins::get(plane, &mut tx, &SELF, output.origin_set).await?;
    if *recorded != set {
        // What waits for this output in turn gets them too.
        releases::recompute_from(plane, &mut tx, &policy, output.id).await?;
    }
    let purpose = Purpose::of(jobs::reproductions::is_one(&mut tx, &SELF, job).await?);
    if let Some(reason) = pipelines::conditions::refusal(plane, &run, purpose, &inputs, &set)? {
        jobs::end::fail(plane, &mut tx, job, &reason).await?;
    }
    tx.commit().await?;
    plane.signals.commits_changed();
    Ok(true)
}

/// What a release of the job's output must name, where that is not its version's digest: its code is finished now.
async fn released_as(
    plane: &Plane,
    conn: &mut PgConnection,
    job: JobId,
    run: &RunRow,
    look: Look,
) -> Answer<Option<Vec<u8>>> {
    let Ok(spec) = PipelineSpec::parse(&run.spec.0, &run.project.parse()?) else {
        return Ok(None);
    };
    let leaves = pipelines::released::leaves_of(conn, &SELF, job).await?;
    let code = pipelines::released::code_commit(&spec, &leaves);
    pipelines::released::digest(plane, conn, (&spec, &run.spec_digest), code, look).await
}

/// The same without a lock, since it may be read from storage: under the lock it is known then.
async fn look_at_code(plane: &Plane, job: JobId) -> Answer<Option<Vec<u8>>> {
    let mut conn = plane.pool.acquire().await?;
    match pipelines::queries::run_of_job(&mut conn, &SELF, job).await? {
        None => Ok(None),
        Some((_, run)) => released_as(plane, &mut conn, job, &run, Look::InStorage).await,
    }
}
