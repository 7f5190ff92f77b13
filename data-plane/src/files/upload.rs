//! An upload on its way into storage: a tar archive is read as it arrives, small files are stored in batches, large ones
//! as streams. Nothing refers to what was stored until the commit is made, so an upload that breaks off leaves nothing.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use storage::{FileEntry, FilePath, Pieces, Storage, TreeRef, Writer};
use tokio::io::AsyncRead;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::archive_reader::{ArchiveReader, Mark, Member};
use super::change::{self, FileChange, Puts};
use super::delta::{self, Delta};
use crate::failure::{Answer, Failure};
use crate::uploads::handover::Handovers;
use crate::uploads::keeper::Keeper;

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
/// A large file of an upload that can be taken up again is kept whenever so much more of it has arrived.
const PIECE_BYTES: u64 = 48 << 20;
/// Less of a delta is sent again sooner than pieces of the file that it makes are worth their lists of chunks.
const WORTH_KEEPING_BYTES: u64 = 4 << 20;
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
    /// Where files come from that are not in the archive.
    pub handovers: &'a Handovers,
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

/// An archive on its way in.
struct Receiving<'a> {
    storage: &'a Storage,
    writer: &'a Writer,
    destination: &'a Destination<'a>,
    keeper: Option<&'a mut Keeper>,
    small: Batches,
    large: Placed,
    /// Everything that is settled.
    puts: Puts<'a>,
    /// What of it came since the last part that is kept; only where parts are.
    part: Option<Puts<'a>>,
}

impl Receiving<'_> {
    async fn mark(&mut self, mark: Mark) -> Answer<()> {
        self.settle().await?;
        let (Some(keeper), Some(part)) = (&mut self.keeper, &mut self.part) else {
            let why = "the archive tells of parts, but the request names no upload that they are of";
            return Err(Failure::invalid(why));
        };
        match mark {
            Mark::End(key) => {
                let part = std::mem::replace(part, Puts::new(self.storage, self.writer));
                keeper.keep(key, part.changes()).await
            }
            Mark::Held(key) => {
                for change in keeper.held(key).await? {
                    self.puts.extend(change).await?;
                }
                Ok(())
            }
        }
    }

    /// Files that were stored become changes, in the archive's order: the last of a name wins.
    async fn settle(&mut self) -> Answer<()> {
        for (_, path, entry) in in_order(self.small.settle(false).await?, &mut self.large) {
            if let Some(part) = &mut self.part {
                part.push(path.clone(), entry.clone()).await?;
            }
            self.puts.push(path, entry).await?;
        }
        Ok(())
    }

    async fn file<R: AsyncRead + Send + Unpin>(
        &mut self,
        place: usize,
        path: FilePath,
        member: &Member,
        archive: &mut ArchiveReader<R>,
    ) -> Answer<()> {
        let keep = member.key.filter(|_| self.keeper.is_some());
        let whole = member.delta.is_none() && member.handed.is_none() && member.offset == 0;
        if keep.is_none() && whole && member.size <= SMALL_BYTES_MAX {
            let content = archive.read_all().await?;
            return self.small.add(place, path, content, member.executable).await;
        }
        if keep.is_some() {
            // A part of its own: another one may be kept when this file has changed.
            self.settle().await?;
        }
        let entry = self.large(&path, member, archive).await?;
        match (&mut self.keeper, keep) {
            (Some(keeper), Some(key)) => {
                let change = FileChange::Put(path.clone(), entry.clone());
                keeper.keep(key, vec![change]).await?;
                self.puts.push(path, entry).await
            }
            _ => {
                self.large.push((place, path, entry));
                Ok(())
            }
        }
    }

    async fn large<R: AsyncRead + Send + Unpin>(
        &self,
        path: &FilePath,
        member: &Member,
        archive: &mut ArchiveReader<R>,
    ) -> Answer<FileEntry> {
        let (storage, writer, executable) = (self.storage, self.writer, member.executable);
        let pieces = self.pieces(path, member).await?;
        if let Some(size) = member.delta {
            let base = self.delta_base(path).await?;
            let made = size.checked_sub(member.offset);
            let delta = Delta {
                sent: member.size,
                size: made.ok_or_else(|| Failure::invalid(format!("`/{path}` is shorter than what is there of it")))?,
                executable,
            };
            let pieces = pieces.filter(|pieces| pieces.before.is_some() || delta.sent > WORTH_KEEPING_BYTES);
            let entry = delta::receive(storage, writer, &base, archive.body(), delta, pieces).await?;
            if entry.size != size {
                let why = format!("`/{path}` has {} bytes, and its delta announced {size}", entry.size);
                return Err(Failure::invalid(why));
            }
            return Ok(entry);
        }
        let before = match self.destination.append {
            true => None,
            false => storage.get(self.destination.base, path).await?,
        };
        let Some((ticket, length)) = &member.handed else {
            return delta::store(writer, before.as_ref(), archive.body(), executable, pieces).await;
        };
        let bytes = member.offset..member.offset.saturating_add(*length);
        let file = self.destination.handovers.take(ticket, bytes).await?;
        delta::store(writer, before.as_ref(), file, executable, pieces).await
    }

    /// How the file is kept in pieces, if it is to be.
    async fn pieces(&self, path: &FilePath, member: &Member) -> Answer<Option<Pieces>> {
        match (&self.keeper, member.key) {
            (Some(keeper), Some(key)) => Ok(Some(Pieces {
                before: keeper.before(key, path, member.offset).await?,
                every: PIECE_BYTES,
                give: keeper.pieces(key, path),
                digest: keeper.digest(key, member.offset),
            })),
            _ if member.offset > 0 => Err(Failure::invalid(format!(
                "of `/{path}` only the end was sent, but the request names no upload that has its beginning"
            ))),
            _ => Ok(None),
        }
    }

    /// The file that a delta is against.
    async fn delta_base(&self, path: &FilePath) -> Answer<FileEntry> {
        let tree = self.destination.deltas.filter(|_| !self.destination.append);
        let tree = tree.ok_or_else(|| {
            let why = "is a delta, but the request names no commit that it is against";
            Failure::invalid(format!("`/{path}` {why}"))
        })?;
        let found = self.storage.get(tree, path).await?;
        found.ok_or_else(|| Failure::invalid(format!("`/{path}` is a delta, but its base has no such file")))
    }

    async fn finish(mut self) -> Answer<Vec<FileChange>> {
        let may_embed = self.destination.open && self.large.is_empty() && self.puts.is_empty();
        let rest = in_order(self.small.settle(may_embed).await?, &mut self.large).into_iter();
        if self.destination.append {
            return Ok(rest.map(|(_, path, entry)| FileChange::Append(path, entry)).collect());
        }
        for (_, path, entry) in rest {
            self.puts.push(path, entry).await?;
        }
        Ok(self.puts.changes())
    }
}

/// Stores the files of a tar archive and answers the changes that they are, in the archive's order. With a keeper, parts of
/// it are kept on the way, and those that are kept already are put in where the archive says.
///
/// # Errors
/// `malformed` when the archive is none or breaks off, `invalid` for members that can't be stored, storage's failures.
pub async fn receive(
    storage: &Storage,
    writer: &Writer,
    destination: &Destination<'_>,
    keeper: Option<&mut Keeper>,
    source: impl AsyncRead + Send + Unpin,
) -> Answer<Vec<FileChange>> {
    let mut archive = ArchiveReader::new(source);
    let mut receiving = Receiving {
        storage,
        writer,
        destination,
        part: keeper.is_some().then(|| Puts::new(storage, writer)),
        keeper,
        small: Batches::new(storage, writer, destination.batches),
        large: Vec::new(),
        puts: Puts::new(storage, writer),
    };
    let mut place = 0;
    loop {
        let member = archive.next().await?;
        for mark in archive.marks() {
            receiving.mark(mark).await?;
        }
        let Some(member) = member else {
            return receiving.finish().await;
        };
        let path = match destination.directory {
            None => member.path.clone(),
            Some(directory) => directory.join(member.path.as_str())?,
        };
        receiving.file(place, path, &member, &mut archive).await?;
        place += 1;
        if !destination.append && place % change::held_most(storage) == 0 {
            receiving.settle().await?;
        }
    }
}

/// Files in the archive's order: the last of a name wins.
fn in_order(small: Placed, large: &mut Placed) -> Placed {
    let mut all = small;
    all.append(large);
    all.sort_by_key(|(place, ..)| *place);
    all
}
