//! `/v1/projects/{p}/repos/{r}/branches`.

use std::collections::HashMap;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use chassis::etag;
use chassis::http::{Json, Path, Query};
use chassis::idempotency::KeyHeader;
use contract::api::{Branch, BranchTrigger, CommitState, NewTrigger, Page};
use contract::ids::CommitSetId;
use contract::names::{BranchName, ProjectName, RepoName};
use contract::policy::Permission;
use contract::problem::ProblemKind;
use contract::reference::{CommitRef, RepoRef};
use serde::Deserialize;
use sqlx::PgConnection;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::queries::{self, BranchRow, TriggerRow};
use super::triggers;
use crate::call::Call;
use crate::commits::lock::lock_dag;
use crate::commits::{self, CommitRow, origins};
use crate::cursor;
use crate::failure::{Answer, Failure};
use crate::permissions::{System, Visible};
use crate::pipelines::{self, MovedHead};
use crate::plane::{Plane, Tx};

const DECIDE: System = System::because("rows are read in order to decide whether the caller may see the head");

/// What is told of a pipeline whose input's branch was deleted.
const BRANCH_GONE: &str = "the branch that follows another one for the `trigger` of an input was deleted by an owner of the \
                           input's repo, so nothing comes from there; apply the pipeline again to have it made";

/// The routes.
pub fn router() -> OpenApiRouter<Plane> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(show, move_head, remove))
}

/// A branch to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewBranch {
    /// Its name.
    name: BranchName,
    /// A commit of the same repo that it begins at.
    #[serde(default)]
    from: Option<String>,
    /// Makes it follow another branch.
    #[serde(default)]
    trigger: Option<NewTrigger>,
}

/// Where a branch shall point.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Move {
    /// A commit of the same repo.
    to: String,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// How many rows at most, 1 to 200.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

fn reference(project: ProjectName, repo: RepoName) -> RepoRef {
    RepoRef {
        project: Some(project),
        repo,
    }
}

fn view(repo: &Visible, name: BranchName, head: Option<contract::ids::CommitId>) -> Branch {
    Branch {
        repo: repo.name.clone(),
        project: repo.project.clone(),
        name,
        head,
        trigger: None,
    }
}

/// The trigger of a branch as the caller may see it: when it fired tells of what is there.
fn shown_trigger(trigger: BranchTrigger, readable: bool) -> BranchTrigger {
    BranchTrigger {
        fired_at: trigger.fired_at.filter(|_| readable),
        reason: trigger.reason.filter(|_| readable),
        ..trigger
    }
}

/// A branch that was made for a pipeline tells of it, so it is for who may know of that one; the repo's owners may know of all: `None`.
fn made_for(call: &Call, repo: &Visible) -> Option<Vec<Uuid>> {
    let owner = call.rights().can(Permission::Admin, repo.id);
    (!owner).then(|| call.discoverable())
}

/// A branch as the caller may see it. Which commit it points at is shown to its readers; that there is a branch, to who knows of the repo.
async fn shown(
    call: &Call,
    conn: &mut PgConnection,
    repo: &Visible,
    row: BranchRow,
    trigger: Option<BranchTrigger>,
) -> Answer<Branch> {
    let readable = match row.origin_set {
        None => false,
        Some(id) => {
            let set = origins::get(&call.plane, conn, &DECIDE, id).await?;
            call.readable(&set, "").is_ok()
        }
    };
    let reader = call.rights().can(Permission::Read, repo.id);
    Ok(Branch {
        trigger: trigger.map(|t| shown_trigger(t, reader)),
        ..view(repo, row.name, row.head.filter(|_| readable))
    })
}

/// The branch of that name as the caller may see it, if he may know of it.
async fn find(call: &Call, conn: &mut PgConnection, repo: &Visible, name: &BranchName) -> Answer<Option<Branch>> {
    let made_for = made_for(call, repo);
    let Some(row) = queries::find_branch(conn, repo, made_for.as_deref(), name).await? else {
        return Ok(None);
    };
    let mut triggers = queries::list_triggers_of(conn, repo).await?.into_iter();
    let trigger = triggers.find(|t| t.branch == *name).map(TriggerRow::view);
    shown(call, conn, repo, row, trigger).await.map(Some)
}

/// Demands that a branch is what the caller has read, if he says what that was.
async fn still_that(
    call: &Call,
    conn: &mut PgConnection,
    headers: &HeaderMap,
    repo: &Visible,
    branch: &BranchName,
) -> Answer<()> {
    if !etag::is_conditional(headers) {
        return Ok(());
    }
    let current = find(call, conn, repo, branch).await?;
    Ok(etag::check_match(headers, current.as_ref())?)
}

/// Lists the branches of a repo.
#[utoipa::path(
    get,
    path = "/v1/projects/{project}/repos/{repo}/branches",
    tag = "branches",
    params(ListQuery),
    responses((status = 200, body = Page<Branch>)),
)]
async fn list(
    State(plane): State<Plane>,
    call: Call,
    Path((project, repo)): Path<(ProjectName, RepoName)>,
    Query(query): Query<ListQuery>,
) -> Answer<Json<Page<Branch>>> {
    let limit = cursor::limit(query.limit)?;
    let mut conn = plane.pool.acquire().await?;
    let repo = call.repo(&mut conn, &reference(project, repo)).await?;
    let list = format!("branches {}", repo.id);
    let after: Option<String> = call.position(&list, query.cursor.as_deref())?;
    let made_for = made_for(&call, &repo);
    let rows = queries::list_branches(
        &mut conn,
        &repo,
        made_for.as_deref(),
        after.as_deref(),
        limit as i64 + 1,
    )
    .await?;
    let mut set: HashMap<BranchName, BranchTrigger> = HashMap::new();
    for row in queries::list_triggers_of(&mut conn, &repo).await? {
        set.insert(row.branch.clone(), row.view());
    }
    let mut items = Vec::new();
    for row in rows {
        let trigger = set.remove(&row.name);
        items.push(shown(&call, &mut conn, &repo, row, trigger).await?);
    }
    Ok(Json(call.page(&list, items, limit, |b: &Branch| b.name.clone())?))
}

/// Shows a branch.
#[utoipa::path(
    get,
    path = "/v1/projects/{project}/repos/{repo}/branches/{branch}",
    tag = "branches",
    responses((status = 200, body = Branch)),
)]
async fn show(
    State(plane): State<Plane>,
    call: Call,
    Path((project, repo, branch)): Path<(ProjectName, RepoName, BranchName)>,
) -> Answer<Json<Branch>> {
    let mut conn = plane.pool.acquire().await?;
    let repo = call.repo(&mut conn, &reference(project, repo)).await?;
    let found = find(&call, &mut conn, &repo, &branch).await?;
    Ok(Json(found.ok_or_else(Failure::not_found)?))
}

/// The commit that a branch shall point at: of the same repo, finished, readable to the caller, and one that he may let
/// the pipelines read that read the branch.
async fn target(call: &Call, tx: &mut Tx, repo: &Visible, branch: &BranchName, text: &str) -> Answer<CommitRow> {
    let mut wanted: CommitRef = text.parse()?;
    if wanted.repo.project.is_none() {
        wanted.repo.project = Some(repo.project.clone());
    }
    let located = call.locate_readable(tx, &wanted).await?;
    if located.repo.id != repo.id {
        return Err(Failure::invalid(format!(
            "a branch of `{repo}` can't point at a commit of `{}`",
            located.repo
        )));
    }
    located.commit.tree()?;
    pipelines::conditions::may_feed(call, tx, repo, branch, &located.origins).await?;
    Ok(located.commit)
}

/// Lets triggers and pipelines know of a branch that points at this commit now, and of one that is watched from now on.
/// Answers which branches moved.
async fn moved(
    plane: &Plane,
    tx: &mut Tx,
    repo: &Visible,
    branch: &BranchName,
    commit: Option<CommitRow>,
    watched: Option<&BranchName>,
) -> Answer<Vec<MovedHead>> {
    let mut heads = Vec::new();
    let mut look_at: Vec<_> = watched.map(|watched| (repo.id, watched.clone())).into_iter().collect();
    if let Some(commit) = commit {
        look_at.push((repo.id, branch.clone()));
        heads.push(MovedHead {
            repo: repo.id,
            branch: branch.clone(),
            commit,
        });
    }
    heads.extend(triggers::fire(plane, tx, &look_at).await?);
    if !heads.is_empty() {
        let set: CommitSetId = plane.id();
        pipelines::propagate(plane, tx, set, &heads).await?;
    }
    Ok(heads)
}

/// Makes a branch; with a trigger it follows another one.
#[utoipa::path(
    post,
    path = "/v1/projects/{project}/repos/{repo}/branches",
    tag = "branches",
    params(KeyHeader),
    responses((status = 201, body = Branch)),
)]
async fn create(
    State(plane): State<Plane>,
    call: Call,
    Path((project, repo)): Path<(ProjectName, RepoName)>,
    Json(body): Json<NewBranch>,
) -> Answer<(StatusCode, Json<Branch>)> {
    let mut tx = plane.begin().await?;
    let repo = call.repo(&mut tx, &reference(project, repo)).await?;
    let allowed = call.writable(&repo)?;
    call.unanswered(&mut tx).await?;
    lock_dag(&mut tx).await?;
    let head = match &body.from {
        None => None,
        Some(from) => Some(target(&call, &mut tx, &repo, &body.name, from).await?),
    };
    let id = head.as_ref().map(|h| h.id);
    if !queries::insert_branch(&mut tx, &allowed, &body.name, id, plane.now()).await? {
        return Err(Failure::new(
            ProblemKind::AlreadyExists,
            format!("`{repo}` has a branch `{}` already", body.name),
        ));
    }
    if let Some(new) = &body.trigger {
        triggers::set(&call, &mut tx, (&repo, &allowed), &body.name, new, id).await?;
    }
    let watched = body.trigger.as_ref().map(|t| &t.branch);
    let heads = moved(&plane, &mut tx, &repo, &body.name, head, watched).await?;
    let at = id.map_or_else(String::new, |id| format!(" at {id}"));
    let follows = watched.map_or_else(String::new, |watched| format!(", following {watched}"));
    let subject = format!("{repo}@{}{at}{follows}", body.name);
    call.record(&mut tx, "branch.create", &subject).await?;
    let mut shown = view(&repo, body.name, id);
    if let Some(new) = body.trigger {
        let fired = heads.iter().any(|h| h.branch == shown.name && Some(h.commit.id) != id);
        shown.trigger = Some(BranchTrigger {
            on: new,
            fired_at: fired
                .then(|| plane.now())
                .filter(|_| call.rights().can(Permission::Read, repo.id)),
            reason: None,
        });
    }
    let answer = call.commit(tx, StatusCode::CREATED, shown).await?;
    plane.signals.work_changed();
    Ok(answer)
}

/// A branch whose head is open stays where it is: nobody could finish the commit any more.
fn not_open(repo: &Visible, branch: &BranchName, head: Option<&CommitRow>) -> Answer<()> {
    if head.is_some_and(|h| h.state == CommitState::Open) {
        return Err(
            Failure::new(ProblemKind::Conflict, format!("`{repo}@{branch}` has an open commit"))
                .hint(format!("howdah commit finish {repo}@{branch}")),
        );
    }
    Ok(())
}

/// Points a branch at another commit of its repo.
#[utoipa::path(
    patch,
    path = "/v1/projects/{project}/repos/{repo}/branches/{branch}",
    tag = "branches",
    operation_id = "move",
    params(etag::IfMatch),
    responses((status = 200, body = Branch)),
)]
async fn move_head(
    State(plane): State<Plane>,
    call: Call,
    Path((project, repo, branch)): Path<(ProjectName, RepoName, BranchName)>,
    headers: HeaderMap,
    Json(body): Json<Move>,
) -> Answer<Json<Branch>> {
    let mut tx = plane.begin().await?;
    let repo = call.repo(&mut tx, &reference(project, repo)).await?;
    let allowed = call.writable(&repo)?;
    lock_dag(&mut tx).await?;
    let head = commits::queries::find_head(&mut tx, &DECIDE, repo.id, &branch)
        .await?
        .ok_or_else(Failure::not_found)?;
    still_that(&call, &mut tx, &headers, &repo, &branch).await?;
    not_open(&repo, &branch, head.as_ref())?;
    let to = target(&call, &mut tx, &repo, &branch, &body.to).await?;
    let id = to.id;
    queries::update_head(&mut tx, &allowed, &branch, id, plane.now()).await?;
    if head.is_none_or(|h| h.id != id) {
        moved(&plane, &mut tx, &repo, &branch, Some(to), None).await?;
        call.record(&mut tx, "branch.move", &format!("{repo}@{branch} to {id}"))
            .await?;
    }
    // A branch that was made for a pipeline may be moved by who may not know of that.
    let after = find(&call, &mut tx, &repo, &branch).await?;
    tx.commit().await?;
    plane.signals.work_changed();
    Ok(Json(after.unwrap_or_else(|| view(&repo, branch, Some(id)))))
}

/// Deletes a branch.
#[utoipa::path(
    delete,
    path = "/v1/projects/{project}/repos/{repo}/branches/{branch}",
    tag = "branches",
    params(etag::IfMatch),
    responses((status = 204)),
)]
async fn remove(
    State(plane): State<Plane>,
    call: Call,
    Path((project, repo, branch)): Path<(ProjectName, RepoName, BranchName)>,
    headers: HeaderMap,
) -> Answer<StatusCode> {
    let mut tx = plane.begin().await?;
    let repo = call.repo(&mut tx, &reference(project, repo)).await?;
    let allowed = call.allowed(&repo, Permission::Admin)?;
    if repo.pipeline {
        return Err(Failure::new(
            ProblemKind::Conflict,
            format!("`{repo}` holds {}: its branches are the pipeline's", repo.made_of()),
        ));
    }
    lock_dag(&mut tx).await?;
    let head = commits::queries::find_head(&mut tx, &DECIDE, repo.id, &branch)
        .await?
        .ok_or_else(Failure::not_found)?;
    still_that(&call, &mut tx, &headers, &repo, &branch).await?;
    not_open(&repo, &branch, head.as_ref())?;
    // Whose data it is may take it away from the pipeline that it was made for.
    if let Some(pipeline) = pipelines::queries::follower_of(&mut tx, &DECIDE, repo.id, &branch).await? {
        pipelines::queries::update_deprived(&mut tx, &DECIDE, pipeline, BRANCH_GONE).await?;
    }
    queries::delete_branch(&mut tx, &allowed, &branch, plane.now()).await?;
    call.record(&mut tx, "branch.delete", &format!("{repo}@{branch}"))
        .await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
