//! `GET /v1/organizations/{org}/audit`, `GET …/audit/export`: for owners, admins and auditors.

use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use chassis::audit::Wanted;
use chassis::http::{Json, Path, Query};
use contract::api::{AuditEvent, Page};
use contract::names::OrganizationName;
use http::header;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::checkpoints;
use super::export;
use super::queries;
use crate::app::App;
use crate::authz::ViewAudit;
use crate::call::Call;
use crate::paging::PageQuery;
use crate::refusal::Refusal;

/// The routes of this slice.
pub fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(export_trail))
        .merge(checkpoints::router().into())
}

/// Lists the audit trail: what was changed in the organization, by whom, when and from where.
#[utoipa::path(get, path = "/v1/organizations/{org}/audit", tag = "audit",
    params(Wanted, PageQuery), responses((status = 200, body = Page<AuditEvent>)))]
async fn list(
    call: Call,
    Path(org): Path<OrganizationName>,
    Query(wanted): Query<Wanted>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<AuditEvent>>, Refusal> {
    let window = page.window(&call, &format!("audit of {org}: {wanted:?}"))?;
    let filter = wanted.filter()?;
    let after = window.after.parse().unwrap_or(filter.start());
    let mut tx = call.begin().await?;
    let allowed = call.authorize::<ViewAudit>(&mut tx, &org).await?;
    let rows = queries::list_events(&mut tx, &allowed, &filter, (after, window.fetch)).await?;
    Ok(Json(window.page(rows, |row| row.seq.to_string())))
}

/// Exports all of the audit trail: JSON lines, oldest first, and in the last line a signed checkpoint.
#[utoipa::path(get, path = "/v1/organizations/{org}/audit/export", tag = "audit", operation_id = "export",
    responses((status = 200, description = "lines of rows, then one with the checkpoint", body = String,
        content_type = "application/x-ndjson")))]
async fn export_trail(call: Call, Path(org): Path<OrganizationName>) -> Result<Response, Refusal> {
    let lines = export::lines(call, org).await?;
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    Ok((kind, Body::from_stream(lines)).into_response())
}
