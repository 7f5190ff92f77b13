//! The worker's process: one loop claims, `slots` loops run datums, one delivers results, one renews leases. The queue
//! between claiming and running is short, so that what a dead worker held is little.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chassis::Environment;
use chassis::process::Shutdown;
use contract::ids::{JobId, LeaseId};
use sandbox::Launcher;
use storage::Storage;
use tokio::sync::{Notify, mpsc};

use super::cache::Cache;
use super::deliver::deliver;
use super::execute::{self, Bench, JobShared, Ran};
use super::inputs;
use super::plane::Plane;
use super::protocol::{ClaimRequest, CompleteRequest, DatumTask, HeartbeatRequest, WorkerConfig};

/// At most so many datums are claimed or delivered at a time.
const BATCH_MAX: usize = 64;
/// How long the plane may hold a claim back while there is no work.
const CLAIM_WAIT: Duration = Duration::from_secs(20);
/// Leases are renewed, lines sent and ended jobs noticed that often.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// After a failed request.
const RETRY: Duration = Duration::from_millis(200);

struct Queued {
    job: Arc<JobShared>,
    datum: DatumTask,
    lease: LeaseId,
}

#[derive(Default)]
struct Desk {
    queue: VecDeque<Queued>,
    /// Datums of each lease that were not reported yet.
    leases: HashMap<LeaseId, usize>,
    /// Datums of each job that run now.
    busy: HashMap<JobId, u32>,
    /// The jobs of the datums that are here, so that a tree is decoded once.
    jobs: HashMap<JobId, Arc<JobShared>>,
}

impl Desk {
    /// The next datum whose job may run one more.
    fn next(&mut self) -> Option<Queued> {
        let at = self.queue.iter().position(|queued| {
            let busy = self.busy.get(&queued.datum.job).copied().unwrap_or(0);
            queued.job.task.parallelism.is_none_or(|most| busy < most.max(1))
        })?;
        let queued = self.queue.remove(at)?;
        *self.busy.entry(queued.datum.job).or_default() += 1;
        Some(queued)
    }

    fn ran(&mut self, job: JobId) {
        if let Some(busy) = self.busy.get_mut(&job) {
            *busy -= 1;
            if *busy == 0 {
                self.busy.remove(&job);
            }
        }
    }

    fn reported(&mut self, lease: LeaseId) {
        if let Some(left) = self.leases.get_mut(&lease) {
            *left -= 1;
            if *left == 0 {
                self.leases.remove(&lease);
            }
        }
    }

    /// Drops what is queued under lost leases or of ended jobs.
    fn drop_queued(&mut self, lost: &[LeaseId], ended: &[JobId]) {
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
            self.leases.remove(lease);
        }
        self.jobs.retain(|job, _| !ended.contains(job));
    }
}

struct Worker {
    bench: Bench,
    plane: Plane,
    desk: Mutex<Desk>,
    /// There is something to run.
    runnable: Notify,
    /// There is room to claim.
    room: Notify,
}

/// Runs a worker until its parent is gone or it is told to stop.
///
/// # Errors
/// When the bucket, the home directory or the sandbox cannot be used at all.
pub async fn run(config: WorkerConfig, storage: Storage, shutdown: Shutdown) -> anyhow::Result<()> {
    let datums = config.home.join("datums");
    // What an earlier worker left: nobody reports it any more.
    let _ = std::fs::remove_dir_all(&datums);
    std::fs::create_dir_all(&datums)?;
    let binary = config.sandbox_binary.clone();
    let isolation = tokio::task::spawn_blocking(move || sandbox::probe(&binary)).await?;
    let cache = Cache::open(config.home.join("cache"), config.cache_bytes_max, storage.clone())?;
    tracing::info!(
        isolation = isolation.as_str(),
        "the worker runs datums under isolation `{}`",
        isolation.as_str()
    );
    let slots = config.slots.max(1);
    let worker = Arc::new(Worker {
        plane: Plane::new(&config.plane_url, &config.secret)?,
        bench: Bench {
            config,
            isolation,
            storage,
            cache: Arc::new(cache),
            outbox: super::output::Outbox::default(),
            environment: Environment::system(),
            datums,
            running: Mutex::default(),
        },
        desk: Mutex::default(),
        runnable: Notify::new(),
        room: Notify::new(),
    });
    let (ran, results) = mpsc::channel(BATCH_MAX * 2);
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(Arc::clone(&worker).claim_loop(slots));
    tasks.spawn(Arc::clone(&worker).heartbeat_loop());
    tasks.spawn(Arc::clone(&worker).deliver_loop(results));
    for _ in 0..slots {
        tasks.spawn(Arc::clone(&worker).run_loop(ran.clone()));
    }
    tokio::select! {
        () = shutdown.begun() => Ok(()),
        ended = tasks.join_next() => anyhow::bail!("a part of the worker ended by itself: {ended:?}"),
    }
}

impl Worker {
    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Claims whenever less is queued than runs at once. A batch grows while datums are short.
    async fn claim_loop(self: Arc<Self>, slots: usize) {
        let mut batch = slots;
        let mut claimed_at = Instant::now();
        loop {
            while self.desk().queue.len() >= slots {
                self.room.notified().await;
            }
            let request = ClaimRequest {
                worker: self.bench.config.worker,
                datums_max: u32::try_from(batch).unwrap_or(1),
                wait_ms: u64::try_from(CLAIM_WAIT.as_millis()).unwrap_or(0),
                isolation: self.bench.isolation.as_str().to_owned(),
            };
            let claimed = match self.plane.claim(&request).await {
                Ok(claimed) => claimed,
                Err(error) => {
                    tracing::debug!("claiming failed: {error:#}");
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            };
            let Some(lease) = claimed.lease else { continue };
            match claimed_at.elapsed() {
                short if short < Duration::from_millis(400) => batch = (batch * 2).min(BATCH_MAX),
                long if long > Duration::from_secs(2) => batch = (batch / 2).max(slots),
                _ => {}
            }
            claimed_at = Instant::now();
            self.accept(lease, claimed);
        }
    }

    fn accept(&self, lease: LeaseId, claimed: super::protocol::Claimed) {
        let mut desk = self.desk();
        for task in claimed.jobs {
            match inputs::trees(&task) {
                Ok(trees) => {
                    let id = task.job;
                    desk.jobs.insert(id, Arc::new(JobShared { task, trees }));
                }
                // The lease is not renewed, so the datums go back.
                Err(error) => tracing::error!("the inputs of job {} cannot be read: {error}", task.job),
            }
        }
        let mut queued = 0;
        for datum in claimed.datums {
            if let Some(job) = desk.jobs.get(&datum.job).cloned() {
                desk.queue.push_back(Queued { job, datum, lease });
                queued += 1;
            }
        }
        if queued > 0 {
            desk.leases.insert(lease, queued);
        }
        drop(desk);
        self.runnable.notify_waiters();
    }

    /// Runs one datum after the other.
    async fn run_loop(self: Arc<Self>, ran: mpsc::Sender<Ran>) {
        // Keeps the next sandbox ready while a datum runs.
        let launcher = Arc::new(Launcher::new(
            self.bench.config.sandbox_binary.clone(),
            self.bench.isolation,
        ));
        loop {
            let woken = self.runnable.notified();
            tokio::pin!(woken);
            woken.as_mut().enable();
            let Some(next) = self.desk().next() else {
                woken.await;
                continue;
            };
            self.room.notify_one();
            let job = next.datum.job;
            let result = execute::run(&self.bench, &launcher, next.job, next.datum, next.lease).await;
            self.desk().ran(job);
            // One more of a job with little parallelism may run now.
            self.runnable.notify_waiters();
            if ran.send(result).await.is_err() {
                return;
            }
        }
    }

    /// Delivers whatever has ended since the last time.
    async fn deliver_loop(self: Arc<Self>, mut results: mpsc::Receiver<Ran>) {
        let mut batch = Vec::new();
        while results.recv_many(&mut batch, BATCH_MAX).await > 0 {
            let leases: Vec<LeaseId> = batch.iter().map(|ran| ran.lease).collect();
            let datums = deliver(&self.bench, std::mem::take(&mut batch)).await;
            let mut request = CompleteRequest {
                worker: self.bench.config.worker,
                datums,
                logs: self.bench.outbox.take(),
            };
            while let Err(error) = self.plane.complete(&request).await {
                tracing::debug!("reporting failed: {error:#}");
                tokio::time::sleep(RETRY).await;
                request.logs.extend(self.bench.outbox.take());
            }
            let mut desk = self.desk();
            for lease in leases {
                desk.reported(lease);
            }
        }
    }

    async fn heartbeat_loop(self: Arc<Self>) {
        loop {
            tokio::time::sleep(HEARTBEAT).await;
            let (leases, jobs) = {
                let desk = self.desk();
                let leases: Vec<LeaseId> = desk.leases.keys().copied().collect();
                (leases, desk.jobs.keys().copied().collect::<Vec<_>>())
            };
            if leases.is_empty() && jobs.is_empty() && self.bench.outbox.is_empty() {
                continue;
            }
            let request = HeartbeatRequest {
                worker: self.bench.config.worker,
                leases,
                jobs,
                logs: self.bench.outbox.take(),
            };
            match self.plane.heartbeat(&request).await {
                Ok(answer) => {
                    self.desk().drop_queued(&answer.lost, &answer.ended);
                    // The claim loop may have been waiting for the full queue that is empty now.
                    self.room.notify_one();
                    self.kill(&answer.lost, &answer.ended);
                }
                Err(error) => {
                    tracing::debug!("the heartbeat failed: {error:#}");
                    self.bench.outbox.put_back(request.logs);
                }
            }
        }
    }

    fn kill(&self, lost: &[LeaseId], ended: &[JobId]) {
        let running = self.bench.running.lock().unwrap_or_else(PoisonError::into_inner);
        for ((job, _), (lease, killer)) in running.iter() {
            if lost.contains(lease) || ended.contains(job) {
                killer.kill();
            }
        }
    }
}
