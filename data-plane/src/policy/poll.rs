//! The two conversations with the control plane that never end: the long poll for the policy, and the heartbeat.

use std::time::Duration;

use chassis::process::Shutdown;
use chrono::{DateTime, Utc};
use contract::config::Heartbeat;

use crate::cron;
use crate::plane::Plane;

const HEARTBEAT_EVERY: Duration = Duration::from_secs(3);
const PAUSE_LEAST: Duration = Duration::from_millis(100);
/// How often, and how long each time, the last alarm is told.
const LAST_ATTEMPTS: usize = 3;
const LAST_WAIT: Duration = Duration::from_secs(1);
const PAUSE_MOST: Duration = Duration::from_secs(2);

/// Asks for the policy again and again until shutdown. Each answer is a sign of life of the control plane.
pub async fn follow(plane: Plane, shutdown: Shutdown) {
    // Shorter than the limit, so that a quiet policy never looks like a control plane that is away.
    let wait_seconds = (plane.config.fail_closed_seconds / 3).clamp(1, 20);
    let mut pause = PAUSE_LEAST;
    let mut first = true;
    while !shutdown.has_begun() {
        // The first answer must come at once: nothing is served before it.
        let wait = if first { 0 } else { wait_seconds };
        let asked = plane.policy.epoch();
        let answer = tokio::select! {
            answer = plane.control.poll_policy(asked, plane.policy.keys.version(), wait) => answer,
            () = shutdown.begun() => return,
        };
        match answer.map_err(anyhow::Error::from).and_then(|a| take(&plane, &a)) {
            Ok(()) => {
                first = false;
                pause = PAUSE_LEAST;
            }
            Err(error) => {
                tracing::warn!(error = %error, "the policy could not be read: {error}");
                // Once it is back it shall say so at once, not at the end of a long poll.
                first = true;
                refresh_keys(&plane).await;
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = shutdown.begun() => return,
                }
                pause = (pause * 2).min(PAUSE_MOST);
            }
        }
    }
}

fn take(plane: &Plane, answer: &contract::policy::PolicyAnswer) -> anyhow::Result<()> {
    // Before anything that is signed: what a withdrawn key signed is not believed any more.
    if let Some(published) = &answer.keys {
        plane.policy.keys.take(published)?;
    }
    if let Some(signed) = &answer.signed_snapshot {
        plane.policy.accept(signed, plane.now())?;
    }
    anyhow::ensure!(
        plane.policy.epoch() >= answer.epoch || answer.signed_snapshot.is_some(),
        "the control plane named epoch {} and sent no snapshot",
        answer.epoch
    );
    plane.policy.heard(plane.now());
    Ok(())
}

/// Reads the published keys beside the poll: a control plane of the version before sends none with its answers.
async fn refresh_keys(plane: &Plane) {
    if let Ok(published) = plane.control.keys().await
        && let Err(error) = plane.policy.keys.take(&published)
    {
        tracing::warn!("the published keys could not be read: {error:#}");
    }
}

/// Says every few seconds that the plane lives, what it enforces, whether it is idle and when it has something to do.
pub async fn send_heartbeats(plane: Plane, shutdown: Shutdown) {
    let mut wake_at = None;
    let mut timer = tokio::time::interval(HEARTBEAT_EVERY);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !shutdown.has_begun() {
        tokio::select! {
            _ = timer.tick() => {}
            () = shutdown.begun() => return,
        }
        match cron::next_alarm(&plane).await {
            Ok(next) => wake_at = next,
            Err(error) => tracing::debug!(error = %error, "the last known alarm is told"),
        }
        send_heartbeat(&plane, wake_at).await;
    }
}

async fn send_heartbeat(plane: &Plane, wake_at: Option<DateTime<Utc>>) -> bool {
    let heartbeat = Heartbeat {
        epoch: plane.policy.epoch(),
        idle_seconds: plane.activity.idle_seconds(plane.now()),
        wake_at,
    };
    let sent = plane.control.heartbeat(&heartbeat).await;
    if let Err(error) = &sent {
        tracing::debug!(error = %error, "the heartbeat was not heard");
    }
    sent.is_ok()
}

/// Leaves the time of the next alarm when nothing can change it any more: requests and tasks are over. What was asked of
/// the plane while it drained counts.
pub async fn leave_alarm(plane: &Plane) {
    for _ in 0..LAST_ATTEMPTS {
        let told = async {
            match cron::next_alarm(plane).await {
                Ok(next) => send_heartbeat(plane, next).await,
                Err(_) => false,
            }
        };
        if let Ok(true) = tokio::time::timeout(LAST_WAIT, told).await {
            return;
        }
        tokio::time::sleep(PAUSE_LEAST).await;
    }
    tracing::warn!("the control plane was not told when this plane has something to do next");
}
