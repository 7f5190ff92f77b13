//! Keeps one worker process running beside an embedded plane, and frees what it held at once when it dies, so that a
//! killed worker costs its datums no try and no waiting for a lease to run out.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use chassis::process::Shutdown;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, Command};
use uuid::Uuid;

use super::protocol::{RunnerConfig, WorkerConfig};
use super::queries::{self, Gone};
use crate::failure::Failure;
use crate::permissions::System;
use crate::plane::Plane;

const SELF: System = System::because("the plane looks after its own workers");
/// Bytes of inputs that a worker keeps on disk.
const CACHE_BYTES_MAX: u64 = 4 << 30;
/// Before a worker that died is started again.
const PAUSE_LEAST: Duration = Duration::from_millis(50);
const PAUSE_MOST: Duration = Duration::from_secs(10);

/// Runs a worker until shutdown; `url` is where it reaches the plane.
pub async fn supervise(plane: Plane, binary: PathBuf, url: String, shutdown: Shutdown) {
    let mut pause = PAUSE_LEAST;
    // Workers of an earlier boot died with their plane.
    release(&plane, Gone::All, &shutdown).await;
    while !shutdown.has_begun() {
        let worker = Uuid::from_bytes(plane.environment.random());
        let began = tokio::time::Instant::now();
        match start(&plane, &binary, &url, worker).await {
            Ok((mut child, pipe)) => {
                tokio::select! {
                    ended = child.wait() => tracing::warn!("the worker ended ({ended:?}), it is started again"),
                    () = shutdown.begun() => {
                        drop(pipe);
                        stop(child).await;
                        return;
                    }
                }
            }
            Err(error) => tracing::error!("the worker `{}` could not be started: {error}", binary.display()),
        }
        release(&plane, Gone::Worker(worker), &shutdown).await;
        pause = if began.elapsed() > Duration::from_secs(5) {
            PAUSE_LEAST
        } else {
            (pause * 2).min(PAUSE_MOST)
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.begun() => return,
        }
    }
}

async fn start(plane: &Plane, binary: &PathBuf, url: &str, worker: Uuid) -> std::io::Result<(Child, ChildStdin)> {
    let config = WorkerConfig {
        plane_url: url.to_owned(),
        secret: plane.worker_secret.clone(),
        pool: None,
        capability: None,
        lasting: false,
        worker,
        store: plane.config.store.for_worker(),
        data_key: plane.config.data_key.clone(),
        home: plane.config.home.clone(),
        runner: RunnerConfig::Sandbox,
        sandbox_binary: plane.config.sandbox_binary.clone(),
        masked: plane.config.masked.clone(),
        slots: plane.config.slots,
        sandbox_uid: plane.config.sandbox_uid,
        cache_bytes_max: CACHE_BYTES_MAX,
        imports: plane.config.imports.clone(),
    };
    let mut child = Command::new(binary)
        .arg("worker")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let mut line = serde_json::to_vec(&config)?;
    line.push(b'\n');
    // Taken out, because waiting for a child closes what is left in it.
    let mut pipe = child
        .stdin
        .take()
        .ok_or_else(|| std::io::Error::other("the worker has no standard input"))?;
    pipe.write_all(&line).await?;
    pipe.flush().await?;
    tracing::info!(worker.pid = child.id(), "started worker {:?}", child.id());
    Ok((child, pipe))
}

/// The end of the pipe has asked the worker to stop; one that does not is killed.
async fn stop(mut child: Child) {
    if tokio::time::timeout(Duration::from_secs(5), child.wait())
        .await
        .is_err()
    {
        let _ = child.kill().await;
    }
}

/// Frees what a dead worker held; tried until the database answers, because only then the datums go on soon.
async fn release(plane: &Plane, gone: Gone<'_>, shutdown: &Shutdown) {
    while !shutdown.has_begun() {
        let freed = match plane.pool.acquire().await {
            Ok(mut conn) => queries::free(&mut conn, &SELF, gone, plane.now()).await,
            Err(error) => Err(Failure::from(error)),
        };
        match freed {
            Ok(freed) => {
                if freed > 0 {
                    plane.signals.work_changed();
                }
                return;
            }
            Err(error) => tracing::warn!("the leases of dead workers could not be freed yet: {error}"),
        }
        tokio::time::sleep(PAUSE_LEAST * 4).await;
    }
}
