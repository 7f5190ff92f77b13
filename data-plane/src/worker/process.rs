//! The worker's process: one loop claims, `slots` loops run datums, one delivers results, one renews leases. The queue
//! between claiming and running is short, so that what a dead worker held is little. Beside that the plane's own keeps services and spouts
//! running; one of a pool does the one or the other.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chassis::Environment;
use chassis::process::Shutdown;
use contract::ids::LeaseId;
use sandbox::{Isolation, Launcher};
use storage::Storage;
use tokio::sync::{Notify, mpsc};
use uuid::Uuid;

use super::cache::Cache;
use super::deliver::deliver;
use super::desk::{Desk, JobShared};
use super::execute::{self, Bench, Ran, Runner};
use super::inputs;
use super::lazy::{self, Blocks};
use super::plane::Plane;
use super::pod::Pod;
use super::protocol::{
    ClaimRequest, Claimed, HeartbeatRequest, LeaveRequest, RunnerConfig, WORKER_VARIABLE, WorkerConfig,
};
use super::report::Reporter;
use super::serving;
use crate::images::{Images, Store};

/// At most so many datums are claimed or delivered at a time.
const BATCH_MAX: usize = 64;
/// How long the plane may hold a claim back while there is no work.
const CLAIM_WAIT: Duration = Duration::from_secs(20);
/// Leases are renewed, ended jobs noticed and lines sent that often.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// So often is the isolation tried before user code is run without.
const TRIALS: u32 = 4;
const TRIAL_PAUSE: Duration = Duration::from_millis(500);
/// How long a worker that was told to stop tries to give back what it holds.
const LEAVE_WAIT: Duration = Duration::from_secs(3);
/// After a failed request.
const RETRY: Duration = Duration::from_millis(200);

struct Worker {
    bench: Arc<Bench>,
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
pub async fn run(mut config: WorkerConfig, storage: Storage, shutdown: Shutdown) -> anyhow::Result<()> {
    let environment = Environment::system();
    let datums = config.home.join("datums");
    lazy::unmount_below(&datums);
    // What an earlier worker left: nobody reports it any more.
    sandbox::discard(&datums)?;
    std::fs::create_dir_all(&datums)?;
    let (runner, isolation) = runner(&config).await?;
    if config.pool.is_some() {
        config.worker = named().unwrap_or_else(|| Uuid::from_bytes(environment.random()));
    }
    let cache = Cache::open(config.home.join("cache"), config.cache_bytes_max, storage.clone())?;
    let in_pod = matches!(runner, Runner::Pod(_));
    let slots = if in_pod { 1 } else { config.slots.max(1) };
    let owner = nix::unistd::geteuid()
        .is_root()
        .then_some((config.sandbox_uid, config.sandbox_uid));
    let images = Store::open(config.home.join("images"), owner, Images::new(&config.imports)?)?;
    let worker = Arc::new(Worker {
        plane: Plane::new(&config)?,
        bench: Arc::new(Bench {
            config,
            runner,
            isolation,
            blocks: Arc::new(Blocks::new(storage.clone())),
            storage,
            cache: Arc::new(cache),
            images: Arc::new(images),
            outbox: super::output::Outbox::default(),
            environment,
            datums,
        }),
        desk: Mutex::default(),
        runnable: Notify::new(),
        room: Notify::new(),
    });
    let isolation = worker.bench.isolation_word();
    tracing::info!(isolation, "the worker runs datums under isolation `{isolation}`");
    if worker.bench.config.pool.is_some() {
        worker.leave(true).await;
    }
    let (ran, results) = mpsc::channel(BATCH_MAX * 2);
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(Arc::clone(&worker).log_loop());
    let (of_pool, lasting) = (worker.bench.config.pool.is_some(), worker.bench.config.lasting);
    if lasting || (!of_pool && !in_pod) {
        tasks.spawn(serving::keep(Arc::clone(&worker.bench), worker.plane.clone()));
    }
    if !lasting {
        tasks.spawn(Arc::clone(&worker).claim_loop(slots));
        tasks.spawn(Arc::clone(&worker).heartbeat_loop());
        tasks.spawn(Arc::clone(&worker).deliver_loop(results));
        for _ in 0..slots {
            tasks.spawn(Arc::clone(&worker).run_loop(ran.clone()));
        }
    }
    tokio::select! {
        () = shutdown.begun() => {}
        ended = tasks.join_next() => anyhow::bail!("a part of the worker ended by itself: {ended:?}"),
    }
    drop(tasks);
    if worker.bench.config.pool.is_some() {
        worker.leave(false).await;
    }
    Ok(())
}

/// The name of this pod.
fn named() -> Option<Uuid> {
    std::env::var(WORKER_VARIABLE).ok()?.parse().ok()
}

/// What runs datums, and the isolation of sandboxes.
async fn runner(config: &WorkerConfig) -> anyhow::Result<(Runner, Isolation)> {
    match config.runner.clone() {
        RunnerConfig::Sandbox => {
            let binary = config.sandbox_binary.clone();
            let isolation = tokio::task::spawn_blocking(move || isolation(&binary)).await?;
            Ok((Runner::Sandbox, isolation))
        }
        RunnerConfig::Pod {
            socket,
            pfs,
            code,
            door,
        } => Ok((Runner::Pod(Pod::new(socket, pfs, code, door)), Isolation::Plain)),
    }
}

/// The isolation for as long as this worker lives. A trial can fail because the machine is crowded: before user code is
/// run without namespaces, it is tried again, and if that is how it is, the reasons are told.
fn isolation(binary: &Path) -> Isolation {
    let mut tries = 1;
    loop {
        let found = sandbox::examine(binary);
        if found.chosen != Isolation::Plain {
            return found.chosen;
        }
        let reasons: Vec<String> = found
            .refused
            .iter()
            .map(|(refused, reason)| format!("`{}`: {reason}", refused.as_str()))
            .collect();
        let reasons = reasons.join("; ");
        if tries == TRIALS {
            tracing::error!(
                "user code runs without namespaces, because nothing better works on this machine: {reasons}"
            );
            return found.chosen;
        }
        tracing::warn!("no isolation works, which is tried again: {reasons}");
        std::thread::sleep(TRIAL_PAUSE * tries);
        tries += 1;
    }
}

impl Worker {
    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether more may be claimed. A pod takes nothing while it runs something: other pods may have nothing to do.
    fn has_room(&self, slots: usize) -> bool {
        let desk = self.desk();
        let is_taken = matches!(self.bench.runner, Runner::Pod(_)) && desk.is_busy();
        desk.queued() < slots && !is_taken
    }

    /// Says that it goes, or that one before it died, so that what is held in its name is free at once. A plane that does not hear
    /// it learns it when the leases run out.
    async fn leave(&self, died: bool) {
        let request = LeaveRequest {
            worker: self.bench.config.worker,
            died,
        };
        match tokio::time::timeout(LEAVE_WAIT, self.plane.leave(&request)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::debug!("what this worker held could not be given back: {error}"),
            Err(_) => tracing::debug!("what this worker held could not be given back in time"),
        }
    }

    /// Claims whenever less is queued than runs at once. A batch grows while datums are short.
    async fn claim_loop(self: Arc<Self>, slots: usize) {
        let mut batch = slots;
        let mut claimed_at = Instant::now();
        loop {
            while !self.has_room(slots) {
                self.room.notified().await;
            }
            if let Runner::Pod(pod) = &self.bench.runner {
                pod.ready().await;
            }
            let request = ClaimRequest {
                worker: self.bench.config.worker,
                datums_max: u32::try_from(batch).unwrap_or(1),
                wait_ms: u64::try_from(CLAIM_WAIT.as_millis()).unwrap_or(0),
                isolation: self.bench.isolation_word().to_owned(),
            };
            let claimed = match self.plane.claim(&request).await {
                Ok(claimed) => claimed,
                Err(error) => {
                    tracing::debug!("claiming failed: {error}");
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

    fn accept(&self, lease: LeaseId, claimed: Claimed) {
        let mut desk = self.desk();
        for task in claimed.jobs {
            if desk.knows(&task) {
                continue;
            }
            match inputs::trees(&task) {
                Ok(trees) => desk.keep(JobShared::new(task, trees)),
                // The lease is not renewed, so the datums go back.
                Err(error) => tracing::error!("the inputs of job {} cannot be read: {error}", task.job),
            }
        }
        desk.queue(lease, claimed.datums);
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
            let result = execute::run(&self.bench, &launcher, next).await;
            self.desk().ran(job);
            self.room.notify_one();
            // One more of a job with little parallelism may run now.
            self.runnable.notify_waiters();
            if ran.send(result).await.is_err() {
                return;
            }
        }
    }

    /// Delivers whatever has ended since the last time.
    async fn deliver_loop(self: Arc<Self>, mut results: mpsc::Receiver<Ran>) {
        let reporter = Reporter {
            bench: &self.bench,
            plane: &self.plane,
        };
        let mut batch = Vec::new();
        while results.recv_many(&mut batch, BATCH_MAX).await > 0 {
            let leases: Vec<LeaseId> = batch.iter().map(|ran| ran.lease).collect();
            deliver(&self.bench, &reporter, std::mem::take(&mut batch)).await;
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
                (desk.leases(), desk.jobs())
            };
            if leases.is_empty() && jobs.is_empty() {
                continue;
            }
            let request = HeartbeatRequest {
                worker: self.bench.config.worker,
                leases,
                jobs,
                logs: Vec::new(),
            };
            match self.plane.heartbeat(&request).await {
                Ok(answer) => {
                    self.desk().end(&answer.lost, &answer.ended);
                    // The claim loop may have been waiting for the full queue that is empty now.
                    self.room.notify_one();
                }
                Err(error) => tracing::debug!("the heartbeat failed: {error}"),
            }
        }
    }

    /// Sends lines while datums run. Apart from the heartbeat: lines that are not taken must cost no lease.
    async fn log_loop(self: Arc<Self>) {
        let reporter = Reporter {
            bench: &self.bench,
            plane: &self.plane,
        };
        loop {
            tokio::time::sleep(HEARTBEAT).await;
            reporter.send_lines().await;
        }
    }
}
