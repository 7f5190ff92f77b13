//! Whether the plane has something to do. An idle plane is stopped by the control plane, so a request counts until the
//! last byte of its answer is gone, and a job until it has ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use chrono::{DateTime, Utc};

/// Counts what is going on. Cheap to clone.
#[derive(Clone)]
pub struct Activity(Arc<Counts>);

struct Counts {
    running: AtomicUsize,
    last_ended_ms: AtomicI64,
}

/// Something is going on until this is dropped.
pub struct Busy(Arc<Counts>, chassis::Environment);

impl Activity {
    /// Nothing goes on since `now`.
    pub fn new(now: DateTime<Utc>) -> Self {
        Self(Arc::new(Counts {
            running: AtomicUsize::new(0),
            last_ended_ms: AtomicI64::new(now.timestamp_millis()),
        }))
    }

    /// Something begins.
    pub fn begin(&self, environment: &chassis::Environment) -> Busy {
        self.0.running.fetch_add(1, Ordering::SeqCst);
        Busy(Arc::clone(&self.0), environment.clone())
    }

    /// Seconds without anything going on; 0 = busy.
    pub fn idle_seconds(&self, now: DateTime<Utc>) -> u64 {
        if self.0.running.load(Ordering::SeqCst) > 0 {
            return 0;
        }
        let idle_ms = now.timestamp_millis() - self.0.last_ended_ms.load(Ordering::SeqCst);
        u64::try_from(idle_ms / 1000).unwrap_or(0)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0
            .last_ended_ms
            .store(self.1.now().timestamp_millis(), Ordering::SeqCst);
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}
