//! Who waits for an epoch: data planes for newer ones, people for the word that one is enforced.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use contract::ids::OrganizationId;
use tokio::sync::watch;

/// The newest epochs that this process knows of, and the newest that the planes enforce.
#[derive(Default)]
pub struct Announcer {
    current: Mutex<HashMap<OrganizationId, watch::Sender<u64>>>,
    enforced: Mutex<HashMap<OrganizationId, watch::Sender<u64>>>,
}

type Table = Mutex<HashMap<OrganizationId, watch::Sender<u64>>>;

fn raise(table: &Table, organization: OrganizationId, epoch: u64) {
    let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
    table
        .entry(organization)
        .or_insert_with(|| watch::channel(0).0)
        .send_if_modified(|known| {
            let newer = epoch > *known;
            *known = epoch.max(*known);
            newer
        });
}

fn subscribe(table: &Table, organization: OrganizationId) -> watch::Receiver<u64> {
    let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
    table
        .entry(organization)
        .or_insert_with(|| watch::channel(0).0)
        .subscribe()
}

impl Announcer {
    /// Says that an epoch was committed.
    pub fn announce(&self, organization: OrganizationId, epoch: u64) {
        raise(&self.current, organization, epoch);
    }

    /// Says it of several.
    pub fn announce_all(&self, changed: &[(OrganizationId, u64)]) {
        for (organization, epoch) in changed {
            self.announce(*organization, *epoch);
        }
    }

    /// Hears of committed epochs.
    pub fn subscribe(&self, organization: OrganizationId) -> watch::Receiver<u64> {
        subscribe(&self.current, organization)
    }

    /// Says that the plane enforces an epoch.
    pub fn acknowledge(&self, organization: OrganizationId, epoch: u64) {
        raise(&self.enforced, organization, epoch);
    }

    /// Waits until the plane enforces the epoch; `false` when it did not say so in time.
    pub async fn wait_acknowledged(&self, organization: OrganizationId, epoch: u64, limit: Duration) -> bool {
        let mut enforced = subscribe(&self.enforced, organization);
        tokio::time::timeout(limit, enforced.wait_for(|known| *known >= epoch))
            .await
            .is_ok_and(|known| known.is_ok())
    }
}
