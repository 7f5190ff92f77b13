//! The worker's process: one loop claims, `slots` loops run datums, one delivers results, one renews leases. The queue
//! between claiming and running is short, so that what a dead worker held is little.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chassis::Environment;
use chassis::process::Shutdown;
use contract::ids::LeaseId;
use sandbox::{Isolation, Launcher};
use storage::Storage;
use tokio::sync::{Notify, mpsc};

use super::cache::Cache;
use super::deliver::deliver;
use super::desk::{Desk, JobShared};
use super::execute::{self, Bench, Ran};
use super::inputs;
use super::lazy::{self, Blocks};
use super::plane::Plane;
use super::protocol::{ClaimRequest, Claimed, HeartbeatRequest, WorkerConfig};
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
pub async fn run(config: WorkerConfig, storage: Storage, shutdown: Shutdown) -> anyhow::Result<()> {
    let datums = config.home.join("datums");
    lazy::unmount_below(&datums);
    // What an earlier worker left: nobody reports it any more.
    sandbox::discard(&datums)?;
    std::fs::create_dir_all(&datums)?;
    let binary = config.sandbox_binary.clone();
    let isolation = tokio::task::spawn_blocking(move || isolation(&binary)).await?;
    let cache = Cache::open(config.home.join("cache"), config.cache_bytes_max, storage.clone())?;
    tracing::info!(
        isolation = isolation.as_str(),
        "the worker runs datums under isolation `{}`",
        isolation.as_str()
    );
    let slots = config.slots.max(1);
    let owner = nix::unistd::geteuid()
        .is_root()
        .then_some((config.sandbox_uid, config.sandbox_uid));
    let images = Store::open(config.home.join("images"), owner, Images::new(&config.imports)?)?;
    let worker = Arc::new(Worker {
        plane: Plane::new(&config.plane_url, &config.secret)?,
        bench: Arc::new(Bench {
            config,
            isolation,
            blocks: Arc::new(Blocks::new(storage.clone())),
            storage,
            cache: Arc::new(cache),
            images: Arc::new(images),
            outbox: super::output::Outbox::default(),
            environment: Environment::system(),
            datums,
        }),
        desk: Mutex::default(),
        runnable: Notify::new(),
        room: Notify::new(),
    });
    let (ran, results) = mpsc::channel(BATCH_MAX * 2);
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(Arc::clone(&worker).claim_loop(slots));
    tasks.spawn(Arc::clone(&worker).heartbeat_loop());
    tasks.spawn(Arc::clone(&worker).log_loop());
    tasks.spawn(serving::keep(Arc::clone(&worker.bench), worker.plane.clone()));
    tasks.spawn(Arc::clone(&worker).deliver_loop(results));
    for _ in 0..slots {
        tasks.spawn(Arc::clone(&worker).run_loop(ran.clone()));
    }
    tokio::select! {
        () = shutdown.begun() => Ok(()),
        ended = tasks.join_next() => anyhow::bail!("a part of the worker ended by itself: {ended:?}"),
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

    /// Claims whenever less is queued than runs at once. A batch grows while datums are short.
    async fn claim_loop(self: Arc<Self>, slots: usize) {
        let mut batch = slots;
        let mut claimed_at = Instant::now();
        loop {
            while self.desk().queued() >= slots {
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
