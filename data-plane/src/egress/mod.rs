//! Egress: the output of a job goes to a bucket or a database before it is published. What differs from what this pipeline
//! has sent there before is sent; what it sent and the output has not any more is removed there. Before anything is written
//! there it is written down here, so whatever breaks off, the next attempt knows what may be there. What may pass is tried
//! again for some minutes; a plane that was killed begins again. Sending is release to the world (R10): it is asked again
//! for the right to that before each attempt.

mod bucket;
mod database;
pub mod queries;
mod rows;

use std::sync::Arc;
use std::time::Duration;

use contract::ids::{CommitId, JobId};
use contract::problem::ProblemKind;
use provenance::spec::{Egress, EgressTarget, PipelineSpec};
use storage::{StorageError, TreeRef};
use tokio::sync::Semaphore;

use crate::commits::{self, origins};
use crate::failure::{Answer, Failure};
use crate::imports::Importer;
use crate::jobs;
use crate::permissions::System;
use crate::pipelines;
use crate::plane::Plane;
use crate::scheduler::queries::WorkRow;

const SELF: System = System::because("the right to send what a job made is asked for before each attempt");
/// Attempts in a row that get nowhere. With pauses from half a second to a minute they take seven minutes.
const TRIES: u32 = 15;
const PAUSE_MOST: Duration = Duration::from_secs(60);
/// So often it is looked whether the job is still wanted.
const LOOK: Duration = Duration::from_secs(1);
/// Mebibytes of outputs that are in memory on their way out, of all jobs together.
const MEMORY: usize = 96;

/// What all egresses of a plane share: the memory for what is on its way.
pub struct Room(Arc<Semaphore>);

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MEMORY)))
    }
}

/// How sending ended.
#[derive(Debug)]
pub enum Sent {
    /// All of it is there.
    Whole,
    /// The job ended meanwhile.
    Over,
    /// It cannot be sent: why, and what to do.
    Failed(String),
}

/// Why an attempt broke off.
enum Trouble {
    /// It may be gone in a moment.
    Passing(String),
    /// It will not go away by itself.
    Final(String),
    /// It is on our side.
    Ours(Failure),
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        match failure.kind() {
            // What a spec or secret lacks.
            ProblemKind::Invalid => Self::Final(failure.detail().to_owned()),
            _ => Self::Ours(failure),
        }
    }
}

impl From<StorageError> for Trouble {
    fn from(error: StorageError) -> Self {
        Self::Ours(error.into())
    }
}

/// One job's sending.
struct Sending<'a> {
    plane: &'a Plane,
    spec: &'a PipelineSpec,
    egress: &'a Egress,
    /// The row of the pipeline's place.
    place: i64,
    tree: &'a TreeRef,
}

/// Why nothing may be sent there, as far as the address tells. It is the rule of imports, except that a database has no
/// usual port: its host must be named.
///
/// # Errors
/// `invalid`, saying who can allow it.
pub fn check(importer: &Importer, egress: &Egress) -> Answer<()> {
    match &egress.target {
        EgressTarget::Bucket(target) => bucket::check(importer, target),
        EgressTarget::Database(target) => database::check(importer, target),
    }
}

/// Sends what a job made to where its spec says, if it says so.
///
/// # Errors
/// When the database, the storage or the policy is away, or our own rows are damaged: try again.
pub async fn send(plane: &Plane, job: JobId, work: &WorkRow, tree: &TreeRef) -> Answer<Sent> {
    let spec = PipelineSpec::parse(&work.spec.0, &work.project.parse()?)
        .map_err(|errors| Failure::internal(format!("a stored spec is not valid any more: {errors:?}")))?;
    let Some(egress) = &spec.egress else {
        return Ok(Sent::Whole);
    };
    let (shown, more) = match &egress.target {
        EgressTarget::Bucket(target) => (target.shown(), String::new()),
        EgressTarget::Database(target) => (target.shown(), format!("{:?} {:?}", target.format, target.columns)),
    };
    let mut conn = plane.pool.acquire().await?;
    let (place, complete) = queries::place(&mut conn, &SELF, work.pipeline_id, &shown).await?;
    let digest = blake3::keyed_hash(tree.digest().as_bytes(), more.as_bytes());
    if complete.as_deref() == Some(digest.as_bytes().as_slice()) && !work.reprocess {
        return Ok(Sent::Whole);
    }
    queries::update_complete(&mut conn, &SELF, place, None).await?;
    if work.reprocess {
        queries::doubt(&mut conn, &SELF, place).await?;
    }
    drop(conn);
    let sending = Sending {
        plane,
        spec: &spec,
        egress,
        place,
        tree,
    };
    let sent = tokio::select! {
        sent = sending.attempts(job, &shown) => sent?,
        ended = watch(plane, job) => ended?,
    };
    if matches!(sent, Sent::Whole) {
        let mut conn = plane.pool.acquire().await?;
        queries::update_complete(&mut conn, &SELF, place, Some(digest.as_bytes())).await?;
        queries::update_reason(&mut conn, &SELF, job, None).await?;
    }
    Ok(sent)
}

/// Waits until a job may not go on.
async fn watch(plane: &Plane, job: JobId) -> Answer<Sent> {
    let mut changed = plane.signals.commits();
    loop {
        changed.borrow_and_update();
        let mut conn = plane.pool.acquire().await?;
        let standing = queries::standing(&mut conn, &SELF, job, plane.now()).await?;
        drop(conn);
        match standing {
            queries::Standing::Sending => {}
            queries::Standing::Over => return Ok(Sent::Over),
            queries::Standing::Overdue(limit) => {
                let seconds = limit.num_milliseconds() as f64 / 1000.0;
                return Ok(Sent::Failed(format!(
                    "it took longer than job_timeout, {seconds} s, and had made its output but not sent all of it"
                )));
            }
        }
        let _ = tokio::time::timeout(LOOK, changed.changed()).await;
    }
}

impl Sending<'_> {
    async fn attempts(&self, job: JobId, shown: &str) -> Answer<Sent> {
        let mut tries = 0;
        loop {
            // A sponsor who lost an input is found so first (R8), and his jobs are over then.
            pipelines::sponsors::settled(self.plane).await;
            let mut conn = self.plane.pool.acquire().await?;
            let standing = queries::standing(&mut conn, &SELF, job, self.plane.now()).await?;
            drop(conn);
            if matches!(standing, queries::Standing::Over) {
                return Ok(Sent::Over);
            }
            if let Some(reason) = refusal(self.plane, job).await? {
                return Ok(Sent::Failed(reason));
            }
            let mut progress = false;
            let attempt = match &self.egress.target {
                EgressTarget::Bucket(target) => bucket::send(self, target, &mut progress).await,
                EgressTarget::Database(target) => database::send(self, target).await,
            };
            let why = match attempt {
                Ok(()) => return Ok(Sent::Whole),
                Err(Trouble::Ours(failure)) => return Err(failure),
                Err(Trouble::Final(why)) => {
                    return Ok(Sent::Failed(format!(
                        "the output was made and not sent to {shown}: {why}; then `howdah pipeline run`, which makes nothing again"
                    )));
                }
                Err(Trouble::Passing(why)) => why,
            };
            // What was sent is known, and is not sent again.
            if progress {
                tries = 0;
            }
            tries += 1;
            if tries >= TRIES {
                return Ok(Sent::Failed(format!(
                    "the output was made and could not be sent to {shown} in {TRIES} attempts, the last one failed because {why}; when it can be reached, `howdah pipeline run`, which makes nothing again"
                )));
            }
            let pause = pause(self.plane.importer.first_wait(), tries);
            tracing::info!(job.id = %job, "the egress is tried again in {pause:?}: {why}");
            let reason = format!(
                "sending the output to {shown} is tried again (attempt {}): {why}",
                tries + 1
            );
            let mut conn = self.plane.pool.acquire().await?;
            queries::update_reason(&mut conn, &SELF, job, Some(&reason)).await?;
            drop(conn);
            tokio::time::sleep(pause).await;
        }
    }

    /// The values of the egress's secret.
    async fn keys(&self) -> Answer<std::collections::BTreeMap<String, String>> {
        let Some(secret) = &self.egress.secret else {
            return Ok(std::collections::BTreeMap::new());
        };
        let mut conn = self.plane.pool.acquire().await?;
        crate::secrets::values(self.plane, &mut conn, &self.spec.project, &secret.name).await
    }
}

/// How long to wait after so many attempts.
fn pause(first: Duration, tries: u32) -> Duration {
    (first * (1 << tries.saturating_sub(1).min(16))).min(PAUSE_MOST)
}

/// Why a job's output may not be sent away at this moment, if it may not.
async fn refusal(plane: &Plane, job: JobId) -> Answer<Option<String>> {
    // Without a policy that is known to be in force nothing leaves.
    plane.policy.current(plane.now())?;
    let mut conn = plane.pool.acquire().await?;
    let missing = || Failure::internal("a job lacks its pipeline's version or its output commit");
    let run = pipelines::queries::run_of_job(&mut conn, &SELF, job).await?;
    let (output, run) = run.ok_or_else(missing)?;
    let output = commits::queries::find_commit(&mut conn, &SELF, CommitId::from_uuid(output)).await?;
    let output = origins::get(plane, &mut conn, &SELF, output.ok_or_else(missing)?.origin_set).await?;
    let mut inputs = Vec::new();
    for input in jobs::queries::inputs(&mut conn, &SELF, job).await? {
        inputs.push(origins::get(plane, &mut conn, &SELF, input.origin_set_id).await?);
    }
    let purpose = pipelines::conditions::Purpose::Output;
    pipelines::conditions::refusal(plane, &run, purpose, &inputs, &output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_egress_that_gets_nowhere_is_tried_for_some_minutes_with_growing_pauses() {
        let first = Duration::from_millis(500);
        assert_eq!(pause(first, 1), first);
        assert_eq!(pause(first, 3), first * 4);
        assert_eq!(pause(first, 99), PAUSE_MOST);
        let all: Duration = (1..TRIES).map(|tries| pause(first, tries)).sum();
        assert!((300..600).contains(&all.as_secs()), "{all:?}");
    }
}
