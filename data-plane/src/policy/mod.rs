//! The policy that this plane enforces: a signed snapshot of the control plane's, kept in memory and on disk, replaced
//! only by a higher epoch, and believed only as long as the control plane was heard of lately (R6).

mod keys;
mod poll;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use contract::config::DataPlaneConfig;
use contract::ids::OrganizationId;
use contract::policy::PolicySnapshot;
use contract::problem::ProblemKind;
use provenance::access::{DecisionCache, Policy};
use tokio::sync::watch;

use crate::failure::{Answer, Failure};

pub use keys::Keys;
pub use poll::{follow, leave_alarm, send_heartbeats};

/// How long a request waits for the epoch that it names.
const EPOCH_WAIT: Duration = Duration::from_secs(5);

/// A request may have looked at the clock a moment before the control plane was heard of.
const CLOCK_TOLERANCE: chrono::Duration = chrono::Duration::seconds(1);

/// The policy in force and how fresh it is.
pub struct PolicyHolder {
    organization: OrganizationId,
    path: PathBuf,
    fail_closed: chrono::Duration,
    current: watch::Sender<Option<Arc<Policy>>>,
    heard_at: Mutex<Option<DateTime<Utc>>>,
    /// What signatures are believed by.
    pub keys: Keys,
    /// Decisions remembered for the current epoch.
    pub decisions: DecisionCache,
}

impl PolicyHolder {
    /// Nothing is known yet: every read is denied.
    ///
    /// # Errors
    /// When the configured JWKS is not one.
    pub fn new(config: &DataPlaneConfig) -> anyhow::Result<Self> {
        Ok(Self {
            organization: config.organization,
            keys: Keys::new(config)?,
            path: config.home.join("policy.jws"),
            fail_closed: chrono::Duration::seconds(
                i64::try_from(config.fail_closed_seconds).unwrap_or(i64::MAX / 1000),
            ),
            current: watch::Sender::new(None),
            heard_at: Mutex::new(None),
            decisions: DecisionCache::new(),
        })
    }

    /// The policy to decide by.
    ///
    /// # Errors
    /// `policy-unreachable` when there is none, or the control plane was not heard of for too long: deny (R2, R6).
    pub fn current(&self, now: DateTime<Utc>) -> Answer<Arc<Policy>> {
        let heard_at = *self.heard_at.lock().unwrap_or_else(PoisonError::into_inner);
        // A clock that was set back would let the policy live longer by as much.
        let fresh = heard_at.is_some_and(|at| now - at < self.fail_closed && at - now <= CLOCK_TOLERANCE);
        match self.current.borrow().clone() {
            Some(policy) if fresh => Ok(policy),
            _ => Err(unreachable()),
        }
    }

    /// The policy whatever its age: for work that was allowed to start and goes on while the control plane is away.
    pub fn last_known(&self) -> Option<Arc<Policy>> {
        self.current.borrow().clone()
    }

    /// The epoch in force, 0 when there is none.
    pub fn epoch(&self) -> u64 {
        self.current.borrow().as_ref().map_or(0, |p| p.epoch())
    }

    /// Changes whenever another policy comes into force.
    pub fn changes(&self) -> watch::Receiver<Option<Arc<Policy>>> {
        self.current.subscribe()
    }

    /// Waits until the policy is at least of that epoch (R13).
    ///
    /// # Errors
    /// `policy-unreachable` when it does not come in time.
    pub async fn wait_for_epoch(&self, epoch: u64) -> Answer<()> {
        if self.epoch() >= epoch {
            return Ok(());
        }
        let mut changes = self.current.subscribe();
        let reached = changes.wait_for(|p| p.as_ref().is_some_and(|p| p.epoch() >= epoch));
        match tokio::time::timeout(EPOCH_WAIT, reached).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(unreachable()),
        }
    }

    /// Brings a snapshot into force unless one of that or a higher epoch is in force already. Answers whether it did.
    pub fn install(&self, snapshot: PolicySnapshot) -> bool {
        let epoch = snapshot.epoch;
        let policy = Arc::new(Policy::new(snapshot));
        self.current.send_if_modified(|current| {
            let newer = current.as_ref().is_none_or(|c| c.epoch() < epoch);
            if newer {
                *current = Some(policy);
            }
            newer
        })
    }

    /// The control plane was heard of at that time: it knows of no newer policy than the one in force.
    pub fn heard(&self, at: DateTime<Utc>) {
        *self.heard_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(at);
    }

    /// Verifies a signed snapshot that came at that time, brings it into force, keeps it on disk. Answers whether it was new.
    ///
    /// # Errors
    /// When it is not one for this plane.
    pub fn accept(&self, signed: &str, at: DateTime<Utc>) -> anyhow::Result<bool> {
        let snapshot = self.verify(signed)?;
        if self.epoch() >= snapshot.epoch {
            return Ok(false);
        }
        let epoch = snapshot.epoch;
        // Before it is in force: who waits for that must not find a policy that nobody was heard of.
        self.heard(at);
        let installed = self.install(snapshot);
        // A full disk must not hold up a revocation; what is lost is the start while the control plane is away.
        if let Err(error) = persist(&self.path, signed) {
            tracing::error!(error = %error, policy.epoch = epoch, "the policy in force could not be kept on disk: {error}");
        }
        Ok(installed)
    }

    /// Loads the snapshot of the last run. It counts once the control plane was heard of.
    ///
    /// # Errors
    /// When there is one and it cannot be read or believed.
    pub fn load(&self) -> anyhow::Result<bool> {
        match std::fs::read_to_string(&self.path) {
            Ok(signed) => Ok(self.install(self.verify(signed.trim())?)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn verify(&self, signed: &str) -> anyhow::Result<PolicySnapshot> {
        let claims = self.keys.policy(signed)?;
        anyhow::ensure!(
            claims.policy.organization == self.organization,
            "the snapshot is another organization's"
        );
        Ok(claims.policy)
    }
}

fn unreachable() -> Failure {
    Failure::new(
        ProblemKind::PolicyUnreachable,
        "the data plane has not heard from the control plane lately, so it cannot tell who may read what",
    )
    .hint("repeat the request after a few seconds")
}

/// Puts a text into a file in the place of what it held, whole or not at all.
fn persist(path: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write;
    let fresh = path.with_added_extension("new");
    let mut file = std::fs::File::create(&fresh)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)
}
