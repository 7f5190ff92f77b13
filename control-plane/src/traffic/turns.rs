//! How many requests of one organization are under way at once. The others wait their turn, and not for ever: an organization's crowd
//! stands in a queue of its own.

use std::sync::Arc;
use std::time::Duration;

use contract::names::OrganizationName;
use contract::problem::ProblemKind;
use moka::sync::Cache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Subject;
use crate::refusal::Refusal;

/// So many of one crowd wait; who comes then is sent away at once.
const QUEUE: usize = 200;
/// Crowds that are remembered. One that is forgotten while it waits only counts anew.
const CROWDS: u64 = 100_000;
const IDLE: Duration = Duration::from_secs(600);

#[derive(Clone)]
struct Crowd {
    running: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

/// Turns of crowds.
pub struct Turns {
    /// Who has lately been let into which organization: only those stand in its queue.
    known: Cache<(Subject, OrganizationName), ()>,
    crowds: Cache<Subject, Crowd>,
    at_once: usize,
    patience: Duration,
}

impl Turns {
    /// So many at once of each crowd; the others wait so long at most.
    pub fn new(at_once: usize, patience: Duration) -> Self {
        Self {
            known: Cache::builder().max_capacity(CROWDS).time_to_live(IDLE).build(),
            crowds: Cache::builder().max_capacity(CROWDS).time_to_idle(IDLE).build(),
            at_once: at_once.max(1),
            patience,
        }
    }

    /// The holder of a token was let into an organization.
    pub fn let_in(&self, token: Subject, organization: OrganizationName) {
        self.known.insert((token, organization), ());
    }

    /// In whose queue a request waits that names an organization: in that one's only if its caller was let in there before. A stranger
    /// stands in his own.
    pub fn crowd(&self, token: Option<&Subject>, organization: Option<OrganizationName>) -> Option<Subject> {
        let token = token?;
        let organization = organization?;
        let name = organization.as_str().to_ascii_lowercase();
        let known = self.known.contains_key(&(token.clone(), organization));
        known.then_some(Subject::Organization(name))
    }

    /// Waits for a turn, which lasts until it is dropped.
    ///
    /// # Errors
    /// `slow-down` when too many of the same crowd wait, or it takes too long.
    pub async fn take(&self, crowd: Subject) -> Result<OwnedSemaphorePermit, Refusal> {
        let crowd = self.crowds.get_with(crowd, || Crowd {
            running: Arc::new(Semaphore::new(self.at_once)),
            waiting: Arc::new(Semaphore::new(QUEUE)),
        });
        if let Ok(turn) = Arc::clone(&crowd.running).try_acquire_owned() {
            return Ok(turn);
        }
        let _place = crowd.waiting.try_acquire().map_err(|_| crowded())?;
        match tokio::time::timeout(self.patience, Arc::clone(&crowd.running).acquire_owned()).await {
            Ok(Ok(turn)) => Ok(turn),
            _ => Err(crowded()),
        }
    }
}

fn crowded() -> Refusal {
    Refusal::new(
        ProblemKind::SlowDown,
        "too many requests of this organization are under way at once",
    )
    .hint("send fewer at a time, and this one again in a moment")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_crowd_waits_behind_itself_and_nobody_else_behind_it() {
        let turns = Turns::new(1, Duration::from_millis(10));
        let (a, b) = (
            Subject::Organization("a".to_owned()),
            Subject::Organization("b".to_owned()),
        );
        let first = turns.take(a.clone()).await.unwrap();
        assert!(turns.take(b).await.is_ok());
        assert!(turns.take(a.clone()).await.is_err(), "nobody gave way in time");
        drop(first);
        assert!(turns.take(a).await.is_ok());
    }
}
