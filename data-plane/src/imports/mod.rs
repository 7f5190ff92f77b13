//! Files that are fetched from elsewhere by the plane itself: `https://…` and `s3://…` addresses become files of one commit.
//! What arrives goes straight into storage, as an upload does; a connection that breaks is resumed where it broke, as long
//! as the source is still the same. Nothing that is not public is reached unless the configuration names it, and what a
//! file was fetched from stands in its commit.

pub mod address;
pub mod client;
pub mod http;
pub mod location;
pub mod progress;
pub mod resume;
pub mod routes;
pub mod running;
pub mod s3;
pub mod work;

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use contract::config::ImportConfig;
use contract::problem::ProblemKind;
use tokio::sync::Semaphore;

use crate::failure::Failure;
use address::Reachable;
use running::Running;

/// Files of all imports that are fetched at once: each holds a buffer.
const FETCHES_OF_ALL_MAX: usize = 32;
const MOMENT: Duration = Duration::from_secs(1);

/// What fetches. One for the plane.
pub struct Importer {
    /// Speaks HTTP to whom it may, and to nobody else.
    client: reqwest::Client,
    /// Whom it may speak to.
    reachable: Arc<Reachable>,
    /// How long it waits, how often it tries.
    patience: Patience,
    /// Bytes of one import at most.
    bytes_max: u64,
    /// Who may fetch a file now.
    fetches: Semaphore,
    /// Imports that run now.
    running: Arc<Running>,
}

/// How long and how often something is tried.
#[derive(Debug, Clone)]
pub struct Patience {
    /// So long nothing may come.
    idle: Duration,
    /// The first wait before another try.
    wait: Duration,
    /// Tries in a row that get nowhere.
    retries: u32,
}

impl Importer {
    /// Makes it as configured.
    ///
    /// # Errors
    /// When the HTTP client cannot be made.
    pub fn new(config: &ImportConfig) -> anyhow::Result<Self> {
        let reachable = Arc::new(Reachable::new(&config.allow));
        Ok(Self {
            client: client::client(
                &reachable,
                Duration::from_secs(config.connect_seconds),
                // A little longer than we wait ourselves, where we say what was waited for.
                Duration::from_secs(config.idle_seconds) + MOMENT,
            )?,
            reachable,
            patience: Patience {
                idle: Duration::from_secs(config.idle_seconds),
                wait: Duration::from_millis(config.retry_milliseconds),
                retries: config.retries,
            },
            bytes_max: config.bytes_max,
            fetches: Semaphore::new(FETCHES_OF_ALL_MAX),
            running: Arc::default(),
        })
    }

    /// Whom it may speak to.
    pub fn reachable(&self) -> &Reachable {
        &self.reachable
    }

    /// The first wait before another try.
    pub fn first_wait(&self) -> Duration {
        self.patience.wait
    }

    /// So long nothing may come.
    pub fn idle(&self) -> Duration {
        self.patience.idle
    }
}

/// Why a source could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Trouble {
    /// It may be read in a moment.
    #[error("{0}")]
    Broken(String),
    /// It is not what it was any more, or can't be read from the middle.
    #[error("the source changed while it was read")]
    Changed,
    /// It stands for a directory and is no file.
    #[error("it marks a directory")]
    Marker,
    /// It is no use to try again.
    #[error("{0}")]
    Final(Failure),
}

/// A source that cannot be read.
fn source_failed(detail: impl Into<String>) -> Failure {
    Failure::new(ProblemKind::SourceFailed, detail)
        .hint("nothing was committed; look whether the address can be read from elsewhere, then repeat the command")
}

/// The innermost cause: the outer ones only repeat that a request failed, some of them with an address that may hold a
/// secret.
pub fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

/// What this error or one below it is, if one of them is a `T`.
pub fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    let mut inner = Some(error);
    while let Some(error) = inner {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        inner = error.source();
    }
    None
}
