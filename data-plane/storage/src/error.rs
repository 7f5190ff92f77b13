//! What can go wrong in storage. One enum for the crate, because every operation reads packs and
//! writes packs; each variant tells the caller what to do: retry, make room, restore, or fix the input.

use std::sync::Arc;

use crate::digest::Digest;
use crate::path::FilePath;

/// A storage operation failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StorageError {
    /// Stored bytes do not have the digest they were stored under. The pack must be restored from a copy.
    #[error("pack `packs/{pack}` is corrupt at byte {offset}: {what}; restore this object from a backup or a replica")]
    Corrupt {
        /// The pack that holds the bytes.
        pack: Digest,
        /// Where in the pack.
        offset: u64,
        /// What does not match.
        what: String,
    },
    /// A damaged or missing pack, seen while reading this path.
    #[error("file `{path}` is unreadable: {source}")]
    File {
        /// The file.
        path: FilePath,
        /// Why.
        source: Box<StorageError>,
    },
    /// A pack that a tree refers to is not there.
    #[error("pack `packs/{pack}` is missing: restore this object from a backup or a replica")]
    PackMissing {
        /// The pack.
        pack: Digest,
    },
    /// What says where the bytes of a repacked pack are now is damaged.
    #[error("record `forwards/{pack}` is corrupt: {what}; restore this object from a backup or a replica")]
    Forward {
        /// The pack that was repacked.
        pack: Digest,
        /// What is wrong.
        what: String,
    },
    /// The disk or the quota is full.
    #[error("no space left to write `{object}`: free space or raise the quota, then try again")]
    Full {
        /// The object that did not fit.
        object: String,
    },
    /// The object store or the disk failed.
    #[error("storage failed to {action} `{object}`: {message}")]
    Store {
        /// `read`, `write`, `list`, `delete`.
        action: &'static str,
        /// The object.
        object: String,
        /// What the store said, with its causes.
        message: String,
    },
    /// The bytes to be stored could not be read from where they come from.
    #[error("reading the bytes to store failed: {0}")]
    Source(Arc<std::io::Error>),
    /// A path would be a file and a directory at once.
    #[error("`{path}` can't be written: `{file}` would be a file and a directory at once; delete one of them first")]
    PathConflict {
        /// The path that was to be written.
        path: FilePath,
        /// The path that is a file in the result.
        file: FilePath,
    },
    /// A reference was to be stored whose bytes are not durable yet.
    #[error("bytes are not durable yet: flush the write session before storing a reference to them")]
    NotFlushed,
    /// Stored references (an entry list or tree reference from a database) that do not decode.
    #[error("stored {what} does not decode: {why}")]
    Undecodable {
        /// What was being decoded.
        what: &'static str,
        /// Why it does not decode.
        why: String,
    },
    /// A background thread died or was cancelled, for example while the runtime shuts down.
    #[error("a storage task was cancelled: try again")]
    Cancelled,
}

impl StorageError {
    /// True if trying again later may help: full disks and failing stores, but neither corrupt data nor bad input.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Full { .. } | Self::Store { .. } | Self::Cancelled => true,
            Self::File { source, .. } => source.is_retryable(),
            Self::Corrupt { .. }
            | Self::PackMissing { .. }
            | Self::Forward { .. }
            | Self::Source(_)
            | Self::PathConflict { .. }
            | Self::NotFlushed
            | Self::Undecodable { .. } => false,
        }
    }

    /// True if stored data is damaged or gone.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Corrupt { .. } | Self::PackMissing { .. } | Self::Forward { .. } | Self::Undecodable { .. } => true,
            Self::File { source, .. } => source.is_damage(),
            _ => false,
        }
    }

    /// The same failure, naming the file that was being read.
    #[must_use]
    pub fn for_file(self, path: &FilePath) -> Self {
        match self {
            Self::File { .. } => self,
            other => Self::File {
                path: path.clone(),
                source: Box::new(other),
            },
        }
    }
}

/// The result of a storage operation.
pub type Result<T, E = StorageError> = std::result::Result<T, E>;
