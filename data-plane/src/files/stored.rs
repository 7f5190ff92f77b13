//! What a request has stored on its way to a commit. Bytes are durable long before a row refers to them, so whatever ends
//! the request in between (a full disk, a conflict, a caller who hung up) would leave packs that nobody ever reads.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use contract::problem::ProblemKind;
use storage::{Storage, Writer};

use crate::failure::{Answer, Failure};

/// No request may store for longer: packs that nothing refers to are kept at least twice that long.
pub const LONGEST: Duration = Duration::from_secs(12 * 3600);

/// A write session that is taken back when it is dropped before [`Stored::may_be_referred_to`].
pub struct Stored {
    writer: Writer,
    referred: AtomicBool,
    begun: Instant,
}

impl Stored {
    /// Begins a session.
    pub fn begin(storage: &Storage) -> Self {
        Self {
            writer: storage.writer(),
            referred: AtomicBool::new(false),
            begun: Instant::now(),
        }
    }

    /// Whether what was stored and learned of may still be referred to.
    ///
    /// # Errors
    /// `upstream-timeout` when the session is older than [`LONGEST`].
    pub fn in_time(&self) -> Answer<()> {
        if self.begun.elapsed() < LONGEST {
            return Ok(());
        }
        Err(Failure::new(
            ProblemKind::UpstreamTimeout,
            format!("the upload took longer than {} hours", LONGEST.as_secs() / 3600),
        )
        .hint("put less at a time, into an open commit: `howdah commit start`"))
    }

    /// To be called before a transaction is committed that refers to what was stored: from then on nobody but the
    /// collection of garbage can know whether it is needed, since the answer to the commit may be lost.
    pub fn may_be_referred_to(&self) {
        self.referred.store(true, Ordering::SeqCst);
    }
}

impl Deref for Stored {
    type Target = Writer;

    fn deref(&self) -> &Writer {
        &self.writer
    }
}

impl Drop for Stored {
    fn drop(&mut self) {
        if self.referred.load(Ordering::SeqCst) {
            return;
        }
        let writer = self.writer.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Err(error) = writer.discard().await {
                    tracing::warn!("packs of a request that failed are left to the collection of garbage: {error}");
                }
            });
        }
    }
}
