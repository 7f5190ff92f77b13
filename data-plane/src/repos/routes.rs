//! `/v1/repos` and `/v1/projects/{p}/repos`.

use axum::extract::State;
use axum::http::StatusCode;
use chassis::http::{Json, Path, Query};
use chassis::idempotency::KeyHeader;
use contract::api::{Page, RegisterDomain, Repo};
use contract::names::{ProjectName, RepoName};
use contract::policy::Permission;
use contract::problem::ProblemKind;
use contract::reference::RepoRef;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::RepoRow;
use super::queries::{self, NewRepo};
use crate::call::Call;
use crate::commits::lock::lock_dag;
use crate::cron;
use crate::cursor;
use crate::failure::{Answer, Failure};
use crate::permissions::{System, Visible};
use crate::pipelines;
use crate::plane::Plane;
use crate::projects;
use crate::spouts;

const VISIBLE: System = System::because("only domains that the caller may discover are asked for");
const CREATE: System = System::because("every member may create repos, and learns of names that are taken");
const DESCRIPTION_BYTES_MAX: usize = 4096;

/// The routes.
pub fn router() -> OpenApiRouter<Plane> {
    OpenApiRouter::new()
        .routes(routes!(list_all))
        .routes(routes!(list, create))
        .routes(routes!(show, remove))
}

/// A repo to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewRepoBody {
    /// Its name.
    name: RepoName,
    /// What it is for.
    #[serde(default)]
    description: String,
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

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct RemoveQuery {
    /// Even where others read it or something was made from it.
    #[serde(default)]
    force: bool,
}

#[derive(Serialize, Deserialize)]
struct Position {
    project: String,
    name: String,
}

async fn views(call: &Call, conn: &mut PgConnection, rows: Vec<RepoRow>) -> Answer<Vec<Repo>> {
    let ids: Vec<_> = rows.iter().map(|r| r.id).collect();
    let owned = ids.iter().filter(|id| call.rights().can(Permission::Admin, **id));
    let owned: Vec<Uuid> = owned.map(|id| id.uuid()).collect();
    let mut branches = queries::branches_of(conn, &VISIBLE, &ids, (&call.discoverable(), &owned)).await?;
    Ok(rows
        .into_iter()
        .map(|row| Repo {
            branches: branches.remove(&row.id).unwrap_or_default(),
            id: row.id,
            project: row.project,
            name: row.name,
            description: row.description,
            pipeline: row.pipeline,
            created_at: row.created_at,
        })
        .collect())
}

/// Registers a domain at the control plane and waits until the own policy knows of it, so that its owner may use it the
/// moment the repo is there. A crash in between leaves a domain without a repo, which grants nothing on anything.
///
/// # Errors
/// When the control plane is away or refuses.
pub async fn register(call: &Call, project: &ProjectName, name: &RepoName) -> Answer<contract::ids::DomainId> {
    let id = call.plane.id();
    let domain = RegisterDomain {
        id,
        project: project.clone(),
        name: name.clone(),
        owner: call.claims().sub,
    };
    let epoch = call.plane.control.register_domain(&domain).await?;
    call.plane.policy.wait_for_epoch(epoch).await?;
    Ok(id)
}

/// Makes a repo, which the caller owns.
#[utoipa::path(
    post,
    path = "/v1/projects/{project}/repos",
    tag = "repos",
    params(("project" = ProjectName, Path), KeyHeader),
    responses((status = 201, body = Repo)),
)]
async fn create(
    State(plane): State<Plane>,
    call: Call,
    Path(project): Path<ProjectName>,
    Json(body): Json<NewRepoBody>,
) -> Answer<(StatusCode, Json<Repo>)> {
    if body.description.len() > DESCRIPTION_BYTES_MAX {
        return Err(Failure::invalid(format!(
            "the description has {} bytes, at most {DESCRIPTION_BYTES_MAX} are allowed",
            body.description.len()
        )));
    }
    call.may_create(&project, &body.name)?;
    let _naming = plane.naming.lock().await;
    let found = {
        let mut conn = plane.begin().await?;
        call.unanswered(&mut conn).await?;
        let found = projects::queries::find_project(&mut conn, &CREATE, &project).await?;
        if queries::find_repo(&mut conn, &CREATE, &project, &body.name)
            .await?
            .is_some()
        {
            return Err(queries::taken(&body.name));
        }
        found.ok_or_else(Failure::not_found)?
    };
    let id = register(&call, &project, &body.name).await?;
    let row = RepoRow {
        id,
        project_id: found.id,
        project,
        name: body.name,
        description: body.description,
        pipeline: false,
        ticks: false,
        created_at: plane.now(),
    };
    let inserted = insert(&plane, &call, &row).await;
    if inserted.is_err() {
        // The name was taken meanwhile, or the database is away: the domain has no repo and never will.
        let _ = plane.control.bury_domain(id).await;
    }
    inserted
}

async fn insert(plane: &Plane, call: &Call, row: &RepoRow) -> Answer<(StatusCode, Json<Repo>)> {
    let mut tx = plane.begin().await?;
    let actor = call.actor();
    let new = NewRepo {
        id: row.id,
        project: row.project_id,
        name: &row.name,
        description: &row.description,
        pipeline: row.pipeline,
        created_at: row.created_at,
        created_by: &actor,
    };
    queries::insert_repo(&mut tx, &CREATE, &new).await?;
    let subject = format!("{}/{} as {}", row.project, row.name, row.id);
    call.record(&mut tx, "repo.create", &subject).await?;
    let mut shown = views(call, &mut tx, vec![row.clone()]).await?;
    let repo = shown.pop().ok_or_else(Failure::not_found)?;
    call.commit(tx, StatusCode::CREATED, repo).await
}

/// Lists the repos of all projects.
#[utoipa::path(get, path = "/v1/repos", tag = "repos", params(ListQuery), responses((status = 200, body = Page<Repo>)))]
async fn list_all(State(plane): State<Plane>, call: Call, Query(query): Query<ListQuery>) -> Answer<Json<Page<Repo>>> {
    list_of(&plane, &call, None, query).await
}

/// Lists the repos of a project.
#[utoipa::path(
    get,
    path = "/v1/projects/{project}/repos",
    tag = "repos",
    params(("project" = ProjectName, Path), ListQuery),
    responses((status = 200, body = Page<Repo>)),
)]
async fn list(
    State(plane): State<Plane>,
    call: Call,
    Path(project): Path<ProjectName>,
    Query(query): Query<ListQuery>,
) -> Answer<Json<Page<Repo>>> {
    let mut conn = plane.pool.acquire().await?;
    projects::queries::find_project(&mut conn, &CREATE, &project)
        .await?
        .ok_or_else(Failure::not_found)?;
    drop(conn);
    list_of(&plane, &call, Some(project), query).await
}

async fn list_of(
    plane: &Plane,
    call: &Call,
    project: Option<ProjectName>,
    query: ListQuery,
) -> Answer<Json<Page<Repo>>> {
    let limit = cursor::limit(query.limit)?;
    let name = format!("repos {}", project.as_ref().map_or("", ProjectName::as_str));
    let after: Option<Position> = call.position(&name, query.cursor.as_deref())?;
    // Filtered before it is paged: the number of hidden repos shows nowhere.
    let visible = call.discoverable();
    let mut conn = plane.pool.acquire().await?;
    let rows = queries::list_repos(
        &mut conn,
        &VISIBLE,
        project.as_ref(),
        &visible,
        after.as_ref().map(|a| (a.project.as_str(), a.name.as_str())),
        limit as i64 + 1,
    )
    .await?;
    let items = views(call, &mut conn, rows).await?;
    let position = |r: &Repo| Position {
        project: r.project.to_string(),
        name: r.name.to_string(),
    };
    Ok(Json(call.page(&name, items, limit, position)?))
}

/// Shows a repo.
#[utoipa::path(get, path = "/v1/projects/{project}/repos/{repo}", tag = "repos", responses((status = 200, body = Repo)))]
async fn show(
    State(plane): State<Plane>,
    call: Call,
    Path((project, repo)): Path<(ProjectName, RepoName)>,
) -> Answer<Json<Repo>> {
    let mut conn = plane.pool.acquire().await?;
    let reference = RepoRef {
        project: Some(project),
        repo,
    };
    let visible: Visible = call.repo(&mut conn, &reference).await?;
    let mut shown = views(&call, &mut conn, vec![visible.row().clone()]).await?;
    Ok(Json(shown.pop().ok_or_else(Failure::not_found)?))
}

/// Deletes a repo.
#[utoipa::path(delete, path = "/v1/projects/{project}/repos/{repo}", tag = "repos", params(RemoveQuery), responses((status = 204)))]
async fn remove(
    State(plane): State<Plane>,
    call: Call,
    Path((project, repo)): Path<(ProjectName, RepoName)>,
    Query(query): Query<RemoveQuery>,
) -> Answer<StatusCode> {
    let reference = RepoRef {
        project: Some(project),
        repo,
    };
    let mut tx = plane.begin().await?;
    let repo = call.repo(&mut tx, &reference).await?;
    let allowed = call.allowed(&repo, Permission::Admin)?;
    let ticks_of = cron::queries::find_pipeline(&mut tx, &VISIBLE, repo.id).await?;
    if let Some(pipeline) = ticks_of
        && pipelines::queries::is_deleted(&mut tx, &VISIBLE, pipeline).await? != Some(true)
    {
        let detail = format!("`{repo}` holds the ticks of a pipeline's cron input");
        return Err(Failure::new(ProblemKind::Conflict, detail).hint("it goes away with the pipeline"));
    }
    if let Some(pipeline) = spouts::queries::find_pipeline(&mut tx, &VISIBLE, repo.id).await?
        && pipelines::queries::is_deleted(&mut tx, &VISIBLE, pipeline).await? != Some(true)
    {
        let detail = format!("`{repo}` stands for what a spout received and nobody attested");
        return Err(Failure::new(ProblemKind::Conflict, detail).hint("it goes away with the pipeline"));
    }
    if repo.pipeline && pipelines::queries::is_deleted(&mut tx, &VISIBLE, repo.id).await? == Some(false) {
        return Err(Failure::new(
            ProblemKind::Conflict,
            format!("`{repo}` holds the output of a pipeline"),
        )
        .hint(format!("howdah pipeline delete {repo}")));
    }
    lock_dag(&mut tx).await?;
    if !query.force && pipelines::queries::is_read(&mut tx, &VISIBLE, repo.id).await? {
        return Err(
            Failure::new(ProblemKind::Conflict, format!("a pipeline reads `{repo}`"))
                .hint("delete the pipeline first; with `--force` it finds nothing there any more"),
        );
    }
    if !query.force && queries::has_descendants(&mut tx, &allowed).await? {
        return Err(
            Failure::new(ProblemKind::Conflict, format!("other commits were made from `{repo}`")).hint(
                "with `--force` it goes away; what was made from it keeps its provenance and still needs its grants",
            ),
        );
    }
    queries::delete_repo(&mut tx, &allowed, plane.now()).await?;
    cron::queries::delete(&mut tx, &VISIBLE, repo.id).await?;
    call.record(&mut tx, "repo.delete", &repo.to_string()).await?;
    tx.commit().await?;
    plane.signals.work_changed();
    plane.signals.commits_changed();
    // The repo is gone whether the control plane hears of it or not; a tombstone changes no right.
    if let Err(error) = plane.control.bury_domain(allowed.domain()).await {
        tracing::warn!(error = %error, "the control plane was not told of a deleted repo: {error}");
    }
    Ok(StatusCode::NO_CONTENT)
}

impl Call {
    /// The domains that the caller may know of.
    pub fn discoverable(&self) -> Vec<Uuid> {
        let rights = self.rights();
        let domains = rights.policy.snapshot().domains.iter();
        domains
            .filter(|d| rights.can(Permission::Discover, d.id))
            .map(|d| d.id.uuid())
            .collect()
    }

    /// Whether the token's scopes let the caller make something in a project: every member may, by himself.
    ///
    /// # Errors
    /// `not-allowed`.
    pub fn may_create(&self, project: &ProjectName, name: &RepoName) -> Answer<()> {
        let scopes = &self.claims().scopes;
        let fits = |resource: &str| {
            resource == "*" || resource == format!("project:{project}") || resource == format!("{project}/{name}")
        };
        let covered = |s: &contract::claims::Scope| (s.verb == "*" || s.verb == "admin") && fits(&s.resource);
        if scopes.is_empty() || scopes.iter().any(covered) {
            return Ok(());
        }
        Err(Failure::new(
            ProblemKind::NotAllowed,
            format!("the token in use may not create `{project}/{name}`"),
        )
        .hint("use a token with the scope `admin` on the project, or one without scopes"))
    }
}
