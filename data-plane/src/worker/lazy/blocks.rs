//! Contents of lazy inputs in memory, in blocks, shared by all datums of a worker and bounded for all of them together. Each
//! is fetched once however many wait for it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use storage::{FileEntry, Storage, StorageError};
use tokio::sync::{OnceCell, Semaphore};

/// Bytes of a block.
pub const BLOCK: u64 = 1 << 20;
/// Blocks that are kept.
const KEPT: usize = 128;
/// Blocks that are fetched before they are asked for.
const AHEAD: u64 = 4;
/// Blocks that are fetched at the same time; as many more may be in memory.
const FETCHES: usize = 16;

fn short() -> StorageError {
    StorageError::Source(Arc::new(std::io::ErrorKind::UnexpectedEof.into()))
}

type Key = (String, u64);

struct Kept {
    block: Arc<OnceCell<Bytes>>,
    used: u64,
}

#[derive(Default)]
struct Index {
    kept: HashMap<Key, Kept>,
    clock: u64,
}

/// The blocks of a worker.
pub struct Blocks {
    storage: Storage,
    index: Mutex<Index>,
    fetches: Semaphore,
    /// Readers whose next blocks are being fetched; who finds no place does without.
    ahead: Semaphore,
}

impl Blocks {
    /// Nothing is fetched yet.
    pub fn new(storage: Storage) -> Self {
        Self {
            storage,
            index: Mutex::default(),
            fetches: Semaphore::new(FETCHES),
            ahead: Semaphore::new(FETCHES / 2),
        }
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cell of a block; what was used longest ago makes room.
    fn cell(&self, key: Key) -> Arc<OnceCell<Bytes>> {
        let mut index = self.index();
        index.clock += 1;
        let used = index.clock;
        if !index.kept.contains_key(&key) && index.kept.len() >= KEPT {
            let oldest = index.kept.iter().min_by_key(|(_, kept)| kept.used);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                index.kept.remove(&oldest);
            }
        }
        let kept = index.kept.entry(key).or_insert_with(|| Kept {
            block: Arc::default(),
            used,
        });
        kept.used = used;
        Arc::clone(&kept.block)
    }

    /// One block of a file.
    ///
    /// # Errors
    /// When storage is away or what it holds is damaged.
    async fn block(&self, file: &FileEntry, number: u64) -> Result<Bytes, StorageError> {
        let cell = self.cell((file.fingerprint().to_string(), number));
        let fetch = async || {
            let _turn = self.fetches.acquire().await.map_err(|_| short())?;
            let range = number * BLOCK..((number + 1) * BLOCK).min(file.size);
            let size = usize::try_from(range.end - range.start).map_err(|_| short())?;
            let mut bytes = BytesMut::with_capacity(size);
            let mut pieces = self.storage.read(file, range);
            while let Some(piece) = pieces.next().await {
                bytes.extend_from_slice(&piece?);
            }
            // The kernel would take what is missing for zeros.
            if bytes.len() == size {
                Ok(bytes.freeze())
            } else {
                Err(short())
            }
        };
        cell.get_or_try_init(fetch).await.cloned()
    }

    /// Fetches the blocks behind the one that a reader has just begun, if it read the one before: it will go on. Failures are
    /// told to who reads them.
    pub async fn ahead(&self, file: &FileEntry, offset: u64, size: u64) {
        let number = offset / BLOCK;
        let begins = offset % BLOCK < size.max(1);
        let name = file.fingerprint().to_string();
        if number == 0 || !begins || !self.index().kept.contains_key(&(name, number - 1)) {
            return;
        }
        let Ok(_turn) = self.ahead.try_acquire() else { return };
        for next in number + 1..=number + AHEAD {
            if next * BLOCK >= file.size || self.block(file, next).await.is_err() {
                return;
            }
        }
    }

    /// Bytes of a file from an offset on, fewer only at its end.
    ///
    /// # Errors
    /// As storage's reads.
    pub async fn read(&self, file: &FileEntry, offset: u64, size: u64) -> Result<Bytes, StorageError> {
        let end = offset.saturating_add(size).min(file.size);
        let mut all = BytesMut::new();
        let mut at = offset;
        while at < end {
            let number = at / BLOCK;
            let block = self.block(file, number).await?;
            let from = at - number * BLOCK;
            let to = (end - number * BLOCK).min(block.len() as u64);
            let (from, to) = (
                usize::try_from(from).map_err(|_| short())?,
                usize::try_from(to).map_err(|_| short())?,
            );
            let piece = block
                .get(from..to)
                .filter(|piece| !piece.is_empty())
                .ok_or_else(short)?;
            if all.is_empty() && at + piece.len() as u64 >= end {
                return Ok(block.slice(from..to));
            }
            all.extend_from_slice(piece);
            at += piece.len() as u64;
        }
        Ok(all.freeze())
    }
}

#[cfg(test)]
mod tests {
    use storage::{Options, Store};

    use super::*;

    #[tokio::test]
    async fn any_range_of_a_file_is_what_it_holds_and_no_more_is_kept_than_has_room() {
        let storage = Storage::new(Store::memory(), Options::default());
        let writer = storage.writer();
        let content: Vec<u8> = (0..3 * BLOCK + 100).map(|n| (n / 7 % 251) as u8).collect();
        let file = writer.write_bytes(content.clone().into(), false).await.unwrap();
        let other = writer.write_bytes(vec![1; 10].into(), false).await.unwrap();
        writer.flush().await.unwrap();
        let blocks = Blocks::new(storage);
        let ends = [
            0,
            1,
            BLOCK - 1,
            BLOCK,
            BLOCK + 1,
            3 * BLOCK,
            3 * BLOCK + 99,
            3 * BLOCK + 100,
            5 * BLOCK,
        ];
        for offset in ends {
            for size in [0, 1, 4096, BLOCK, 2 * BLOCK + 5] {
                let from = usize::try_from(offset).unwrap().min(content.len());
                let to = usize::try_from(offset + size).unwrap().min(content.len());
                let read = blocks.read(&file, offset, size).await.unwrap();
                assert_eq!(read, &content[from..to], "{offset} {size}");
            }
        }
        assert_eq!(blocks.index().kept.len(), 4);
        for n in 0..2 * KEPT as u64 {
            blocks.cell((other.fingerprint().to_string(), n));
        }
        assert_eq!(blocks.index().kept.len(), KEPT);
    }
}
