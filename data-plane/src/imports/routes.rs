//! `/v1/imports`: the answer is a line of JSON every second while files are fetched, and the commit at the end.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use chassis::http::Json;
use chassis::idempotency::{self, KeyHeader};
use contract::api::{Commit, ImportLine};
use contract::names::BranchName;
use serde::{Deserialize, Serialize};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::progress::Progress;
use super::s3::Access;
use super::work::{self, Asked, Import, Order};
use crate::call::Call;
use crate::commits::put::{self, Change};
use crate::commits::queries::SOURCES_MAX;
use crate::commits::views;
use crate::failure::{Answer, Failure};
use crate::files::stored::{LONGEST, Stored};
use crate::files::writes::{Place, place};
use crate::idempotency::Kept;
use crate::plane::Plane;

const LINES: HeaderValue = HeaderValue::from_static("application/x-ndjson");
const TELL_EVERY: Duration = Duration::from_secs(1);

/// The routes.
pub fn router() -> OpenApiRouter<Plane> {
    OpenApiRouter::new().routes(routes!(import))
}

/// What to import.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ImportBody {
    /// The repo, `[project/]name`.
    repo: String,
    /// The branch; `main` when it is left out.
    branch: Option<BranchName>,
    /// The directory to put it into; the root when it is left out.
    #[serde(default)]
    path: String,
    /// What to fetch, 1 to 100 addresses.
    sources: Vec<SourceBody>,
    /// What the commit is for.
    #[serde(default)]
    message: String,
    /// Adds to files that are there instead of replacing them.
    #[serde(default)]
    append: bool,
    /// How a bucket is reached. Never stored.
    #[serde(default)]
    s3: Access,
}

/// Where to fetch from.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SourceBody {
    /// `https://…` or `s3://bucket/prefix/`.
    url: String,
    /// Everything whose name begins like that.
    #[serde(default)]
    recursive: bool,
}

/// Fetches files from where they are into a commit.
#[utoipa::path(
    post,
    path = "/v1/imports",
    tag = "imports",
    params(KeyHeader),
    responses(
        (status = 200, body = ImportLine, content_type = "application/x-ndjson", description = "lines of JSON, one `ImportLine` each; the last is the commit, or a `Problem`"),
    ),
)]
async fn import(State(plane): State<Plane>, call: Call, Json(body): Json<ImportBody>) -> Answer<Response> {
    if body.sources.is_empty() || body.sources.len() > SOURCES_MAX {
        return Err(Failure::invalid(format!(
            "{} sources were named; 1 to {SOURCES_MAX} can be imported at once",
            body.sources.len()
        )));
    }
    let place = place(&plane, &call, &body.repo, body.branch, &body.message).await?;
    let asked: Vec<Asked> = body
        .sources
        .into_iter()
        .map(|source| Asked {
            url: source.url,
            recursive: source.recursive,
        })
        .collect();
    // Before anybody is asked for anything.
    if let Err(failure) = call.unanswered_yet().await {
        let Some(kept) = failure.kept() else {
            return Err(failure);
        };
        let mut answer = idempotency::replayed(StatusCode::OK, again(kept));
        answer.headers_mut().insert(header::CONTENT_TYPE, LINES);
        return Ok(answer);
    }
    let turn = plane.importer.running.begin(call.actor().id)?;
    let orders = work::plan(&plane.importer, &asked, &body.path, &body.s3)?;
    let progress = Arc::new(Progress::new(orders.len(), plane.importer.bytes_max, body.append));
    let import = Import {
        writer: Stored::begin(&plane.storage),
        base: place.head.tree.clone(),
        append: body.append,
        progress: Arc::clone(&progress),
        plane,
        _turn: turn,
    };
    let running = run(call, place, import, orders, body.message);
    let lines = Lines {
        running: AbortOnDropHandle::new(tokio::spawn(running.in_current_span())),
        progress,
        timer: tokio::time::interval(TELL_EVERY),
        ended: false,
    };
    let lines = futures::stream::unfold(lines, |mut lines| async move {
        if lines.ended {
            return None;
        }
        let line = lines.next().await;
        Some((Ok::<_, Infallible>(line), lines))
    });
    Ok(([(header::CONTENT_TYPE, LINES)], Body::from_stream(lines)).into_response())
}

/// Fetches and commits. Whatever ends it before the commit takes back what was stored.
async fn run(call: Call, place: Place, import: Import, orders: Vec<Order>, message: String) -> Answer<Commit> {
    let import = Arc::new(import);
    let Ok(fetched) = tokio::time::timeout(LONGEST, import.fetch(orders)).await else {
        import.writer.in_time()?;
        return Err(Failure::internal("an import was given up before its time"));
    };
    let (changes, imported) = fetched?;
    let change = Change {
        repo: &place.repo,
        allowed: &place.allowed,
        branch: &place.branch,
        changes,
        sources: Vec::new(),
        imported,
        message,
    };
    let row = put::commit(&call, &import.writer, change).await?;
    let mut conn = call.plane.pool.acquire().await?;
    views::show_to_maker(&mut conn, &call, row).await
}

/// The answer on its way. When it is dropped, since the caller hung up, the work ends.
struct Lines {
    running: AbortOnDropHandle<Answer<Commit>>,
    progress: Arc<Progress>,
    timer: tokio::time::Interval,
    ended: bool,
}

impl Lines {
    async fn next(&mut self) -> Bytes {
        let done = tokio::select! {
            biased;
            done = &mut self.running => done,
            _ = self.timer.tick() => return json(&self.progress.line()),
        };
        self.ended = true;
        match done.unwrap_or_else(|error| Err(Failure::internal(error))) {
            Ok(commit) => json(&ImportLine::Commit {
                commit: Box::new(commit),
            }),
            Err(failure) => failure.kept().map_or_else(|| json(&failure.0.0), again),
        }
    }
}

/// The last line of an answer that was given before.
fn again(kept: &Kept) -> Bytes {
    match serde_json::from_slice(kept.json()) {
        Ok(commit) => json(&ImportLine::Commit { commit }),
        Err(error) => json(&Failure::internal(error).0.0),
    }
}

fn json<T: Serialize>(line: &T) -> Bytes {
    let mut bytes = serde_json::to_vec(line).unwrap_or_default();
    bytes.push(b'\n');
    bytes.into()
}
