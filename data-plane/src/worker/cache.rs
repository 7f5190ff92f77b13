//! Files that datums of this machine read, on its disk, named by content, so that a file is brought once however many
//! datums and jobs read it. Datums get hard links: no byte is copied, and user code sees the links read-only.
//!
//! The cache holds nothing that is not in the bucket. It is bounded in bytes; what was used longest ago goes first. A
//! file is written under a temporary name and renamed; after a reboot the whole cache is dropped, because files that were
//! not synced may have come back damaged.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures::StreamExt;
use storage::{FileEntry, Storage};
use tokio::io::AsyncWriteExt;

/// Files of this size at most are read in one go.
const SMALL_BYTES_MAX: u64 = 1 << 20;
/// Changes at each start of the machine.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

struct Kept {
    size: u64,
    used: u64,
}

#[derive(Default)]
struct Index {
    files: HashMap<String, Kept>,
    bytes: u64,
    clock: u64,
}

/// The cache of one worker.
pub struct Cache {
    directory: PathBuf,
    bytes_max: u64,
    index: Mutex<Index>,
    storage: Storage,
    unique: std::sync::atomic::AtomicU64,
}

/// Why a file could not be brought.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The bucket.
    #[error(transparent)]
    Storage(#[from] storage::StorageError),
    /// The disk of this machine.
    #[error("the cache at `{path}` failed: {source}; check the disk")]
    Disk {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Removes a file under its temporary name; one that was renamed is not there.
struct Unfinished<'a>(&'a Path);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.0);
    }
}

impl Cache {
    /// Opens the cache in that directory, which is made; what an earlier boot of the machine left is dropped.
    pub fn open(directory: PathBuf, bytes_max: u64, storage: Storage) -> io::Result<Self> {
        let boot = std::fs::read_to_string(BOOT_ID).unwrap_or_default();
        let marker = directory.join("boot");
        if std::fs::read_to_string(&marker).unwrap_or_default() != boot {
            let _ = std::fs::remove_dir_all(&directory);
        }
        std::fs::create_dir_all(&directory)?;
        std::fs::write(&marker, boot)?;
        let mut index = Index::default();
        for entry in std::fs::read_dir(&directory)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("new-") {
                let _ = std::fs::remove_file(entry.path());
            } else if name.len() == 64 {
                let size = entry.metadata()?.len();
                index.bytes += size;
                index.files.insert(name, Kept { size, used: 0 });
            }
        }
        Ok(Self {
            directory,
            bytes_max,
            index: Mutex::new(index),
            storage,
            unique: std::sync::atomic::AtomicU64::new(0),
        })
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings the file unless it is here, and returns where it is. It may be evicted any time after that: link it at once
    /// and ask again when it is gone.
    pub async fn bring(&self, file: &FileEntry) -> Result<PathBuf, CacheError> {
        let name = file.fingerprint().to_string();
        let path = self.directory.join(&name);
        {
            let mut index = self.index();
            index.clock += 1;
            let now = index.clock;
            if let Some(kept) = index.files.get_mut(&name) {
                kept.used = now;
                return Ok(path);
            }
        }
        self.fetch(file, &path).await?;
        self.kept(name, file.size);
        Ok(path)
    }

    /// Forgets a file that is not there any more.
    pub fn forget(&self, file: &FileEntry) {
        let mut index = self.index();
        if let Some(kept) = index.files.remove(&file.fingerprint().to_string()) {
            index.bytes = index.bytes.saturating_sub(kept.size);
        }
    }

    async fn fetch(&self, file: &FileEntry, path: &Path) -> Result<(), CacheError> {
        let number = self.unique.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let new = self.directory.join(format!("new-{number}"));
        let mode = if file.executable { 0o555 } else { 0o444 };
        let disk = |path: &Path| {
            let path = path.to_owned();
            move |source| CacheError::Disk { path, source }
        };
        let opened = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new);
        let mut writing = tokio::fs::File::from_std(opened.map_err(disk(&new))?);
        // Also when it is broken off, because nobody wants the datum any more.
        let _gone = Unfinished(&new);
        {
            if file.size <= SMALL_BYTES_MAX {
                let bytes = self.storage.read_all(file).await?;
                writing.write_all(&bytes).await.map_err(disk(&new))?;
            } else {
                let mut bytes = self.storage.read(file, 0..file.size);
                while let Some(piece) = bytes.next().await {
                    writing.write_all(&piece?).await.map_err(disk(&new))?;
                }
            }
            writing.flush().await.map_err(disk(&new))?;
            std::fs::set_permissions(&new, std::fs::Permissions::from_mode(mode)).map_err(disk(&new))?;
            std::fs::rename(&new, path).map_err(disk(path))
        }
    }

    /// Counts a new file in and evicts what is too much, down to nine tenths so that not every new file evicts one.
    fn kept(&self, name: String, size: u64) {
        let mut index = self.index();
        index.clock += 1;
        let used = index.clock;
        if index.files.insert(name, Kept { size, used }).is_none() {
            index.bytes += size;
        }
        if index.bytes <= self.bytes_max {
            return;
        }
        // Not the new one: it may be larger than all that may be kept, and whoever asked for it links it only now.
        let mut by_age: Vec<(u64, String)> = index
            .files
            .iter()
            .filter(|(_, kept)| kept.used != used)
            .map(|(name, kept)| (kept.used, name.clone()))
            .collect();
        by_age.sort_unstable();
        for (_, name) in by_age {
            if index.bytes <= self.bytes_max / 10 * 9 {
                break;
            }
            let _ = std::fs::remove_file(self.directory.join(&name));
            if let Some(kept) = index.files.remove(&name) {
                index.bytes = index.bytes.saturating_sub(kept.size);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use storage::{Options, Store};

    use super::*;

    #[tokio::test]
    async fn a_file_larger_than_the_cache_is_there_until_the_next_one_comes() {
        let directory = tempfile::tempdir().unwrap();
        let storage = Storage::new(Store::memory(), Options::default());
        let writer = storage.writer();
        let write = async |size: usize| writer.write_bytes(vec![size as u8; size].into(), false).await.unwrap();
        let (first, large, last) = (write(10).await, write(1000).await, write(20).await);
        writer.flush().await.unwrap();
        let cache = Cache::open(directory.path().join("cache"), 100, storage).unwrap();
        let before = cache.bring(&first).await.unwrap();
        let path = cache.bring(&large).await.unwrap();
        assert!(path.exists() && !before.exists());
        assert!(cache.bring(&last).await.unwrap().exists() && !path.exists());
        assert_eq!(cache.index().bytes, 20);
    }
}
