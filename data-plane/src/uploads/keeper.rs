//! Keeps parts of an upload while the rest arrives: each is made durable and then noted, in the order in which they come,
//! beside the request that stores them. When the request ends in the middle, what was handed over before is still kept.

use std::ops::Range;
use std::sync::Arc;

use contract::ids::UploadId;
use storage::{Digest, FileEntry, FilePath, GivePiece, Whole};
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
    pub async fn before(&self, key: Digest, path: &FilePath, offset: u64) -> Answer<Vec<FileEntry>> {
        let rows = {
            let mut conn = self.plane.pool.acquire().await?;
            queries::list_pieces(&mut conn, &KEEP, self.upload, key).await?
        };
        let (mut at, mut pieces) = (0, Vec::new());
        for (from, to, changes) in rows {
            if at == offset {
                break;
            }
            if from.unsigned_abs() != at {
                continue;
            }
            for change in change::decode(&changes)? {
                if let FileChange::Put(_, entry) = change {
                    at += entry.size;
                    pieces.push(entry);
                }
            }
            if at != to.unsigned_abs() {
                break;
            }
        }
        if at == offset {
            return Ok(pieces);
        }
        Err(missing(&format!("the first {offset} bytes of `/{path}`")))
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
