//! A service's beginning and end.

use contract::api::JobState;
use contract::ids::{CommitId, JobId};
use provenance::datums::{Datum, INPUTS_MAX};
use storage::TreeRef;
use uuid::Uuid;

use super::queries;
use crate::commits::finish::finish_in_transaction;
use crate::commits::lock::lock_dag;
use crate::failure::{Answer, Failure};
use crate::jobs;
use crate::permissions::System;
use crate::pipelines;
use crate::plane::{Plane, Tx};
use crate::scheduler::matches;
use crate::scheduler::planning::{Inputs, task_inputs};
use crate::scheduler::queries::WorkRow;
use crate::secrets;
use crate::worker::queries::encode_inputs;

const SELF: System = System::because("the scheduler, or whom a route let in, decides what is served");

/// Makes a starting job the one that serves, instead of the one before it: that one is ended in the same transaction, so
/// there are never two. A pipeline that was stopped meanwhile serves nothing. A spout has no `port`.
///
/// # Errors
/// As planning.
pub async fn begin(plane: &Plane, job: JobId, work: &WorkRow, inputs: &Inputs, port: Option<u16>) -> Answer<()> {
    let datum = seen(plane, inputs).await?;
    let mut tx = plane.begin().await?;
    // Whoever stops or deletes it holds this lock too.
    lock_dag(&mut tx).await?;
    pipelines::sponsors::settle_in(plane, &mut tx).await?;
    if !queries::is_wanted(&mut tx, &SELF, work.pipeline_id).await? {
        let reason = "the pipeline was stopped before its service began";
        jobs::end::end(plane, &mut tx, job, JobState::Killed, Some(reason)).await?;
        tx.commit().await?;
        plane.signals.work_changed();
        plane.signals.commits_changed();
        return Ok(());
    }
    if secrets::versions(&mut tx, &inputs.spec).await? != work.secret_versions.0 {
        // Set again since it was planned: it is planned with that.
        drop(tx);
        plane.signals.work_changed();
        return Ok(());
    }
    replace(plane, &mut tx, work.pipeline_id, "replaced by a newer job").await?;
    if !queries::start_job(&mut tx, &SELF, job).await? {
        return Ok(());
    }
    let now = plane.now();
    let (key, read) = (datum.key(&inputs.code_digest), encode_inputs(&task_inputs(&datum)));
    queries::insert_datum(&mut tx, &SELF, job, (&key, &read), now).await?;
    queries::insert(&mut tx, &SELF, job, work.pipeline_id, port, now).await?;
    let commit = CommitId::from_uuid(work.output_commit_id);
    finish_in_transaction(plane, &mut tx, &SELF, commit, &TreeRef::empty(), now).await?;
    pipelines::queries::update_outcome(&mut tx, &SELF, work.pipeline_id, None).await?;
    tx.commit().await?;
    plane.signals.work_changed();
    plane.signals.commits_changed();
    Ok(())
}

/// All that its inputs match, once each: no combination of them means anything to a service.
async fn seen(plane: &Plane, inputs: &Inputs) -> Answer<Datum> {
    let mut all = Vec::new();
    for (at, leaf) in inputs.spec.input.leaves().into_iter().enumerate() {
        let found = matches::all(&plane.storage, &inputs.trees[at], &leaf.glob).await?;
        all.push(found);
        let count = all.iter().map(Vec::len).sum::<usize>() as u64;
        if count > INPUTS_MAX {
            return Err(Failure::invalid(format!(
                "the inputs match {count} paths, and a service is shown {INPUTS_MAX} at most: match directories, or `/`"
            )));
        }
    }
    Ok(Datum::of_all(&inputs.spec.input, &inputs.domains, &all))
}

/// Ends what a pipeline serves because something else takes its place, which is a good end. Answers whether it served. Wake
/// the scheduler (`signals.work_changed`) after the transaction was committed.
///
/// # Errors
/// When the database is away.
pub async fn replace(plane: &Plane, tx: &mut Tx, pipeline: Uuid, reason: &str) -> Answer<bool> {
    over(plane, tx, pipeline, (reason, true)).await
}

/// Ends what a pipeline serves because somebody stopped it: well, if it ever answered. Otherwise as [`replace`].
///
/// # Errors
/// When the database is away.
pub async fn end(plane: &Plane, tx: &mut Tx, pipeline: Uuid, reason: &str) -> Answer<bool> {
    over(plane, tx, pipeline, (reason, false)).await
}

async fn over(plane: &Plane, tx: &mut Tx, pipeline: Uuid, (reason, replaced): (&str, bool)) -> Answer<bool> {
    // Before all else of it, as by those who report how it ended.
    queries::lock_of_pipeline(tx, &SELF, pipeline).await?;
    let rows = queries::of_pipelines(tx, &SELF, &[pipeline]).await?;
    let mut ended = false;
    for row in rows {
        let well = replaced || row.answered_at.is_some();
        let state = match well {
            true => JobState::Success,
            false => JobState::Killed,
        };
        queries::settle_datum(tx, &SELF, JobId::from_uuid(row.job_id), well).await?;
        ended |= jobs::end::end(plane, tx, JobId::from_uuid(row.job_id), state, Some(reason)).await?;
    }
    Ok(ended)
}
