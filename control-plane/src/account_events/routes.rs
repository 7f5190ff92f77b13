//! `GET /v1/account/events`.

use std::sync::Arc;

use chassis::http::{Json, Query};
use contract::api::{AccountEvent, Page};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::queries;
use crate::app::App;
use crate::call::Call;
use crate::paging::PageQuery;
use crate::refusal::Refusal;

/// The routes of this slice.
pub fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(list))
}

/// Lists what happened to the caller's own account, newest first. Each event holds the hash of the one before it.
#[utoipa::path(get, path = "/v1/account/events", tag = "account-events", params(PageQuery), responses((status = 200, body = Page<AccountEvent>)))]
async fn list(call: Call, Query(page): Query<PageQuery>) -> Result<Json<Page<AccountEvent>>, Refusal> {
    call.actor.unlimited()?;
    let window = page.window(&call, "account events")?;
    let mut tx = call.begin().await?;
    let rows = queries::list_own(&mut tx, &call.actor, window.after.parse().ok(), window.fetch).await?;
    Ok(Json(window.page(rows, |event| event.seq.to_string())))
}
