//! Writes a directory of a commit as a zip archive, as it is asked for. Nothing is kept of a file but its checksum: the
//! directory at the end is made by walking the tree a second time. Contents stand as they are, since most of what is large
//! is compressed already and whoever waits for an archive waits for the network.

use bytes::{Bytes, BytesMut};
use chrono::{DateTime, Utc};
use crc32fast::Hasher;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use storage::{FileEntry, FilePath, Storage, StorageError, TreeRef};

use super::portions::{self, Portion, WHOLE_BYTES_MAX, name_below};
use super::zip_records::{Member, Stamp, end};

/// Records of the directory that are sent in one go.
const RECORDS: usize = 512;

type Files = BoxStream<'static, Result<(FilePath, FileEntry), StorageError>>;

struct Zip {
    storage: Storage,
    tree: TreeRef,
    below: Option<FilePath>,
    stamp: Stamp,
    portions: BoxStream<'static, Result<Portion, StorageError>>,
    /// The large file that is being sent.
    large: Option<Large>,
    /// One of each file so far, in the tree's order.
    checksums: Vec<u32>,
    /// The directory, when all files are sent.
    directory: Option<Directory>,
}

struct Large {
    path: FilePath,
    entry: FileEntry,
    bytes: BoxStream<'static, Result<Bytes, StorageError>>,
    hasher: Hasher,
}

struct Directory {
    files: Files,
    index: usize,
    /// Where the next file lies.
    place: u64,
    /// The directory's own bytes so far.
    length: u64,
    ended: bool,
}

/// The archive of what lies below a directory (`None`: the root) or of one file; names are relative to it.
pub fn archive(
    storage: &Storage,
    tree: &TreeRef,
    below: Option<FilePath>,
    modified_at: DateTime<Utc>,
) -> BoxStream<'static, Result<Bytes, StorageError>> {
    let zip = Zip {
        portions: portions::read(storage, tree, below.as_ref(), None),
        storage: storage.clone(),
        tree: tree.clone(),
        below,
        stamp: Stamp::of(modified_at),
        large: None,
        checksums: Vec::new(),
        directory: None,
    };
    stream::try_unfold(zip, |mut zip| async move {
        let next = zip.next().await?;
        Ok(next.map(|bytes| (bytes, zip)))
    })
    .boxed()
}

impl Zip {
    async fn next(&mut self) -> Result<Option<Bytes>, StorageError> {
        if let Some(bytes) = self.next_of_large().await? {
            return Ok(Some(bytes));
        }
        if self.directory.is_none() {
            match self.portions.try_next().await? {
                Some(Portion::Window(files)) => return Ok(Some(self.window(files))),
                Some(Portion::Large((path, entry))) => return Ok(Some(self.begin_large(path, entry))),
                None => {}
            }
        }
        self.next_of_directory().await
    }

    fn window(&mut self, files: Vec<(FilePath, FileEntry, Bytes)>) -> Bytes {
        let room = files
            .iter()
            .map(|(path, _, bytes)| 30 + path.as_str().len() + bytes.len());
        let mut out = BytesMut::with_capacity(room.sum());
        for (path, entry, bytes) in files {
            let checksum = crc32fast::hash(&bytes);
            member(self.below.as_ref(), &path, &entry).local(&mut out, self.stamp, checksum);
            out.extend_from_slice(&bytes);
            self.checksums.push(checksum);
        }
        out.freeze()
    }

    fn begin_large(&mut self, path: FilePath, entry: FileEntry) -> Bytes {
        let mut out = BytesMut::new();
        member(self.below.as_ref(), &path, &entry).local(&mut out, self.stamp, 0);
        self.large = Some(Large {
            bytes: self.storage.read(&entry, 0..entry.size),
            path,
            entry,
            hasher: Hasher::new(),
        });
        out.freeze()
    }

    async fn next_of_large(&mut self) -> Result<Option<Bytes>, StorageError> {
        let Some(large) = &mut self.large else { return Ok(None) };
        if let Some(bytes) = large.bytes.try_next().await? {
            large.hasher.update(&bytes);
            return Ok(Some(bytes));
        }
        let mut out = BytesMut::new();
        let checksum = large.hasher.clone().finalize();
        member(self.below.as_ref(), &large.path, &large.entry).descriptor(&mut out, checksum);
        self.checksums.push(checksum);
        self.large = None;
        Ok(Some(out.freeze()))
    }

    async fn next_of_directory(&mut self) -> Result<Option<Bytes>, StorageError> {
        let directory = self.directory.get_or_insert_with(|| Directory {
            files: self.storage.list(&self.tree, self.below.as_ref(), None),
            index: 0,
            place: 0,
            length: 0,
            ended: false,
        });
        if directory.ended {
            return Ok(None);
        }
        let mut out = BytesMut::new();
        for _ in 0..RECORDS {
            let Some((path, entry)) = directory.files.try_next().await? else {
                directory.length += out.len() as u64;
                end(&mut out, directory.index as u64, directory.place, directory.length);
                directory.ended = true;
                return Ok(Some(out.freeze()));
            };
            let member = member(self.below.as_ref(), &path, &entry);
            let checksum = self.checksums.get(directory.index).copied().unwrap_or_default();
            member.central(&mut out, self.stamp, checksum, directory.place);
            directory.place += member.room();
            directory.index += 1;
        }
        directory.length += out.len() as u64;
        Ok(Some(out.freeze()))
    }
}

fn member<'a>(below: Option<&FilePath>, path: &'a FilePath, entry: &FileEntry) -> Member<'a> {
    Member {
        name: name_below(below, path),
        size: entry.size,
        executable: entry.executable,
        described: entry.size > WHOLE_BYTES_MAX,
    }
}
