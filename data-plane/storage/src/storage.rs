//! The entry point: a store with its caches, and every operation on trees and files.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};

use crate::entry::FileEntry;
use crate::error::{Result, StorageError};
use crate::path::FilePath;
use crate::store::Store;
use crate::tree::{Change, DirectoryEntry, Finding, SubtreeSummary, TreeChange, TreeRef};
use crate::writer::Writer;

/// Limits of a [`Storage`].
#[derive(Debug, Clone)]
pub struct Options {
    /// Memory for decoded tree nodes and extent blocks, in bytes.
    pub cache_bytes: u64,
    /// A pack is sealed when it reaches this size.
    pub pack_bytes: usize,
    /// So many sealed packs may wait for the disk or the object store; writers wait when there are more.
    pub packs_in_flight: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cache_bytes: 64 << 20,
            pack_bytes: 32 << 20,
            packs_in_flight: 2,
        }
    }
}

/// Versioned storage over a [`Store`]. Cheap to clone.
#[derive(Clone)]
pub struct Storage {
    _shared: Arc<(Store, Options)>,
}

fn not_yet<T: Send + 'static>() -> BoxStream<'static, Result<T>> {
    stream::once(async { Err(StorageError::Cancelled) }).boxed()
}

impl Storage {
    /// Opens storage; nothing is read.
    pub fn new(store: Store, options: Options) -> Self {
        Self {
            _shared: Arc::new((store, options)),
        }
    }

    /// Begins a write session. Must be called inside a Tokio runtime.
    pub fn writer(&self) -> Writer {
        unreachable!("skeleton")
    }

    /// The file at this path.
    pub async fn get(&self, _tree: &TreeRef, _path: &FilePath) -> Result<Option<FileEntry>> {
        Err(StorageError::Cancelled)
    }

    /// The bytes of a file in this range, clamped to its size. Each chunk is verified before it is yielded.
    pub fn read(&self, _file: &FileEntry, _range: Range<u64>) -> BoxStream<'static, Result<Bytes>> {
        not_yet()
    }

    /// The whole file in memory; for small files.
    pub async fn read_all(&self, _file: &FileEntry) -> Result<Bytes> {
        Err(StorageError::Cancelled)
    }

    /// Files in path order: all, or the file `prefix`, or what lies below the directory `prefix`; only those behind `after`.
    pub fn list(
        &self,
        _tree: &TreeRef,
        _prefix: Option<&FilePath>,
        _after: Option<&FilePath>,
    ) -> BoxStream<'static, Result<(FilePath, FileEntry)>> {
        not_yet()
    }

    /// The files and directories right in a directory (`None`: the root) whose names come behind `after`, at most `limit`.
    /// In path order, in which a directory counts as its name with `/` behind. Costs seeks, not scans.
    pub async fn list_directory(
        &self,
        _tree: &TreeRef,
        _directory: Option<&FilePath>,
        _after: Option<&str>,
        _limit: usize,
    ) -> Result<Vec<DirectoryEntry>> {
        Err(StorageError::Cancelled)
    }

    /// Digest, size and count of a file, of everything below a directory, or (`None`) of the whole tree; `None` if nothing is there.
    pub async fn subtree_digest(&self, _tree: &TreeRef, _path: Option<&FilePath>) -> Result<Option<SubtreeSummary>> {
        Err(StorageError::Cancelled)
    }

    /// What differs, in path order. Reads only nodes that differ.
    pub fn diff(&self, _a: &TreeRef, _b: &TreeRef) -> BoxStream<'static, Result<Change>> {
        not_yet()
    }

    /// The tree after these changes, in order, later ones win. Costs are proportional to the changes.
    /// Nodes are written through `writer`: flush it before storing the tree's reference.
    pub async fn apply(&self, _writer: &Writer, _base: &TreeRef, _changes: Vec<TreeChange>) -> Result<TreeRef> {
        Err(StorageError::Cancelled)
    }

    /// Checks everything reachable from a tree and says what is wrong; `deep` reads all content as well.
    pub async fn verify(&self, _tree: &TreeRef, _deep: bool) -> Result<Vec<Finding>> {
        Err(StorageError::Cancelled)
    }
}
