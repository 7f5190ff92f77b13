//! Keeps parts of an upload while the rest arrives: each is made durable and then noted, in the order in which they come,
//! beside the request that stores them. When the request ends in the middle, what was handed over before is still kept.

use std::ops::Range;
use std::sync::Arc;

use contract::ids::UploadId;
use futures::stream::{self, BoxStream, StreamExt};
use storage::{Digest, FileEntry, FilePath, GivePiece, StorageError, Whole};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::queries::{self, Insertion, NewPart};
use super::{KEEP, is_over};
use crate::failure::{Answer, Failure};
use crate::files::change::{self, FileChange};
use crate::files::stored::Stored;
use crate::plane::Plane;

const PARTS_WAITING: usize = 2;

struct Part {
    key: Digest,
    whole: bool,
    range: Range<u64>,
    changes: Vec<FileChange>,
}

/// A piece of a file, as it is read from what is kept.
type Piece = Result<FileEntry, StorageError>;

/// Keeps parts of one upload.
pub struct Keeper {
    plane: Plane,
    upload: UploadId,
    parts: Option<mpsc::Sender<Part>>,
    keeping: Option<JoinHandle<Answer<()>>>,
}

impl Keeper {
    /// Begins to keep what `writer` stores.
    pub fn begin(plane: &Plane, upload: UploadId, writer: &Arc<Stored>) -> Self {
        let (parts, waiting) = mpsc::channel(PARTS_WAITING);
        let keeping = tokio::spawn(keep(plane.clone(), upload, Arc::clone(writer), waiting));
        Self {
            plane: plane.clone(),
            upload,
            parts: Some(parts),
            keeping: Some(keeping),
        }
    }

    /// Whole files that are kept under that key.
    ///
    /// # Errors
    /// `invalid` when nothing is.
    pub async fn held(&self, key: Digest) -> Answer<Vec<FileChange>> {
        let mut conn = self.plane.pool.acquire().await?;
        let changes = queries::find_whole(&mut conn, &KEEP, self.upload, key).await?;
        let changes = changes.ok_or_else(|| missing(&format!("a part `{key}`")))?;
        change::decode(&changes)
    }

    /// The pieces that are kept of a file, up to this byte.
    ///
    /// # Errors
    /// `invalid` when there are others or none.
    pub async fn before(&self, key: Digest, path: &FilePath, offset: u64) -> Answer<Option<BoxStream<'static, Piece>>> {
        let ranges = {
            let mut conn = self.plane.pool.acquire().await?;
            queries::list_pieces(&mut conn, &KEEP, self.upload, key).await?
        };
        let (mut at, mut pieces) = (0, Vec::new());
        for range in ranges {
            if at < offset && range.start == at {
                at = range.end;
                pieces.push(range);
            }
        }
        if at != offset {
            return Err(missing(&format!("the first {offset} bytes of `/{path}`")));
        }
        if pieces.is_empty() {
            return Ok(None);
        }
        let (plane, upload) = (self.plane.clone(), self.upload);
        let read = stream::iter(pieces).then(move |range| {
            let plane = plane.clone();
            async move { piece(&plane, upload, key, range).await.map_err(StorageError::from) }
        });
        Ok(Some(read.boxed()))
    }

    /// The digest of the first bytes of a file whose pieces are kept, if it is known.
    pub fn digest(&self, key: Digest, offset: u64) -> Option<Whole> {
        self.plane.digests.at(self.upload, key, offset)
    }

    /// Keeps whole files under that key.
    ///
    /// # Errors
    /// Why nothing can be kept any more.
    pub async fn keep(&mut self, key: Digest, changes: Vec<FileChange>) -> Answer<()> {
        let bytes = changes.iter().filter_map(|change| match change {
            FileChange::Put(_, entry) => Some(entry.size),
            FileChange::Tree(tree) => Some(tree.bytes()),
            _ => None,
        });
        let part = Part {
            key,
            whole: true,
            range: 0..bytes.sum(),
            changes,
        };
        let sent = match &self.parts {
            Some(parts) => parts.send(part).await.is_ok(),
            None => false,
        };
        if sent { Ok(()) } else { self.end().await }
    }

    /// What keeps the pieces of the file at that path.
    pub fn pieces(&self, key: Digest, path: &FilePath) -> GivePiece {
        let (parts, path) = (self.parts.clone(), path.clone());
        Box::new(move |range, entry| {
            let part = Part {
                key,
                whole: false,
                range,
                changes: vec![FileChange::Put(path.clone(), entry)],
            };
            // Why it is not taken is told at the end.
            if let Some(parts) = &parts {
                let _ = parts.blocking_send(part);
            }
        })
    }

    /// Waits until everything is kept.
    ///
    /// # Errors
    /// Why something is not; told once.
    pub async fn end(&mut self) -> Answer<()> {
        self.parts = None;
        match self.keeping.take() {
            Some(keeping) => keeping.await.map_err(Failure::internal)?,
            None => Ok(()),
        }
    }
}

async fn piece(plane: &Plane, upload: UploadId, key: Digest, range: Range<u64>) -> Answer<FileEntry> {
    let changes = {
        let mut conn = plane.pool.acquire().await?;
        queries::find_piece(&mut conn, &KEEP, upload, key, range.start).await?
    };
    let changes = changes.map(|changes| change::decode(&changes)).transpose()?;
    let entry = changes.into_iter().flatten().find_map(|change| match change {
        FileChange::Put(_, entry) => Some(entry),
        _ => None,
    });
    let entry = entry.filter(|entry| entry.size == range.end - range.start);
    entry.ok_or_else(|| missing(&format!("the bytes {} to {} of a file", range.start, range.end)))
}

fn missing(what: &str) -> Failure {
    Failure::invalid(format!("the upload does not hold {what}")).hint("ask what it holds and send the rest")
}

async fn keep(plane: Plane, upload: UploadId, writer: Arc<Stored>, mut parts: mpsc::Receiver<Part>) -> Answer<()> {
    while let Some(part) = parts.recv().await {
        let packs = writer.settle().await?;
        writer.in_time()?;
        let changes = change::encode(&part.changes)?;
        let new = NewPart {
            key: part.key,
            whole: part.whole,
            range: part.range,
            changes: &changes,
            packs: &packs,
        };
        let mut tx = plane.begin().await?;
        if queries::insert_part(&mut tx, &KEEP, upload, &new, plane.now()).await? == Insertion::Over {
            return Err(is_over());
        }
        tx.commit().await?;
    }
    Ok(())
}
