//! `POST /v1/organizations/{org}/restore`, `GET /v1/deleted-organizations`, `GET /v1/deleted-organizations/{id or name}`.

use std::sync::Arc;

use chassis::http::{ApiError, Json, Path, Query};
use contract::api::{DeletionReceipt, Organization, OrganizationDeleted, Page, SignedReceipt};
use contract::names::OrganizationName;
use contract::problem::ProblemKind;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::queries;
use crate::app::App;
use crate::authz;
use crate::call::Call;
use crate::paging::PageQuery;
use crate::policy;
use crate::refusal::Refusal;

/// The routes of this slice.
pub fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(restore))
        .routes(routes!(list))
        .routes(routes!(show))
}

/// Gives a deleted organization back to an owner, as long as it is kept.
///
/// Sent again it changes nothing: what was given back is not deleted any more.
#[utoipa::path(post, path = "/v1/organizations/{org}/restore", tag = "deletions", responses((status = 200, body = Organization)))]
async fn restore(call: Call, Path(org): Path<OrganizationName>) -> Result<Json<Organization>, Refusal> {
    let mut tx = call.begin().await?;
    let allowed = authz::authorize_deleted(&mut tx, &call.actor, &org).await?;
    if !queries::restore(&mut tx, &allowed, call.now()).await? {
        return Err(Refusal::new(
            ProblemKind::Deleted,
            format!("`{org}` is being erased, it cannot be had back"),
        )
        .hint("see `howdah org receipt`"));
    }
    call.record(&mut tx, &allowed, "organization.restore", org.to_string())
        .await?;
    policy::commit(&call.app, tx, &allowed).await?;
    call.app.planes.signal(allowed.organization());
    Ok(Json(Organization {
        id: allowed.organization(),
        name: allowed.organization_name().clone(),
        role: allowed.role(),
        created_at: allowed.created_at(),
    }))
}

/// Ends the time in which a deleted organization is kept: everything goes now.
pub(crate) async fn erase_now(call: &Call, org: &OrganizationName) -> Result<OrganizationDeleted, Refusal> {
    let (mut tx, now) = (call.begin().await?, call.now());
    let allowed = authz::authorize_deleted(&mut tx, &call.actor, org).await?;
    queries::erase_now(&mut tx, &allowed, now).await?;
    call.record(&mut tx, &allowed, "organization.erase_now", org.to_string())
        .await?;
    tx.commit().await?;
    call.app.planes.signal(allowed.organization());
    Ok(OrganizationDeleted {
        id: allowed.organization(),
        name: allowed.organization_name().clone(),
        deleted_at: now,
        kept_until: now,
    })
}

/// Lists the deleted organizations that the caller owned.
#[utoipa::path(get, path = "/v1/deleted-organizations", tag = "deletions", params(PageQuery),
    responses((status = 200, body = Page<DeletionReceipt>)))]
async fn list(call: Call, Query(page): Query<PageQuery>) -> Result<Json<Page<DeletionReceipt>>, Refusal> {
    call.actor.unlimited()?;
    let window = page.window(&call, "deleted organizations")?;
    let mut tx = call.begin().await?;
    let rows = queries::list_formerly_owned(&mut tx, &call.actor, &window, call.now()).await?;
    Ok(Json(window.page(rows, |r| r.organization.to_string())))
}

/// Shows the receipt of a deleted organization that the caller owned, by its id or its name.
#[utoipa::path(get, path = "/v1/deleted-organizations/{organization}", tag = "deletions",
    responses((status = 200, body = SignedReceipt)))]
async fn show(call: Call, Path(organization): Path<String>) -> Result<Json<SignedReceipt>, Refusal> {
    call.actor.unlimited()?;
    let mut tx = call.begin().await?;
    let receipt = queries::find_formerly_owned(&mut tx, &call.actor, &organization, call.now())
        .await?
        .ok_or_else(Refusal::not_found)?;
    let written = queries::find_document(&mut tx, &call.actor, &receipt).await?;
    let Some((document, digest, signed)) = written else {
        return Ok(Json(SignedReceipt {
            receipt,
            digest: String::new(),
            signed: String::new(),
        }));
    };
    let receipt = serde_json::from_str(&document).map_err(ApiError::internal)?;
    Ok(Json(SignedReceipt {
        receipt,
        digest,
        signed,
    }))
}
