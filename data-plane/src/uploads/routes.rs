//! `/v1/uploads`. The bytes of an upload come by `POST /v1/files?upload=`.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post, put};
use chassis::http::{Json, Path};
use contract::api::{NewUpload, Upload};
use contract::ids::UploadId;
use contract::names::BranchName;
use contract::policy::Permission;
use contract::reference::RepoRef;

use super::{KEEP, KEPT_FOR, UploadRow, committed, give_up, packs, queries};
use crate::call::Call;
use crate::commits::views;
use crate::failure::Answer;
use crate::plane::Plane;

/// The routes.
pub fn router() -> Router<Plane> {
    Router::new()
        .route("/v1/uploads", post(begin))
        .route("/v1/uploads/{id}", get(show).delete(end))
        .route("/v1/uploads/{id}/packs", post(packs::announce))
        .route("/v1/uploads/{id}/packs/{pack}", put(packs::take))
}

async fn begin(
    State(plane): State<Plane>,
    call: Call,
    Json(body): Json<NewUpload>,
) -> Answer<(StatusCode, Json<Upload>)> {
    let reference: RepoRef = body.repo.parse()?;
    let mut conn = plane.pool.acquire().await?;
    let repo = call.repo(&mut conn, &reference).await?;
    let allowed = call.writable(&repo)?;
    let row = UploadRow {
        id: plane.id(),
        repo: repo.id,
        branch: body.branch.unwrap_or_else(BranchName::main).to_string(),
        owner: call.claims().sub.to_string(),
        touched_at: plane.now(),
        commit: None,
    };
    queries::insert_upload(&mut conn, &allowed, &row).await?;
    let begun = Upload {
        id: row.id,
        expires_at: row.touched_at + KEPT_FOR,
        commit: None,
        parts: Vec::new(),
        handover: plane.handovers.name(),
        takes_packs: plane.storage.takes_packs(),
    };
    Ok((StatusCode::CREATED, Json(begun)))
}

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

async fn end(State(plane): State<Plane>, call: Call, Path(id): Path<UploadId>) -> Answer<StatusCode> {
    let row = {
        let mut conn = plane.pool.acquire().await?;
        call.upload(&mut conn, id, Permission::Write).await?
    };
    give_up(&plane, row.id).await?;
    Ok(StatusCode::NO_CONTENT)
}
