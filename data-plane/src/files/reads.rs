//! Handlers that show files: lists, bytes, archives, differences. Each first finds the commit with the proof that the
//! caller may read it; streams keep asking while they run.

use std::ops::Range;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use chassis::http::{Json, Query};
use chassis::openapi::Binary;
use contract::api::{ChangeKind, FileChange, FileInfo, Page};
use contract::reference::CommitRef;
use futures::StreamExt;
use provenance::glob::Glob;
use serde::Deserialize;
use storage::{Change, FileEntry, FilePath, StorageError};
use utoipa::{IntoParams, ToSchema};

use super::guard::guarded;
use super::listing::{self, Listing, directory_path};
use super::{archive_writer, zip_writer};
use crate::call::Call;
use crate::commits::resolve::ReadableCommit;
use crate::cursor;
use crate::failure::{Answer, Failure};
use crate::plane::Plane;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// A commit: `[project/]repo@branch` or `…@id`, with `^n` or `.n`.
    #[serde(rename = "ref")]
    reference: String,
    /// The file or directory, `/a/b`; the root when it is left out.
    #[serde(default)]
    path: String,
    /// Everything below it too.
    #[serde(default)]
    recursive: bool,
    /// Only paths that this pattern fits.
    glob: Option<String>,
    /// How many rows at most, 1 to 200.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct PathQuery {
    /// A commit: `[project/]repo@branch` or `…@id`, with `^n` or `.n`.
    #[serde(rename = "ref")]
    reference: String,
    /// The file or directory, `/a/b`; the root when it is left out.
    #[serde(default)]
    path: String,
}

/// How an archive is made.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Format {
    #[default]
    Tar,
    Zip,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ArchiveQuery {
    /// A commit: `[project/]repo@branch` or `…@id`, with `^n` or `.n`.
    #[serde(rename = "ref")]
    reference: String,
    /// The file or directory, `/a/b`; the root when it is left out.
    #[serde(default)]
    path: String,
    /// How the archive is made.
    #[serde(default)]
    #[param(inline)]
    format: Format,
    /// Only what comes behind this path, in the order of the archive.
    after: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct DiffQuery {
    /// The first commit.
    a: String,
    /// The second commit.
    b: String,
}

async fn readable(plane: &Plane, call: &Call, reference: &str) -> Answer<ReadableCommit> {
    let reference: CommitRef = reference.parse()?;
    let mut conn = plane.pool.acquire().await?;
    call.locate_readable(&mut conn, &reference).await
}

/// Lists files of a commit.
#[utoipa::path(get, path = "/v1/files", tag = "files", params(ListQuery), responses((status = 200, body = Page<FileInfo>)))]
pub(super) async fn list(
    State(plane): State<Plane>,
    call: Call,
    Query(query): Query<ListQuery>,
) -> Answer<Json<Page<FileInfo>>> {
    let limit = cursor::limit(query.limit)?;
    let path = directory_path(&query.path)?;
    let glob = match &query.glob {
        None => None,
        Some(text) => Some(Glob::parse(text).map_err(|e| Failure::invalid(e.to_string()))?),
    };
    let commit = readable(&plane, &call, &query.reference).await?;
    // The commit and not the reference: a branch may move between two pages, and the second must go on in the first.
    let name = format!(
        "files {} {} {} {}",
        commit.commit.id,
        query.path,
        query.recursive,
        query.glob.as_deref().unwrap_or_default()
    );
    let listing = Listing {
        path: path.as_ref(),
        recursive: query.recursive,
        glob: glob.as_ref(),
        after: call.position(&name, query.cursor.as_deref())?,
        limit: limit + 1,
    };
    let items = listing::list(&plane.storage, &commit, &listing).await?;
    Ok(Json(call.page(&name, items, limit, listing::position)?))
}

/// Says of a file that it may be executed, which bytes alone do not.
const EXECUTABLE: http::HeaderName = http::HeaderName::from_static("howdah-executable");

/// The bytes of a file, or a range of them.
#[utoipa::path(
    get,
    path = "/v1/content",
    tag = "files",
    params(
        ("if-none-match" = Option<String>, Header, description = "the tags that the caller has"),
        ("range" = Option<String>, Header, description = "one range of bytes (RFC 9110)"),
        ("if-range" = Option<String>, Header, description = "the range counts only if this is still its tag"),
        PathQuery,
    ),
    responses(
        (status = 200, body = Binary, content_type = "application/octet-stream", headers(("etag" = String, description = "the digest of the content"), ("howdah-executable" = Option<String>, description = "`true` of what may be executed"))),
        (status = 206, body = Binary, content_type = "application/octet-stream", headers(("etag" = String, description = "the digest of the content"), ("content-range" = String))),
        (status = 304),
        (status = 416),
    ),
)]
pub(super) async fn content(
    State(plane): State<Plane>,
    call: Call,
    Query(query): Query<PathQuery>,
    headers: HeaderMap,
) -> Answer<Response> {
    let commit = readable(&plane, &call, &query.reference).await?;
    let path = storage::FilePath::parse(&query.path)?;
    let tree = commit.commit.tree()?;
    let Some(entry) = plane.storage.get(&tree, &path).await? else {
        let directory = plane.storage.kind(&tree, &path).await?.is_some();
        return Err(match directory {
            true => Failure::invalid(format!("`/{path}` is a directory"))
                .hint("read a file of it, or the directory as an archive"),
            false => listing::nothing_at(&commit, &path),
        });
    };
    let etag = format!("\"{}\"", entry.digest);
    if has(&headers, &etag) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, etag)]).into_response());
    }
    let same = headers
        .get(header::IF_RANGE)
        .is_none_or(|v| v.to_str().is_ok_and(|v| v == etag));
    let asked = headers
        .get(header::RANGE)
        .filter(|_| same)
        .and_then(|v| v.to_str().ok());
    let range = match asked.map(|text| parse_range(text, entry.size)) {
        None | Some(Asked::All) => None,
        Some(Asked::Part(range)) => Some(range),
        Some(Asked::Outside) => {
            let all = format!("bytes */{}", entry.size);
            return Ok((StatusCode::RANGE_NOT_SATISFIABLE, [(header::CONTENT_RANGE, all)]).into_response());
        }
    };
    Ok(send(&plane, &call, &commit, &entry, etag, range.as_ref()))
}

/// Whether the caller has what has this tag.
fn has(headers: &HeaderMap, etag: &str) -> bool {
    headers
        .get(header::IF_NONE_MATCH)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|given| given.split(',').any(|e| e.trim() == etag || e.trim() == "*"))
}

fn send(
    plane: &Plane,
    call: &Call,
    commit: &ReadableCommit,
    entry: &FileEntry,
    etag: String,
    range: Option<&Range<u64>>,
) -> Response {
    let (status, from_to) = match range {
        None => (StatusCode::OK, 0..entry.size),
        Some(range) => (StatusCode::PARTIAL_CONTENT, range.clone()),
    };
    let bytes = plane.storage.read(entry, from_to.clone());
    let body = Body::from_stream(guarded(bytes, call.keep(), vec![commit.origins.clone()]));
    let mut response = (
        status,
        [
            (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
            (header::CONTENT_LENGTH, (from_to.end - from_to.start).to_string()),
            (header::ACCEPT_RANGES, "bytes".to_owned()),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
            (header::ETAG, etag),
        ],
        body,
    )
        .into_response();
    if entry.executable {
        response
            .headers_mut()
            .insert(EXECUTABLE, http::HeaderValue::from_static("true"));
    }
    if range.is_some() {
        let text = format!(
            "bytes {}-{}/{}",
            from_to.start,
            from_to.end.saturating_sub(1),
            entry.size
        );
        if let Ok(value) = text.parse() {
            response.headers_mut().insert(header::CONTENT_RANGE, value);
        }
    }
    response
}

#[derive(Debug, PartialEq, Eq)]
enum Asked {
    /// Nothing that we understand: the whole file, as RFC 9110 has it.
    All,
    Part(Range<u64>),
    Outside,
}

fn parse_range(text: &str, size: u64) -> Asked {
    let Some((from, to)) = text.strip_prefix("bytes=").and_then(|r| r.trim().split_once('-')) else {
        return Asked::All;
    };
    let range = match (from.parse::<u64>(), to.parse::<u64>()) {
        (Ok(from), Ok(to)) if from <= to => from..to.saturating_add(1).min(size),
        (Ok(from), Err(_)) if to.is_empty() => from..size,
        (Err(_), Ok(last)) if from.is_empty() => size.saturating_sub(last)..size,
        _ => return Asked::All,
    };
    if range.start >= range.end {
        Asked::Outside
    } else {
        Asked::Part(range)
    }
}

/// The files of a directory as an archive.
#[utoipa::path(
    get,
    path = "/v1/archive",
    tag = "files",
    params(("if-none-match" = Option<String>, Header, description = "the tags that the caller has"), ArchiveQuery),
    responses(
        (status = 200, content((Binary = "application/x-tar"), (Binary = "application/zip")), headers(("etag" = String, description = "the digest of the content"))),
        (status = 304),
    ),
)]
pub(super) async fn archive(
    State(plane): State<Plane>,
    call: Call,
    Query(query): Query<ArchiveQuery>,
    headers: HeaderMap,
) -> Answer<Response> {
    let commit = readable(&plane, &call, &query.reference).await?;
    let path = directory_path(&query.path)?;
    let after = query.after.as_deref().map(FilePath::parse).transpose()?;
    if after.is_some() && matches!(query.format, Format::Zip) {
        return Err(
            Failure::invalid("a zip archive cannot go on: its end tells of all that is in it")
                .hint("leave out `after`, or ask for a tar archive"),
        );
    }
    let tree = commit.commit.tree()?;
    if let Some(path) = &path
        && plane.storage.kind(&tree, path).await?.is_none()
    {
        return Err(listing::nothing_at(&commit, path));
    }
    let finished_at = commit.commit.finished_at.unwrap_or(commit.commit.started_at);
    let (kind, etag) = match query.format {
        Format::Tar => ("application/x-tar", format!("\"{}\"", tree.digest())),
        // The same content in other bytes, with the time of this commit in them.
        Format::Zip => (
            "application/zip",
            format!("\"{}-{}.zip\"", tree.digest(), finished_at.timestamp()),
        ),
    };
    if has(&headers, &etag) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, etag)]).into_response());
    }
    let name = path.as_ref().map_or("files", FilePath::name).to_owned();
    let bytes = match query.format {
        Format::Tar => archive_writer::archive(&plane.storage, &tree, path, after.as_ref(), finished_at),
        Format::Zip => zip_writer::archive(&plane.storage, &tree, path, finished_at),
    };
    let body = Body::from_stream(guarded(bytes, call.keep(), vec![commit.origins.clone()]));
    let headers = [
        (header::CONTENT_TYPE, kind.to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        (header::ETAG, etag),
    ];
    let mut response = (headers, body).into_response();
    if matches!(query.format, Format::Zip) {
        response
            .headers_mut()
            .insert(header::CONTENT_DISPOSITION, attachment(&name));
    }
    Ok(response)
}

/// What a browser calls the file that it saves.
fn attachment(name: &str) -> HeaderValue {
    let encoded = percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC);
    let text = format!("attachment; filename*=UTF-8''{encoded}.zip");
    text.parse().unwrap_or(HeaderValue::from_static("attachment"))
}

/// Says how two commits differ.
#[utoipa::path(
    get,
    path = "/v1/diff",
    tag = "files",
    params(DiffQuery),
    responses(
        (status = 200, body = FileChange, content_type = "application/x-ndjson", description = "lines of JSON, one `FileChange` each"),
    ),
)]
pub(super) async fn diff(State(plane): State<Plane>, call: Call, Query(query): Query<DiffQuery>) -> Answer<Response> {
    let a = readable(&plane, &call, &query.a).await?;
    let b = readable(&plane, &call, &query.b).await?;
    let changes = plane.storage.diff(&a.commit.tree()?, &b.commit.tree()?);
    let lines = changes.map(|change| change.map(|c| json_line(&c))).boxed();
    let sets = vec![a.origins.clone(), b.origins.clone()];
    let body = Body::from_stream(guarded::<StorageError>(lines, call.keep(), sets));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

fn json_line(change: &Change) -> Bytes {
    let (kind, entry) = match (&change.before, &change.after) {
        (None, after) => (ChangeKind::Added, after.as_ref()),
        (Some(before), None) => (ChangeKind::Removed, Some(before)),
        (Some(_), Some(after)) => (ChangeKind::Changed, Some(after)),
    };
    let line = FileChange {
        change: kind,
        path: format!("/{}", change.path),
        size_bytes: entry.map_or(0, |e| e.size),
    };
    let mut bytes = serde_json::to_vec(&line).unwrap_or_default();
    bytes.push(b'\n');
    bytes.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_rfc_9110_has_them() {
        for (text, expected) in [
            ("bytes=0-4", Asked::Part(0..5)),
            ("bytes=5-", Asked::Part(5..10)),
            ("bytes=-3", Asked::Part(7..10)),
            ("bytes=-30", Asked::Part(0..10)),
            ("bytes=8-99", Asked::Part(8..10)),
            ("bytes=10-", Asked::Outside),
            ("bytes=10-11", Asked::Outside),
            ("bytes=0-18446744073709551615", Asked::Part(0..10)),
            ("bytes=4-2", Asked::All),
            ("bytes=0-1,3-4", Asked::All),
            ("lines=1-2", Asked::All),
        ] {
            assert_eq!(parse_range(text, 10), expected, "{text}");
        }
    }
}
