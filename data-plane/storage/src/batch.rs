//! Reading many small files at once: those that lie close together in a pack come in one request.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};

use tokio_util::task::AbortOnDropHandle;

use crate::digest::Digest;
use crate::entry::{Content, Extent, FileEntry};
use crate::error::{Result, StorageError};
use crate::location::PackRef;
use crate::reader::verify_chunk;
use crate::storage::{Shared, Storage};

/// So much is fetched at once.
const FETCH_BYTES_MAX: u64 = 2 << 20;
/// A gap up to this size is read over.
const GAP_BYTES_MAX: u64 = 64 << 10;
/// So many fetches run ahead.
const FETCHES_AHEAD: usize = 4;

/// What is fetched in one go.
enum Fetch {
    /// Files of one chunk each, sorted by where they lie in one pack.
    Together(Digest, Vec<(usize, Extent)>),
    /// Any other file.
    Alone(usize, FileEntry),
}

/// The whole contents of many files, each with its index in `files`, in the order in which they lie in the packs.
pub(crate) fn read_many(shared: &Arc<Shared>, files: Vec<FileEntry>) -> BoxStream<'static, Result<(usize, Bytes)>> {
    let shared = Arc::clone(shared);
    stream::iter(plan(files))
        .map(move |fetch| {
            let fetching = AbortOnDropHandle::new(tokio::spawn(run(Arc::clone(&shared), fetch)));
            async move { fetching.await.unwrap_or(Err(StorageError::Cancelled)) }
        })
        .buffered(FETCHES_AHEAD)
        .map_ok(|contents| stream::iter(contents.into_iter().map(Ok)))
        .try_flatten()
        .boxed()
}

fn plan(files: Vec<FileEntry>) -> Vec<Fetch> {
    let mut single = Vec::new();
    let mut fetches = Vec::new();
    for (index, file) in files.into_iter().enumerate() {
        match &file.content {
            Content::Extents(extents) if extents.len() == 1 => match &extents[0].location.pack {
                PackRef::Stored(pack) => single.push((*pack, index, extents[0].clone())),
                PackRef::Written(_) => fetches.push(Fetch::Alone(index, file)),
            },
            _ => fetches.push(Fetch::Alone(index, file)),
        }
    }
    single.sort_by_key(|(pack, _, extent)| (*pack, extent.location.offset));
    for (pack, index, extent) in single {
        if let Some(Fetch::Together(last_pack, last)) = fetches.last_mut()
            && *last_pack == pack
            && fits(last, &extent)
        {
            last.push((index, extent));
            continue;
        }
        fetches.push(Fetch::Together(pack, vec![(index, extent)]));
    }
    fetches
}

fn fits(batch: &[(usize, Extent)], next: &Extent) -> bool {
    let (Some((_, first)), Some((_, last))) = (batch.first(), batch.last()) else {
        return false;
    };
    let gap = next.location.offset().saturating_sub(last.location.end());
    gap <= GAP_BYTES_MAX && next.location.end().saturating_sub(first.location.offset()) <= FETCH_BYTES_MAX
}

async fn run(shared: Arc<Shared>, fetch: Fetch) -> Result<Vec<(usize, Bytes)>> {
    match fetch {
        Fetch::Alone(index, file) => Ok(vec![(index, Storage::over(&shared).read_all(&file).await?)]),
        Fetch::Together(pack, batch) => {
            let start = batch
                .iter()
                .map(|(_, extent)| extent.location.offset())
                .min()
                .unwrap_or(0);
            let end = batch
                .iter()
                .map(|(_, extent)| extent.location.end())
                .max()
                .unwrap_or(start);
            let all = shared.range(pack, start, end).await?;
            let mut contents = Vec::with_capacity(batch.len());
            for (index, extent) in batch {
                // Both lie between `start` and `end`, which are at most a few MiB apart.
                let from = (extent.location.offset() - start) as usize;
                let chunk = all.slice(from..from + extent.location.length as usize);
                verify_chunk(&shared, &extent.location, &extent.digest, &chunk)?;
                contents.push((index, chunk));
            }
            Ok(contents)
        }
    }
}
