//! File entries: what a tree knows of a file. The logical part (size, digest, executable) decides
//! identity; where the bytes lie is a detail that may differ between equal entries.

use std::fmt;

use bytes::Bytes;

use crate::digest::Digest;
use crate::location::Location;

/// At most so many extents stand in the entry itself; longer lists live in extent blocks of a pack.
pub(crate) const INLINE_EXTENTS_MAX: usize = 4;
/// In lists outside of packs a piece of a file may be told by all the chunks of a pack.
pub(crate) const LISTED_EXTENTS_MAX: usize = 1 << 12;

/// A file of a tree. Equality compares the logical part alone.
#[derive(Clone)]
pub struct FileEntry {
    /// Bytes of content.
    pub size: u64,
    /// BLAKE3 of the whole content.
    pub digest: Digest,
    /// Whether the owner may execute it.
    pub executable: bool,
    /// Where the bytes lie.
    pub content: Content,
}

/// A run of bytes of a file: one chunk in a pack.
#[derive(Debug, Clone)]
pub struct Extent {
    /// Where the chunk lies; its length is the chunk's length.
    pub(crate) location: Location,
    /// BLAKE3 of the chunk.
    pub(crate) digest: Digest,
}

/// A block of extents, or of further blocks, in a pack.
#[derive(Debug, Clone)]
pub struct BlockRef {
    pub(crate) location: Location,
    /// BLAKE3 of the stored block.
    pub(crate) digest: Digest,
    /// 0: the block holds extents; n: it holds references to blocks of height n - 1.
    pub(crate) height: u8,
}

/// Where the bytes of a file lie.
#[derive(Debug, Clone)]
pub enum Content {
    /// A few chunks, in order.
    Extents(Vec<Extent>),
    /// Too many chunks for an entry: the root of a tree of extent blocks.
    Blocks(BlockRef),
    /// The bytes themselves, not in any pack yet: for small files on their way into a tree. `apply` packs them.
    Embedded(Bytes),
}

impl Extent {
    /// The name of the pack that holds the chunk, once it is sealed.
    pub fn pack(&self) -> Option<Digest> {
        self.location.pack()
    }
}

impl FileEntry {
    /// An entry that carries its bytes itself, so that a small file needs no pack before it is part of a tree.
    pub fn embedded(bytes: Bytes, executable: bool) -> Self {
        Self {
            size: bytes.len() as u64,
            digest: Digest::of(&bytes),
            executable,
            content: Content::Embedded(bytes),
        }
    }

    /// Same path content as far as anyone can see: size, digest and executable bit agree.
    pub fn same_content(&self, other: &FileEntry) -> bool {
        self.size == other.size && self.digest == other.digest && self.executable == other.executable
    }

    /// Where the bytes lie, piece by piece; of a large file only where its list of pieces lies.
    pub(crate) fn locations(&self) -> impl Iterator<Item = &Location> {
        let (extents, block) = match &self.content {
            Content::Extents(extents) => (extents.as_slice(), None),
            Content::Blocks(block) => (&[][..], Some(&block.location)),
            Content::Embedded(_) => (&[][..], None),
        };
        extents.iter().map(|extent| &extent.location).chain(block)
    }

    /// What a datum sees of this file: its digest, mixed with the executable bit when that is set.
    pub fn fingerprint(&self) -> Digest {
        if !self.executable {
            return self.digest;
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"howdah executable file\0");
        hasher.update(self.digest.as_bytes());
        hasher.finalize().into()
    }
}

impl PartialEq for FileEntry {
    fn eq(&self, other: &Self) -> bool {
        self.same_content(other)
    }
}

impl Eq for FileEntry {}

impl fmt::Debug for FileEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let executable = if self.executable { " executable" } else { "" };
        write!(f, "{} bytes {}{executable}", self.size, self.digest)
    }
}
