//! An object store in memory that fails when told: refuses puts, loses answers, dies, or is full.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result,
};

/// What happens when the time has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The put is refused; nothing is stored.
    Refuse,
    /// The put is done, but its answer is lost.
    LoseAnswer,
    /// From this put on nothing answers any more.
    Die,
    /// There is no space for this put, nor for later ones.
    Full,
}

/// The store.
#[derive(Debug)]
pub struct Faulty {
    inner: Arc<InMemory>,
    fault: Fault,
    puts_before: AtomicUsize,
    dead: AtomicBool,
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "faulty store")
    }
}

impl Faulty {
    /// Fails the put after `puts_before` good ones.
    pub fn after(inner: Arc<InMemory>, puts_before: usize, fault: Fault) -> Arc<Self> {
        Arc::new(Self {
            inner,
            fault,
            puts_before: AtomicUsize::new(puts_before),
            dead: AtomicBool::new(false),
        })
    }

    /// Never fails.
    pub fn never() -> Arc<Self> {
        Self::after(Arc::new(InMemory::new()), usize::MAX, Fault::Refuse)
    }

    fn error(&self) -> object_store::Error {
        let source: Box<dyn std::error::Error + Send + Sync> = match self.fault {
            Fault::Full => Box::new(io::Error::from(io::ErrorKind::StorageFull)),
            _ => Box::new(io::Error::other("injected fault")),
        };
        object_store::Error::Generic {
            store: "faulty",
            source,
        }
    }

    fn alive(&self) -> Result<()> {
        if self.dead.load(Ordering::SeqCst) {
            Err(self.error())
        } else {
            Ok(())
        }
    }

    fn is_due(&self) -> bool {
        let step = |left: usize| {
            Some(if left == usize::MAX {
                left
            } else {
                left.saturating_sub(1)
            })
        };
        let left = self
            .puts_before
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, step)
            .unwrap_or(0);
        if left == 0 && matches!(self.fault, Fault::Refuse | Fault::LoseAnswer) {
            // Once only.
            self.puts_before.store(usize::MAX, Ordering::SeqCst);
        }
        left == 0
    }
}

#[async_trait::async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.alive()?;
        if !self.is_due() {
            return self.inner.put_opts(location, payload, options).await;
        }
        match self.fault {
            Fault::Refuse | Fault::Full => {}
            Fault::LoseAnswer => {
                self.inner.put_opts(location, payload, options).await?;
            }
            Fault::Die => self.dead.store(true, Ordering::SeqCst),
        }
        Err(self.error())
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.alive()?;
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.alive()?;
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.alive() {
            Ok(()) => self.inner.list(prefix),
            Err(error) => futures::stream::once(async { Err(error) }).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.alive()?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.alive()?;
        self.inner.copy_opts(from, to, options).await
    }
}
