//! A service's beginning and end.

use contract::api::JobState;
use contract::ids::{CommitId, JobId};
use provenance::datums::Datum;
use provenance::spec::Service;
use storage::TreeRef;
use uuid::Uuid;

use super::queries;
use crate::commits::finish::finish_in_transaction;
use crate::failure::Answer;
use crate::jobs;
use crate::permissions::System;
use crate::pipelines;
use crate::plane::{Plane, Tx};
use crate::scheduler::planning::{Inputs, everything, task_inputs};
use crate::scheduler::queries::WorkRow;
use crate::worker::queries::encode_inputs;

const SELF: System = System::because("the scheduler, or whom a route let in, decides what is served");

/// Makes a starting job the one that serves, instead of the one before it: that one is ended in the same transaction, so
/// there are never two.
///
/// # Errors
/// As planning.
pub async fn begin(plane: &Plane, job: JobId, work: &WorkRow, inputs: &Inputs, service: Service) -> Answer<()> {
    let datum = Datum::together(everything(plane, inputs).await?);
    let mut tx = plane.begin().await?;
    if !queries::start_job(&mut tx, &SELF, job).await? {
        return Ok(());
    }
    end(plane, &mut tx, work.pipeline_id, "replaced by a newer job").await?;
    let now = plane.now();
    let (key, read) = (datum.key(&inputs.code_digest), encode_inputs(&task_inputs(&datum)));
    queries::insert_datum(&mut tx, &SELF, job, (&key, &read), now).await?;
    queries::insert(&mut tx, &SELF, job, work.pipeline_id, service.internal_port, now).await?;
    let commit = CommitId::from_uuid(work.output_commit_id);
    finish_in_transaction(plane, &mut tx, &SELF, commit, &TreeRef::empty(), now).await?;
    pipelines::queries::update_outcome(&mut tx, &SELF, work.pipeline_id, None).await?;
    tx.commit().await?;
    plane.signals.work_changed();
    plane.signals.commits_changed();
    Ok(())
}

/// Ends what a pipeline serves, if it does: well, if it ever answered. Answers whether it did. Wake the scheduler
/// (`signals.work_changed`) after the transaction was committed.
///
/// # Errors
/// When the database is away.
pub async fn end(plane: &Plane, tx: &mut Tx, pipeline: Uuid, reason: &str) -> Answer<bool> {
    let rows = queries::of_pipelines(tx, &SELF, &[pipeline]).await?;
    let mut ended = false;
    for row in rows {
        let state = match row.answered_at {
            Some(_) => JobState::Success,
            None => JobState::Killed,
        };
        queries::settle_datum(tx, &SELF, JobId::from_uuid(row.job_id), row.answered_at.is_some()).await?;
        ended |= jobs::end::end(plane, tx, JobId::from_uuid(row.job_id), state, Some(reason)).await?;
    }
    Ok(ended)
}
