//! Handlers that change files: put, delete, copy. Each is one atomic commit, or an addition to the branch's open commit.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use chassis::http::{Json, Query};
use chassis::idempotency::KeyHeader;
use chassis::openapi::Binary;
use contract::api::Commit;
use contract::ids::{CommitId, UploadId};
use contract::names::BranchName;
use contract::policy::Permission;
use contract::problem::ProblemKind;
use contract::reference::{Base, CommitRef, RepoRef};
use futures::{StreamExt, TryStreamExt};
use serde::Deserialize;
use storage::{EntryKind, FilePath, Storage, StorageError};
use tokio_util::io::StreamReader;
use utoipa::{IntoParams, ToSchema};

use super::change::{FileChange, Puts};
use super::listing::{directory_path, nothing_at};
use super::samples;
use super::stored::Stored;
use super::upload::{self, Destination};
use crate::call::Call;
use crate::commits::put::{self, Change, Head, Source};
use crate::commits::resolve::ReadableCommit;
use crate::commits::{CommitRow, views};
use crate::failure::{Answer, Failure};
use crate::permissions::{Allowed, Visible};
use crate::plane::Plane;
use crate::uploads::{self, keeper::Keeper};

const MESSAGE_BYTES_MAX: usize = 16 << 10;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct PutQuery {
    /// The repo, `[project/]name`.
    repo: String,
    /// The branch; `main` when it is left out.
    branch: Option<BranchName>,
    /// The file or directory, `/a/b`; the root when it is left out.
    #[serde(default)]
    path: String,
    /// What the commit is for.
    #[serde(default)]
    message: String,
    /// Adds to files that are there instead of replacing them.
    #[serde(default)]
    append: bool,
    /// The commit that deltas are against.
    base: Option<CommitId>,
    /// The upload that this is part of.
    upload: Option<UploadId>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct DeleteQuery {
    /// The repo, `[project/]name`.
    repo: String,
    /// The branch; `main` when it is left out.
    branch: Option<BranchName>,
    /// The file or directory, `/a/b`; the root when it is left out.
    path: String,
    /// What the commit is for.
    #[serde(default)]
    message: String,
}

/// What to copy, and where to.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CopyBody {
    /// The commit to copy from.
    from_ref: String,
    /// The file or directory there.
    from_path: String,
    /// The repo, `[project/]name`.
    repo: String,
    /// The branch; `main` when it is left out.
    branch: Option<BranchName>,
    /// Where to; into that directory where it ends in `/`.
    path: String,
    /// What the commit is for.
    #[serde(default)]
    message: String,
}

/// Where a change goes, with the proof that the caller may make it.
pub struct Place {
    /// The repo.
    pub repo: Visible,
    /// The proof.
    pub allowed: Allowed,
    /// The branch.
    pub branch: BranchName,
    /// What is there.
    pub head: Head,
}

/// Finds the place that a request wants to change.
///
/// # Errors
/// 404 and `not-allowed`; `invalid` for a message that is too long.
pub async fn place(plane: &Plane, call: &Call, repo: &str, branch: Option<BranchName>, message: &str) -> Answer<Place> {
    let reference: RepoRef = repo.parse()?;
    if message.len() > MESSAGE_BYTES_MAX {
        return Err(Failure::invalid(format!(
            "the message has {} bytes, at most {MESSAGE_BYTES_MAX} are allowed",
            message.len()
        )));
    }
    let mut conn = plane.pool.acquire().await?;
    let repo = call.repo(&mut conn, &reference).await?;
    let allowed = call.writable(&repo)?;
    let branch = branch.unwrap_or_else(BranchName::main);
    let head = put::head(&mut conn, &allowed, &branch).await?;
    Ok(Place {
        repo,
        allowed,
        branch,
        head,
    })
}

async fn answer(plane: &Plane, call: &Call, row: CommitRow) -> Answer<(StatusCode, Json<Commit>)> {
    let mut conn = plane.pool.acquire().await?;
    let shown = views::show_to_maker(&mut conn, call, row).await?;
    Ok((StatusCode::CREATED, Json(shown)))
}

/// Puts the files of a tar archive, in a new commit or the open one.
#[utoipa::path(
    post,
    path = "/v1/files",
    tag = "files",
    params(PutQuery, KeyHeader),
    request_body(content = Binary, content_type = "application/x-tar"),
    responses((status = 201, body = Commit)),
)]
pub(super) async fn put(
    State(plane): State<Plane>,
    call: Call,
    Query(query): Query<PutQuery>,
    body: Body,
) -> Answer<(StatusCode, Json<Commit>)> {
    let place = place(&plane, &call, &query.repo, query.branch.clone(), &query.message).await?;
    let Some(upload) = query.upload else {
        let row = put_files(&plane, &call, place, query, body).await?;
        return answer(&plane, &call, row).await;
    };
    if let Some(row) = became(&plane, &call, &place, &query).await? {
        return answer(&plane, &call, row).await;
    }
    match put_files(&plane, &call, place, query, body).await {
        Ok(row) => answer(&plane, &call, row).await,
        Err(failure) => {
            // The same upload may have arrived by another request meanwhile.
            let row = {
                let mut conn = plane.pool.acquire().await?;
                uploads::committed(&mut conn, &call, upload).await
            };
            if let Ok(Some(row)) = row {
                return answer(&plane, &call, row).await;
            }
            // What it holds may be what the room is needed for.
            if failure.kind() == ProblemKind::StorageFull
                && let Err(error) = uploads::give_up(&plane, upload).await
            {
                tracing::warn!("an upload that filled the disk is left to the collection of garbage: {error}");
            }
            Err(failure)
        }
    }
}

/// What an upload has become already, if the request fits it.
async fn became(plane: &Plane, call: &Call, place: &Place, query: &PutQuery) -> Answer<Option<CommitRow>> {
    let Some(id) = query.upload else { return Ok(None) };
    let mut conn = plane.pool.acquire().await?;
    let upload = call.upload(&mut conn, id, Permission::Write).await?;
    if upload.repo != place.repo.id || upload.branch != place.branch.as_str() {
        return Err(Failure::invalid(format!(
            "the upload was begun for another place than `{}@{}`",
            place.repo, place.branch
        )));
    }
    if query.append || directory_path(&query.path)?.is_some() {
        return Err(Failure::invalid(
            "an upload that can be taken up again takes neither `append` nor `path`",
        ));
    }
    uploads::touch(plane, &mut conn, &upload).await?;
    uploads::committed(&mut conn, call, id).await
}

async fn put_files(plane: &Plane, call: &Call, place: Place, query: PutQuery, body: Body) -> Answer<CommitRow> {
    let directory = directory_path(&query.path)?;
    let base = base(plane, call, &query.repo, query.base).await?;
    let deltas = base.as_ref().map(|base| base.commit.tree()).transpose()?;
    let writer = Arc::new(Stored::begin(&plane.storage));
    samples::find(call, &place.repo, &writer).await?;
    let destination = Destination {
        base: &place.head.tree,
        deltas: deltas.as_ref(),
        directory: directory.as_ref(),
        append: query.append,
        open: place.head.is_open(),
        batches: &plane.upload_batches,
        handovers: &plane.handovers,
    };
    let mut source = StreamReader::new(body.into_data_stream().map_err(std::io::Error::other));
    let mut keeper = query.upload.map(|upload| Keeper::begin(plane, upload, &writer));
    let received = upload::receive(&plane.storage, &writer, &destination, keeper.as_mut(), &mut source).await;
    // What arrived of an upload that broke off is kept too.
    let kept = match &mut keeper {
        Some(keeper) => keeper.end().await,
        None => Ok(()),
    };
    let changes = received?;
    kept?;
    if call.keyed.is_some() {
        // What stands behind the archive's end belongs to the request too.
        let mut nowhere = tokio::io::sink();
        let rest = tokio::io::copy(&mut source, &mut nowhere).await;
        rest.map_err(|error| StorageError::Source(Arc::new(error)))?;
    }
    let change = Change {
        repo: &place.repo,
        allowed: &place.allowed,
        branch: &place.branch,
        changes,
        sources: Vec::new(),
        imported: Vec::new(),
        message: query.message,
    };
    let base = match base {
        None => None,
        Some(base) => Some(Source {
            commit: base.commit.id,
            tree: base.commit.tree()?,
            origins: base.origins,
        }),
    };
    put::commit_upload(call, &writer, change, put::Upload { base, id: query.upload }).await
}

/// The commit that the deltas of an upload are against, with the proof that the caller may read it.
async fn base(plane: &Plane, call: &Call, repo: &str, commit: Option<CommitId>) -> Answer<Option<ReadableCommit>> {
    let Some(commit) = commit else { return Ok(None) };
    let reference = CommitRef {
        repo: repo.parse()?,
        base: Base::Commit(commit),
        step: None,
    };
    let mut conn = plane.pool.acquire().await?;
    call.locate_readable(&mut conn, &reference).await.map(Some)
}

/// Deletes a file or directory, in a new commit or the open one.
#[utoipa::path(delete, path = "/v1/files", tag = "files", params(DeleteQuery), responses((status = 200, body = Commit)))]
pub(super) async fn delete(
    State(plane): State<Plane>,
    call: Call,
    Query(query): Query<DeleteQuery>,
) -> Answer<Json<Commit>> {
    let place = place(&plane, &call, &query.repo, query.branch, &query.message).await?;
    let path = directory_path(&query.path)?;
    let readable = put::is_readable(&call, place.head.origin_set).await?;
    let changes = deletions(&plane.storage, &place, readable, path.as_ref()).await?;
    let writer = Stored::begin(&plane.storage);
    let change = Change {
        repo: &place.repo,
        allowed: &place.allowed,
        branch: &place.branch,
        changes,
        sources: Vec::new(),
        imported: Vec::new(),
        message: query.message,
    };
    let row = put::commit(&call, &writer, change).await?;
    answer(&plane, &call, row).await.map(|(_, shown)| shown)
}

/// The deletion of one path, or of everything.
async fn deletions(
    storage: &Storage,
    place: &Place,
    readable: bool,
    path: Option<&FilePath>,
) -> Answer<Vec<FileChange>> {
    let tree = &place.head.tree;
    if let Some(path) = path {
        // What an open commit holds is known only when it is finished: deleting what is not there does no harm then. Who
        // may not read is not told either whether it was there.
        if readable && !place.head.is_open() && storage.kind(tree, path).await?.is_none() {
            return Err(Failure::new(
                ProblemKind::NotFound,
                format!(
                    "there is no file or directory `/{path}` in `{}@{}`",
                    place.repo, place.branch
                ),
            ));
        }
        return Ok(vec![FileChange::Delete(path.clone())]);
    }
    Ok(vec![FileChange::Clear])
}

/// Copies a file or directory from any commit that the caller reads.
#[utoipa::path(post, path = "/v1/copies", tag = "files", params(KeyHeader), responses((status = 201, body = Commit)))]
pub(super) async fn copy(
    State(plane): State<Plane>,
    call: Call,
    Json(body): Json<CopyBody>,
) -> Answer<(StatusCode, Json<Commit>)> {
    let from: CommitRef = body.from_ref.parse()?;
    let place = place(&plane, &call, &body.repo, body.branch, &body.message).await?;
    call.unanswered_yet().await?;
    let source = {
        let mut conn = plane.pool.acquire().await?;
        call.locate_readable(&mut conn, &from).await?
    };
    let writer = Stored::begin(&plane.storage);
    let puts = Puts::new(&plane.storage, &writer);
    let changes = copies(puts, &plane.storage, &source, &body.from_path, &body.path).await?;
    let sources = vec![Source {
        commit: source.commit.id,
        tree: source.commit.tree()?,
        origins: source.origins.clone(),
    }];
    let change = Change {
        repo: &place.repo,
        allowed: &place.allowed,
        branch: &place.branch,
        changes,
        sources,
        imported: Vec::new(),
        message: body.message,
    };
    let row = put::commit(&call, &writer, change).await?;
    answer(&plane, &call, row).await
}

/// References to the bytes of one file or directory, at their new paths. A target that ends in `/` is a directory to copy
/// into.
async fn copies(
    mut puts: Puts<'_>,
    storage: &Storage,
    source: &ReadableCommit,
    from_path: &str,
    to_path: &str,
) -> Answer<Vec<FileChange>> {
    let tree = source.commit.tree()?;
    let (from, to) = (directory_path(from_path)?, directory_path(to_path)?);
    let kind = match &from {
        None => Some(EntryKind::Directory),
        Some(from) => storage.kind(&tree, from).await?,
    };
    let to = match (&from, kind) {
        (Some(from), None) => return Err(nothing_at(source, from)),
        (Some(from), Some(_)) if to.is_none() || to_path.ends_with('/') => {
            let name = from.name();
            Some(to.as_ref().map_or_else(|| FilePath::parse(name), |to| to.join(name))?)
        }
        _ => to,
    };
    let mut files = storage.list(&tree, from.as_ref(), None);
    while let Some(item) = files.next().await {
        let (path, entry) = item?;
        let below = match &from {
            None => Some(path.as_str()),
            Some(from) => path.strip_directory(from),
        };
        let target = match (&to, below) {
            (Some(to), None) => to.clone(),
            (Some(to), Some(below)) => to.join(below)?,
            (None, _) => path.clone(),
        };
        puts.push(target, entry).await?;
    }
    Ok(puts.changes())
}
