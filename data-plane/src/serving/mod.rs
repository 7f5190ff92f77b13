//! Services: pipelines whose command runs until it is replaced and answers at a port. Their job has one datum, all that its
//! inputs match, and its output commit, which only carries the origins, is finished empty when the command is first wanted:
//! nobody waits for what has no end. The database says which services are wanted (`begin`, `queries`), the worker keeps them
//! running and says how they do (`desk`), and requests go to them under the access rule (`routes`, `forward`).

pub mod begin;
pub mod desk;
mod forward;
mod headers;
pub mod queries;
pub mod routes;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use contract::ids::JobId;
use tokio::sync::{Semaphore, watch};

/// Connections to one service that are being made at once: each takes a thread until it is.
const DIALS_AT_ONCE: usize = 8;

/// Where a service is reached.
#[derive(Clone)]
pub struct Door {
    path: PathBuf,
    dials: Arc<Semaphore>,
}

/// Where the services that answer are reached on this machine.
pub struct Doors(watch::Sender<HashMap<JobId, Door>>);

impl Default for Doors {
    fn default() -> Self {
        Self(watch::Sender::new(HashMap::new()))
    }
}

impl Doors {
    /// Says where all of them are now.
    pub fn set(&self, doors: HashMap<JobId, PathBuf>) {
        self.0.send_if_modified(|known| {
            let same = |(job, path): (&JobId, &PathBuf)| known.get(job).is_some_and(|door| door.path == *path);
            if known.len() == doors.len() && doors.iter().all(same) {
                return false;
            }
            let door = |(job, path): (JobId, PathBuf)| {
                let before = known.remove(&job).filter(|door| door.path == path);
                let new = || Door {
                    path,
                    dials: Arc::new(Semaphore::new(DIALS_AT_ONCE)),
                };
                (job, before.unwrap_or_else(new))
            };
            *known = doors.into_iter().map(door).collect();
            true
        });
    }

    /// Tells of changes.
    pub fn changes(&self) -> watch::Receiver<HashMap<JobId, Door>> {
        self.0.subscribe()
    }
}

/// After that time a service that ends begins to count its failures anew.
const STEADY: Duration = Duration::from_secs(60);
const PAUSE_LEAST: Duration = Duration::from_millis(500);
const PAUSE_MOST: Duration = Duration::from_secs(300);

/// How long a service that ended so often in a row waits before it is started again.
pub fn pause(failures: u32) -> Duration {
    PAUSE_LEAST
        .saturating_mul(1 << failures.saturating_sub(1).min(16))
        .min(PAUSE_MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_five_minutes() {
        let seconds: Vec<f64> = [1, 2, 3, 10, 11, 1000].map(|n| pause(n).as_secs_f64()).to_vec();
        assert_eq!(seconds, [0.5, 1.0, 2.0, 256.0, 300.0, 300.0]);
    }
}
