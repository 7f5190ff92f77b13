//! The scheduler: takes jobs from `created` to their end. It keeps nothing in memory that matters: each step is a
//! function of what the database says, ends in one transaction, and may be cut off and done again anywhere. It is woken by
//! signals and by a timer, so a lost signal costs a second.
//!
//! Jobs of one pipeline run in order, since the outputs of the one before are the base of the next; different pipelines
//! run side by side. What is slow (planning, finishing) runs in tasks, so that one large job holds nothing up.

pub mod appending;
pub mod derived;
mod finish;
pub mod keys;
pub(crate) mod matches;
pub mod planning;
pub mod queries;
pub mod releases;
mod reproduction;
mod source;
mod start;

use std::collections::HashMap;
use std::time::Duration;

use chassis::process::Shutdown;
use contract::api::JobState;
use contract::ids::JobId;
use contract::problem::ProblemKind;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::activity::Busy;
use crate::failure::{Answer, Failure};
use crate::jobs;
use crate::permissions::System;
use crate::plane::Plane;
use crate::spouts;
use crate::worker;
use queries::HeadJob;

pub(crate) const SELF: System = System::because("the scheduler acts for the plane; the rights were checked by `apply`");
/// Looks by itself that often.
const TIMER: Duration = Duration::from_secs(1);
/// So many jobs are planned or finished at the same time.
const TASKS: usize = 4;
/// So many send their outputs elsewhere besides, which takes as long as others let it.
const SENDING: usize = 8;
/// A step that fails so often by our own mistake fails its job instead of being tried for ever.
const PATIENCE: u32 = 5;

/// What a task does for a job.
#[derive(Clone, Copy)]
enum Work {
    Plan,
    Send,
    Finish,
}

struct Scheduler {
    plane: Plane,
    /// Jobs that a task works on.
    tasks: JoinSet<(Uuid, Answer<()>)>,
    busy: Vec<Uuid>,
    /// Those of them that send their output.
    sending: Vec<Uuid>,
    failures: HashMap<Uuid, u32>,
    /// Keeps the plane awake while there is something to run.
    awake: Option<Busy>,
}

/// Runs the scheduler until shutdown.
pub async fn run(plane: Plane, shutdown: Shutdown) {
    let mut scheduler = Scheduler {
        tasks: JoinSet::new(),
        busy: Vec::new(),
        sending: Vec::new(),
        failures: HashMap::new(),
        awake: None,
        plane: plane.clone(),
    };
    let mut work = plane.signals.work();
    while !shutdown.has_begun() {
        work.borrow_and_update();
        if let Err(error) = scheduler.tick().await {
            tracing::warn!("the scheduler goes on in a second: {error}");
        }
        tokio::select! {
            _ = work.changed() => {}
            Some(done) = scheduler.tasks.join_next() => scheduler.ended(done).await,
            () = tokio::time::sleep(TIMER) => {}
            () = shutdown.begun() => return,
        }
    }
}

impl Scheduler {
    /// Looks at the first unfinished job of each pipeline until nothing can be moved any more.
    async fn tick(&mut self) -> Answer<()> {
        let mut conn = self.plane.pool.acquire().await?;
        let now = self.plane.now();
        let before = self.plane.leases_good_after(now);
        let expired = worker::queries::Gone::Expired { before };
        if worker::queries::free(&mut conn, &SELF, expired, now).await? > 0 {
            self.plane.signals.work_changed();
        }
        worker::queries::give_up(&mut conn, &SELF, now).await?;
        let receives = spouts::queries::is_any_wanted(&mut conn, &SELF).await?;
        drop(conn);
        loop {
            let mut conn = self.plane.pool.acquire().await?;
            let heads = queries::heads(&mut conn, &SELF).await?;
            drop(conn);
            let at_work = receives || heads.iter().any(|h| h.state != "created" || h.ready);
            self.awake = at_work.then(|| {
                self.awake
                    .take()
                    .unwrap_or_else(|| self.plane.activity.begin(&self.plane.environment))
            });
            let mut moved = false;
            for head in heads {
                moved |= self.step(&head).await?;
            }
            if !moved {
                return Ok(());
            }
        }
    }

    /// One step of a job; answers whether another look is worth it.
    async fn step(&mut self, head: &HeadJob) -> Answer<bool> {
        if self.busy.contains(&head.id) {
            return Ok(false);
        }
        let now = self.plane.now();
        let job = JobId::from_uuid(head.id);
        if let Some(limit) = head.overdue(now) {
            let reason = format!(
                "it took longer than job_timeout, {} s",
                limit.num_milliseconds() as f64 / 1000.0
            );
            return self.end(job, JobState::Failure, &reason).await;
        }
        match jobs::state_of(&head.state) {
            JobState::Created => match &head.errored {
                Some(input) => {
                    let why = "its commit is errored";
                    let reason = provenance::jobs::unrunnable_reason(input, why);
                    self.end(job, JobState::Unrunnable, &reason).await
                }
                None if head.ready => self.start(job).await,
                None => Ok(false),
            },
            JobState::Starting => Ok(self.work(head.id, Work::Plan)),
            JobState::Running if head.datums_open <= 0 => self.settled(job).await,
            JobState::Egressing => Ok(self.work(head.id, Work::Send)),
            JobState::Finishing => Ok(self.work(head.id, Work::Finish)),
            _ => Ok(false),
        }
    }

    /// Starts a job. One that cannot be started must not keep the others from it.
    async fn start(&mut self, job: JobId) -> Answer<bool> {
        let error = match start::start(&self.plane, job.uuid()).await {
            Err(error) => error,
            started => {
                self.failures.remove(&job.uuid());
                return started;
            }
        };
        tracing::warn!(job.id = %job, "the job could not be started: {error}");
        if self.is_final(job.uuid(), &error) {
            return self.end(job, JobState::Failure, error.detail()).await;
        }
        match error.kind() {
            // The database is away, for all of them.
            ProblemKind::Overloaded => Err(error),
            _ => Ok(false),
        }
    }

    async fn end(&self, job: JobId, state: JobState, reason: &str) -> Answer<bool> {
        let mut tx = self.plane.begin().await?;
        let ended = jobs::end::end(&self.plane, &mut tx, job, state, Some(reason)).await?;
        tx.commit().await?;
        self.plane.signals.commits_changed();
        Ok(ended)
    }

    /// All datums of a running job are settled: it failed, or its output can be put together.
    async fn settled(&self, job: JobId) -> Answer<bool> {
        let mut tx = self.plane.begin().await?;
        let Some(counts) = queries::lock_settled(&mut tx, &SELF, job, self.plane.now()).await? else {
            return Ok(false);
        };
        let failed = if counts.failed > 0 {
            queries::failed(&mut tx, &SELF, job).await?
        } else {
            Vec::new()
        };
        match provenance::jobs::outcome(&counts, &failed) {
            None => return Ok(false),
            Some(outcome) if outcome.state == JobState::Finishing => {
                let next = match queries::has_egress(&mut tx, &SELF, job).await? {
                    true => JobState::Egressing,
                    false => outcome.state,
                };
                queries::update_state(&mut tx, &SELF, job, next.as_str()).await?;
            }
            Some(outcome) => {
                jobs::end::end(&self.plane, &mut tx, job, outcome.state, outcome.reason.as_deref()).await?;
            }
        }
        tx.commit().await?;
        self.plane.signals.commits_changed();
        Ok(true)
    }

    /// Begins what is slow about a job in a task.
    fn work(&mut self, id: Uuid, work: Work) -> bool {
        let sending = self.sending.len();
        let full = match work {
            Work::Send => sending >= SENDING,
            Work::Plan | Work::Finish => self.tasks.len().saturating_sub(sending) >= TASKS,
        };
        if full {
            return false;
        }
        self.busy.push(id);
        if matches!(work, Work::Send) {
            self.sending.push(id);
        }
        let plane = self.plane.clone();
        let job = JobId::from_uuid(id);
        self.tasks.spawn(async move {
            let done = match work {
                Work::Plan => planning::plan(&plane, job).await,
                Work::Send | Work::Finish => finish::finish(&plane, job).await,
            };
            (id, done)
        });
        false
    }

    /// A task has ended. What may pass is tried again; what will not fails its job with the reason.
    async fn ended(&mut self, done: Result<(Uuid, Answer<()>), tokio::task::JoinError>) {
        let (id, result) = match done {
            Ok(done) => done,
            Err(error) => {
                tracing::error!("a task of the scheduler broke off: {error}");
                // Which one is not known; all that are still wanted are begun again.
                self.busy.clear();
                self.sending.clear();
                return;
            }
        };
        self.sending.retain(|sending| *sending != id);
        let Err(error) = result else {
            self.busy.retain(|busy| *busy != id);
            self.failures.remove(&id);
            self.plane.signals.work_changed();
            self.plane.signals.commits_changed();
            return;
        };
        tracing::warn!(job.id = %JobId::from_uuid(id), "a step of the job failed: {error}");
        if !self.is_final(id, &error)
            || self
                .end(JobId::from_uuid(id), JobState::Failure, error.detail())
                .await
                .is_ok()
        {
            self.busy.retain(|busy| *busy != id);
        }
        // Not at once: a database or disk that is away is not back in a millisecond.
        tokio::time::sleep(Duration::from_millis(100)).await;
        self.busy.retain(|busy| *busy != id);
    }

    fn is_final(&mut self, id: Uuid, error: &Failure) -> bool {
        match error.kind() {
            ProblemKind::Overloaded | ProblemKind::PolicyUnreachable | ProblemKind::StorageFull => false,
            ProblemKind::Internal => {
                let failures = self.failures.entry(id).or_default();
                *failures += 1;
                *failures >= PATIENCE
            }
            _ => true,
        }
    }
}
