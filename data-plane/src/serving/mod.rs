//! Services: pipelines whose command runs until it is replaced and answers at a port. Their job has one datum, all that its
//! inputs match, and its output commit, which only carries the origins, is finished empty when the command is first wanted:
//! nobody waits for what has no end. The database says which services are wanted (`begin`, `queries`), the worker keeps them
//! running and says how they do (`desk`), and requests go to them under the access rule (`routes`, `forward`).

pub mod begin;
pub mod desk;
mod forward;
mod headers;
mod pod;
pub mod queries;
pub mod routes;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use contract::ids::JobId;
use tokio::sync::{Semaphore, watch};
use uuid::Uuid;

use crate::worker::capability::WORD_BYTES;

/// Connections to one service that are being made at once: on this machine each takes a thread until it is.
const DIALS_AT_ONCE: usize = 8;

/// How connections to a service are had. It has no `Debug`: there is a secret in it.
#[derive(Clone, PartialEq, Eq)]
pub enum Way {
    /// From a socket of this machine.
    Socket(PathBuf),
    /// Through the agent of a pod, which is told this word.
    Agent(SocketAddr, [u8; WORD_BYTES]),
}

/// Where a service is reached.
#[derive(Clone)]
pub struct Door {
    /// The worker of a pool that keeps it; `None`: the plane's own.
    keeper: Option<Uuid>,
    way: Way,
    dials: Arc<Semaphore>,
}

/// Where the services that answer are reached.
pub struct Doors(watch::Sender<HashMap<JobId, Door>>);

impl Default for Doors {
    fn default() -> Self {
        Self(watch::Sender::new(HashMap::new()))
    }
}

impl Doors {
    /// Says where all of a keeper's are now.
    pub fn set(&self, keeper: Option<Uuid>, ways: HashMap<JobId, Way>) {
        self.0.send_if_modified(|known| {
            let same = |(job, way): (&JobId, &Way)| {
                let door = known.get(job);
                door.is_some_and(|door| door.keeper == keeper && door.way == *way)
            };
            let count = known.values().filter(|door| door.keeper == keeper).count();
            if count == ways.len() && ways.iter().all(same) {
                return false;
            }
            let mut before: HashMap<JobId, Door> = known.extract_if(|_, door| door.keeper == keeper).collect();
            for (job, way) in ways {
                let kept = before.remove(&job).filter(|door| door.way == way);
                let new = || Door {
                    keeper,
                    way,
                    dials: Arc::new(Semaphore::new(DIALS_AT_ONCE)),
                };
                known.insert(job, kept.unwrap_or_else(new));
            }
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

    #[test]
    fn each_keeper_says_where_its_own_services_are_and_nothing_of_others() {
        let (doors, job) = (Doors::default(), |n| JobId::from_uuid(Uuid::from_u128(n)));
        let known = doors.changes();
        let at = |path: &str| Way::Socket(path.into());
        let pod = |n| Some(Uuid::from_u128(n));
        doors.set(None, [(job(1), at("a"))].into());
        doors.set(pod(7), [(job(2), at("b"))].into());
        let dials = Arc::clone(&known.borrow()[&job(2)].dials);
        doors.set(None, HashMap::new());
        doors.set(pod(7), [(job(2), at("b")), (job(3), at("c"))].into());
        assert!(
            Arc::ptr_eq(&dials, &known.borrow()[&job(2)].dials),
            "it is the same door"
        );
        // Another pod has it now; what the one before says last changes nothing of that.
        doors.set(pod(8), [(job(2), at("d"))].into());
        doors.set(pod(7), HashMap::new());
        let left: Vec<(JobId, bool)> = known
            .borrow()
            .iter()
            .map(|(job, door)| (*job, door.way == at("d")))
            .collect();
        assert_eq!(left, [(job(2), true)]);
    }
}
