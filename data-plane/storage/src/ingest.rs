//! From bytes to a file entry: cut where the content says, digest, store.

use std::sync::Arc;

use fastcdc::v2020::FastCDC;

use crate::digest::Digest;
use crate::entry::{Content, FileEntry};
use crate::error::Result;
use crate::extents::ExtentTree;
use crate::session::Session;

/// Half of the average: bytes in front of the least end are passed over, which is most of the speed.
const CHUNK_BYTES_MIN: usize = 32 << 10;
/// From here on it pays to digest on several threads.
const PARALLEL_BYTES_MIN: usize = 1 << 20;
const CHUNK_BYTES_AVERAGE: usize = 64 << 10;
/// The longest chunk.
pub(crate) const CHUNK_BYTES_MAX: usize = 256 << 10;

/// Turns a stream of bytes into a file entry. Blocking: chunks are found and digested on the calling thread; the digest
/// of the whole is the caller's, who may compute it on another one meanwhile.
pub(crate) struct FileBuilder {
    session: Arc<Session>,
    extents: ExtentTree,
    size: u64,
    /// What has not been cut yet.
    carry: Vec<u8>,
}

impl FileBuilder {
    pub(crate) fn new(session: Arc<Session>) -> Self {
        Self {
            session,
            extents: ExtentTree::default(),
            size: 0,
            carry: Vec::new(),
        }
    }

    /// Takes the next bytes; cuts all chunks whose ends no later byte can move.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<()> {
        let mut at = 0;
        if !self.carry.is_empty() {
            // The chunk across the border is put together; the others are cut where they lie.
            let mut carry = std::mem::take(&mut self.carry);
            let before = carry.len();
            carry.extend_from_slice(&bytes[..bytes.len().min(CHUNK_BYTES_MAX)]);
            let mut start = 0;
            while start < before && carry.len() - start >= CHUNK_BYTES_MAX {
                let end = start + cut(&carry[start..]);
                self.store(&carry[start..end])?;
                start = end;
            }
            if start < before {
                carry.drain(..start);
                self.carry = carry;
                return Ok(());
            }
            at = start - before;
        }
        while bytes.len() - at >= CHUNK_BYTES_MAX {
            let end = at + cut(&bytes[at..]);
            self.store(&bytes[at..end])?;
            at = end;
        }
        self.carry.extend_from_slice(&bytes[at..]);
        Ok(())
    }

    /// Cuts the rest and returns the entry.
    pub(crate) fn finish(mut self, digest: Digest, executable: bool) -> Result<FileEntry> {
        let rest = std::mem::take(&mut self.carry);
        self.store_all(&rest)?;
        let content = self.extents.finish(&self.session)?;
        Ok(FileEntry {
            size: self.size,
            digest,
            executable,
            content,
        })
    }

    fn store_all(&mut self, rest: &[u8]) -> Result<()> {
        let mut at = 0;
        while at < rest.len() {
            let end = at + cut(&rest[at..]);
            self.store(&rest[at..end])?;
            at = end;
        }
        Ok(())
    }

    fn store(&mut self, chunk: &[u8]) -> Result<()> {
        self.size += chunk.len() as u64;
        let extent = self.session.chunk(Digest::of(chunk), chunk)?;
        self.extents.push(&self.session, extent)
    }
}

/// Stores a file that is in memory. Of a file of one chunk the digest is computed once.
pub(crate) fn whole_file(session: &Arc<Session>, bytes: &[u8], executable: bool) -> Result<FileEntry> {
    if cut(bytes) < bytes.len() {
        let mut builder = FileBuilder::new(Arc::clone(session));
        builder.store_all(bytes)?;
        let mut whole = blake3::Hasher::new();
        if bytes.len() < PARALLEL_BYTES_MIN {
            whole.update(bytes);
        } else {
            whole.update_rayon(bytes);
        }
        return builder.finish(whole.finalize().into(), executable);
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

/// The length of the first chunk.
fn cut(bytes: &[u8]) -> usize {
    if bytes.len() <= CHUNK_BYTES_MIN {
        return bytes.len();
    }
    let chunker = FastCDC::new(bytes, CHUNK_BYTES_MIN, CHUNK_BYTES_AVERAGE, CHUNK_BYTES_MAX);
    chunker.cut(0, bytes.len()).1
}
