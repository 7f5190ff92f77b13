//! Memory of packs that are being filled or written: segments of one size from a pool, so that
//! gigabytes can pass through without growing, fragmenting or faulting in new memory each time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::store::PackKey;

const SEGMENT_BYTES: usize = 256 << 10;
/// Segments begin at a multiple of this in memory, so that they can be written past the page cache.
pub(crate) const ALIGNMENT: usize = 4 << 10;
/// So many idle segments are kept while there are write sessions.
const IDLE_MAX: usize = 128;

/// So many sessions at once are served as if each were alone.
const FEW_SESSIONS: usize = 2;

/// Idle segments.
#[derive(Default)]
pub(crate) struct Pool {
    idle: Mutex<Vec<Vec<u8>>>,
    sessions: AtomicUsize,
}

impl Pool {
    /// Write sessions that are open now.
    pub(crate) fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    /// One session's part of something that all of them share, at least `least`: a hundred sessions must not be a
    /// hundred times the memory. A few may have `most` each.
    pub(crate) fn part(&self, least: usize, most: usize) -> usize {
        part(self.sessions(), least, most)
    }

    pub(crate) fn enter(&self) {
        self.sessions.fetch_add(1, Ordering::Relaxed);
    }

    /// Gives the memory back when the last session ends.
    pub(crate) fn leave(&self) {
        if self.sessions.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }

    fn take(&self) -> Vec<u8> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.unwrap_or_else(|| Vec::with_capacity(SEGMENT_BYTES + ALIGNMENT))
    }

    fn put(&self, mut segment: Vec<u8>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if self.sessions() > 0 && idle.len() < IDLE_MAX {
            segment.clear();
            idle.push(segment);
        }
    }
}

/// What one of so many may have of something they share.
fn part(sharers: usize, least: usize, most: usize) -> usize {
    (most * FEW_SESSIONS / sharers.max(FEW_SESSIONS)).max(least.min(most))
}

/// Counts reads under way, so that each fetches less ahead when there are many.
#[derive(Default)]
pub(crate) struct Readers(AtomicUsize);

/// A read under way until it is dropped.
pub(crate) struct Reading(Arc<Readers>);

impl Readers {
    pub(crate) fn begin(self: &Arc<Self>) -> Reading {
        self.0.fetch_add(1, Ordering::Relaxed);
        Reading(Arc::clone(self))
    }
}

impl Reading {
    /// This read's part of `most` bytes, at least `least`.
    pub(crate) fn part(&self, least: usize, most: usize) -> usize {
        part(self.0.0.load(Ordering::Relaxed), least, most)
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One piece of memory; returns to its pool by itself.
struct Segment {
    /// Filler up to `start`, which is aligned.
    bytes: Vec<u8>,
    start: usize,
    pool: Arc<Pool>,
}

impl Segment {
    fn new(pool: &Arc<Pool>) -> Self {
        let mut bytes = pool.take();
        let start = align(&mut bytes);
        Self {
            bytes,
            start,
            pool: Arc::clone(pool),
        }
    }

    /// How many bytes it still takes.
    fn room(&self) -> usize {
        SEGMENT_BYTES + self.start - self.bytes.len()
    }
}

/// Fills empty memory up to where an aligned address begins, and returns how much that is: less than [`ALIGNMENT`].
pub(crate) fn align(bytes: &mut Vec<u8>) -> usize {
    let start = bytes.as_ptr().align_offset(ALIGNMENT) % ALIGNMENT;
    bytes.resize(start, 0);
    start
}

impl AsRef<[u8]> for Segment {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        self.pool.put(std::mem::take(&mut self.bytes));
    }
}

/// A sequence of bytes that only grows. All segments but the last are full.
pub(crate) struct Buffer {
    pool: Arc<Pool>,
    segments: Vec<Segment>,
    length: usize,
}

impl Buffer {
    pub(crate) fn new(pool: &Arc<Pool>) -> Self {
        Self {
            pool: Arc::clone(pool),
            segments: Vec::new(),
            length: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.length
    }

    pub(crate) fn extend(&mut self, mut bytes: &[u8]) {
        self.length += bytes.len();
        while !bytes.is_empty() {
            if self.segments.last().is_none_or(|last| last.room() == 0) {
                self.segments.push(Segment::new(&self.pool));
            }
            let Some(last) = self.segments.last_mut() else { return };
            let (head, tail) = bytes.split_at(bytes.len().min(last.room()));
            last.bytes.extend_from_slice(head);
            bytes = tail;
        }
    }

    /// A copy of these bytes, if they are there.
    pub(crate) fn copy(&self, from: usize, length: usize) -> Option<Bytes> {
        copy(&self.segments, from, length)
    }

    /// What is in it; leaves it empty.
    pub(crate) fn take(&mut self) -> Self {
        std::mem::replace(self, Self::new(&Arc::clone(&self.pool)))
    }

    /// Encrypts the bytes where they are, as the pack that they are.
    pub(crate) fn encrypt(&mut self, key: &PackKey) {
        let mut at = 0;
        for segment in &mut self.segments {
            let part = &mut segment.bytes[segment.start..];
            key.apply(at, part);
            at += part.len() as u64;
        }
    }

    /// The bytes as they will be written.
    pub(crate) fn freeze(self) -> Frozen {
        Frozen {
            length: self.length,
            parts: self.segments.into_iter().map(Bytes::from_owner).collect(),
        }
    }
}

/// The bytes of a sealed pack. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Frozen {
    parts: Arc<[Bytes]>,
    length: usize,
}

impl Frozen {
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    pub(crate) fn parts(&self) -> &[Bytes] {
        &self.parts
    }

    /// A copy of these bytes, if they are there.
    pub(crate) fn copy(&self, from: usize, length: usize) -> Option<Bytes> {
        copy(&self.parts, from, length)
    }
}

fn copy(segments: &[impl AsRef<[u8]>], from: usize, length: usize) -> Option<Bytes> {
    let mut copied = Vec::with_capacity(length);
    let mut at = from;
    while copied.len() < length {
        let segment = segments.get(at / SEGMENT_BYTES)?.as_ref();
        let rest = segment.get(at % SEGMENT_BYTES..).filter(|rest| !rest.is_empty())?;
        let part = &rest[..rest.len().min(length - copied.len())];
        copied.extend_from_slice(part);
        at += part.len();
    }
    Some(Bytes::from(copied))
}
