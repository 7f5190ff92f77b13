//! An upload on its way into storage: a tar archive is read as it arrives, small files are stored in batches, large ones
//! as streams. Nothing refers to what was stored until the commit is made, so an upload that breaks off leaves nothing.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use storage::{FileEntry, FilePath, Storage, TreeRef, Writer};
use tokio::io::AsyncRead;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::archive_reader::ArchiveReader;
use super::change::{self, FileChange, Puts};
use super::delta::{self, Delta};
use crate::failure::{Answer, Failure};

/// Files up to this size are stored in batches.
const SMALL_BYTES_MAX: u64 = 128 << 10;
/// A batch is stored when it holds that much; less when there are many uploads.
const BATCH_BYTES: usize = 1 << 20;
const BATCH_BYTES_MIN: usize = 64 << 10;
const BATCH_FILES: usize = 1024;
/// Batches of one upload on their way at once.
const BATCHES_MAX: usize = 4;
/// Batches of all uploads on their way at once: a hundred uploads must not be a hundred times the memory.
pub const BATCHES_OF_ALL_MAX: usize = 8;
/// An upload that is no larger stays in its entries when it goes into an open commit: 100,000 single files must not be
/// 100,000 objects.
const EMBEDDED_BYTES_MAX: usize = 64 << 10;

/// Where an upload goes.
pub struct Destination<'a> {
    /// The tree that is there: what the files have in common with it is not stored again.
    pub base: &'a TreeRef,
    /// The tree that deltas are against.
    pub deltas: Option<&'a TreeRef>,
    /// The directory that the archive's root stands for; `None` = the root.
    pub directory: Option<&'a FilePath>,
    /// Put the contents behind what is there.
    pub append: bool,
    /// Into an open commit.
    pub open: bool,
    /// Who may store a batch now, among all uploads: [`BATCHES_OF_ALL_MAX`].
    pub batches: &'a Arc<Semaphore>,
}

/// Files with their places in the archive.
type Placed = Vec<(usize, FilePath, FileEntry)>;

struct Batches {
    storage: Storage,
    writer: Writer,
    permits: Arc<Semaphore>,
    names: Vec<(usize, FilePath)>,
    files: Vec<(Bytes, bool)>,
    bytes: usize,
    running: VecDeque<JoinHandle<Answer<Placed>>>,
    done: Placed,
}

impl Batches {
    fn new(storage: &Storage, writer: &Writer, permits: &Arc<Semaphore>) -> Self {
        Self {
            storage: storage.clone(),
            writer: writer.clone(),
            permits: Arc::clone(permits),
            names: Vec::new(),
            files: Vec::new(),
            bytes: 0,
            running: VecDeque::new(),
            done: Vec::new(),
        }
    }

    async fn add(&mut self, place: usize, path: FilePath, content: Vec<u8>, executable: bool) -> Answer<()> {
        self.bytes += content.len();
        self.names.push((place, path));
        self.files.push((content.into(), executable));
        if self.bytes >= self.storage.part(BATCH_BYTES_MIN, BATCH_BYTES) || self.files.len() >= BATCH_FILES {
            self.send().await?;
        }
        Ok(())
    }

    async fn send(&mut self) -> Answer<()> {
        if self.files.is_empty() {
            return Ok(());
        }
        while self.running.len() >= BATCHES_MAX {
            self.take().await?;
        }
        let (names, files) = (std::mem::take(&mut self.names), std::mem::take(&mut self.files));
        self.bytes = 0;
        let writer = self.writer.clone();
        let permit = Arc::clone(&self.permits)
            .acquire_owned()
            .await
            .map_err(Failure::internal)?;
        self.running.push_back(tokio::spawn(async move {
            let _permit = permit;
            let entries = writer.write_small_files(files).await?;
            let named = names.into_iter().zip(entries);
            Ok(named.map(|((place, path), entry)| (place, path, entry)).collect())
        }));
        Ok(())
    }

    async fn take(&mut self) -> Answer<()> {
        if let Some(batch) = self.running.pop_front() {
            self.done.extend(batch.await.map_err(Failure::internal)??);
        }
        Ok(())
    }

    /// Everything that fits into the entries themselves, if that is all there was.
    fn embed(&mut self) {
        for ((place, path), (bytes, executable)) in self.names.drain(..).zip(self.files.drain(..)) {
            self.done.push((place, path, FileEntry::embedded(bytes, executable)));
        }
    }

    /// Everything that was added, stored or in entries themselves if it is little and may be.
    async fn settle(&mut self, may_embed: bool) -> Answer<Placed> {
        if may_embed && self.running.is_empty() && self.done.is_empty() && self.bytes <= EMBEDDED_BYTES_MAX {
            self.embed();
        }
        self.send().await?;
        while !self.running.is_empty() {
            self.take().await?;
        }
        Ok(std::mem::take(&mut self.done))
    }
}

impl Drop for Batches {
    fn drop(&mut self) {
        for batch in &self.running {
            batch.abort();
        }
    }
}

/// The file that a delta is against.
async fn delta_base(storage: &Storage, destination: &Destination<'_>, path: &FilePath) -> Answer<FileEntry> {
    let tree = destination.deltas.filter(|_| !destination.append).ok_or_else(|| {
        Failure::invalid(format!(
            "`/{path}` is a delta, but the request names no commit that it is against"
        ))
    })?;
    let found = storage.get(tree, path).await?;
    found.ok_or_else(|| Failure::invalid(format!("`/{path}` is a delta, but its base has no such file")))
}

/// Stores the files of a tar archive and answers the changes that they are, in the archive's order.
///
/// # Errors
/// `malformed` when the archive is none or breaks off, `invalid` for members that can't be stored, storage's failures.
pub async fn receive(
    storage: &Storage,
    writer: &Writer,
    destination: &Destination<'_>,
    source: impl AsyncRead + Send + Unpin,
) -> Answer<Vec<FileChange>> {
    let mut archive = ArchiveReader::new(source);
    let mut small = Batches::new(storage, writer, destination.batches);
    let mut large = Vec::new();
    let mut puts = Puts::new(storage, writer);
    let mut place = 0;
    while let Some(member) = archive.next().await? {
        let path = match destination.directory {
            None => member.path,
            Some(directory) => directory.join(member.path.as_str())?,
        };
        if let Some(size) = member.delta {
            let base = delta_base(storage, destination, &path).await?;
            let delta = Delta {
                sent: member.size,
                size,
                executable: member.executable,
            };
            let entry = delta::receive(storage, writer, &base, archive.body(), delta).await?;
            large.push((place, path, entry));
        } else if member.size <= SMALL_BYTES_MAX {
            let content = archive.read_all().await?;
            small.add(place, path, content, member.executable).await?;
        } else {
            let before = match destination.append {
                true => None,
                false => storage.get(destination.base, &path).await?,
            };
            let entry = match before {
                None => writer.write_file(archive.body(), member.executable).await?,
                Some(before) => {
                    writer
                        .write_file_over(&before, archive.body(), member.executable)
                        .await?
                }
            };
            large.push((place, path, entry));
        }
        place += 1;
        if !destination.append && place % change::held_most(storage) == 0 {
            for (_, path, entry) in in_order(small.settle(false).await?, &mut large) {
                puts.push(path, entry).await?;
            }
        }
    }
    let may_embed = destination.open && large.is_empty() && puts.is_empty();
    let rest = in_order(small.settle(may_embed).await?, &mut large).into_iter();
    if destination.append {
        return Ok(rest.map(|(_, path, entry)| FileChange::Append(path, entry)).collect());
    }
    for (_, path, entry) in rest {
        puts.push(path, entry).await?;
    }
    Ok(puts.changes())
}

/// Files in the archive's order: the last of a name wins.
fn in_order(small: Placed, large: &mut Placed) -> Placed {
    let mut all = small;
    all.append(large);
    all.sort_by_key(|(place, ..)| *place);
    all
}
