//! Blocks kept on this machine's disk, for every mount of a service by this user: named by the file's digest and the block's number,
//! each with a checksum of its own, bounded in bytes, the longest unused going first. It is a cache: whatever fails here,
//! a read still gets its bytes from the service.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use nix::sys::stat::futimens;
use nix::sys::time::TimeSpec;

use super::ahead::{BLOCK, blocks_of};
use super::tree::{Digest, File as FileOf};

/// What was not used for so long goes at the next start of a mount.
const UNUSED_MAX: Duration = Duration::from_secs(30 * 86_400);
/// So much of the disk stays free.
const KEEP_FREE: u64 = 1 << 30;
/// More files would make a look at all of them slow.
const FILES_MAX: usize = 200_000;
/// What a block takes on the disk at the least.
const DISK_UNIT: u64 = 4096;
const CHECKSUM_BYTES: usize = 32;

/// A block of a file, whatever its name and repo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// Of the whole file.
    pub digest: Digest,
    /// Which block of it.
    pub index: u64,
}

/// The directory of blocks.
pub struct Disk {
    directory: PathBuf,
    limit: u64,
    /// Written since the directory was last looked at.
    written: AtomicU64,
    looking: Mutex<()>,
}

/// Where the blocks of a service are. What one service gave is never read for another: it may have lied about a digest.
pub fn directory(cache: &Path, service: &str) -> PathBuf {
    let name = blake3::hash(service.as_bytes()).to_hex();
    cache.join("blocks").join(&name[..16])
}

struct Kept {
    used: SystemTime,
    bytes: u64,
    path: PathBuf,
}

impl Disk {
    /// A cache of at most so many bytes in that directory, which is made if it is missing.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn open(directory: &Path, limit: u64) -> std::io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        Ok(Self {
            directory: directory.to_path_buf(),
            limit,
            written: AtomicU64::new(0),
            looking: Mutex::new(()),
        })
    }

    fn path(&self, key: Key) -> PathBuf {
        let name = key.digest.to_string();
        self.directory
            .join(&name[..2])
            .join(format!("{}.{}", &name[2..], key.index))
    }

    /// The block, if it is there and whole. One that is damaged is removed.
    pub fn read(&self, key: Key) -> Option<Bytes> {
        let path = self.path(key);
        let mut file = File::open(&path).ok()?;
        let mut checksum = [0; CHECKSUM_BYTES];
        let mut bytes = Vec::with_capacity(usize::try_from(file.metadata().ok()?.len()).ok()?);
        let read = file
            .read_exact(&mut checksum)
            .and_then(|()| file.read_to_end(&mut bytes));
        if read.is_err() || checksum != sum(key, &bytes) {
            let _ = std::fs::remove_file(&path);
            return None;
        }
        // Used now; the disk itself may not note it.
        let _ = futimens(&file, &TimeSpec::UTIME_OMIT, &TimeSpec::UTIME_NOW);
        Some(bytes.into())
    }

    /// Keeps a block; that it could not be kept is nobody's concern.
    pub fn write(&self, key: Key, bytes: &[u8]) {
        if self.limit == 0 || self.store(key, bytes).is_err() {
            return;
        }
        let written = self.written.fetch_add(on_disk(bytes.len() as u64), Ordering::Relaxed);
        // Others write here too, and are only seen by looking.
        if written > (self.limit / 16).min(1 << 30) {
            self.shrink(None);
        }
    }

    fn store(&self, key: Key, bytes: &[u8]) -> std::io::Result<()> {
        let path = self.path(key);
        let folder = path.parent().unwrap_or(&self.directory);
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let fresh = path.with_extension(format!("{}.{}.new", key.index, std::process::id()));
        let stored = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh)
            .and_then(|mut file| {
                file.write_all(&sum(key, bytes))?;
                file.write_all(bytes)
            })
            .and_then(|()| std::fs::rename(&fresh, &path));
        if stored.is_err() {
            let _ = std::fs::remove_file(&fresh);
        }
        stored
    }

    /// Removes all blocks of a file: the right to read it is gone.
    pub fn forget(&self, file: FileOf) {
        for index in 0..blocks_of(file.size).max(1) {
            self.remove(Key {
                digest: file.digest,
                index,
            });
        }
    }

    /// Removes a block.
    pub fn remove(&self, key: Key) {
        let _ = std::fs::remove_file(self.path(key));
    }

    /// Removes what is too much, the longest unused first; with a time, also what was unused for too long by then.
    pub fn shrink(&self, now: Option<SystemTime>) {
        let Ok(_alone) = self.looking.try_lock() else { return };
        self.written.store(0, Ordering::Relaxed);
        let mut kept = self.look();
        kept.sort_by_key(|block| block.used);
        let used: u64 = kept.iter().map(|block| block.bytes).sum();
        let limit = self.limit.min((used + self.free()).saturating_sub(KEEP_FREE));
        let is_old = |block: &Kept| {
            let unused = now.and_then(|now| now.duration_since(block.used).ok());
            unused.is_some_and(|unused| unused > UNUSED_MAX)
        };
        // Further than to the limit, so that this is not done again for each block.
        let goal = if used > limit { limit / 10 * 9 } else { limit };
        let too_many = kept.len().saturating_sub(FILES_MAX);
        let mut left = used;
        for (at, block) in kept.iter().enumerate() {
            if left > goal || at < too_many || is_old(block) {
                let _ = std::fs::remove_file(&block.path);
                left -= block.bytes;
            }
        }
    }

    fn look(&self) -> Vec<Kept> {
        let folders = std::fs::read_dir(&self.directory).into_iter().flatten().flatten();
        let files = folders.flat_map(|folder| std::fs::read_dir(folder.path()).into_iter().flatten().flatten());
        let kept = files.filter_map(|file| {
            let about = file.metadata().ok()?;
            Some(Kept {
                used: about.modified().ok()?,
                bytes: on_disk(about.size()),
                path: file.path(),
            })
        });
        kept.collect()
    }

    fn free(&self) -> u64 {
        nix::sys::statvfs::statvfs(&self.directory)
            .map_or(u64::MAX / 2, |found| found.blocks_available() * found.fragment_size())
    }
}

fn on_disk(bytes: u64) -> u64 {
    bytes.max(1).next_multiple_of(DISK_UNIT)
}

/// Over the key too: a block under another one's name is not that one.
fn sum(key: Key, bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    debug_assert!(bytes.len() as u64 <= BLOCK);
    let mut hasher = blake3::Hasher::new();
    hasher.update(key.digest.as_bytes());
    hasher.update(&key.index.to_le_bytes());
    hasher.update(bytes);
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn key(n: u64) -> Key {
        Key {
            digest: Digest::of(&n.to_le_bytes()),
            index: n % 3,
        }
    }

    fn set_used(disk: &Disk, key: Key, seconds: i64) {
        let file = File::open(disk.path(key)).unwrap();
        futimens(&file, &TimeSpec::UTIME_OMIT, &TimeSpec::new(seconds, 0)).unwrap();
    }

    #[test]
    fn a_block_comes_back_and_nobody_else_can_read_it() {
        let home = tempfile::tempdir().unwrap();
        let disk = Disk::open(&home.path().join("blocks"), 1 << 30).unwrap();
        assert_eq!(disk.read(key(1)), None);
        disk.write(key(1), b"one");
        disk.write(key(2), b"");
        assert_eq!(disk.read(key(1)).as_deref(), Some(&b"one"[..]));
        assert_eq!(disk.read(key(2)).as_deref(), Some(&b""[..]));
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        let path = disk.path(key(1));
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        assert_eq!(mode(&disk.directory), 0o700);

        let file = FileOf {
            size: 2 * BLOCK,
            digest: key(1).digest,
            executable: false,
        };
        disk.forget(file);
        assert_eq!(disk.read(key(1)), None);
        assert!(disk.read(key(2)).is_some());
    }

    #[test]
    fn what_one_service_gave_is_not_found_for_another() {
        let home = tempfile::tempdir().unwrap();
        let open = |service| Disk::open(&directory(home.path(), service), 1 << 30).unwrap();
        open("https://one.example").write(key(1), b"planted");
        assert_eq!(open("https://other.example").read(key(1)), None);
        assert!(open("https://one.example").read(key(1)).is_some());
    }

    #[test]
    fn a_damaged_block_or_one_under_anothers_name_is_no_block() {
        let home = tempfile::tempdir().unwrap();
        let disk = Disk::open(home.path(), 1 << 30).unwrap();
        for damage in [&b"short"[..], &[7; 100]] {
            disk.write(key(1), b"one");
            std::fs::write(disk.path(key(1)), damage).unwrap();
            assert_eq!(disk.read(key(1)), None);
            assert!(!disk.path(key(1)).exists());
        }
        disk.write(key(1), b"one");
        disk.write(key(2), b"two");
        std::fs::copy(disk.path(key(2)), disk.path(key(1))).unwrap();
        assert_eq!(disk.read(key(1)), None);
    }

    #[test]
    fn the_longest_unused_blocks_go_first_and_reading_is_using() {
        let home = tempfile::tempdir().unwrap();
        let block = vec![1; 60_000];
        let each = on_disk(block.len() as u64 + 32);
        let disk = Disk::open(home.path(), 10 * each).unwrap();
        for n in 0..14 {
            disk.store(key(n), &block).unwrap();
            set_used(&disk, key(n), 1000 + i64::try_from(n).unwrap());
        }
        assert!(disk.read(key(0)).is_some());
        disk.shrink(None);
        let left: Vec<u64> = (0..14).filter(|n| disk.path(key(*n)).exists()).collect();
        assert_eq!(left, [0, 6, 7, 8, 9, 10, 11, 12, 13]);

        // A month after that one was used; the first was used now.
        set_used(&disk, key(9), 1_000_000);
        let later = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000) + UNUSED_MAX + Duration::from_secs(1);
        disk.shrink(Some(later));
        let left: Vec<u64> = (0..14).filter(|n| disk.path(key(*n)).exists()).collect();
        assert_eq!(left, [0]);
    }

    #[test]
    fn more_than_the_limit_is_never_kept_for_long_and_none_is_no_cache() {
        let home = tempfile::tempdir().unwrap();
        let disk = Disk::open(home.path(), 1_000_000).unwrap();
        for n in 0..100 {
            disk.write(key(n), &vec![1; 50_000]);
        }
        let bytes: u64 = disk.look().iter().map(|block| block.bytes).sum();
        assert!(bytes <= 1_100_000, "{bytes}");
        let none = Disk::open(&home.path().join("none"), 0).unwrap();
        none.write(key(1), b"one");
        assert_eq!(none.read(key(1)), None);
    }
}
