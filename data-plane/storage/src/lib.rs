//! Versioned storage: content-defined chunks in immutable packs, Merkle search trees over sorted
//! paths, and the operations on them (read, list, compare, change, verify). It knows nothing of
//! repos, branches or access; whoever holds a [`TreeRef`] can read the tree.
//!
//! Everything stored is immutable and named by content. A write session ([`Writer`]) fills packs in
//! the background; what it wrote becomes permanent when [`Writer::flush`] returns and becomes
//! *visible* only when the caller stores a [`TreeRef`] or an entry list. Dying at any point leaves
//! at most unreferenced packs.

#![warn(missing_docs)]

mod batch;
mod buffer;
mod collect;
#[cfg(test)]
mod decoder_tests;
mod entry;
mod entry_codec;
mod error;
mod extents;
mod forward;
mod incoming;
mod index;
mod ingest;
mod input;
mod location;
mod path;
mod reader;
mod refs;
mod repack;
mod repair;
mod samples;
mod session;
mod slot;
mod storage;
mod store;
mod tree;
mod writer;

use packs::{codec, digest, pack};

pub use collect::{Marking, PackInfo};
pub use digest::{Digest, ParseDigestError};
pub use entry::{BlockRef, Content, Extent, FileEntry};
pub use entry_codec::{decode_entries, encode_entries};
pub use error::{Result, StorageError};
pub use incoming::{IncomingPack, Taken};
pub use input::{Input, LocalFile};
pub use location::Location;
pub use path::{FilePath, PATH_BYTES_MAX, PathError};
pub use repack::SparsePack;
pub use repair::{Elsewhere, ForwardRepair, PackRepair};
pub use samples::{FindPacks, PackSamples};
pub use storage::{Options, Storage};
pub use store::{DataKey, DiskCache, PackKey, Store, Whole};
pub use tree::{Change, DirectoryEntry, EntryKind, Finding, Names, SubtreeSummary, TreeChange, TreeRef};
pub use writer::{GivePiece, Pieces, WriteReport, Writer};
