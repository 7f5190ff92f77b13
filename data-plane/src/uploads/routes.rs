//! `/v1/uploads`. The bytes of an upload come by `POST /v1/files?upload=`.

use axum::extract::State;
use axum::http::StatusCode;
use chassis::http::{Json, Path};
use chassis::idempotency::KeyHeader;
use contract::api::{NewUpload, Upload};
use contract::ids::UploadId;
use contract::names::BranchName;
use contract::policy::Permission;
use contract::reference::RepoRef;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{KEEP, KEPT_FOR, UploadRow, committed, give_up, packs, queries};
use crate::call::Call;
use crate::commits::views;
use crate::failure::Answer;
use crate::plane::Plane;

/// The routes.
pub fn router() -> OpenApiRouter<Plane> {
    OpenApiRouter::new()
        .routes(routes!(begin))
        .routes(routes!(show, end))
        .routes(routes!(packs::announce))
        .routes(routes!(packs::take))
}

/// Begins an upload that can be taken up again.
#[utoipa::path(
    post,
    path = "/v1/uploads",
    tag = "uploads",
    params(KeyHeader),
    responses((status = 201, body = Upload)),
)]
async fn begin(
    State(plane): State<Plane>,
    call: Call,
    Json(body): Json<NewUpload>,
) -> Answer<(StatusCode, Json<Upload>)> {
    let reference: RepoRef = body.repo.parse()?;
    let mut tx = plane.begin().await?;
    let repo = call.repo(&mut tx, &reference).await?;
    let allowed = call.writable(&repo)?;
    call.unanswered(&mut tx).await?;
    let row = UploadRow {
        id: plane.id(),
        repo: repo.id,
        branch: body.branch.unwrap_or_else(BranchName::main).to_string(),
        owner: call.claims().sub.to_string(),
        touched_at: plane.now(),
        commit: None,
    };
    queries::insert_upload(&mut tx, &allowed, &row).await?;
    let begun = Upload {
        id: row.id,
        expires_at: row.touched_at + KEPT_FOR,
        commit: None,
        parts: Vec::new(),
        handover: plane.handovers.name(),
        takes_packs: plane.storage.takes_packs(),
    };
    call.commit(tx, StatusCode::CREATED, begun).await
}

/// Shows what is kept of an upload, and what it became.
#[utoipa::path(get, path = "/v1/uploads/{id}", tag = "uploads", params(("id" = UploadId, Path)), responses((status = 200, body = Upload)))]
async fn show(State(plane): State<Plane>, call: Call, Path(id): Path<UploadId>) -> Answer<Json<Upload>> {
    let mut conn = plane.pool.acquire().await?;
    let row = call.upload(&mut conn, id, Permission::Discover).await?;
    let commit = committed(&mut conn, &call, id).await?;
    let commit = match commit {
        None => None,
        Some(commit) => Some(views::show_to_maker(&mut conn, &call, commit).await?),
    };
    Ok(Json(Upload {
        id,
        expires_at: row.touched_at + KEPT_FOR,
        commit,
        parts: queries::list_parts(&mut conn, &KEEP, id).await?,
        handover: plane.handovers.name(),
        takes_packs: plane.storage.takes_packs(),
    }))
}

/// Gives an upload up.
#[utoipa::path(delete, path = "/v1/uploads/{id}", tag = "uploads", params(("id" = UploadId, Path)), responses((status = 204)))]
async fn end(State(plane): State<Plane>, call: Call, Path(id): Path<UploadId>) -> Answer<StatusCode> {
    let row = {
        let mut conn = plane.pool.acquire().await?;
        call.upload(&mut conn, id, Permission::Write).await?
    };
    give_up(&plane, row.id).await?;
    Ok(StatusCode::NO_CONTENT)
}
