//! What a worker has claimed and not reported: the queue, the leases, the jobs. Jobs and leases that are over are told to
//! each of their datums through a [`Stop`], wherever that datum is: queued, fetching its inputs, between its command and
//! `err_cmd`, or storing its outputs. So none starts code afterwards, and code that runs is killed.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use contract::ids::{JobId, LeaseId};
use tokio_util::sync::CancellationToken;

use super::inputs::Tree;
use super::protocol::{DatumTask, JobTask};
use super::secrets::Masks;

/// What all datums of a job share.
pub struct JobShared {
    /// As claimed.
    pub task: JobTask,
    /// Its inputs.
    pub trees: Vec<Tree>,
    /// What its logs must not hold.
    pub masks: Masks,
    over: CancellationToken,
}

impl JobShared {
    /// A job that is not over.
    pub fn new(task: JobTask, trees: Vec<Tree>) -> Self {
        Self {
            masks: Masks::of(&task.secrets),
            task,
            trees,
            over: CancellationToken::new(),
        }
    }
}

/// Tells one datum that its job ended or its lease was lost: nobody wants its result any more.
#[derive(Debug, Clone)]
pub struct Stop {
    job: CancellationToken,
    lease: CancellationToken,
}

impl Stop {
    /// Whether it is over.
    pub fn is_over(&self) -> bool {
        self.job.is_cancelled() || self.lease.is_cancelled()
    }

    /// Returns when it is over.
    pub async fn over(&self) {
        tokio::select! {
            () = self.job.cancelled() => {}
            () = self.lease.cancelled() => {}
        }
    }
}

/// A datum that waits for its turn.
pub struct Queued {
    /// Its job.
    pub job: Arc<JobShared>,
    /// The datum.
    pub datum: DatumTask,
    /// The lease that it was claimed under.
    pub lease: LeaseId,
    /// Says when nobody wants it any more.
    pub stop: Stop,
}

struct Lease {
    /// Datums that were not reported yet.
    left: usize,
    over: CancellationToken,
}

/// The worker's books.
#[derive(Default)]
pub struct Desk {
    queue: VecDeque<Queued>,
    leases: HashMap<LeaseId, Lease>,
    /// Datums of each job that run now.
    busy: HashMap<JobId, u32>,
    /// The jobs that were claimed of and are not over, so that a tree is decoded once.
    jobs: HashMap<JobId, Arc<JobShared>>,
}

impl Desk {
    /// Datums that wait.
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Whether any datum runs.
    pub fn is_busy(&self) -> bool {
        !self.busy.is_empty()
    }

    /// The leases to renew.
    pub fn leases(&self) -> Vec<LeaseId> {
        self.leases.keys().copied().collect()
    }

    /// The jobs to ask about.
    pub fn jobs(&self) -> Vec<JobId> {
        self.jobs.keys().copied().collect()
    }

    /// Whether the job is known, with the secrets that it has now.
    pub fn knows(&self, task: &JobTask) -> bool {
        let known = self.jobs.get(&task.job);
        known.is_some_and(|known| known.task.secret_versions == task.secret_versions)
    }

    /// Keeps a job. One that is known already stays: its datums listen to that one. But if it was planned again since, with
    /// other secrets, what is here of it is over.
    pub fn keep(&mut self, job: JobShared) {
        if !self.knows(&job.task) {
            self.end(&[], &[job.task.job]);
        }
        self.jobs.entry(job.task.job).or_insert_with(|| Arc::new(job));
    }

    /// Queues what was claimed; datums of unknown jobs are left out.
    pub fn queue(&mut self, lease: LeaseId, datums: Vec<DatumTask>) {
        let over = CancellationToken::new();
        let before = self.queue.len();
        for datum in datums {
            if let Some(job) = self.jobs.get(&datum.job).cloned() {
                let stop = Stop {
                    job: job.over.clone(),
                    lease: over.clone(),
                };
                self.queue.push_back(Queued {
                    job,
                    datum,
                    lease,
                    stop,
                });
            }
        }
        let left = self.queue.len() - before;
        if left > 0 {
            self.leases.insert(lease, Lease { left, over });
        }
    }

    /// The next datum whose job may run one more.
    pub fn next(&mut self) -> Option<Queued> {
        let at = self.queue.iter().position(|queued| {
            let busy = self.busy.get(&queued.datum.job).copied().unwrap_or(0);
            queued.job.task.parallelism.is_none_or(|most| busy < most.max(1))
        })?;
        let queued = self.queue.remove(at)?;
        *self.busy.entry(queued.datum.job).or_default() += 1;
        Some(queued)
    }

    /// A datum of that job does not run any more.
    pub fn ran(&mut self, job: JobId) {
        if let Some(busy) = self.busy.get_mut(&job) {
            *busy -= 1;
            if *busy == 0 {
                self.busy.remove(&job);
            }
        }
    }

    /// A datum of that lease was reported.
    pub fn reported(&mut self, lease: LeaseId) {
        if let Some(found) = self.leases.get_mut(&lease) {
            found.left -= 1;
            if found.left == 0 {
                self.leases.remove(&lease);
            }
        }
    }

    /// These leases were lost and these jobs ended: drops what is queued of them and stops what is on its way.
    pub fn end(&mut self, lost: &[LeaseId], ended: &[JobId]) {
        let mut dropped = Vec::new();
        self.queue.retain(|queued| {
            let keep = !lost.contains(&queued.lease) && !ended.contains(&queued.datum.job);
            if !keep {
                dropped.push(queued.lease);
            }
            keep
        });
        for lease in dropped {
            self.reported(lease);
        }
        for lease in lost {
            if let Some(lease) = self.leases.remove(lease) {
                lease.over.cancel();
            }
        }
        for job in ended {
            if let Some(job) = self.jobs.remove(job) {
                job.over.cancel();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use contract::ids::CommitId;
    use uuid::Uuid;

    use super::*;

    fn job(number: u128) -> JobShared {
        let task = JobTask {
            job: JobId::from_uuid(Uuid::from_u128(number)),
            pipeline: "default/p".to_owned(),
            output_commit: CommitId::from_uuid(Uuid::nil()),
            image: None,
            cmd: Vec::new(),
            stdin: Vec::new(),
            err_cmd: Vec::new(),
            err_stdin: Vec::new(),
            accept_return_code: Vec::new(),
            env: Vec::new(),
            working_dir: None,
            datum_timeout_ms: None,
            memory_bytes: None,
            disk_bytes: None,
            network: false,
            parallelism: Some(1),
            inputs: Vec::new(),
            secrets: Vec::new(),
            secret_versions: std::collections::BTreeMap::new(),
            refused: None,
        };
        JobShared::new(task, Vec::new())
    }

    fn datum(number: u128, position: i64) -> DatumTask {
        DatumTask {
            job: JobId::from_uuid(Uuid::from_u128(number)),
            position,
            key: String::new(),
            run: 1,
            inputs: Vec::new(),
        }
    }

    fn lease(number: u128) -> LeaseId {
        LeaseId::from_uuid(Uuid::from_u128(number))
    }

    #[test]
    fn a_datum_that_was_taken_out_of_the_queue_learns_of_the_end_of_its_job() {
        let mut desk = Desk::default();
        desk.keep(job(1));
        desk.queue(lease(1), vec![datum(1, 0)]);
        let first = desk.next().unwrap();
        // Claimed again: the datum that is out listens to the same job.
        desk.keep(job(1));
        desk.queue(lease(2), vec![datum(1, 1)]);
        assert!(!first.stop.is_over());
        desk.end(&[], &[first.datum.job]);
        assert!(first.stop.is_over());
        assert_eq!((desk.queued(), desk.jobs().len()), (0, 0));
        assert_eq!(desk.leases(), [lease(1)]);
        desk.reported(lease(1));
        assert!(desk.leases().is_empty());
    }

    #[test]
    fn a_job_that_was_planned_again_with_other_secrets_takes_the_place_of_the_one_before() {
        let mut desk = Desk::default();
        desk.keep(job(1));
        desk.queue(lease(1), vec![datum(1, 0), datum(1, 1)]);
        let first = desk.next().unwrap();
        desk.ran(first.datum.job);
        let mut task = job(1).task;
        task.secret_versions.insert("db".parse().unwrap(), 2);
        assert!(!desk.knows(&task));
        desk.keep(JobShared::new(task.clone(), Vec::new()));
        assert!(first.stop.is_over() && desk.knows(&task));
        desk.queue(lease(2), vec![datum(1, 0)]);
        let again = desk.next().unwrap();
        assert_eq!(again.job.task.secret_versions, task.secret_versions);
        assert!(!again.stop.is_over() && desk.queued() == 0);
    }

    #[test]
    fn one_datum_under_two_leases_is_stopped_under_the_lost_one_alone() {
        let mut desk = Desk::default();
        desk.keep(job(1));
        desk.queue(lease(1), vec![datum(1, 0)]);
        let first = desk.next().unwrap();
        desk.ran(first.datum.job);
        desk.queue(lease(2), vec![datum(1, 0)]);
        let second = desk.next().unwrap();
        desk.end(&[lease(1)], &[]);
        assert!(first.stop.is_over() && !second.stop.is_over());
    }

    #[test]
    fn no_more_datums_of_a_job_are_out_than_its_parallelism_admits() {
        let mut desk = Desk::default();
        desk.keep(job(1));
        desk.queue(lease(1), vec![datum(1, 0), datum(1, 1)]);
        let first = desk.next().unwrap();
        assert!(desk.next().is_none());
        desk.ran(first.datum.job);
        assert_eq!(desk.next().unwrap().datum.position, 1);
    }
}
