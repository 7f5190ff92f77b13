//! `POST /v1/organizations/{org}/pipelines/{project}/{name}/open`: the address of a service, for whom may reach it.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use chassis::http::{ApiError, EPOCH, Json, Path};
use contract::api::{OpenedService, ServiceView};
use contract::names::{OrganizationName, ProjectName, RepoName};
use contract::problem::ProblemKind;
use http::{StatusCode, header};
use http_body_util::{BodyExt, Limited};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::entries::{self, Entry, Kind, Place};
use crate::app::App;
use crate::call::Call;
use crate::refusal::Refusal;

/// What a plane says of a service is short.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// The routes of this slice at the API's address.
pub fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(open))
}

/// Opens a service: a link for a browser, good once, and the address for programs. Wakes the data plane.
///
/// Sent again it answers another link; one that is not used ends by itself.
#[utoipa::path(
    post,
    path = "/v1/organizations/{org}/pipelines/{project}/{name}/open",
    tag = "services",
    responses((status = 200, body = OpenedService)),
)]
async fn open(
    call: Call,
    Path((org, project, name)): Path<(OrganizationName, ProjectName, RepoName)>,
    request: Request,
) -> Result<Response, Refusal> {
    let app = &call.app;
    let access = entries::access(app, &call.actor, &org).await?;
    let hosts = app.hosts.get().ok_or_else(|| {
        Refusal::new(ProblemKind::Conflict, "this installation has no address for services")
            .hint("start the control plane with `services_listen`")
    })?;
    let mut asked = Request::get(format!("{}/v1/pipelines/{project}/{name}/service", access.plane_url))
        .header(header::AUTHORIZATION, format!("Bearer {}", access.token));
    if let Some(epoch) = request.headers().get(&EPOCH) {
        asked = asked.header(&EPOCH, epoch);
    }
    let asked = asked.body(Body::empty()).map_err(ApiError::internal)?;
    let answer = app.plane_client.request(asked).await.map_err(|error| {
        Refusal::new(
            ProblemKind::Overloaded,
            format!("the data plane did not answer: {error}"),
        )
        .hint("repeat the request")
    })?;
    let (parts, body) = answer.into_parts();
    let bytes = Limited::new(body, ANSWER_BYTES_MAX)
        .collect()
        .await
        .map_err(ApiError::overloaded)?
        .to_bytes();
    if parts.status != StatusCode::OK {
        // As the plane said it, the same 404 for what may not be known included.
        let kind = parts.headers.get(header::CONTENT_TYPE).cloned();
        let mut refused = (parts.status, bytes).into_response();
        if let Some(kind) = kind {
            refused.headers_mut().insert(header::CONTENT_TYPE, kind);
        }
        return Ok(refused);
    }
    let service: ServiceView = serde_json::from_slice(&bytes).map_err(ApiError::internal)?;
    let place = Place {
        organization: access.organization,
        organization_name: access.organization_name,
        project,
        name,
    };
    let (origin, api_url) = (hosts.origin(&place), hosts.programs(&place));
    let entry = Entry {
        token: call.actor.token(),
        place,
    };
    let ticket = entries::make(app, Kind::Ticket, &entry).await?;
    let opened = OpenedService {
        url: format!("{origin}/?{}={ticket}", super::listener::TICKET),
        api_url,
        service,
    };
    Ok(Json(opened).into_response())
}
