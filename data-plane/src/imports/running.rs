//! How many imports of one person or service account run at once: each holds connections, buffers and the time of others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use contract::policy::Principal;
use contract::problem::ProblemKind;

use crate::failure::{Answer, Failure};

/// So many.
pub const RUNNING_MAX: usize = 4;

/// Imports that run now, by who began them.
#[derive(Default)]
pub struct Running(Mutex<HashMap<Principal, usize>>);

/// One of them, until it is dropped.
pub struct Turn {
    running: Arc<Running>,
    whose: Principal,
}

impl Running {
    /// One more of this person or service account.
    ///
    /// # Errors
    /// `slow-down` when there are [`RUNNING_MAX`] already.
    pub fn begin(self: &Arc<Self>, whose: Principal) -> Answer<Turn> {
        let mut counts = self.counts();
        let count = counts.entry(whose).or_default();
        if *count >= RUNNING_MAX {
            return Err(Failure::new(
                ProblemKind::SlowDown,
                format!("{RUNNING_MAX} imports of yours are running, and no more may run at once; nothing was fetched"),
            )
            .hint("wait until one of them is done, then repeat the command; one command can name many sources"));
        }
        *count += 1;
        drop(counts);
        Ok(Turn {
            running: Arc::clone(self),
            whose,
        })
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<Principal, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut counts = self.running.counts();
        if let Some(count) = counts.get_mut(&self.whose) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.whose);
            }
        }
    }
}
