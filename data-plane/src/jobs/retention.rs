//! Logs do not stay for ever: lines go when they are older than the configuration says, and the oldest ones of a job when it
//! has more bytes than that, in batches, so that nobody who writes lines waits for long. Who reads a log is told so.

use std::time::Duration;

use chassis::process::Shutdown;
use contract::config::LogsConfig;
use tokio::sync::Notify;

use crate::failure::Answer;
use crate::permissions::System;
use crate::plane::Plane;
use crate::worker::lines;

const RETENTION: System = System::because("the plane removes lines that nobody keeps any longer");
/// After the start: a plane that is woken for a moment looks too.
const PAUSE_FIRST: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_secs(600);
/// A job that has too many bytes loses a tenth of what it may have, so that not each line of it costs a batch.
const SPARE: i64 = 10;

/// Says when a job has more bytes than it may.
#[derive(Default)]
pub struct Retention(Notify);

impl Retention {
    /// Lines were kept: the job with most bytes has so many now.
    pub fn lines_came(&self, config: &LogsConfig, bytes: i64) {
        if bytes > limit(config) {
            self.0.notify_one();
        }
    }
}

fn limit(config: &LogsConfig) -> i64 {
    i64::try_from(config.job_bytes_max).unwrap_or(i64::MAX)
}

/// Removes lines until shutdown.
pub async fn follow(plane: Plane, shutdown: Shutdown) {
    let mut pause = PAUSE_FIRST;
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = plane.retention.0.notified() => {}
            () = shutdown.begun() => return,
        }
        pause = PAUSE;
        tokio::select! {
            removed = remove(&plane) => if let Err(error) = removed {
                tracing::warn!("lines of logs that are too old or too many were not removed: {error}");
                pause = PAUSE_FIRST;
            },
            () = shutdown.begun() => return,
        }
    }
}

/// Removes what is too old, and the oldest lines of jobs that have too many.
///
/// # Errors
/// When the database is away: what was removed is, the rest is next time.
pub async fn remove(plane: &Plane) -> Answer<()> {
    let config = &plane.config.logs;
    let before = plane.now() - chrono::Duration::days(i64::from(config.keep_days));
    let most = limit(config);
    loop {
        let mut tx = plane.begin().await?;
        let (job, excess) = match lines::find_old(&mut tx, &RETENTION, before).await? {
            Some(job) => (job, 0),
            None => match lines::find_large(&mut tx, &RETENTION, most).await? {
                Some((job, bytes)) => (job, bytes - (most - most / SPARE)),
                None => return Ok(()),
            },
        };
        lines::remove(&mut tx, &RETENTION, job, before, excess).await?;
        tx.commit().await?;
    }
}

/// What a reader is told of lines that are gone.
pub fn told(config: &LogsConfig, gone: i64) -> String {
    format!(
        "{gone} earlier lines of the job are gone: lines are kept for {} days, and of a job the last {} MiB",
        config.keep_days,
        config.job_bytes_max >> 20
    )
}
