//! Merkle search trees over sorted paths. Boundaries and digests of nodes depend on the logical
//! fields of entries alone, so equal content has an equal root whatever way it arrived, and two
//! trees are compared by walking only the nodes in which they differ.

pub(crate) mod boundary;
pub(crate) mod build;
pub(crate) mod change;
pub(crate) mod cursor;
pub(crate) mod diff;
pub(crate) mod directory;
mod edit;
pub(crate) mod node;
mod reference;
pub(crate) mod verify;

use crate::digest::Digest;
use crate::entry::FileEntry;
use crate::location::Location;
use crate::path::FilePath;

/// A tree of files: what a commit stores in its row. Equality compares content.
#[derive(Debug, Clone)]
pub struct TreeRef {
    pub(crate) digest: Digest,
    /// `None` for the empty tree, which is stored nowhere.
    pub(crate) root: Option<Location>,
    pub(crate) files: u64,
    pub(crate) bytes: u64,
}

impl TreeRef {
    /// The tree without files.
    pub fn empty() -> Self {
        Self {
            digest: Digest::of(b"howdah empty tree\0"),
            root: None,
            files: 0,
            bytes: 0,
        }
    }

    /// The digest of the content: a pure function of paths, contents and executable bits.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// How many files.
    pub fn files(&self) -> u64 {
        self.files
    }

    /// The sum of their sizes in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// True if there is no file in it.
    pub fn is_empty(&self) -> bool {
        self.root.is_none()
    }
}

impl PartialEq for TreeRef {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for TreeRef {}

/// Which names of a directory are wanted; by default all.
#[derive(Debug, Clone, Copy, Default)]
pub struct Names<'a> {
    /// Those that come behind this one.
    pub after: Option<&'a str>,
    /// Those that begin with this.
    pub beginning: &'a str,
}

/// One step of a change to a tree.
#[derive(Debug, Clone)]
pub enum TreeChange {
    /// The file at this path becomes this one.
    Put(FilePath, FileEntry),
    /// The file at this path, or the directory with everything below it, goes away; fine if nothing is there.
    Delete(FilePath),
}

/// A difference between two trees at one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Where.
    pub path: FilePath,
    /// The file in the first tree; `None`: added.
    pub before: Option<FileEntry>,
    /// The file in the second tree; `None`: removed.
    pub after: Option<FileEntry>,
}

/// File or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A file.
    File,
    /// A directory: a path with files below it.
    Directory,
}

/// A line of a directory listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// The whole path from the root of the tree.
    pub path: FilePath,
    /// File or directory.
    pub kind: EntryKind,
    /// The size of the file, or of everything below the directory, in bytes.
    pub size_bytes: u64,
    /// 1 for a file, or how many files are below the directory.
    pub files: u64,
    /// The content digest of a file; `None` for a directory, whose digest costs a scan: `subtree_digest`.
    pub digest: Option<Digest>,
    /// The executable bit; false for a directory.
    pub executable: bool,
}

/// A file, or everything below a directory, in one digest that does not depend on where it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubtreeSummary {
    /// File or directory.
    pub kind: EntryKind,
    /// Of a file: its fingerprint; of a directory: over relative path and fingerprint of each file below.
    pub digest: Digest,
    /// Sum of sizes in bytes.
    pub size_bytes: u64,
    /// Number of files.
    pub files: u64,
}

/// Something wrong with a tree, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The file that is affected, if it is one.
    pub path: Option<FilePath>,
    /// The pack to blame, if known.
    pub pack: Option<Digest>,
    /// What is wrong.
    pub problem: String,
}
