//! `POST,GET /v1/organizations`, `GET,DELETE /v1/organizations/{org}`.

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::{get, post};
use chassis::http::{Json, Path, Query};
use contract::api::{Organization, Page};
use contract::names::OrganizationName;
use contract::policy::Principal;
use serde::Deserialize;

use super::queries;
use crate::app::App;
use crate::authz::{DeleteOrganization, ViewOrganization};
use crate::call::Call;
use crate::paging::PageQuery;
use crate::refusal::Refusal;

/// The routes of this slice.
pub fn router() -> Router<Arc<App>> {
    Router::new()
        .route("/v1/organizations", post(create).get(list))
        .route("/v1/organizations/{org}", get(show).delete(delete))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewOrganization {
    name: OrganizationName,
}

async fn create(call: Call, Json(body): Json<NewOrganization>) -> Result<(StatusCode, Json<Organization>), Refusal> {
    call.actor.unlimited()?;
    let (Principal::Account(owner), None) = (call.actor.principal(), call.actor.organization()) else {
        return Err(Refusal::not_allowed(
            "only people found organizations; this token stands for a service account or is bound to one organization",
            "log in with `howdah login`",
        ));
    };
    let mut tx = call.begin().await?;
    let organization = super::found(&call.app, &mut tx, owner, call.actor.name(), body.name).await?;
    tx.commit().await?;
    call.app.planes.signal(organization.id);
    Ok((StatusCode::CREATED, Json(organization)))
}

async fn list(call: Call, Query(page): Query<PageQuery>) -> Result<Json<Page<Organization>>, Refusal> {
    let window = page.window()?;
    let mut tx = call.begin().await?;
    let own = queries::list_own(&mut tx, &call.actor).await?;
    let rows = own.into_iter().filter(|o| o.id.to_string() > window.after).collect();
    Ok(Json(window.page(rows, |o| o.id.to_string())))
}

async fn show(call: Call, Path(org): Path<OrganizationName>) -> Result<Json<Organization>, Refusal> {
    let mut tx = call.begin().await?;
    let allowed = call.authorize::<ViewOrganization>(&mut tx, &org).await?;
    Ok(Json(Organization {
        id: allowed.organization(),
        name: allowed.organization_name().clone(),
        role: allowed.role(),
        created_at: allowed.created_at(),
    }))
}

async fn delete(call: Call, Path(org): Path<OrganizationName>) -> Result<StatusCode, Refusal> {
    let mut tx = call.begin().await?;
    let allowed = call.authorize::<DeleteOrganization>(&mut tx, &org).await?;
    queries::begin_deletion(&mut tx, &allowed, call.now()).await?;
    call.record(&mut tx, &allowed, "organization.delete", org.to_string())
        .await?;
    tx.commit().await?;
    call.app.planes.forget_route(allowed.organization());
    call.app.planes.signal(allowed.organization());
    Ok(StatusCode::ACCEPTED)
}
