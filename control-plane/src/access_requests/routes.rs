//! `POST,GET …/access-requests`.

use std::sync::Arc;

use axum::http::StatusCode;
use chassis::http::{Json, Path, Query};
use chassis::idempotency::KeyHeader;
use contract::api::Page;
use contract::names::OrganizationName;
use contract::reference::CommitRef;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{AccessRequestView, queries};
use crate::app::App;
use crate::authz::{ChangePolicy, ViewWholePolicy};
use crate::call::Call;
use crate::grants;
use crate::notices::occasions;
use crate::paging::PageQuery;
use crate::refusal::Refusal;

const MESSAGE_LENGTH_MAX: usize = 1000;
const MISSING_MAX: usize = 200;

/// The routes of this slice.
pub fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(create, list))
}

/// A request for access.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewRequest {
    /// A commit that cannot be read: `[project/]repo@branch`, `…@id`.
    #[serde(rename = "ref")]
    reference: String,
    /// What is missing, as the explanation names it.
    #[serde(default)]
    missing: Vec<String>,
    /// What to say to those who can grant it.
    #[serde(default)]
    message: String,
}

/// Asks those who can grant it for access.
#[utoipa::path(
    post,
    path = "/v1/organizations/{org}/access-requests",
    tag = "access-requests",
    params(("org" = OrganizationName, Path), KeyHeader),
    responses((status = 201, body = AccessRequestView)),
)]
async fn create(
    call: Call,
    Path(org): Path<OrganizationName>,
    Json(body): Json<NewRequest>,
) -> Result<(StatusCode, Json<AccessRequestView>), Refusal> {
    let parsed = body.reference.parse::<CommitRef>();
    parsed.map_err(|e| Refusal::invalid("/ref", e.to_string()))?;
    if body.message.len() > MESSAGE_LENGTH_MAX {
        return Err(Refusal::invalid(
            "/message",
            format!("a message has at most {MESSAGE_LENGTH_MAX} bytes"),
        ));
    }
    if body.missing.len() > MISSING_MAX || body.missing.iter().any(|m| m.len() > 200) {
        return Err(Refusal::invalid(
            "/missing",
            format!("a request names at most {MISSING_MAX} domains"),
        ));
    }
    let mut tx = call.begin().await?;
    let allowed = call.authorize::<ChangePolicy>(&mut tx, &org).await?;
    let new = AccessRequestView {
        id: call.id(),
        by: call.actor.name().to_owned(),
        reference: body.reference,
        missing: body.missing,
        message: body.message,
        created_at: call.now(),
    };
    queries::insert_request(&mut tx, &allowed, &new).await?;
    let subject = format!("{} for {}", new.id, new.reference);
    call.record(&mut tx, &allowed, "access_request.create", subject).await?;
    occasions::access_requested(&call, &mut tx, &allowed, &new.missing).await?;
    call.commit(tx, StatusCode::CREATED, new).await
}

/// Lists requests for access: the own ones, and those that the caller can grant.
#[utoipa::path(
    get,
    path = "/v1/organizations/{org}/access-requests",
    tag = "access-requests",
    params(("org" = OrganizationName, Path), PageQuery),
    responses((status = 200, body = Page<AccessRequestView>)),
)]
async fn list(
    call: Call,
    Path(org): Path<OrganizationName>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<AccessRequestView>>, Refusal> {
    let window = page.window(&call, &format!("access-requests of {org}"))?;
    let mut tx = call.begin().await?;
    let allowed = call.authorize::<ViewWholePolicy>(&mut tx, &org).await?;
    let administered = grants::queries::list_administered(&mut tx, &allowed).await?;
    let rows = queries::list_requests(&mut tx, &allowed, &administered, &window).await?;
    Ok(Json(window.page(rows, |r| r.id.to_string())))
}
