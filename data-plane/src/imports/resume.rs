//! One file, read to its end however often the connection breaks: each time it goes on where it broke, after a while, as
//! long as the source says that it is still the same. Only what gets nowhere several times in a row is given up.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{BoxStream, Stream, StreamExt};

use super::http::Web;
use super::progress::Progress;
use super::s3::Object;
use super::{Patience, Trouble, source_failed};
use crate::failure::Failure;

const WAIT_MAX: Duration = Duration::from_secs(10);
/// Who gets that far between two breaks gets somewhere.
const STEP_BYTES: u64 = 64 << 10;

/// A file at its source.
#[derive(Clone)]
pub(super) enum Remote {
    Web(Web),
    Object(Object),
}

/// What a source said of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) etag: Option<String>,
    pub(super) version: Option<String>,
    /// Its size, if that is known before its end.
    pub(super) size: Option<u64>,
}

/// A file that is being sent, from where it was asked for.
pub(super) struct Opened {
    pub(super) identity: Identity,
    pub(super) bytes: BoxStream<'static, Result<Bytes, Trouble>>,
}

impl Remote {
    pub(super) fn shown(&self) -> &str {
        match self {
            Self::Web(web) => web.shown(),
            Self::Object(object) => object.shown(),
        }
    }

    async fn open(&self, at: u64, known: &Identity) -> Result<Opened, Trouble> {
        match self {
            Self::Web(web) => web.open(at, known).await,
            Self::Object(object) => object.open(at, known).await,
        }
    }
}

/// A file on its way.
pub(super) struct Reading {
    remote: Remote,
    patience: Patience,
    progress: Arc<Progress>,
    identity: Identity,
    /// Somebody has been told the identity.
    begun: bool,
    opened: Option<BoxStream<'static, Result<Bytes, Trouble>>>,
    at: u64,
    /// Where it was when it broke last.
    broke_at: u64,
    /// Breaks in a row without getting anywhere.
    breaks: u32,
}

impl Reading {
    /// Begins.
    pub(super) async fn begin(remote: Remote, patience: &Patience, progress: Arc<Progress>) -> Result<Self, Trouble> {
        let mut reading = Self {
            remote,
            patience: patience.clone(),
            progress,
            identity: Identity::default(),
            begun: false,
            opened: None,
            at: 0,
            broke_at: 0,
            breaks: 0,
        };
        while reading.opened.is_none() {
            reading.open().await?;
        }
        reading.begun = true;
        Ok(reading)
    }

    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The bytes.
    pub(super) fn stream(self) -> impl Stream<Item = Result<Bytes, Trouble>> {
        futures::stream::try_unfold(self, |mut reading| async move {
            let next = reading.next().await;
            if next.is_err() {
                reading.progress.lost(reading.at);
            }
            Ok(next?.map(|bytes| (bytes, reading)))
        })
    }

    async fn open(&mut self) -> Result<(), Trouble> {
        match self.remote.open(self.at, &self.identity).await {
            Ok(opened) => {
                if self.at == 0 {
                    if self.begun && opened.identity != self.identity {
                        return Err(Trouble::Changed);
                    }
                    self.identity = opened.identity;
                } else if opened.identity.size != self.identity.size {
                    return Err(Trouble::Changed);
                }
                self.opened = Some(opened.bytes);
                Ok(())
            }
            Err(Trouble::Broken(why)) => self.broke(&why).await,
            Err(other) => Err(other),
        }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Trouble> {
        loop {
            let Some(opened) = &mut self.opened else {
                if self.identity.size == Some(self.at) {
                    return Ok(None);
                }
                self.open().await?;
                continue;
            };
            let why = match tokio::time::timeout(self.patience.idle, opened.next()).await {
                Ok(Some(Ok(bytes))) if bytes.is_empty() => continue,
                Ok(Some(Ok(bytes))) => {
                    self.arrived(bytes.len() as u64)?;
                    return Ok(Some(bytes));
                }
                Ok(None) if self.identity.size.is_none_or(|size| size == self.at) => return Ok(None),
                Ok(None) => "it ended before its end".to_owned(),
                Ok(Some(Err(Trouble::Broken(why)))) => why,
                Ok(Some(Err(other))) => return Err(other),
                Err(_) => format!("nothing came for {} s", self.patience.idle.as_secs()),
            };
            self.broke(&why).await?;
        }
    }

    fn arrived(&mut self, bytes: u64) -> Result<(), Trouble> {
        self.at += bytes;
        self.progress.arrived(bytes).map_err(Trouble::Final)?;
        if self.identity.size.is_some_and(|size| self.at > size) {
            let shown = self.remote.shown();
            return Err(Trouble::Final(source_failed(format!(
                "`{shown}` sent more than it said"
            ))));
        }
        Ok(())
    }

    /// The connection is gone; waits before the next one.
    async fn broke(&mut self, why: &str) -> Result<(), Trouble> {
        self.opened = None;
        if self.at >= self.broke_at + STEP_BYTES {
            self.breaks = 0;
        }
        self.broke_at = self.at;
        self.breaks += 1;
        if self.breaks > self.patience.retries {
            return Err(Trouble::Final(self.given_up(why)));
        }
        tracing::info!(at = self.at, "a source broke off and is tried again: {why}");
        let wait = self.patience.wait * 2_u32.saturating_pow(self.breaks - 1);
        tokio::time::sleep(wait.min(WAIT_MAX)).await;
        Ok(())
    }

    fn given_up(&self, why: &str) -> Failure {
        let why: String = why.chars().take(300).collect();
        source_failed(format!(
            "`{}` could not be read to its end in {} tries: {why}",
            self.remote.shown(),
            self.breaks
        ))
    }
}
