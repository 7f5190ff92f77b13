//! `/services/{project}/{name}/…`: whatever comes there goes to the service, for whom may read what its job reads (R7).

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::any;
use chassis::http::{Json, Path};
use contract::api::{ServiceState, ServiceView};
use contract::ids::JobId;
use contract::names::{ProjectName, RepoName};
use contract::problem::ProblemKind;
use contract::reference::RepoRef;
use contract::serving::{HEADER, PREFIX};
use provenance::origins::OriginSet;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::queries::{self, ServiceRow};
use super::{Door, Way, forward, pod};
use crate::call::Call;
use crate::failure::{Answer, Failure};
use crate::permissions::System;
use crate::pipelines;
use crate::plane::Plane;

const VISIBLE: System = System::because("the caller may know of the pipeline's repo");
/// So long a request waits for a service that is being started.
const START_WAIT: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The routes.
pub fn router() -> OpenApiRouter<Plane> {
    OpenApiRouter::new()
        .route("/services/{project}/{name}/", any(forward_to))
        .route("/services/{project}/{name}/{*path}", any(forward_to))
        .routes(routes!(show))
}

/// A service that the caller may use.
pub(super) struct Admitted {
    /// Its job.
    pub job: JobId,
    /// What the caller must be allowed to read, for as long as he is connected.
    pub origins: Arc<OriginSet>,
    row: ServiceRow,
    name: String,
}

/// Lets a caller in who may read what the service's job reads. Waits for one that is about to be started, as it is just after
/// the pipeline was applied.
///
/// # Errors
/// 404 for what he may not know of; `conflict` when the pipeline serves nothing now; `not-allowed`.
async fn admit(call: &Call, project: ProjectName, name: RepoName) -> Answer<Admitted> {
    let until = tokio::time::Instant::now() + START_WAIT;
    loop {
        if let Some(admitted) = admit_now(call, &project, &name, tokio::time::Instant::now() < until).await? {
            return Ok(admitted);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The same, without waiting: nothing when there is something to wait for and the caller can.
async fn admit_now(call: &Call, project: &ProjectName, name: &RepoName, can_wait: bool) -> Answer<Option<Admitted>> {
    let mut conn = call.plane.pool.acquire().await?;
    let reference = RepoRef {
        project: Some(project.clone()),
        repo: name.clone(),
    };
    let repo = call.repo(&mut conn, &reference).await?;
    let pipeline = pipelines::queries::find(&mut conn, &VISIBLE, repo.id, false)
        .await?
        .ok_or_else(Failure::not_found)?;
    let row = queries::of_pipeline(&mut conn, &VISIBLE, repo.id).await?;
    let Some(row) = row.filter(|row| row.port.is_some()) else {
        let pending = queries::pending_job(&mut conn, &VISIBLE, repo.id).await?;
        let (true, Some(pending)) = (can_wait, pending) else {
            return Err(nothing(&repo.to_string(), &pipeline.state));
        };
        // Who may not use what will be there is told at once.
        call.job(&mut conn, pending).await?;
        return Ok(None);
    };
    let job = call.job(&mut conn, JobId::from_uuid(row.job_id)).await?;
    Ok(Some(Admitted {
        job: JobId::from_uuid(row.job_id),
        origins: job.origins,
        row,
        name: repo.to_string(),
    }))
}

fn nothing(name: &str, state: &str) -> Failure {
    match state {
        "paused" => Failure::new(ProblemKind::Conflict, format!("the service `{name}` was stopped"))
            .hint(format!("howdah pipeline start {name}")),
        "suspended" => Failure::new(
            ProblemKind::Conflict,
            format!("the service `{name}` is suspended: the right to one of its inputs was revoked"),
        )
        .hint(format!("howdah pipeline show {name}")),
        state => Failure::new(
            ProblemKind::Conflict,
            format!(
                "`{name}` serves nothing now (its state is {state}): it is no service, its job was stopped, or an input has no finished commit yet"
            ),
        )
        .hint(format!(
            "howdah pipeline show {name}; `howdah pipeline run {name}` starts a service whose job was stopped"
        )),
    }
}

/// Says what a pipeline serves now.
#[utoipa::path(get, path = "/v1/pipelines/{project}/{name}/service", tag = "services", responses((status = 200, body = ServiceView)))]
async fn show(call: Call, Path((project, name)): Path<(ProjectName, RepoName)>) -> Answer<Json<ServiceView>> {
    let admitted = admit(&call, project, name).await?;
    Ok(Json(view(&admitted.row)))
}

/// A service as the API shows it.
pub fn view(row: &ServiceRow) -> ServiceView {
    ServiceView {
        job: JobId::from_uuid(row.job_id),
        internal_port: row.port.and_then(|port| u16::try_from(port).ok()).unwrap_or(0),
        state: match row.state.as_str() {
            "answering" => ServiceState::Answering,
            "waiting" => ServiceState::Waiting,
            _ => ServiceState::Starting,
        },
        restarts: u32::try_from(row.failures).unwrap_or(0),
    }
}

async fn forward_to(State(plane): State<Plane>, call: Call, request: Request) -> Answer<Response> {
    if !request.headers().contains_key(HEADER) {
        return Err(Failure::not_found());
    }
    let (project, name, rest) = split(&request).ok_or_else(Failure::not_found)?;
    let admitted = admit(&call, project, name).await?;
    let connection = connection(&plane, &call, &admitted).await?;
    forward::forward(call, &admitted, connection, request, &rest).await
}

/// Project, pipeline, and the path and query that the service is asked for.
fn split(request: &Request) -> Option<(ProjectName, RepoName, String)> {
    let all = request.uri().path_and_query()?.as_str().strip_prefix(PREFIX)?;
    let (project, rest) = all.split_once('/')?;
    let (name, rest) = rest.split_once('/')?;
    Some((project.parse().ok()?, name.parse().ok()?, format!("/{rest}")))
}

/// A connection to the service; waits while it is being started.
async fn connection(plane: &Plane, call: &Call, admitted: &Admitted) -> Answer<tokio::net::TcpStream> {
    let until = tokio::time::Instant::now() + START_WAIT;
    let mut doors = plane.doors.changes();
    loop {
        let door = doors.borrow_and_update().get(&admitted.job).cloned();
        if let Some(door) = door
            && let Some(connection) = connect(door, until).await
        {
            return Ok(connection);
        }
        let now = tokio::time::Instant::now();
        let failing = failing(plane, admitted).await?;
        if now >= until || failing.is_some() {
            let reason = failing.unwrap_or_else(|| "nothing listens at its port yet".to_owned());
            return Err(Failure::new(
                ProblemKind::Overloaded,
                format!("the service `{}` does not answer: {reason}", admitted.name),
            )
            .hint(format!("look at its log: `howdah logs {}`", admitted.job)));
        }
        let _ = tokio::time::timeout(LOOK_EVERY, doors.changed()).await;
        call.renewed()?.readable(&admitted.origins, &admitted.name)?;
    }
}

/// Why it waits, if it does.
async fn failing(plane: &Plane, admitted: &Admitted) -> Answer<Option<String>> {
    let mut conn = plane.pool.acquire().await?;
    let pipeline = contract::ids::DomainId::from_uuid(admitted.row.pipeline_id);
    let row = queries::of_pipeline(&mut conn, &VISIBLE, pipeline).await?;
    match row.filter(|row| row.job_id == admitted.job.uuid()) {
        None => Ok(Some("it is being replaced".to_owned())),
        Some(row) if row.state == "waiting" => Ok(Some(row.reason.unwrap_or_default())),
        Some(row) => Ok(row.kept_by),
    }
}

async fn connect(door: Door, until: tokio::time::Instant) -> Option<tokio::net::TcpStream> {
    let turn = tokio::time::timeout_at(until, door.dials.acquire_owned())
        .await
        .ok()?
        .ok()?;
    let path = match door.way {
        Way::Socket(path) => path,
        Way::Agent(address, word) => return pod::connect(address, &word).await.ok(),
    };
    let made = tokio::task::spawn_blocking(move || {
        // Also when the caller is gone: what counts are threads.
        let _turn = turn;
        let connection = sandbox::connect(&path)?;
        connection.set_nodelay(true)?;
        connection.set_nonblocking(true)?;
        Ok::<_, std::io::Error>(connection)
    });
    let connection = made.await.ok()?.ok()?;
    tokio::net::TcpStream::from_std(connection).ok()
}
