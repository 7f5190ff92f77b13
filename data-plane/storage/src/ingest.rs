//! From bytes to a file entry: cut where the content says, digest, store.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use chunks::Cutter;

use crate::digest::Digest;
use crate::entry::{Content, Extent, FileEntry};
use crate::error::Result;
use crate::extents::ExtentTree;
use crate::session::Session;

/// From here on it pays to digest on several threads.
const PARALLEL_BYTES_MIN: usize = 1 << 20;

/// Turns a stream of bytes into a file entry. Blocking: chunks are found and digested on the calling thread; the digest
/// of the whole is the caller's, who may compute it on another one meanwhile.
pub(crate) struct FileBuilder {
    cutter: Cutter,
    stored: Stored,
}

/// What has been cut and stored.
struct Stored {
    session: Arc<Session>,
    extents: ExtentTree,
    size: u64,
    /// What came behind the last piece.
    piece: Option<Piece>,
}

/// The part of a file that is to be given out next.
#[derive(Default)]
struct Piece {
    extents: ExtentTree,
    size: u64,
    /// Names what the piece holds: digests of chunks.
    content: blake3::Hasher,
}

impl FileBuilder {
    pub(crate) fn new(session: Arc<Session>) -> Self {
        Self {
            cutter: Cutter::default(),
            stored: Stored {
                session,
                extents: ExtentTree::default(),
                size: 0,
                piece: None,
            },
        }
    }

    /// Goes on behind these chunks of the file, which are stored already.
    pub(crate) fn behind(&mut self, before: Vec<Extent>) -> Result<()> {
        let stored = &mut self.stored;
        for extent in before {
            stored.size += extent.location.length();
            stored.extents.push(&stored.session, extent)?;
        }
        Ok(())
    }

    /// Keeps what follows for [`FileBuilder::piece`] too.
    pub(crate) fn give_pieces(&mut self) {
        self.stored.piece = Some(Piece::default());
    }

    /// Takes the next bytes; cuts all chunks whose ends no later byte can move.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<()> {
        let stored = &mut self.stored;
        self.cutter.push(bytes, |chunk| stored.chunk(chunk))
    }

    /// What has been cut since the last piece, once that is `least` bytes, and where in the file it lies.
    pub(crate) fn piece(&mut self, least: u64) -> Result<Option<(Range<u64>, FileEntry)>> {
        let stored = &mut self.stored;
        let Some(full) = stored.piece.take_if(|piece| piece.size >= least) else {
            return Ok(None);
        };
        stored.piece = Some(Piece::default());
        let entry = FileEntry {
            size: full.size,
            digest: full.content.finalize().into(),
            executable: false,
            content: full.extents.finish(&stored.session)?,
        };
        Ok(Some((stored.size - entry.size..stored.size, entry)))
    }

    /// Cuts the rest and returns the entry.
    pub(crate) fn finish(self, digest: Digest, executable: bool) -> Result<FileEntry> {
        let mut stored = self.stored;
        self.cutter.finish(|chunk| stored.chunk(chunk))?;
        stored.finish(digest, executable)
    }
}

impl Stored {
    fn chunk(&mut self, chunk: &[u8]) -> Result<()> {
        self.size += chunk.len() as u64;
        let extent = self.session.chunk(Digest::of(chunk), chunk)?;
        if let Some(piece) = &mut self.piece {
            piece.size += chunk.len() as u64;
            piece.content.update(extent.digest.as_bytes());
            piece.extents.push(&self.session, extent.clone())?;
        }
        self.extents.push(&self.session, extent)
    }

    fn finish(self, digest: Digest, executable: bool) -> Result<FileEntry> {
        let content = self.extents.finish(&self.session)?;
        Ok(FileEntry {
            size: self.size,
            digest,
            executable,
            content,
        })
    }
}

/// The digests of a file that is in memory.
pub(crate) struct Digests {
    whole: Digest,
    /// Of each chunk, with its length. None: the file is one chunk, or nothing.
    chunks: Vec<(usize, Digest)>,
}

impl Digests {
    /// Cuts and digests a file. Of a file of one chunk the digest is computed once.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let mut chunks = Vec::new();
        if chunks::cut(bytes) == bytes.len() {
            let whole = Digest::of(bytes);
            return Self { whole, chunks };
        }
        let Ok(()) = chunks::cut_all(bytes, |chunk| {
            chunks.push((chunk.len(), Digest::of(chunk)));
            Ok::<(), std::convert::Infallible>(())
        });
        let mut whole = blake3::Hasher::new();
        if bytes.len() < PARALLEL_BYTES_MIN {
            whole.update(bytes);
        } else {
            whole.update_rayon(bytes);
        }
        let whole = whole.finalize().into();
        Self { whole, chunks }
    }

    /// Those of all chunks; of nothing, that of nothing.
    pub(crate) fn of_chunks(&self) -> impl Iterator<Item = &Digest> {
        let one = self.chunks.is_empty().then_some(&self.whole);
        self.chunks.iter().map(|(_, digest)| digest).chain(one)
    }

    fn each<'b>(&self, mut bytes: &'b [u8]) -> impl Iterator<Item = (Digest, &'b [u8])> {
        let one = (self.chunks.is_empty() && !bytes.is_empty()).then_some((bytes.len(), self.whole));
        self.chunks.iter().copied().chain(one).map(move |(length, digest)| {
            let (chunk, rest) = bytes.split_at(length);
            bytes = rest;
            (digest, chunk)
        })
    }
}

/// Stores a file that is in memory.
pub(crate) fn whole_file(session: &Arc<Session>, bytes: &[u8], executable: bool) -> Result<FileEntry> {
    let digests = Digests::of(bytes);
    let extents = session.chunks(digests.each(bytes))?;
    entry(session, bytes, executable, &digests, extents)
}

/// Stores files that are in memory and have been digested, one behind the other: they are likely to be read together.
pub(crate) fn whole_files(
    session: &Arc<Session>,
    files: &[(Bytes, bool)],
    digests: &[Digests],
) -> Result<Vec<FileEntry>> {
    let together = || files.iter().zip(digests);
    let chunks = together().flat_map(|((bytes, _), digests)| digests.each(bytes));
    let mut extents = session.chunks(chunks)?.into_iter();
    together()
        .map(|((bytes, executable), digests)| {
            let of_file = digests.each(bytes).count();
            let of_file = extents.by_ref().take(of_file).collect();
            entry(session, bytes, *executable, digests, of_file)
        })
        .collect()
}

fn entry(
    session: &Arc<Session>,
    bytes: &[u8],
    executable: bool,
    digests: &Digests,
    extents: Vec<Extent>,
) -> Result<FileEntry> {
    let content = if digests.chunks.is_empty() {
        Content::Extents(extents)
    } else {
        let mut tree = ExtentTree::default();
        for extent in extents {
            tree.push(session, extent)?;
        }
        tree.finish(session)?
    };
    Ok(FileEntry {
        size: bytes.len() as u64,
        digest: digests.whole,
        executable,
        content,
    })
}
