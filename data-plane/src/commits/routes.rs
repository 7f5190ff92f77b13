//! `/v1/commits` and `/v1/log`.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::StatusCode;
use chassis::http::{Json, Query};
use chassis::idempotency::KeyHeader;
use contract::api::{Commit, CommitState, Page};
use contract::names::BranchName;
use contract::problem::ProblemKind;
use contract::reference::{Base, CommitRef, RepoRef};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::finish::finished_already;
use super::put::{self, Change};
use super::together::{self, Open};
use super::{log, queries, views};
use crate::call::Call;
use crate::cursor;
use crate::failure::{Answer, Failure};
use crate::files::listing::directory_path;
use crate::permissions::System;
use crate::plane::Plane;

const DECIDE: System = System::because("rows are read in order to decide about them");

/// So many open commits can be finished in one transaction.
const TOGETHER_MAX: usize = 100;

/// The routes.
pub fn router() -> OpenApiRouter<Plane> {
    OpenApiRouter::new()
        .routes(routes!(show, start))
        .routes(routes!(finish))
        .routes(routes!(finish_together))
        .routes(routes!(crate::spouts::attest::attest))
        .routes(routes!(list))
}

/// A commit to be begun.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct StartBody {
    /// The repo, `[project/]name`.
    repo: String,
    /// The branch; `main` when it is left out.
    branch: Option<BranchName>,
    /// What the commit is for.
    #[serde(default)]
    message: String,
}

/// Commits to be finished.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct FinishBody {
    /// The open commits, 1 to 100.
    refs: Vec<String>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct RefQuery {
    /// A commit: `[project/]repo@branch` or `…@id`, with `^n` or `.n`.
    #[serde(rename = "ref")]
    reference: String,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct LogQuery {
    /// A commit: `[project/]repo@branch` or `…@id`, with `^n` or `.n`.
    #[serde(rename = "ref")]
    reference: String,
    /// The file or directory, `/a/b`; the root when it is left out.
    #[serde(default)]
    path: String,
    /// How many rows at most, 1 to 200.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Position {
    next: contract::ids::CommitId,
}

/// Begins an open commit.
#[utoipa::path(
    post,
    path = "/v1/commits",
    tag = "commits",
    params(KeyHeader),
    responses((status = 201, body = Commit)),
)]
async fn start(
    State(plane): State<Plane>,
    call: Call,
    Json(body): Json<StartBody>,
) -> Answer<(StatusCode, Json<Commit>)> {
    let reference: RepoRef = body.repo.parse()?;
    let mut conn = plane.pool.acquire().await?;
    let repo = call.repo(&mut conn, &reference).await?;
    drop(conn);
    let allowed = call.writable(&repo)?;
    let change = Change {
        repo: &repo,
        allowed: &allowed,
        branch: &body.branch.unwrap_or_else(BranchName::main),
        changes: Vec::new(),
        sources: Vec::new(),
        imported: Vec::new(),
        message: body.message,
    };
    put::start(&call, change).await
}

/// The open commit that a reference names.
async fn open(plane: &Plane, call: &Call, reference: &str) -> Answer<Open> {
    let reference: CommitRef = reference.parse()?;
    let mut conn = plane.pool.acquire().await?;
    let repo = call.repo(&mut conn, &reference.repo).await?;
    let allowed = call.writable(&repo)?;
    let named = match (&reference.base, &reference.step) {
        // Not the newest finished commit, which readers see, but the head.
        (Base::Branch(branch), None) => queries::find_head(&mut conn, &DECIDE, repo.id, branch).await?.flatten(),
        _ => Some(call.locate(&mut conn, &reference).await?.commit),
    };
    let commit = named.ok_or_else(Failure::not_found)?;
    match commit.state {
        CommitState::Open => Ok(Open {
            repo,
            allowed,
            id: commit.id,
        }),
        CommitState::Finished => Err(finished_already(commit.id)),
        CommitState::Errored => Err(Failure::new(
            ProblemKind::CommitFinished,
            format!("commit `{}` is errored and never changes", commit.id),
        )),
        CommitState::Removed => Err(Failure::new(
            ProblemKind::CommitFinished,
            format!("commit `{}` was removed and never changes", commit.id),
        )),
    }
}

/// Finishes an open commit.
///
/// Sent again it changes nothing: the answer is that the commit is finished.
#[utoipa::path(post, path = "/v1/commits/finish", tag = "commits", params(RefQuery), responses((status = 200, body = Commit)))]
async fn finish(State(plane): State<Plane>, call: Call, Query(query): Query<RefQuery>) -> Answer<Json<Commit>> {
    let open = open(&plane, &call, &query.reference).await?;
    let mut rows = together::finish(&call, &[open]).await?;
    let row = rows.pop().ok_or_else(Failure::not_found)?;
    let mut conn = plane.pool.acquire().await?;
    Ok(Json(views::show_to_maker(&mut conn, &call, row).await?))
}

/// Finishes several open commits in one transaction.
///
/// Sent again it changes nothing: the answer is that they are finished.
#[utoipa::path(post, path = "/v1/commits/finish-together", tag = "commits", responses((status = 200, body = Page<Commit>)))]
async fn finish_together(
    State(plane): State<Plane>,
    call: Call,
    Json(body): Json<FinishBody>,
) -> Answer<Json<Page<Commit>>> {
    if body.refs.is_empty() || body.refs.len() > TOGETHER_MAX {
        return Err(Failure::invalid(format!(
            "{} commits were named; 1 to {TOGETHER_MAX} can be finished together",
            body.refs.len()
        )));
    }
    let mut all: Vec<Open> = Vec::with_capacity(body.refs.len());
    for reference in &body.refs {
        let open = open(&plane, &call, reference).await?;
        if all.iter().any(|other| other.id == open.id) {
            return Err(Failure::invalid(format!("`{reference}` is named twice")));
        }
        all.push(open);
    }
    // Two requests that name the same commits lock them in one order.
    all.sort_by_key(|open| open.id);
    let rows = together::finish(&call, &all).await?;
    let mut conn = plane.pool.acquire().await?;
    let mut items = Vec::with_capacity(rows.len());
    for row in rows {
        items.push(views::show_to_maker(&mut conn, &call, row).await?);
    }
    Ok(Json(Page {
        items,
        next_cursor: None,
    }))
}

/// Shows a commit.
#[utoipa::path(get, path = "/v1/commits", tag = "commits", params(RefQuery), responses((status = 200, body = Commit)))]
async fn show(State(plane): State<Plane>, call: Call, Query(query): Query<RefQuery>) -> Answer<Json<Commit>> {
    let reference: CommitRef = query.reference.parse()?;
    let mut conn = plane.pool.acquire().await?;
    let readable = call.locate_readable(&mut conn, &reference).await?;
    let shown = views::show(&mut conn, &call, &readable.proof, readable.commit).await?;
    Ok(Json(shown))
}

/// Lists the commits of a branch, newest first.
#[utoipa::path(
    get,
    path = "/v1/log",
    tag = "commits",
    operation_id = "log",
    params(LogQuery),
    responses((status = 200, body = Page<Commit>)),
)]
async fn list(State(plane): State<Plane>, call: Call, Query(query): Query<LogQuery>) -> Answer<Json<Page<Commit>>> {
    let limit = cursor::limit(query.limit)?;
    let reference: CommitRef = query.reference.parse()?;
    let path = directory_path(&query.path)?;
    let name = format!("log {} {}", query.reference, query.path);
    let after: Option<Position> = call.position(&name, query.cursor.as_deref())?;
    let mut conn = plane.pool.acquire().await?;
    let start = log::start(&call, &mut conn, &reference).await?;
    let readable = log::readable_sets(&call, &mut conn, start.repo).await?;
    let from = after.map_or(start.commit, |a| a.next);
    let (rows, next) = log::walk(&plane, &mut conn, &readable, from, path.as_ref(), limit).await?;
    let items = views::show_all(&mut conn, &call, rows).await?;
    let next_cursor = match next {
        None => None,
        Some(next) => Some(call.cursor(&name, &Position { next })?),
    };
    Ok(Json(Page { items, next_cursor }))
}

/// The origin sets that a caller may read, by the ids of their rows.
pub type ReadableSets = BTreeMap<i64, std::sync::Arc<provenance::origins::OriginSet>>;
