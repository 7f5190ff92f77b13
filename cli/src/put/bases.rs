//! What the branch has already: of files that are about to be replaced, the chunks that the service holds. Only who may
//! read the branch is told; everybody else sends everything.

use std::collections::{HashMap, VecDeque};
use std::future::Future;

use contract::api::{Commit, FileChunks, FileInfo};
use contract::ids::CommitId;
use contract::problem::ProblemKind;
use tokio::sync::{mpsc, oneshot};

use super::sources::Source;
use crate::client::{Client, Request};
use crate::failure::{Failure, Outcome};
use crate::references::Place;

/// Smaller files are sent whole: asking would cost more than it saves.
const BYTES_MIN: u64 = 1 << 20;
/// Files that are asked for at once, and the sum of their sizes: some 60 bytes are held of each chunk.
const FILES_AT_ONCE: usize = 500;
const BYTES_AT_ONCE: u64 = 64 << 30;

/// A chunk that the service holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chunk {
    pub(super) offset: u64,
    pub(super) length: u32,
    pub(super) digest: [u8; 32],
}

/// The file that stands at a path.
#[derive(Debug, Default)]
pub(super) struct Base {
    pub(super) size: u64,
    pub(super) chunks: Vec<Chunk>,
}

type Found = HashMap<String, Base>;

struct Ask {
    paths: Vec<String>,
    answer: oneshot::Sender<Found>,
}

/// A file that may have a base: its path and size.
pub(super) type Wanted = (String, u64);

/// Asks for bases on behalf of the thread that reads the sources.
pub(super) struct Bases {
    asks: Option<mpsc::Sender<Ask>>,
    found: Found,
    /// What has not been asked for yet, in the order in which it is sent.
    wanted: VecDeque<Wanted>,
}

/// The files among these that are worth asking for.
pub(super) fn wanted<'s>(sources: impl Iterator<Item = &'s Source>) -> VecDeque<Wanted> {
    let worth = sources.filter(|source| source.size() >= BYTES_MIN);
    worth.map(|source| (source.path.clone(), source.size())).collect()
}

/// The commit whose files can be told from: the branch's, if it has one and the caller may read it.
pub(super) async fn commit(client: &Client, target: &Place) -> Option<CommitId> {
    let reference = format!("{}@{}", target.repo, target.branch);
    // Whatever is wrong, the upload itself is told it.
    let found = client.plane::<Commit>(Request::get("/v1/commits").query("ref", reference));
    let found = found.await.ok()?;
    found.digest.filter(|_| found.files > 0).map(|_| found.id)
}

/// Whether there may be another version of the file, of which only what is new would have to be sent.
pub(super) async fn has(client: &Client, repo: &str, commit: Option<CommitId>, path: &str) -> bool {
    let Some(commit) = commit else { return false };
    let request = Request::get("/v1/files").query("ref", format!("{repo}@{commit}"));
    let found = client.plane_page::<FileInfo>(request.query("path", path).query("limit", 1));
    match found.await {
        Ok(page) => !page.items.is_empty(),
        Err(failure) => !failure.is(ProblemKind::NotFound),
    }
}

impl Bases {
    /// Nothing is there.
    #[cfg(test)]
    pub(super) fn none() -> Self {
        Self {
            asks: None,
            found: Found::new(),
            wanted: VecDeque::new(),
        }
    }

    /// The two ends: the one for the thread, and what answers it, until the thread's end is dropped.
    pub(super) fn of<'c>(
        client: &'c Client,
        repo: &'c str,
        commit: Option<CommitId>,
        wanted: VecDeque<Wanted>,
    ) -> (Self, impl Future<Output = ()> + 'c) {
        let (asks, mut asked) = mpsc::channel::<Ask>(1);
        let bases = Self {
            asks: commit.map(|_| asks),
            found: Found::new(),
            wanted,
        };
        let answering = async move {
            while let (Some(commit), Some(ask)) = (commit, asked.recv().await) {
                // Without an answer everything is sent.
                let found = chunks(client, repo, commit, &ask.paths).await.unwrap_or_default();
                let _ = ask.answer.send(found);
            }
        };
        (bases, answering)
    }

    /// The file that stands at this path. Blocking; paths are asked for in the order in which they are wanted.
    pub(super) fn take(&mut self, path: &str) -> Option<Base> {
        let asks = self.asks.as_ref()?;
        if self.wanted.front().is_some_and(|(next, _)| next == path) {
            let (mut paths, mut bytes) = (Vec::new(), 0);
            while paths.len() < FILES_AT_ONCE && bytes < BYTES_AT_ONCE {
                let Some((path, size)) = self.wanted.pop_front() else {
                    break;
                };
                paths.push(path);
                bytes += size;
            }
            let (answer, answered) = oneshot::channel();
            asks.blocking_send(Ask { paths, answer }).ok()?;
            self.found = answered.blocking_recv().ok()?;
        }
        self.found.remove(path)
    }
}

async fn chunks(client: &Client, repo: &str, commit: CommitId, paths: &[String]) -> Outcome<Found> {
    let body = serde_json::json!({ "ref": format!("{repo}@{commit}"), "paths": paths });
    let mut found = Found::new();
    let request = Request::post("/v1/chunks").body(&body)?;
    client
        .lines(&request, |line: FileChunks| {
            let base = found.entry(line.path).or_default();
            base.size = line.size_bytes;
            read(&line.chunks, line.offset, &mut base.chunks)
        })
        .await?;
    Ok(found)
}

fn read(text: &str, mut offset: u64, into: &mut Vec<Chunk>) -> Outcome {
    let bytes =
        hex::decode(text).map_err(|e| Failure::new("the service's answer was not understood", e, "report this"))?;
    for record in bytes.as_chunks::<{ FileChunks::CHUNK_BYTES }>().0 {
        let (length, digest) = FileChunks::decode_chunk(record);
        into.push(Chunk { offset, length, digest });
        offset += u64::from(length);
    }
    Ok(())
}
