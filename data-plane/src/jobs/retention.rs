//! Logs do not stay for ever: lines go when they are older than the configuration says, and the oldest ones of a job when it
//! has more bytes than that, in batches, so that nobody who writes lines waits for long. Who reads a log is told so.

use std::time::Duration;

use chassis::process::Shutdown;
use chrono::{DateTime, Utc};
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
    let before = oldest_kept(&plane.config.logs, plane.now());
    // Whatever keeps one rule from being followed, the other is.
    let (old, large) = (remove_old(plane, before).await, remove_large(plane, before).await);
    old.and(large)
}

fn oldest_kept(config: &LogsConfig, now: DateTime<Utc>) -> DateTime<Utc> {
    let days = chrono::Duration::days(i64::from(days(config)));
    now.checked_sub_signed(days).unwrap_or(DateTime::UNIX_EPOCH)
}

fn days(config: &LogsConfig) -> u32 {
    config.keep_days.min(LogsConfig::DAYS_MAX)
}

async fn remove_old(plane: &Plane, before: DateTime<Utc>) -> Answer<()> {
    loop {
        let mut tx = plane.begin().await?;
        let Some(job) = lines::find_old(&mut tx, &RETENTION, before).await? else {
            return Ok(());
        };
        lines::remove(&mut tx, &RETENTION, job, before, 0).await?;
        tx.commit().await?;
    }
}

async fn remove_large(plane: &Plane, before: DateTime<Utc>) -> Answer<()> {
    let most = limit(&plane.config.logs);
    loop {
        let mut tx = plane.begin().await?;
        let Some((job, bytes)) = lines::find_large(&mut tx, &RETENTION, most).await? else {
            return Ok(());
        };
        let excess = bytes - (most - most / SPARE);
        lines::remove(&mut tx, &RETENTION, job, before, excess).await?;
        tx.commit().await?;
    }
}

/// What a reader is told of lines that are gone, be it one who wants those of a datum.
pub fn told(config: &LogsConfig, gone: i64, of_datum: bool) -> String {
    let whose = match of_datum {
        true => ", some of this datum perhaps",
        false => "",
    };
    format!(
        "{gone} earlier lines of the job are gone{whose}: lines are kept for {} days, and of a job the last {} MiB",
        days(config),
        config.job_bytes_max >> 20
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_days_as_a_number_holds_are_a_century() {
        let now = DateTime::UNIX_EPOCH + chrono::Duration::days(50_000);
        let kept = |keep_days| {
            let config = LogsConfig {
                keep_days,
                ..LogsConfig::default()
            };
            (now - oldest_kept(&config, now)).num_days()
        };
        assert_eq!([kept(30), kept(999_999_999), kept(u32::MAX)], [30, 36_500, 36_500]);
    }
}
