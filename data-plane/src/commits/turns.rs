//! Turns of puts to one branch. The database decides who wins; taking turns in this process only spares the losers from
//! making their trees again, so a hundred clients on one branch cost a hundred trees and not thousands.

use std::hash::{BuildHasher, RandomState};

use contract::ids::DomainId;
use contract::names::BranchName;
use tokio::sync::{Mutex, MutexGuard};

const LANES: usize = 64;

/// One queue for each branch; few branches share one.
pub struct Turns {
    lanes: [Mutex<()>; LANES],
    hasher: RandomState,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            lanes: std::array::from_fn(|_| Mutex::new(())),
            hasher: RandomState::new(),
        }
    }
}

impl Turns {
    /// Waits for the branch's turn.
    pub async fn take(&self, repo: DomainId, branch: &BranchName) -> MutexGuard<'_, ()> {
        let hash = self.hasher.hash_one((repo, branch));
        let lane = usize::try_from(hash % LANES as u64).unwrap_or(0);
        self.lanes[lane].lock().await
    }
}
