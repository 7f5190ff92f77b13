//! Parts of packs on local disk, for stores that are far away. Packs never change, so what was fetched once is right for ever; what
//! is here is never needed, so every failure of this disk is a miss.
//!
//! A file holds one aligned block of a pack and its checksum. It is written under another name and renamed, and may vanish at any
//! time: processes share the directory without a word to each other. Which were used last is told by the files' times.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use tokio::task::spawn_blocking;

use super::Store;
use crate::digest::Digest;
use crate::error::{Result, StorageError};

/// What is fetched and kept together: little more than a small read costs anyhow, in time to the first byte.
const BLOCK_BYTES: u64 = 256 << 10;
const CHECKSUM_BYTES: usize = 4;
/// A cache of less keeps nothing: two processes could not stay below that.
const LEAST_BYTES: u64 = 4 * BLOCK_BYTES;
/// What a file takes on a disk is a multiple of this.
const DISK_BYTES: u64 = 4 << 10;
/// A block that is used more often than that is as young as one can be.
const USED_AGAIN_AFTER: Duration = Duration::from_secs(60);
/// For so long nothing is written after the disk was full.
const PAUSE: Duration = Duration::from_secs(60);
/// A file that is being written is never older.
const WRITTEN_WITHIN: Duration = Duration::from_secs(3600);
const TEMPORARY: &str = "tmp";

/// A directory of blocks, bounded by their bytes. Several processes may have it open.
pub struct DiskCache {
    directory: PathBuf,
    most_bytes: u64,
    now: Box<dyn Fn() -> SystemTime + Send + Sync>,
    serial: AtomicU64,
    /// Written by this process since it last looked how much there is. Held while it writes: one block after the other.
    unswept: Mutex<u64>,
    resting_until: Mutex<Option<SystemTime>>,
}

/// A block as a sweep sees it.
struct Found {
    used: SystemTime,
    bytes: u64,
    path: PathBuf,
}

impl DiskCache {
    /// Keeps at most `most_bytes` in a directory, which is created for this user alone; `now` tells the time.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn open(
        directory: impl Into<PathBuf>,
        most_bytes: u64,
        now: impl Fn() -> SystemTime + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let directory = directory.into();
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(directory.join(TEMPORARY))?;
        Ok(Self {
            directory,
            most_bytes,
            now: Box::new(now),
            serial: AtomicU64::new(0),
            // What earlier processes left is looked at before anything is added.
            unswept: Mutex::new(u64::MAX),
            resting_until: Mutex::default(),
        })
    }

    fn pack(&self, pack: Digest) -> PathBuf {
        self.directory.join(pack.to_string())
    }

    fn file(&self, pack: Digest, block: u64) -> PathBuf {
        self.pack(pack).join(block.to_string())
    }

    /// A block, if it is here and whole.
    fn read(&self, pack: Digest, block: u64) -> Option<Bytes> {
        let path = self.file(pack, block);
        let mut file = File::open(&path).ok()?;
        let mut bytes = Vec::with_capacity(BLOCK_BYTES as usize + CHECKSUM_BYTES);
        let most = BLOCK_BYTES + CHECKSUM_BYTES as u64 + 1;
        let read = (&mut file).take(most).read_to_end(&mut bytes);
        let whole = read.is_ok()
            && bytes
                .split_last_chunk::<CHECKSUM_BYTES>()
                .is_some_and(|(content, checksum)| {
                    content.len() as u64 <= BLOCK_BYTES && crc32fast::hash(content).to_le_bytes() == *checksum
                });
        if !whole {
            tracing::warn!("a damaged block of the disk cache is fetched again: {}", path.display());
            let _ = fs::remove_file(&path);
            return None;
        }
        bytes.truncate(bytes.len() - CHECKSUM_BYTES);
        let now = (self.now)();
        let used = file.metadata().and_then(|metadata| metadata.modified());
        if used.is_ok_and(|used| used + USED_AGAIN_AFTER < now) {
            let _ = file.set_modified(now);
        }
        Some(Bytes::from(bytes))
    }

    /// Keeps a block, if that is possible.
    fn write(&self, pack: Digest, block: u64, bytes: &[u8]) {
        if self.most_bytes < LEAST_BYTES || self.is_resting() {
            return;
        }
        let takes = on_disk(bytes.len() as u64 + CHECKSUM_BYTES as u64);
        let mut unswept = self.unswept.lock().unwrap_or_else(PoisonError::into_inner);
        *unswept = unswept.saturating_add(takes);
        // Two processes may each write a sixteenth and a block more before they look again.
        let part = self.most_bytes / 16;
        if *unswept > part {
            self.sweep((self.most_bytes - 2 * part).saturating_sub(2 * (BLOCK_BYTES + DISK_BYTES)));
            *unswept = takes;
        }
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}.{serial}", std::process::id());
        let temporary = self.directory.join(TEMPORARY).join(name);
        if let Err(error) = self.write_as(&temporary, pack, block, bytes) {
            let _ = fs::remove_file(&temporary);
            self.rest(&error);
        }
    }

    fn write_as(&self, temporary: &Path, pack: Digest, block: u64, bytes: &[u8]) -> io::Result<()> {
        let mut file = File::options().write(true).create_new(true).open(temporary)?;
        file.write_all(bytes)?;
        file.write_all(&crc32fast::hash(bytes).to_le_bytes())?;
        file.set_modified((self.now)())?;
        drop(file);
        let target = self.file(pack, block);
        match fs::create_dir(self.pack(pack)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Ok(()) | Err(_) => {}
        }
        match fs::rename(temporary, target) {
            // Another process has just removed the last block of this pack, and the directory with it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => fs::remove_file(temporary),
            renamed => renamed,
        }
    }

    fn is_resting(&self) -> bool {
        let mut until = self.resting_until.lock().unwrap_or_else(PoisonError::into_inner);
        let resting = until.is_some_and(|until| (self.now)() < until);
        if !resting {
            *until = None;
        }
        resting
    }

    /// Works without the cache for a while. Of a full disk half of what is here is given back: others need it more.
    fn rest(&self, error: &io::Error) {
        tracing::warn!("nothing is added to the disk cache for a minute: {error}");
        *self.resting_until.lock().unwrap_or_else(PoisonError::into_inner) = Some((self.now)() + PAUSE);
        if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            self.sweep(self.held() / 2);
        }
    }

    /// Removes what belongs to a pack: it is gone, or damaged, or was replaced.
    pub(super) fn forget(&self, pack: Digest) {
        let _ = fs::remove_dir_all(self.pack(pack));
    }

    /// Everything that is here of a pack: its blocks, each with where it begins.
    pub(super) fn kept(&self, pack: Digest) -> BTreeMap<u64, Bytes> {
        let Ok(files) = fs::read_dir(self.pack(pack)) else {
            return BTreeMap::new();
        };
        let numbers = files
            .flatten()
            .filter_map(|file| file.file_name().to_str()?.parse().ok());
        numbers
            .filter_map(|block: u64| Some((block.checked_mul(BLOCK_BYTES)?, self.read(pack, block)?)))
            .collect()
    }

    fn blocks(&self) -> io::Result<Vec<Found>> {
        let mut found = Vec::new();
        for pack in fs::read_dir(&self.directory)? {
            // What vanishes meanwhile was removed by another process.
            let Ok(blocks) = fs::read_dir(pack?.path()) else {
                continue;
            };
            for block in blocks.flatten() {
                if let Ok(metadata) = block.metadata()
                    && let Ok(used) = metadata.modified()
                {
                    found.push(Found {
                        used,
                        bytes: on_disk(metadata.len()),
                        path: block.path(),
                    });
                }
            }
        }
        Ok(found)
    }

    fn held(&self) -> u64 {
        self.blocks()
            .map_or(0, |found| found.iter().map(|block| block.bytes).sum())
    }

    /// Removes the blocks that were not used for longest, until there are at most so many bytes.
    fn sweep(&self, most_bytes: u64) {
        let Ok(mut found) = self.blocks() else { return };
        let mut held: u64 = found.iter().map(|block| block.bytes).sum();
        let abandoned = (self.now)().checked_sub(WRITTEN_WITHIN);
        found.sort_by_key(|block| block.used);
        for block in found {
            let is_temporary = block.path.parent().is_some_and(|parent| parent.ends_with(TEMPORARY));
            let goes = match is_temporary {
                true => abandoned.is_some_and(|abandoned| block.used < abandoned),
                false => held > most_bytes,
            };
            if goes && fs::remove_file(&block.path).is_ok() {
                held -= block.bytes;
                if !is_temporary && let Some(pack) = block.path.parent() {
                    // Fails while there are others in it.
                    let _ = fs::remove_dir(pack);
                }
            }
        }
    }

    /// Bytes of a pack: from here as far as they are here, else from the store, and then kept.
    pub(super) async fn range(self: &Arc<Self>, store: &Store, pack: Digest, from: u64, to: u64) -> Result<Bytes> {
        let (first, last) = (from / BLOCK_BYTES, (to - 1) / BLOCK_BYTES);
        let this = Arc::clone(self);
        let mut blocks: Vec<Option<Bytes>> =
            spawn_blocking(move || (first..=last).map(|block| this.read(pack, block)).collect())
                .await
                .map_err(|_| StorageError::Cancelled)?;
        let mut at = 0;
        while at < blocks.len() {
            if blocks[at].is_some() {
                at += 1;
                continue;
            }
            let missing = blocks[at..].iter().take_while(|block| block.is_none()).count();
            let start = first + at as u64;
            let Ok(fetched) = store.fetch_some(pack, start, missing as u64).await else {
                // Whatever it is, asking for just what is wanted says it best.
                return store.fetch(pack, from, to).await;
            };
            for (block, bytes) in blocks[at..at + missing].iter_mut().zip(&fetched) {
                *block = Some(bytes.clone());
            }
            self.keep(pack, start, fetched).await?;
            at += missing;
        }
        let mut all = BytesMut::with_capacity((to - from) as usize);
        for (number, bytes) in (first..).zip(&blocks) {
            let start = number * BLOCK_BYTES;
            let (cut_from, cut_to) = (from.saturating_sub(start), (to - start).min(BLOCK_BYTES));
            let part = bytes
                .as_ref()
                .and_then(|bytes| bytes.get(cut_from as usize..cut_to as usize));
            let Some(part) = part else {
                // Stored when the pack was shorter than it should be, or it is so still.
                let _ = fs::remove_file(self.file(pack, number));
                return store.fetch(pack, from, to).await;
            };
            if blocks.len() == 1 {
                return Ok(bytes.as_ref().map_or_else(Bytes::new, |bytes| bytes.slice_ref(part)));
            }
            all.extend_from_slice(part);
        }
        Ok(all.freeze())
    }

    async fn keep(self: &Arc<Self>, pack: Digest, start: u64, blocks: Vec<Bytes>) -> Result<()> {
        let this = Arc::clone(self);
        spawn_blocking(move || {
            for (block, bytes) in (start..).zip(&blocks) {
                this.write(pack, block, bytes);
            }
        })
        .await
        .map_err(|_| StorageError::Cancelled)
    }
}

fn on_disk(bytes: u64) -> u64 {
    bytes.next_multiple_of(DISK_BYTES)
}

impl Store {
    /// Whole blocks from the store; the last one ends where the pack ends, and what would lie behind that is left out.
    async fn fetch_some(&self, pack: Digest, start: u64, count: u64) -> Result<Vec<Bytes>> {
        let range = start * BLOCK_BYTES..(start + count) * BLOCK_BYTES;
        let all = self.fetch_up_to(pack, range).await?;
        Ok((0..all.len())
            .step_by(BLOCK_BYTES as usize)
            .map(|at| all.slice(at..(at + BLOCK_BYTES as usize).min(all.len())))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(directory: &Path, most_bytes: u64, time: &Arc<AtomicU64>) -> DiskCache {
        let time = Arc::clone(time);
        let now = move || SystemTime::UNIX_EPOCH + Duration::from_secs(time.load(Ordering::SeqCst));
        DiskCache::open(directory, most_bytes, now).unwrap()
    }

    #[test]
    fn a_full_disk_gets_half_of_the_cache_back_and_a_rest() {
        let directory = tempfile::tempdir().unwrap();
        let time = Arc::new(AtomicU64::new(1_000_000));
        let cache = cache(directory.path(), 100 << 20, &time);
        let pack = Digest::of(b"pack");
        for block in 0..8 {
            cache.write(pack, block, &[7; 100_000]);
        }
        let held = cache.held();
        assert!(held >= 800_000);
        cache.rest(&io::Error::from(io::ErrorKind::StorageFull));
        let left = cache.held();
        assert!(left <= held / 2 && left > 0, "{left} of {held}");
        cache.write(pack, 100, b"not now");
        assert_eq!(cache.read(pack, 100), None);
        time.fetch_add(61, Ordering::SeqCst);
        cache.write(pack, 100, b"now");
        assert_eq!(cache.read(pack, 100).unwrap(), &b"now"[..]);
    }

    #[test]
    fn what_was_used_last_stays_and_the_bound_holds_for_two_processes() {
        let directory = tempfile::tempdir().unwrap();
        let time = Arc::new(AtomicU64::new(1_000_000));
        let most = 2 << 20;
        let processes = [
            cache(directory.path(), most, &time),
            cache(directory.path(), most, &time),
        ];
        let hot = Digest::of(b"hot");
        processes[0].write(hot, 0, b"used all the time");
        for number in 0..200u64 {
            time.fetch_add(100, Ordering::SeqCst);
            let process = &processes[number as usize % 2];
            assert!(process.read(hot, 0).is_some(), "{number}");
            process.write(Digest::of(&number.to_le_bytes()), 0, &[1; 60_000]);
            assert!(process.held() <= most, "{} bytes", process.held());
        }
        let last = Digest::of(&199u64.to_le_bytes());
        assert!(processes[0].read(last, 0).is_some());
        assert!(processes[0].read(Digest::of(&0u64.to_le_bytes()), 0).is_none());
        let packs = fs::read_dir(directory.path()).unwrap().count();
        assert!(packs < 40, "{packs} directories stay");
    }

    #[test]
    fn a_damaged_block_is_dropped_and_left_over_pieces_go() {
        let directory = tempfile::tempdir().unwrap();
        let time = Arc::new(AtomicU64::new(1_000_000));
        let cache = cache(directory.path(), 1 << 20, &time);
        let pack = Digest::of(b"pack");
        cache.write(pack, 3, b"content");
        let file = cache.file(pack, 3);
        for damaged in [&b""[..], b"abc", b"contenT\0\0\0\0"] {
            fs::write(&file, damaged).unwrap();
            assert_eq!(cache.read(pack, 3), None);
            assert!(!file.exists());
        }
        let piece = directory.path().join(TEMPORARY).join("1.1");
        fs::write(&piece, b"half").unwrap();
        File::options()
            .write(true)
            .open(&piece)
            .unwrap()
            .set_modified((cache.now)())
            .unwrap();
        cache.sweep(0);
        assert!(piece.exists(), "it may be being written");
        time.fetch_add(2 * 3600, Ordering::SeqCst);
        cache.sweep(0);
        assert!(!piece.exists());
    }
}
