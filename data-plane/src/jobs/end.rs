//! The one way in which a job ends without success: its output commit becomes errored in the same transaction, so that
//! what waits for it can be told why.

use contract::api::JobState;
use contract::ids::{CommitId, JobId};

use super::{queries, reproductions, traces};
use crate::commits;
use crate::failure::Answer;
use crate::permissions::System;
use crate::pipelines;
use crate::plane::{Plane, Tx};

const SELF: System = System::because("a job is ended by the scheduler, or by whom its route let in");

/// Ends a job that is not over; answers whether it was not. Wake the scheduler after the transaction was committed.
///
/// # Errors
/// When the database is away.
pub async fn end(plane: &Plane, tx: &mut Tx, job: JobId, state: JobState, reason: Option<&str>) -> Answer<bool> {
    let now = plane.now();
    let Some((commit, pipeline)) = queries::end_job(tx, &SELF, job, state.as_str(), reason, now).await? else {
        return Ok(false);
    };
    let why = reason.unwrap_or("its job ended");
    commits::queries::update_errored(tx, &SELF, CommitId::from_uuid(commit), why, now).await?;
    traces::ended(tx, &SELF, job).await?;
    let reproduction = reproductions::ended(tx, &SELF, job).await?;
    if state == JobState::Failure && !reproduction {
        pipelines::queries::update_outcome(tx, &SELF, pipeline, reason.map(|why| (job, why))).await?;
    }
    Ok(true)
}

/// Ends a job as failed.
///
/// # Errors
/// When the database is away.
pub async fn fail(plane: &Plane, tx: &mut Tx, job: JobId, reason: &str) -> Answer<bool> {
    end(plane, tx, job, JobState::Failure, Some(reason)).await
}
