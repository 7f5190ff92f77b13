//! From bytes to a file entry: cut where the content says, digest, store.

use std::sync::Arc;

use chunks::Cutter;

use crate::digest::Digest;
use crate::entry::{Content, FileEntry};
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
}

impl FileBuilder {
    pub(crate) fn new(session: Arc<Session>) -> Self {
        Self {
            cutter: Cutter::default(),
            stored: Stored {
                session,
                extents: ExtentTree::default(),
                size: 0,
            },
        }
    }

    /// Takes the next bytes; cuts all chunks whose ends no later byte can move.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<()> {
        let stored = &mut self.stored;
        self.cutter.push(bytes, |chunk| stored.chunk(chunk))
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

/// Stores a file that is in memory. Of a file of one chunk the digest is computed once.
pub(crate) fn whole_file(session: &Arc<Session>, bytes: &[u8], executable: bool) -> Result<FileEntry> {
    if chunks::cut(bytes) < bytes.len() {
        let mut stored = FileBuilder::new(Arc::clone(session)).stored;
        chunks::cut_all(bytes, |chunk| stored.chunk(chunk))?;
        let mut whole = blake3::Hasher::new();
        if bytes.len() < PARALLEL_BYTES_MIN {
            whole.update(bytes);
        } else {
            whole.update_rayon(bytes);
        }
        return stored.finish(whole.finalize().into(), executable);
    }
    let digest = Digest::of(bytes);
    let extents = if bytes.is_empty() {
        Vec::new()
    } else {
        vec![session.chunk(digest, bytes)?]
    };
    Ok(FileEntry {
        size: bytes.len() as u64,
        digest,
        executable,
        content: Content::Extents(extents),
    })
}
