//! `/v1/purges`.

use axum::extract::State;
use axum::http::StatusCode;
use chassis::http::{Json, Path, Query};
use chassis::idempotency::KeyHeader;
use contract::api::{Page, Purge, PurgePath};
use contract::ids::PurgeId;
use contract::policy::Permission;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::{PURGE, purge, queries, receipts};
use crate::call::Call;
use crate::cursor;
use crate::failure::Answer;
use crate::plane::Plane;

/// The routes.
pub fn router() -> OpenApiRouter<Plane> {
    OpenApiRouter::new().routes(routes!(list, begin)).routes(routes!(show))
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

/// Takes a file out of all history, or tells what that would do.
#[utoipa::path(
    post,
    path = "/v1/purges",
    tag = "purges",
    params(KeyHeader),
    responses(
        (status = 201, body = Purge),
        (status = 200, body = Purge, description = "a dry run: nothing was changed"),
    ),
)]
async fn begin(call: Call, Json(body): Json<PurgePath>) -> Answer<(StatusCode, Json<Purge>)> {
    let done = purge(&call, &body).await?;
    let status = if done.dry_run {
        StatusCode::OK
    } else {
        StatusCode::CREATED
    };
    Ok((status, Json(done)))
}

/// Shows the receipt of a purge.
#[utoipa::path(get, path = "/v1/purges/{id}", tag = "purges", params(("id" = PurgeId, Path)), responses((status = 200, body = Purge)))]
async fn show(State(plane): State<Plane>, call: Call, Path(id): Path<PurgeId>) -> Answer<Json<Purge>> {
    let mut conn = plane.pool.acquire().await?;
    receipts::one(&call, &mut conn, id).await.map(Json)
}

/// Lists the receipts of purges.
#[utoipa::path(get, path = "/v1/purges", tag = "purges", params(ListQuery), responses((status = 200, body = Page<Purge>)))]
async fn list(State(plane): State<Plane>, call: Call, Query(query): Query<ListQuery>) -> Answer<Json<Page<Purge>>> {
    let limit = cursor::limit(query.limit)?;
    let before: Option<PurgeId> = call.position("purges", query.cursor.as_deref())?;
    let domains = call.rights().policy.snapshot().domains.iter();
    let owned: Vec<Uuid> = domains
        .filter(|d| call.rights().can(Permission::Admin, d.id))
        .map(|d| d.id.uuid())
        .collect();
    let mut conn = plane.pool.acquire().await?;
    let mut repos = Vec::new();
    for repo in queries::list_purged(&mut conn, &PURGE, &owned).await? {
        if receipts::may_see(&call, &mut conn, repo).await? {
            repos.push(repo.uuid());
        }
    }
    let rows = queries::list_receipts(&mut conn, &PURGE, &repos, before, limit as i64 + 1).await?;
    let page = call.page("purges", rows, limit, |row| PurgeId::from_uuid(row.id))?;
    let mut items = Vec::with_capacity(page.items.len());
    for row in page.items {
        items.push(receipts::shown(&call, &mut conn, row).await?);
    }
    Ok(Json(Page {
        items,
        next_cursor: page.next_cursor,
    }))
}
