//! Write sessions.

use std::sync::Arc;

use bytes::Bytes;
use tokio::io::AsyncRead;

use crate::entry::FileEntry;
use crate::error::{Result, StorageError};

/// One write session. Cheap to clone; usable from many tasks at once.
#[derive(Clone)]
pub struct Writer {
    _inner: Arc<()>,
}

/// What a write session has stored so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WriteReport {
    /// Packs written.
    pub packs: u64,
    /// Bytes of files stored anew.
    pub bytes_new: u64,
    /// Bytes of files that were stored already.
    pub bytes_deduplicated: u64,
}

impl Writer {
    /// Stores what the reader yields, in bounded memory, until its end.
    pub async fn write_file(&self, _reader: impl AsyncRead + Send + Unpin, _executable: bool) -> Result<FileEntry> {
        Err(StorageError::Cancelled)
    }

    /// As [`Writer::write_file`]; `base` is the file that is being replaced: what it has in common is not stored again.
    pub async fn write_file_over(
        &self,
        _base: &FileEntry,
        _reader: impl AsyncRead + Send + Unpin,
        _executable: bool,
    ) -> Result<FileEntry> {
        Err(StorageError::Cancelled)
    }

    /// Stores these bytes as a file.
    pub async fn write_bytes(&self, _bytes: Bytes, _executable: bool) -> Result<FileEntry> {
        Err(StorageError::Cancelled)
    }

    /// Stores many small files at once; entries come in the order of the files.
    pub async fn write_small_files(&self, _files: Vec<(Bytes, bool)>) -> Result<Vec<FileEntry>> {
        Err(StorageError::Cancelled)
    }

    /// Stores the content of `base` with what the reader yields behind it.
    pub async fn append(&self, _base: &FileEntry, _reader: impl AsyncRead + Send + Unpin) -> Result<FileEntry> {
        Err(StorageError::Cancelled)
    }

    /// Returns when everything written so far in this session, tree nodes included, is durable.
    pub async fn flush(&self) -> Result<WriteReport> {
        Err(StorageError::Cancelled)
    }
}
