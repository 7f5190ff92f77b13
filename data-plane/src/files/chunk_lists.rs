//! `POST /v1/chunks`: of which chunks files are made, so that a client that is about to replace them sends only what is
//! new. It tells of content, so it asks for the right to read like everything that does, and only ever tells of the files
//! of one commit: whether bytes exist elsewhere is never said.

use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use chassis::http::Json;
use contract::api::{ChunksOf, FileChunks};
use contract::ids::CommitId;
use contract::reference::CommitRef;
use futures::{StreamExt, TryStreamExt};
use storage::{FileEntry, FilePath, Storage, StorageError};

use super::guard::guarded;
use crate::call::Call;
use crate::failure::{Answer, Failure};
use crate::plane::Plane;

const PATHS_MAX: usize = 1000;
/// Of one line: about 300 KiB of text, half a GiB of a file.
const LINE_CHUNKS: usize = 4096;

/// Says of which chunks files are made.
///
/// It changes nothing, so it can be sent again.
#[utoipa::path(
    post,
    path = "/v1/chunks",
    tag = "chunks",
    responses(
        (status = 200, body = FileChunks, content_type = "application/x-ndjson", description = "lines of JSON, one `FileChunks` each"),
    ),
)]
pub(super) async fn list(State(plane): State<Plane>, call: Call, Json(body): Json<ChunksOf>) -> Answer<Response> {
    let reference: CommitRef = body.reference.parse()?;
    if body.paths.len() > PATHS_MAX {
        return Err(Failure::invalid(format!(
            "{} paths are too many at once, at most {PATHS_MAX} are allowed",
            body.paths.len()
        )));
    }
    let commit = {
        let mut conn = plane.pool.acquire().await?;
        call.locate_readable(&mut conn, &reference).await?
    };
    let tree = commit.commit.tree()?;
    let id = commit.commit.id;
    let storage = plane.storage.clone();
    let paths = body.paths.into_iter().map(|asked| {
        let path = FilePath::parse(asked.trim_start_matches('/'))?;
        Ok((asked, path))
    });
    let paths: Vec<(String, FilePath)> = paths.collect::<Answer<_>>()?;
    let lines = futures::stream::iter(paths)
        .then(move |(asked, path)| {
            let (storage, tree) = (storage.clone(), tree.clone());
            async move {
                let found = storage.get(&tree, &path).await?;
                Ok::<_, StorageError>(found.map(|file| lines(&storage, id, &asked, &file)))
            }
        })
        .try_filter_map(|lines| async move { Ok(lines) })
        .try_flatten()
        .boxed();
    let body = Body::from_stream(guarded(lines, call.keep(), vec![commit.origins.clone()]));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

fn lines(
    storage: &Storage,
    commit: CommitId,
    path: &str,
    file: &FileEntry,
) -> impl futures::Stream<Item = Result<Bytes, StorageError>> + Send + use<> {
    let (path, size_bytes) = (path.to_owned(), file.size);
    let groups = storage.chunks(file).try_chunks(LINE_CHUNKS).map_err(|error| error.1);
    groups
        .scan(0, |position: &mut u64, group| {
            let offset = *position;
            if let Ok(chunks) = &group {
                *position += chunks.iter().map(|(length, _)| u64::from(*length)).sum::<u64>();
            }
            std::future::ready(Some(group.map(|chunks| (offset, chunks))))
        })
        .map_ok(move |(offset, chunks)| {
            let mut bytes = Vec::with_capacity(chunks.len() * FileChunks::CHUNK_BYTES);
            for (length, digest) in &chunks {
                bytes.extend_from_slice(&FileChunks::encode_chunk(*length, digest.as_bytes()));
            }
            let line = FileChunks {
                commit,
                path: path.clone(),
                size_bytes,
                offset,
                chunks: hex::encode(bytes),
            };
            let mut bytes = serde_json::to_vec(&line).unwrap_or_default();
            bytes.push(b'\n');
            bytes.into()
        })
}
