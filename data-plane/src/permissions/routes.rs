//! `/v1/access/explain` and `/v1/access/who-can-read`: the rule in words, by the function that enforces it (R11, R12).

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::State;
use chassis::http::{Json, Query};
use contract::api::{Explanation, Page, Reader};
use contract::ids::CommitId;
use contract::policy::{Permission, Principal};
use contract::problem::ProblemKind;
use contract::reference::{Base, CommitRef};
use provenance::access::{Lineage, LineageNode, Subject, Verb, explain, who_can_read};
use provenance::origins::{Edge, OriginSet, matching_releases};
use serde::Deserialize;
use sqlx::PgConnection;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{System, Visible};
use crate::call::Call;
use crate::commits::{self, CommitRow, origins};
use crate::cursor;
use crate::failure::{Answer, Failure};
use crate::lineage::{self, Direction, Earlier, Extent};
use crate::plane::Plane;

const EXPLAIN: System = System::because("an explanation names what its reader may discover, and nothing else");

/// The routes.
pub fn router() -> OpenApiRouter<Plane> {
    OpenApiRouter::new().routes(routes!(explained)).routes(routes!(readers))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ExplainQuery {
    /// A commit: `[project/]repo@branch` or `…@id`, with `^n` or `.n`.
    #[serde(rename = "ref")]
    reference: String,
    /// Of whom: `user:E`, `sa:S`, an id or a name; of the caller when it is left out.
    subject: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ReadersQuery {
    /// A commit: `[project/]repo@branch` or `…@id`, with `^n` or `.n`.
    #[serde(rename = "ref")]
    reference: String,
    /// How many rows at most, 1 to 200.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// What a question is about.
struct Object {
    repo: Visible,
    set: Arc<OriginSet>,
    lineage: Lineage,
}

/// Explains why a commit may be read or not, and who can change that.
#[utoipa::path(
    get,
    path = "/v1/access/explain",
    tag = "access",
    operation_id = "explain",
    params(ExplainQuery),
    responses((status = 200, body = Explanation)),
)]
async fn explained(
    State(plane): State<Plane>,
    call: Call,
    Query(query): Query<ExplainQuery>,
) -> Answer<Json<Explanation>> {
    let reference: CommitRef = query.reference.parse()?;
    let mut conn = plane.pool.acquire().await?;
    let object = object(&plane, &call, &mut conn, &reference).await?;
    let rights = call.rights();
    let asked = match &query.subject {
        None => rights.subject.clone(),
        Some(text) => Subject::unlimited(principal(&call, text).ok_or_else(Failure::not_found)?),
    };
    explain(
        &rights.policy,
        &rights.subject,
        &asked,
        Verb::Read,
        &object.set,
        &object.lineage,
        plane.now(),
    )
    .map(Json)
    .ok_or_else(Failure::not_found)
}

/// Lists who can read a commit.
#[utoipa::path(
    get,
    path = "/v1/access/who-can-read",
    tag = "access",
    operation_id = "who_can_read",
    params(ReadersQuery),
    responses((status = 200, body = Page<Reader>)),
)]
async fn readers(
    State(plane): State<Plane>,
    call: Call,
    Query(query): Query<ReadersQuery>,
) -> Answer<Json<Page<Reader>>> {
    let limit = cursor::limit(query.limit)?;
    let reference: CommitRef = query.reference.parse()?;
    let list = format!("who-can-read {}", query.reference);
    let skip: usize = call.position(&list, query.cursor.as_deref())?.unwrap_or(0);
    let mut conn = plane.pool.acquire().await?;
    let object = object(&plane, &call, &mut conn, &reference).await?;
    call.allowed(&object.repo, Permission::Admin)?;
    let readers = who_can_read(&call.rights().policy, &object.set, plane.now());
    let rest: Vec<Reader> = readers.into_iter().skip(skip).take(limit + 1).collect();
    Ok(Json(call.page(&list, rest, limit, |_| skip + limit)?))
}

/// The commit that is asked about: the one that a read of the reference would show, else the head of the branch whatever
/// its state. Only where the repo holds no commit at all, the question is about the repo itself.
async fn object(plane: &Plane, call: &Call, conn: &mut PgConnection, reference: &CommitRef) -> Answer<Object> {
    let repo = call.repo(conn, &reference.repo).await?;
    let commit = match call.locate(conn, reference).await {
        Ok(located) => Some(located.commit),
        Err(failure) if matches!(failure.kind(), ProblemKind::NotFound | ProblemKind::NotAllowed) => {
            let head = match (&reference.base, &reference.step) {
                (Base::Branch(branch), None) => commits::queries::find_head(conn, &EXPLAIN, repo.id, branch).await?,
                _ => None,
            };
            match head.flatten() {
                Some(head) => Some(head),
                None if commits::queries::has_commits(conn, &EXPLAIN, repo.id).await? => return Err(failure),
                None => None,
            }
        }
        Err(failure) => return Err(failure),
    };
    let Some(commit) = commit else {
        let id: CommitId = plane.id();
        let node = LineageNode {
            domain: repo.id,
            pipeline: None,
            inputs: Vec::new(),
            edge: Edge::plain(),
            unattested: None,
        };
        let lineage = Lineage {
            object: id,
            nodes: HashMap::from([(id, node)]),
        };
        return Ok(Object {
            set: Arc::new(OriginSet::own(repo.id)),
            repo,
            lineage,
        });
    };
    let set = origins::get(plane, conn, &EXPLAIN, commit.origin_set).await?;
    let lineage = lineage_of(call, conn, commit).await?;
    Ok(Object { repo, set, lineage })
}

/// Everything upstream of a commit with the releases on each edge. The commits before its sources on their branches are left out: they
/// are of the same domains, there are thousands of them, and what was copied into them is among the sources.
async fn lineage_of(call: &Call, conn: &mut PgConnection, commit: CommitRow) -> Answer<Lineage> {
    let extent = Extent {
        earlier: Earlier::OfNone,
        commits_max: usize::MAX,
    };
    let found = lineage::walk_within(conn, commit.id, Direction::Up, extent).await?;
    let object = commit.id;
    let mut commits = found.commits;
    commits.push(commit);
    let ids: Vec<CommitId> = commits.iter().map(|c| c.id).collect();
    let digests = lineage::queries::list_release_digests(conn, &EXPLAIN, &ids).await?;
    let digests: HashMap<CommitId, String> = digests.into_iter().collect();
    let policy = &call.rights().policy;
    let node = |commit: &CommitRow| {
        let pipeline = commit.pipeline.as_ref();
        let digest = pipeline.and_then(|p| digests.get(&commit.id).map(|d| (p.id, d)));
        LineageNode {
            domain: commit.repo,
            pipeline: pipeline.map(|p| p.id),
            inputs: found.inputs.get(&commit.id).cloned().unwrap_or_default(),
            edge: digest.map_or_else(Edge::plain, |(id, digest)| {
                matching_releases(policy, id, digest, commit.started_at)
            }),
            unattested: commit.unattested.filter(|_| commit.attested.is_none()),
        }
    };
    Ok(Lineage {
        object,
        nodes: commits.iter().map(|c| (c.id, node(c))).collect(),
    })
}

/// `user:E`, `sa:S`, or the id or name alone.
pub(super) fn principal(call: &Call, text: &str) -> Option<Principal> {
    let members = &call.rights().policy.snapshot().members;
    if let Ok(id) = text.parse::<Principal>() {
        return members.iter().find(|m| m.principal == id).map(|m| m.principal);
    }
    let fits = |p: &Principal, name: &str| match text.split_once(':') {
        Some(("user", user)) => matches!(p, Principal::Account(_)) && name == user,
        Some(("sa", account)) => matches!(p, Principal::ServiceAccount(_)) && name == account,
        _ => name == text,
    };
    members
        .iter()
        .find(|m| fits(&m.principal, &m.name))
        .map(|m| m.principal)
}
