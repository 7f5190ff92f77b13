//! `GET /v1/notices`, `POST /v1/notices/read`.

use std::sync::Arc;

use axum::http::StatusCode;
use chassis::http::{Json, Query};
use contract::api::{Notice, Page};
use contract::ids::NoticeId;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::queries;
use crate::app::App;
use crate::call::Call;
use crate::paging::PageQuery;
use crate::refusal::Refusal;

/// The routes of this slice.
pub fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(mark_read))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Wanted {
    /// Only those that were not marked as read.
    #[serde(default)]
    unread: bool,
}

/// Lists the caller's notices, newest first.
#[utoipa::path(get, path = "/v1/notices", tag = "notices", params(Wanted, PageQuery),
    responses((status = 200, body = Page<Notice>)))]
async fn list(
    call: Call,
    Query(wanted): Query<Wanted>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<Notice>>, Refusal> {
    call.actor.unlimited()?;
    let window = page.window(&call, &format!("notices, {wanted:?}"))?;
    let mut tx = call.begin().await?;
    let rows = queries::list_own(&mut tx, &call.actor, wanted.unread, &window).await?;
    Ok(Json(window.page(rows, |notice| notice.id.to_string())))
}

/// What was read.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Read {
    /// The newest notice that was read: it and all before it are marked.
    up_to: NoticeId,
}

/// Marks the caller's notices as read, up to one.
///
/// Sent again it changes nothing: what was read is read.
#[utoipa::path(post, path = "/v1/notices/read", tag = "notices", request_body = Read, responses((status = 204)))]
async fn mark_read(call: Call, Json(body): Json<Read>) -> Result<StatusCode, Refusal> {
    call.actor.unlimited()?;
    let mut tx = call.begin().await?;
    queries::mark_read(&mut tx, &call.actor, body.up_to, call.now()).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
