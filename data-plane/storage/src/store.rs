//! Where packs live: a local directory, an S3-like object store, or memory, behind one small set of
//! operations. A pack that `put` has acknowledged survives loss of power.

mod cache;
mod cipher;
mod forwards;
mod incoming;
mod local;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::path::Path as ObjectPath;
use object_store::signer::Signer;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutPayload};

use crate::buffer::Frozen;
use crate::collect::PackInfo;
use crate::digest::Digest;
use crate::error::{Result, StorageError};

pub use cache::DiskCache;
pub(crate) use incoming::Expected;
pub use incoming::Whole;
pub use packs::{DataKey, PackKey};

const PACKS: &str = "packs";
/// An object that is written only to see what time the store gives it.
const CLOCK: &str = "clock";

/// Blocks of a pack on local disk, each with where it begins; readable, and right only as far as their digests say so.
#[derive(Default)]
pub(crate) struct Kept(BTreeMap<u64, Bytes>);

impl Kept {
    /// Where the last of them ends: if it is the last of the pack, so many bytes the pack has.
    pub(crate) fn end(&self) -> Option<u64> {
        self.0.last_key_value().map(|(at, block)| at + block.len() as u64)
    }

    /// These bytes, if all of them are here.
    pub(crate) fn get(&self, from: u64, to: u64) -> Option<Bytes> {
        let mut all = BytesMut::new();
        let mut at = from;
        while at < to {
            let (start, block) = self.0.range(..=at).next_back()?;
            let end = to.min(start + block.len() as u64).max(at);
            let part = block.slice_ref(block.get((at - start) as usize..(end - start) as usize)?);
            if part.is_empty() {
                return None;
            }
            if part.len() as u64 == to - from {
                return Some(part);
            }
            all.extend_from_slice(&part);
            at = end;
        }
        Some(all.freeze())
    }
}

/// A place for packs. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    local: Option<Arc<local::Directory>>,
    cache: Option<Arc<DiskCache>>,
    /// Of an encrypted bucket.
    key: Option<Arc<DataKey>>,
    /// Signs requests of clients that put packs here themselves.
    signer: Option<Arc<dyn Signer>>,
}

impl Store {
    /// Packs in a local directory, which is created. Every put is written under a temporary name, synced,
    /// renamed, and the directory synced, before it returns.
    pub fn local(directory: impl AsRef<Path>) -> Result<Self> {
        let directory = directory.as_ref();
        let local = local::Directory::create(directory)?;
        let objects = object_store::local::LocalFileSystem::new_with_prefix(local.root())
            .map_err(|error| failed("open", &directory.display().to_string(), &error))?
            .with_fsync(true);
        Ok(Self {
            objects: Arc::new(objects),
            local: Some(Arc::new(local)),
            cache: None,
            key: None,
            signer: None,
        })
    }

    /// Packs in any object store whose acknowledged puts are durable.
    pub fn from_object_store(objects: Arc<dyn ObjectStore>) -> Self {
        Self {
            objects,
            local: None,
            cache: None,
            key: None,
            signer: None,
        }
    }

    /// The same store, whose packs are kept in parts on local disk once they were read.
    #[must_use]
    pub fn with_cache(self, cache: DiskCache) -> Self {
        Self {
            cache: Some(Arc::new(cache)),
            ..self
        }
    }

    /// The same store, read from where it is: for checks of what lies there.
    #[must_use]
    pub(crate) fn without_cache(&self) -> Self {
        Self {
            cache: None,
            ..self.clone()
        }
    }

    /// Lets go of what the cache has of a pack that was found damaged, so that it is read anew once it was restored. Of one that is gone or
    /// ends too early it may be all that is left.
    pub(crate) fn forget(&self, id: Digest) {
        if let Some(cache) = &self.cache {
            cache.forget(id);
        }
    }

    /// Everything that the cache has of a pack.
    pub(crate) async fn kept(&self, id: Digest) -> Result<Kept> {
        let Some(cache) = self.cache.clone() else {
            return Ok(Kept::default());
        };
        let key = self.key.as_ref().map(|key| key.of(id));
        let read = tokio::task::spawn_blocking(move || {
            let mut blocks = cache.kept(id);
            if let Some(key) = key {
                for (at, block) in &mut blocks {
                    *block = key.decrypt(*at, std::mem::take(block));
                }
            }
            Kept(blocks)
        });
        read.await.map_err(|_| StorageError::Cancelled)
    }

    /// Packs in memory, for tests.
    pub fn memory() -> Self {
        Self::from_object_store(Arc::new(InMemory::new()))
    }

    /// The object store below.
    pub fn object_store(&self) -> &Arc<dyn ObjectStore> {
        &self.objects
    }

    /// What packs are encrypted with, if they are.
    pub(crate) fn key(&self) -> Option<&DataKey> {
        self.key.as_deref()
    }

    /// The directory of a local store.
    pub fn directory(&self) -> Option<PathBuf> {
        self.local.as_ref().map(|local| local.root().to_owned())
    }

    /// Removes temporary files that a killed process left behind; returns how many. A file counts as left behind
    /// if it has not changed since `before`.
    pub fn remove_abandoned(&self, before: std::time::SystemTime) -> Result<usize> {
        self.local
            .as_ref()
            .map_or(Ok(0), |local| local.remove_abandoned(before))
    }

    /// Stores a pack, given as it is to lie here. That it is there already is no error: packs are named by content. One that is `damaged` is replaced.
    /// `bulk` says that it is one of so many that they should not push everything else out of this machine's memory.
    pub(crate) async fn put_pack(&self, id: Digest, bytes: Frozen, damaged: bool, bulk: bool) -> Result<()> {
        let put = self.put_bytes(id, bytes, damaged, bulk).await;
        // Not before: what is kept may be all that there is of the pack.
        if damaged && put.is_ok() {
            self.forget(id);
        }
        put
    }

    async fn put_bytes(&self, id: Digest, bytes: Frozen, damaged: bool, bulk: bool) -> Result<()> {
        if let Some(local) = &self.local {
            let local = Arc::clone(local);
            return tokio::task::spawn_blocking(move || local.put(PACKS, id, bytes.parts(), bulk))
                .await
                .unwrap_or(Err(StorageError::Cancelled));
        }
        let path = object_path(id);
        let length = bytes.len() as u64;
        let payload: PutPayload = bytes.parts().iter().cloned().collect();
        let create = if damaged { PutMode::Overwrite } else { PutMode::Create }.into();
        match self.objects.put_opts(&path, payload.clone(), create).await {
            Ok(_) => return Ok(()),
            Err(object_store::Error::AlreadyExists { .. }) => {
                match self.objects.head(&path).await {
                    Ok(found) if found.size == length => return Ok(()),
                    // Some say so too when somebody else was about to write it and then did not.
                    Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                    Err(error) => return Err(failed("read", path.as_ref(), &error)),
                }
            }
            Err(object_store::Error::NotImplemented { .. }) => {}
            Err(error) => {
                let error = failed("write", path.as_ref(), &error);
                if matches!(error, StorageError::Full { .. }) {
                    return Err(error);
                }
                // A client does not repeat a conditional put whose answer was lost; this one may be repeated.
                tracing::debug!("a pack is put once more: {error}");
            }
        }
        // A stunted object under this name, a store without conditional puts, or no answer: the same content again does no harm.
        self.objects
            .put(&path, payload)
            .await
            .map(|_| ())
            .map_err(|error| failed("write", path.as_ref(), &error))
    }

    /// Reads bytes of a pack.
    pub(crate) async fn get_range(&self, id: Digest, from: u64, to: u64) -> Result<Bytes> {
        // What is on the local disk is encrypted too.
        let bytes = match &self.cache {
            Some(cache) if from < to => cache.range(self, id, from, to).await?,
            _ => self.fetch(id, from, to).await?,
        };
        Ok(match &self.key {
            Some(key) => key.of(id).decrypt(from, bytes),
            None => bytes,
        })
    }

    /// The bytes of a pack in this range that there are.
    async fn fetch_up_to(&self, id: Digest, range: Range<u64>) -> Result<Bytes> {
        let path = object_path(id);
        let bytes = self.objects.get_range(&path, range).await;
        bytes.map_err(|error| failed("read", path.as_ref(), &error))
    }

    async fn fetch(&self, id: Digest, from: u64, to: u64) -> Result<Bytes> {
        let path = object_path(id);
        let bytes = match self.objects.get_range(&path, from..to).await {
            Ok(bytes) => bytes,
            Err(object_store::Error::NotFound { .. }) => return Err(StorageError::PackMissing { pack: id }),
            Err(error) => {
                // A range behind the end of an object is answered like any other failure, but trying again is in vain.
                return match self.size(id).await {
                    Ok(size) if size < to => Err(StorageError::Corrupt {
                        pack: id,
                        offset: from,
                        what: format!("it ends at byte {size}, bytes up to {to} were stored"),
                    }),
                    Err(missing @ StorageError::PackMissing { .. }) => Err(missing),
                    _ => Err(failed("read", path.as_ref(), &error)),
                };
            }
        };
        if bytes.len() as u64 != to - from {
            let what = format!("it ends {} bytes too early", (to - from) - bytes.len() as u64);
            return Err(StorageError::Corrupt {
                pack: id,
                offset: from,
                what,
            });
        }
        Ok(bytes)
    }

    /// Removes a pack; fine if it is not there.
    pub(crate) async fn delete_pack(&self, id: Digest) -> Result<()> {
        self.forget(id);
        let path = object_path(id);
        match self.objects.delete(&path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(failed("delete", path.as_ref(), &error)),
        }
    }

    /// Lists packs; other objects are passed over.
    pub(crate) fn list_packs(&self) -> BoxStream<'static, Result<PackInfo>> {
        let listed = self.objects.list(Some(&ObjectPath::from(PACKS)));
        listed
            .try_filter_map(|object| async move {
                let id = object.location.filename().and_then(|name| name.parse().ok());
                Ok(id.map(|id| PackInfo {
                    id,
                    size_bytes: object.size,
                    modified_at: object.last_modified.into(),
                }))
            })
            .map_err(|error| failed("list", PACKS, &error))
            .boxed()
    }

    /// The store's clock: an object is written and its time is read.
    pub(crate) async fn time(&self) -> Result<SystemTime> {
        let path = ObjectPath::from(CLOCK);
        let written = self.objects.put(&path, PutPayload::from_static(b"now")).await;
        written.map_err(|error| failed("write", CLOCK, &error))?;
        let found = self.objects.head(&path).await;
        let found = found.map_err(|error| failed("read", CLOCK, &error))?;
        Ok(found.last_modified.into())
    }

    /// How many bytes a pack has.
    pub(crate) async fn size(&self, id: Digest) -> Result<u64> {
        let path = object_path(id);
        match self.objects.head(&path).await {
            Ok(found) => Ok(found.size),
            Err(object_store::Error::NotFound { .. }) => Err(StorageError::PackMissing { pack: id }),
            Err(error) => Err(failed("read", path.as_ref(), &error)),
        }
    }
}

fn object_path(id: Digest) -> ObjectPath {
    ObjectPath::from_iter([PACKS, id.to_string().as_str()])
}

/// Turns a store's error into ours; a full disk is told apart wherever it hides in the chain of causes.
fn failed(action: &'static str, object: &str, error: &(dyn std::error::Error + 'static)) -> StorageError {
    let mut message = error.to_string();
    let mut cause = Some(error);
    while let Some(current) = cause {
        if let Some(io) = current.downcast_ref::<std::io::Error>()
            && matches!(
                io.kind(),
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
            )
        {
            return StorageError::Full {
                object: object.to_owned(),
            };
        }
        let text = current.to_string();
        if !message.contains(&text) {
            message = format!("{message}: {text}");
        }
        cause = current.source();
    }
    StorageError::Store {
        action,
        object: object.to_owned(),
        message,
    }
}
