//! The public face of a write session: files in, entries out, and a flush that makes them permanent.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use futures::stream::BoxStream;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::task::spawn_blocking;

use crate::digest::Digest;
use crate::entry::{Content, FileEntry};
use crate::error::{Result, StorageError};
use crate::extents::{self, Block};
use crate::ingest::{Digests, FileBuilder, whole_file, whole_files};
use crate::input::Input;
use crate::reader::ExtentWalk;
use crate::samples::{FindPacks, PackSamples};
use crate::session::Session;
use crate::storage::{Shared, Storage};
use crate::store::Whole;

const BUFFER_BYTES_FIRST: usize = 64 << 10;
const BUFFER_BYTES_MAX: usize = 2 << 20;
/// Files up to this size are chunked where they are, without a trip to another thread.
const INLINE_BYTES_MAX: usize = 64 << 10;
/// How many chunks of a replaced file are looked at for what it has in common with its successor.
const HINT_CHUNKS_MAX: usize = 1 << 16;
const BATCH_FILES_MIN: usize = 64;

/// One write session. Cheap to clone; usable from many tasks at once. Dropping it without a flush
/// leaves at most packs that nothing refers to.
#[derive(Clone)]
pub struct Writer {
    pub(crate) session: Arc<Session>,
}

/// What a write session has stored so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WriteReport {
    /// Packs written.
    pub packs: u64,
    /// Bytes of files stored anew.
    pub bytes_new: u64,
    /// Bytes of files that were stored already.
    pub bytes_deduplicated: u64,
}

/// A file on its way.
struct Begun {
    builder: FileBuilder,
    whole: blake3::Hasher,
    buffer: Vec<u8>,
    /// There is nothing behind the buffer.
    ended: bool,
}

/// Takes a piece of a file, and where in the file it lies. Called on a thread that may wait.
pub type GivePiece = Box<dyn FnMut(Range<u64>, FileEntry) + Send>;

/// How a file is stored in pieces.
pub struct Pieces {
    /// Pieces that were given out before, from the beginning of the file, one after the other: a large file has many.
    pub before: Option<BoxStream<'static, Result<FileEntry>>>,
    /// A piece is given out when it has so many bytes.
    pub every: u64,
    /// Who gets them. They are durable after the next [`Writer::settle`].
    pub give: GivePiece,
    /// The digest of the file up to the end of `before`, if that is known: else that is read again for it.
    pub digest: Option<Whole>,
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            session: Arc::new(Session::new(shared)),
        }
    }

    /// Stores the bytes that come in, in bounded memory, until its end.
    pub async fn write_file(&self, mut input: impl Input, executable: bool) -> Result<FileEntry> {
        let (buffer, ended) = input.fill(Vec::new(), BUFFER_BYTES_FIRST).await?;
        if ended && buffer.len() <= INLINE_BYTES_MAX {
            self.session.room().await;
            return whole_file(&self.session, &buffer, executable);
        }
        let begun = Begun {
            builder: FileBuilder::new(Arc::clone(&self.session)),
            whole: blake3::Hasher::new(),
            buffer,
            ended,
        };
        self.write_on(begun, input, executable, |_| Ok(())).await
    }

    /// Stores a large file and gives out pieces of it while it is on its way, and goes on behind pieces that were given
    /// out before: then what is missing comes in. The file is cut as if it had been stored at once. Pieces that
    /// are there already are read again for the digest of the whole, unless that is known.
    pub async fn write_file_in_pieces(
        &self,
        mut input: impl Input,
        executable: bool,
        mut pieces: Pieces,
    ) -> Result<FileEntry> {
        let mut builder = FileBuilder::new(Arc::clone(&self.session));
        let known = pieces.digest.take().map(|Whole(known)| *known);
        let mut whole = known.clone().unwrap_or_default();
        if let Some(mut before) = pieces.before.take() {
            while let Some(piece) = before.try_next().await? {
                if known.is_none() {
                    self.digest_on(&mut whole, &piece).await?;
                }
                builder = self.behind(builder, piece).await?;
            }
        }
        builder.give_pieces();
        let (buffer, ended) = input.fill(Vec::new(), BUFFER_BYTES_FIRST).await?;
        let begun = Begun {
            builder,
            whole,
            buffer,
            ended,
        };
        let give = move |builder: &mut FileBuilder| {
            if let Some((range, piece)) = builder.piece(pieces.every)? {
                (pieces.give)(range, piece);
            }
            Ok(())
        };
        self.write_on(begun, input, executable, give).await
    }

    /// Takes a piece that is stored already into a file.
    async fn behind(&self, mut builder: FileBuilder, piece: FileEntry) -> Result<FileBuilder> {
        let mut extents = Vec::new();
        let mut walk = ExtentWalk::new(&self.session.shared, &piece, 0);
        while let Some((_, extent)) = walk.next().await? {
            extents.push(extent);
        }
        self.session.room().await;
        let building = spawn_blocking(move || builder.behind(extents).map(|()| builder));
        building.await.unwrap_or(Err(StorageError::Cancelled))
    }

    /// Takes a piece into a file's digest, for which it is read.
    async fn digest_on(&self, whole: &mut blake3::Hasher, piece: &FileEntry) -> Result<()> {
        let mut bytes = Storage::over(&self.session.shared).read(piece, 0..piece.size);
        while let Some(bytes) = bytes.try_next().await? {
            whole.update(&bytes);
        }
        Ok(())
    }

    async fn write_on<G>(&self, begun: Begun, mut input: impl Input, executable: bool, mut give: G) -> Result<FileEntry>
    where
        G: FnMut(&mut FileBuilder) -> Result<()> + Send + 'static,
    {
        let Begun {
            mut builder,
            mut whole,
            mut buffer,
            mut ended,
        } = begun;
        let mut spare = Vec::new();
        let mut target = BUFFER_BYTES_FIRST;
        // The next buffer is filled while the last one is cut and packed on one thread and digested on another.
        while !buffer.is_empty() {
            self.session.room().await;
            let full = Arc::new(buffer);
            let (to_digest, to_cut) = (Arc::clone(&full), Arc::clone(&full));
            let digesting = spawn_blocking(move || {
                whole.update(&to_digest);
                whole
            });
            let cutting = spawn_blocking(move || {
                builder.push(&to_cut)?;
                give(&mut builder)?;
                Ok((builder, give))
            });
            target = (target * 4).min(self.session.shared.pool.part(BUFFER_BYTES_FIRST, BUFFER_BYTES_MAX));
            let filled = match ended {
                true => Ok((Vec::new(), true)),
                false => input.fill(std::mem::take(&mut spare), target).await,
            };
            whole = digesting.await.map_err(|_| StorageError::Cancelled)?;
            (builder, give) = cutting.await.unwrap_or(Err(StorageError::Cancelled))?;
            (buffer, ended) = filled?;
            self.session.find().await;
            // Both threads have let go of it, so the memory comes back.
            spare = Arc::try_unwrap(full).unwrap_or_default();
        }
        let digest = whole.finalize().into();
        spawn_blocking(move || builder.finish(digest, executable))
            .await
            .unwrap_or(Err(StorageError::Cancelled))
    }

    /// As [`Writer::write_file`]; `base` is the file that is being replaced: what it has in common is not stored again.
    pub async fn write_file_over(&self, base: &FileEntry, input: impl Input, executable: bool) -> Result<FileEntry> {
        self.learn(base).await?;
        self.write_file(input, executable).await
    }

    /// Notes the chunks of a file that is being replaced: what its successor has in common with it is not stored again.
    pub async fn learn(&self, base: &FileEntry) -> Result<()> {
        let session = &self.session;
        let mut todo = match &base.content {
            Content::Extents(extents) => {
                session.learn(extents.iter().cloned());
                return Ok(());
            }
            Content::Blocks(root) => vec![root.clone()],
            Content::Embedded(_) => return Ok(()),
        };
        let mut chunks = 0;
        while chunks < HINT_CHUNKS_MAX
            && let Some(next) = todo.pop()
        {
            let block = match session.shared.block(&next).await {
                Ok(block) => block,
                // Putting a file again is how a damaged one is healed: nothing is to be learned from it.
                Err(error) if error.is_damage() => return Ok(()),
                Err(error) => return Err(error),
            };
            match &*block {
                Block::Blocks(parts) => todo.extend(parts.iter().rev().map(|part| part.block.clone())),
                Block::Extents(extents) => {
                    chunks += extents.len();
                    session.learn(extents.iter().cloned());
                    if !extents.iter().any(|extent| session.shared.is_suspect(&extent.location)) {
                        session.learn_block(extents::content(extents), next);
                    }
                }
            }
        }
        Ok(())
    }

    /// Stores these bytes as a file.
    pub async fn write_bytes(&self, bytes: Bytes, executable: bool) -> Result<FileEntry> {
        self.session.room().await;
        if bytes.len() <= INLINE_BYTES_MAX {
            return whole_file(&self.session, &bytes, executable);
        }
        let session = Arc::clone(&self.session);
        spawn_blocking(move || whole_file(&session, &bytes, executable))
            .await
            .unwrap_or(Err(StorageError::Cancelled))
    }

    /// Stores many small files at once (bytes, executable); entries come in the order of the files.
    pub async fn write_small_files(&self, files: Vec<(Bytes, bool)>) -> Result<Vec<FileEntry>> {
        self.session.room().await;
        let digesting = spawn_blocking(move || Ok((digest_batch(&files)?, files)));
        let (digests, files) = digesting.await.unwrap_or(Err(StorageError::Cancelled))?;
        if self.session.finds() {
            self.session.ask(digests.iter().flat_map(Digests::of_chunks));
            self.session.find().await;
        }
        let session = Arc::clone(&self.session);
        spawn_blocking(move || whole_files(&session, &files, &digests))
            .await
            .unwrap_or(Err(StorageError::Cancelled))
    }

    /// Lets the session look for packs that hold what comes again, by samples of it.
    pub fn find_with(&self, find: FindPacks) {
        self.session.find_with(find);
    }

    /// Samples of what was stored, by which later sessions find it. Complete after a flush.
    pub fn samples(&self) -> Vec<PackSamples> {
        self.session.samples()
    }

    /// Stores the content of `base` with what the reader yields behind it. The content of `base` is read again for the
    /// digest of the whole, but not stored again.
    pub async fn append(&self, base: &FileEntry, reader: impl AsyncRead + Send + Unpin) -> Result<FileEntry> {
        self.learn(base).await?;
        let before = Storage::over(&self.session.shared)
            .read(base, 0..base.size)
            .map_err(std::io::Error::other);
        let before = tokio_util::io::StreamReader::new(before);
        self.write_file(before.chain(reader), base.executable).await
    }

    /// Moves the bytes of an embedded entry into the session's packs when there is room; leaves other entries alone.
    pub async fn pack_embedded(&self, entry: &mut FileEntry) -> Result<()> {
        if matches!(entry.content, Content::Embedded(_)) {
            self.session.room().await;
        }
        self.settle_embedded(entry)
    }

    /// Moves the bytes of an embedded entry into the session's packs; leaves other entries alone.
    pub(crate) fn settle_embedded(&self, entry: &mut FileEntry) -> Result<()> {
        if let Content::Embedded(bytes) = &entry.content {
            let stored = whole_file(&self.session, bytes, entry.executable)?;
            entry.content = stored.content;
        }
        Ok(())
    }

    /// How many bytes wait for the pack that they are in to become full, or for a flush.
    pub fn open_bytes(&self) -> usize {
        self.session.open_bytes()
    }

    /// Takes back everything that this session stored, flushed or not. Only for when no reference to any of it was
    /// stored or may have been. Works where sessions are salted ([`crate::Options::seed`]); elsewhere the packs stay.
    pub async fn discard(&self) -> Result<()> {
        self.session.discard().await
    }

    /// As [`Writer::flush`]; what is durable now is kept even when the session is discarded, because something is going to
    /// refer to it. Answers the names of the packs that are kept since the last time.
    pub async fn settle(&self) -> Result<Vec<Digest>> {
        self.session.settle().await
    }

    /// Returns when everything written so far in this session, tree nodes included, is durable. Calls at the same time
    /// share their packs and syncs. After a failure the session is of no more use: begin a new one.
    pub async fn flush(&self) -> Result<WriteReport> {
        self.session.flush().await
    }
}

fn digest_batch(files: &[(Bytes, bool)]) -> Result<Vec<Digests>> {
    let digest = |part: &[(Bytes, bool)]| part.iter().map(|(bytes, _)| Digests::of(bytes)).collect::<Vec<_>>();
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(8);
    let part = files.len().div_ceil(threads).max(BATCH_FILES_MIN);
    if files.len() <= part {
        return Ok(digest(files));
    }
    std::thread::scope(|scope| {
        let parts: Vec<_> = files
            .chunks(part)
            .map(|part| scope.spawn(move || digest(part)))
            .collect();
        let mut digests = Vec::with_capacity(files.len());
        for part in parts {
            digests.extend(part.join().map_err(|_| StorageError::Cancelled)?);
        }
        Ok(digests)
    })
}
