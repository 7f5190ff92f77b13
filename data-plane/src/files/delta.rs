//! A file that arrives as a delta: its bytes are put together from those that were sent and those of the file that it
//! replaces, and then go the way of every file's bytes. So nothing that the sender says of contents is believed.

use std::io;

use bytes::{Bytes, BytesMut};
use contract::upload::{DELTA_COPIES_MAX, Step};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use storage::{FileEntry, Input, Pieces, Storage, Writer};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio_util::io::StreamReader;

use crate::failure::{Answer, Failure};

const READ_BYTES: usize = 256 << 10;

fn invalid(detail: impl Into<String>) -> io::Error {
    io::Error::other(Failure::invalid(detail).hint("put the whole file; nothing was committed"))
}

struct Making<R> {
    storage: Storage,
    base: FileEntry,
    steps: R,
    /// Bytes that are to come of the literal under way.
    literal: u64,
    copying: Option<BoxStream<'static, Result<Bytes, storage::StorageError>>>,
    /// How many bytes the file has still to get.
    missing: u64,
    /// How many may still be copied.
    copies: u64,
}

impl<R: AsyncRead + Unpin> Making<R> {
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if let Some(copying) = &mut self.copying {
                let copied = copying.try_next().await;
                if let Some(bytes) = copied.map_err(|e| io::Error::other(Failure::from(e)))? {
                    return Ok(Some(bytes));
                }
                self.copying = None;
            }
            if self.literal > 0 {
                return self.literal().await.map(Some);
            }
            let Some(step) = self.step().await? else {
                return match self.missing {
                    0 => Ok(None),
                    missing => Err(invalid(format!("a delta lacks {missing} bytes of its file"))),
                };
            };
            self.missing = self
                .missing
                .checked_sub(step.length())
                .ok_or_else(|| invalid("a delta makes more bytes than its file has"))?;
            match step {
                Step::Literal { length } => self.literal = length,
                Step::Copy { offset, length } => self.copy(offset, length)?,
            }
        }
    }

    fn copy(&mut self, offset: u64, length: u64) -> io::Result<()> {
        let end = offset.checked_add(length).filter(|end| *end <= self.base.size);
        let end = end.ok_or_else(|| invalid("a delta copies from behind the end of its base"))?;
        self.copies = self
            .copies
            .checked_sub(length)
            .ok_or_else(|| invalid(format!("a delta copies more than {DELTA_COPIES_MAX} times its base")))?;
        self.copying = Some(self.storage.read(&self.base, offset..end));
        Ok(())
    }

    async fn literal(&mut self) -> io::Result<Bytes> {
        let most = READ_BYTES.min(usize::try_from(self.literal).unwrap_or(READ_BYTES));
        let mut bytes = BytesMut::with_capacity(most);
        let read = (&mut self.steps).take(most as u64).read_buf(&mut bytes).await?;
        if read == 0 {
            return Err(invalid("a delta ends in the middle of bytes"));
        }
        self.literal -= read as u64;
        Ok(bytes.freeze())
    }

    /// The next step; `None` at the end.
    async fn step(&mut self) -> io::Result<Option<Step>> {
        let mut bytes = [0; Step::BYTES];
        let first = self.steps.read(&mut bytes).await?;
        if first == 0 {
            return Ok(None);
        }
        self.steps.read_exact(&mut bytes[first..]).await?;
        let step = Step::decode(&bytes).ok_or_else(|| invalid("a delta has a step that is none"))?;
        Ok(Some(step))
    }
}

/// A delta that has arrived as `sent` bytes, and the file that it makes.
#[derive(Debug, Clone, Copy)]
pub struct Delta {
    /// Bytes of the steps with their literals.
    pub sent: u64,
    /// Bytes of the file that it makes.
    pub size: u64,
    /// Whether the file may be executed.
    pub executable: bool,
}

/// Stores the file that a delta makes of its base.
///
/// # Errors
/// `invalid` for a delta that makes no sense, `malformed` when it breaks off, storage's failures.
pub async fn receive(
    storage: &Storage,
    writer: &Writer,
    base: &FileEntry,
    mut steps: impl AsyncRead + Send + Unpin,
    delta: Delta,
    pieces: Option<Pieces>,
) -> Answer<FileEntry> {
    let behind = pieces.as_ref().is_some_and(|pieces| pieces.before.is_some());
    // Nothing but a copy of everything: the file is the one that is there, and nothing is read.
    if !behind && delta.sent == Step::BYTES as u64 && delta.size == base.size {
        let mut only = [0; Step::BYTES];
        steps.read_exact(&mut only).await.map_err(broken_off)?;
        let all = Step::Copy {
            offset: 0,
            length: base.size,
        };
        if Step::decode(&only) == Some(all) {
            return Ok(FileEntry {
                executable: delta.executable,
                ..base.clone()
            });
        }
        let whole = whole(storage, base, (&only[..]).chain(steps), delta.size);
        return store(writer, Some(base), whole, delta.executable, pieces).await;
    }
    let whole = whole(storage, base, steps, delta.size);
    store(writer, Some(base), whole, delta.executable, pieces).await
}

/// Stores a large file: over the one that it replaces, and in pieces where they are to be kept.
///
/// # Errors
/// Storage's failures.
pub async fn store(
    writer: &Writer,
    base: Option<&FileEntry>,
    bytes: impl Input,
    executable: bool,
    pieces: Option<Pieces>,
) -> Answer<FileEntry> {
    if let Some(base) = base {
        writer.learn(base).await?;
    }
    Ok(match pieces {
        Some(pieces) => writer.write_file_in_pieces(bytes, executable, pieces).await?,
        None => writer.write_file(bytes, executable).await?,
    })
}

fn broken_off(error: io::Error) -> Failure {
    storage::StorageError::Source(std::sync::Arc::new(error)).into()
}

/// The `size` bytes of the file that a delta makes of its base.
fn whole<'a>(
    storage: &Storage,
    base: &FileEntry,
    steps: impl AsyncRead + Send + Unpin + 'a,
    size: u64,
) -> impl AsyncRead + Send + Unpin + 'a {
    let making = Making {
        storage: storage.clone(),
        base: base.clone(),
        steps,
        literal: 0,
        copying: None,
        missing: size,
        copies: base.size.saturating_mul(DELTA_COPIES_MAX),
    };
    let bytes = futures::stream::try_unfold(making, |mut making| async move {
        let next = making.next().await?;
        Ok::<_, io::Error>(next.map(|bytes| (bytes, making)))
    });
    StreamReader::new(bytes.boxed())
}
