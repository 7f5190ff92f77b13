//! The files of a directory in the pieces that an archive is made of: small ones are read a window at a time, ahead of what
//! is being sent, large ones are left to be streamed; nothing waits for the whole.

use bytes::Bytes;
use futures::stream::{self, BoxStream, Stream, StreamExt, TryStreamExt};
use storage::{FileEntry, FilePath, Storage, StorageError, TreeRef};
use tokio_util::task::AbortOnDropHandle;

/// Files up to this size are read together with their neighbours.
pub(super) const WHOLE_BYTES_MAX: u64 = 256 << 10;
/// A window of small files: what lies close together in the packs comes in one read, and leaves in one piece.
const WINDOW_FILES: usize = 512;
const WINDOW_BYTES: u64 = 1 << 20;
/// Windows that are read ahead of the one that is being sent.
const READ_AHEAD: usize = 2;

type File = (FilePath, FileEntry);

/// What is sent in one go.
pub(super) enum Portion {
    /// Small files with their contents.
    Window(Vec<(FilePath, FileEntry, Bytes)>),
    /// A file that is to be streamed.
    Large(File),
}

/// The portions of what lies below a directory (`None`: the root), or of one file, in the tree's order; with `after` only
/// what comes behind that path.
pub(super) fn read(
    storage: &Storage,
    tree: &TreeRef,
    below: Option<&FilePath>,
    after: Option<&FilePath>,
) -> BoxStream<'static, Result<Portion, StorageError>> {
    let ahead = storage.clone();
    let portions = grouped(storage.list(tree, below, after)).map(move |files| {
        let storage = ahead.clone();
        // A task of its own, so that reading and verifying go on while the network takes what was read before.
        let reading = AbortOnDropHandle::new(tokio::spawn(async move { filled(&storage, files?).await }));
        async move { reading.await.unwrap_or(Err(StorageError::Cancelled)) }
    });
    portions.buffered(READ_AHEAD).boxed()
}

/// The name of a file in an archive of what lies below a path.
pub(super) fn name_below<'a>(below: Option<&FilePath>, path: &'a FilePath) -> &'a str {
    match below {
        None => path.as_str(),
        Some(below) => path.strip_directory(below).unwrap_or(path.name()),
    }
}

/// Groups files in their order: as many small ones as make a window, large ones alone.
fn grouped(
    files: BoxStream<'static, Result<File, StorageError>>,
) -> impl Stream<Item = Result<Vec<File>, StorageError>> + Send {
    let state = (files, None::<File>);
    stream::try_unfold(state, |(mut files, mut left)| async move {
        let mut window = Vec::new();
        let mut bytes = 0;
        loop {
            let next = match left.take() {
                Some(file) => Some(file),
                None => files.try_next().await?,
            };
            let Some(file) = next else { break };
            let size = file.1.size;
            if size > WHOLE_BYTES_MAX && window.is_empty() {
                return Ok(Some((vec![file], (files, None))));
            }
            if size > WHOLE_BYTES_MAX || window.len() == WINDOW_FILES || bytes + size > WINDOW_BYTES {
                left = Some(file);
                break;
            }
            bytes += size;
            window.push(file);
        }
        Ok((!window.is_empty()).then_some((window, (files, left))))
    })
}

async fn filled(storage: &Storage, mut files: Vec<File>) -> Result<Portion, StorageError> {
    if files.first().is_some_and(|(_, entry)| entry.size > WHOLE_BYTES_MAX)
        && let Some(file) = files.pop()
    {
        return Ok(Portion::Large(file));
    }
    let entries = files.iter().map(|(_, entry)| entry.clone()).collect();
    let mut contents = vec![Bytes::new(); files.len()];
    let mut read = storage.read_many(entries);
    while let Some((index, bytes)) = read.try_next().await? {
        contents[index] = bytes;
    }
    let whole = files.into_iter().zip(contents);
    Ok(Portion::Window(
        whole.map(|((path, entry), bytes)| (path, entry, bytes)).collect(),
    ))
}
