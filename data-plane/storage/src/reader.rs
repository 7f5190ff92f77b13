//! Reading files: walks the extents, fetches neighbouring chunks together and ahead, verifies each.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};

use tokio_util::task::AbortOnDropHandle;

use crate::buffer::Reading;
use crate::digest::Digest;
use crate::entry::{Content, Extent, FileEntry};
use crate::error::{Result, StorageError};
use crate::extents::Block;
use crate::location::{Location, PackRef};
use crate::storage::Shared;

/// So much is fetched at once.
const FETCH_BYTES_MAX: usize = 2 << 20;
/// And no less, however many read at the same time.
const FETCH_BYTES_MIN: usize = 256 << 10;
/// So many fetches run ahead.
const FETCHES_AHEAD: usize = 2;

/// Yields the extents of a file in order with the position where each begins.
pub(crate) struct ExtentWalk {
    shared: Arc<Shared>,
    /// What is to be visited, nearest last.
    todo: Vec<Step>,
    position: u64,
    from: u64,
    size: u64,
    embedded: Option<Bytes>,
}

enum Step {
    Block(crate::entry::BlockRef, u64),
    Extent(Extent),
}

impl ExtentWalk {
    /// Begins at the extent that holds byte `from`.
    pub(crate) fn new(shared: &Arc<Shared>, file: &FileEntry, from: u64) -> Self {
        let mut embedded = None;
        let todo = match &file.content {
            Content::Extents(extents) => extents.iter().rev().cloned().map(Step::Extent).collect(),
            Content::Blocks(block) => vec![Step::Block(block.clone(), file.size)],
            Content::Embedded(bytes) => {
                embedded = Some(bytes.clone());
                Vec::new()
            }
        };
        Self {
            shared: Arc::clone(shared),
            todo,
            position: 0,
            from,
            size: file.size,
            embedded,
        }
    }

    pub(crate) async fn next(&mut self) -> Result<Option<(u64, Extent)>> {
        while let Some(step) = self.todo.pop() {
            match step {
                Step::Extent(extent) => {
                    let start = self.position;
                    self.position += extent.location.length();
                    if self.position > self.from {
                        return Ok(Some((start, extent)));
                    }
                }
                Step::Block(_, covered) if self.position.saturating_add(covered) <= self.from => {
                    self.position += covered;
                }
                Step::Block(block, covered) => {
                    let decoded = self.shared.block(&block).await?;
                    if decoded.covered() != covered {
                        return Err(self
                            .shared
                            .corrupt(&block.location, "an extent block covers another length"));
                    }
                    match &*decoded {
                        Block::Extents(extents) => {
                            self.todo.extend(extents.iter().rev().cloned().map(Step::Extent));
                        }
                        Block::Blocks(parts) => {
                            self.todo.extend(
                                parts
                                    .iter()
                                    .rev()
                                    .map(|part| Step::Block(part.block.clone(), part.bytes)),
                            );
                        }
                    }
                }
            }
        }
        if self.position == self.size || self.embedded.is_some() {
            return Ok(None);
        }
        let why = format!("its extents cover {} of {} bytes", self.position, self.size);
        Err(StorageError::Undecodable { what: "file", why })
    }
}

/// Length and digest of each chunk.
pub(crate) fn chunks(shared: &Arc<Shared>, file: &FileEntry) -> BoxStream<'static, Result<(u32, Digest)>> {
    if let Content::Embedded(bytes) = &file.content {
        let only = u32::try_from(bytes.len()).ok().filter(|length| *length > 0);
        return stream::iter(only.map(|length| Ok((length, file.digest)))).boxed();
    }
    stream::try_unfold(ExtentWalk::new(shared, file, 0), |mut walk| async move {
        let next = walk.next().await?;
        Ok(next.map(|(_, extent)| ((extent.location.length, extent.digest), walk)))
    })
    .boxed()
}

/// Chunks to be fetched in one go, with the part of each that was asked for.
#[derive(Default)]
struct Batch {
    extents: Vec<(Extent, Range<usize>)>,
    bytes: u64,
}

impl Batch {
    /// Whether the chunk lies right behind the last one and there is room.
    fn takes(&self, extent: &Extent, most: u64) -> bool {
        let Some((last, _)) = self.extents.last() else {
            return true;
        };
        let here = &extent.location;
        let neighbours = match (&last.location.pack, &here.pack) {
            (PackRef::Stored(a), PackRef::Stored(b)) => a == b && last.location.end() == here.offset(),
            _ => false,
        };
        neighbours && self.bytes + here.length() <= most
    }

    fn push(&mut self, extent: Extent, part: Range<usize>) {
        self.bytes += extent.location.length();
        self.extents.push((extent, part));
    }
}

struct Batches {
    walk: ExtentWalk,
    range: Range<u64>,
    /// The extent that did not fit the last batch.
    left: Option<(u64, Extent)>,
    reading: Reading,
}

impl Batches {
    async fn next(&mut self) -> Result<Option<Batch>> {
        let mut batch = Batch::default();
        let most = self.reading.part(FETCH_BYTES_MIN, FETCH_BYTES_MAX) as u64;
        loop {
            let next = match self.left.take() {
                Some(left) => Some(left),
                None => self.walk.next().await?,
            };
            let Some((start, extent)) = next.filter(|(start, _)| *start < self.range.end) else {
                break;
            };
            if !batch.takes(&extent, most) {
                self.left = Some((start, extent));
                break;
            }
            let length = extent.location.length();
            let from = self.range.start.saturating_sub(start).min(length);
            let to = (self.range.end - start).min(length);
            // Both are at most the length of one chunk.
            batch.push(extent, from as usize..to as usize);
        }
        Ok(if batch.extents.is_empty() { None } else { Some(batch) })
    }
}

/// The bytes of a file in a range that is clamped to its size.
pub(crate) fn read(shared: &Arc<Shared>, file: &FileEntry, range: Range<u64>) -> BoxStream<'static, Result<Bytes>> {
    let end = range.end.min(file.size);
    let start = range.start.min(end);
    if start == end {
        return stream::empty().boxed();
    }
    if let Content::Embedded(bytes) = &file.content {
        let part = usize::try_from(start).unwrap_or(usize::MAX)..usize::try_from(end).unwrap_or(usize::MAX);
        let part = part.start.min(bytes.len())..part.end.min(bytes.len());
        let bytes = bytes.slice(part);
        return stream::once(async move { Ok(bytes) }).boxed();
    }
    let batches = Batches {
        walk: ExtentWalk::new(shared, file, start),
        range: start..end,
        left: None,
        reading: shared.readers.begin(),
    };
    let shared = Arc::clone(shared);
    stream::try_unfold(batches, |mut batches| async move {
        let batch = batches.next().await?;
        Ok(batch.map(|batch| (batch, batches)))
    })
    // Tasks of their own: chunks are verified on another core than the one that sends what was read before.
    .map_ok(move |batch| {
        let fetching = AbortOnDropHandle::new(tokio::spawn(fetch(Arc::clone(&shared), batch)));
        async move { fetching.await.unwrap_or(Err(StorageError::Cancelled)) }
    })
    .try_buffered(FETCHES_AHEAD)
    .map_ok(|parts| stream::iter(parts.into_iter().map(Ok)))
    .try_flatten()
    .boxed()
}

async fn fetch(shared: Arc<Shared>, batch: Batch) -> Result<VecDeque<Bytes>> {
    let (Some((first, _)), Some((last, _))) = (batch.extents.first(), batch.extents.last()) else {
        return Ok(VecDeque::new());
    };
    let all = match &first.location.pack {
        PackRef::Stored(id) => shared.range(*id, first.location.offset(), last.location.end()).await?,
        PackRef::Written(_) => shared.bytes(&first.location).await?,
    };
    let mut parts = VecDeque::with_capacity(batch.extents.len());
    let mut at = 0;
    for (extent, part) in &batch.extents {
        let length = extent.location.length as usize;
        let chunk = all.slice(at..at + length);
        at += length;
        verify_chunk(&shared, &extent.location, &extent.digest, &chunk)?;
        parts.push_back(chunk.slice(part.clone()));
    }
    Ok(parts)
}

pub(crate) fn verify_chunk(shared: &Shared, location: &Location, digest: &Digest, chunk: &[u8]) -> Result<()> {
    if Digest::of(chunk) == *digest {
        return Ok(());
    }
    Err(shared.corrupt(location, "a chunk does not match its digest"))
}
