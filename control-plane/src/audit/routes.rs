//! `GET /v1/organizations/{org}/audit`, `GET …/audit/export`: for owners, admins and auditors.

use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use chassis::http::{Json, Path, Query};
use chrono::{DateTime, Utc};
use contract::api::{AuditEvent, Page};
use contract::names::OrganizationName;
use contract::problem::ProblemKind;
use http::header;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::checkpoints;
use super::export;
use super::queries::{self, Filter};
use crate::app::App;
use crate::authz::ViewAudit;
use crate::call::Call;
use crate::paging::PageQuery;
use crate::refusal::Refusal;

const TEXT_LENGTH_MAX: usize = 200;

/// The routes of this slice.
pub fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(export_trail))
        .merge(checkpoints::router().into())
}

/// In which order rows come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Order {
    /// The newest first.
    #[default]
    Newest,
    /// The oldest first.
    Oldest,
}

/// Which rows are wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Wanted {
    /// From that moment on.
    since: Option<DateTime<Utc>>,
    /// Before that moment.
    until: Option<DateTime<Utc>>,
    /// `noun.verb`, or a noun for all that was done with such things.
    action: Option<String>,
    /// Id or name of who did it, or the id of his session or token.
    actor: Option<String>,
    /// A part of what a row says.
    q: Option<String>,
    /// `newest` or `oldest` first.
    #[serde(default)]
    #[param(inline)]
    order: Order,
}

impl Wanted {
    fn filter(self) -> Result<Filter, Refusal> {
        for (name, text) in [("action", &self.action), ("actor", &self.actor), ("q", &self.q)] {
            if text.as_ref().is_some_and(|text| text.len() > TEXT_LENGTH_MAX) {
                return Err(Refusal::new(
                    ProblemKind::Malformed,
                    format!("`{name}` has at most {TEXT_LENGTH_MAX} bytes"),
                ));
            }
        }
        // An empty text restricts nothing.
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        Ok(Filter {
            since: self.since,
            until: self.until,
            action: given(self.action),
            actor: given(self.actor),
            text: given(self.q),
            oldest_first: self.order == Order::Oldest,
        })
    }
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
    let start = if filter.oldest_first {
        0
    } else {
        i64::MAX.unsigned_abs()
    };
    let after = match window.after.as_str() {
        "" => start,
        seq => seq.parse().unwrap_or(start),
    };
    let mut tx = call.begin().await?;
    let allowed = call.authorize::<ViewAudit>(&mut tx, &org).await?;
    let rows = queries::list_events(&mut tx, &allowed, &filter, after, window.fetch).await?;
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
