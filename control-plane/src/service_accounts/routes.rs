//! `POST,GET …/service-accounts`, `DELETE …/service-accounts/{name}`.

use std::sync::Arc;

use axum::http::StatusCode;
use chassis::http::{Json, Path, Query};
use chassis::idempotency::KeyHeader;
use contract::api::{Page, PolicyChanged};
use contract::names::{OrganizationName, ServiceAccountName};
use contract::policy::Principal;
use contract::problem::ProblemKind;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{ServiceAccountView, queries};
use crate::app::App;
use crate::authz::{ManageServiceAccounts, ViewOrganization};
use crate::call::Call;
use crate::paging::PageQuery;
use crate::refusal::Refusal;
use crate::{members, policy};

/// The routes of this slice.
pub fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(create, list))
        .routes(routes!(remove))
}

/// A service account to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewServiceAccount {
    /// Its name.
    name: ServiceAccountName,
}

/// Makes a service account.
#[utoipa::path(
    post,
    path = "/v1/organizations/{org}/service-accounts",
    tag = "service-accounts",
    params(("org" = OrganizationName, Path), KeyHeader),
    responses((status = 201, body = ServiceAccountView)),
)]
async fn create(
    call: Call,
    Path(org): Path<OrganizationName>,
    Json(body): Json<NewServiceAccount>,
) -> Result<(StatusCode, Json<ServiceAccountView>), Refusal> {
    let mut tx = call.begin().await?;
    let allowed = call.authorize::<ManageServiceAccounts>(&mut tx, &org).await?;
    let new = ServiceAccountView {
        id: call.id(),
        name: body.name,
        created_at: call.now(),
    };
    if !queries::insert_service_account(&mut tx, &allowed, &new).await? {
        return Err(Refusal::new(
            ProblemKind::AlreadyExists,
            format!("there is a service account `{}` in `{org}` already", new.name),
        ));
    }
    call.record(&mut tx, &allowed, "service_account.create", new.name.to_string())
        .await?;
    policy::commit_answer(&call, tx, &allowed, StatusCode::CREATED, new).await
}

/// Lists the service accounts.
#[utoipa::path(
    get,
    path = "/v1/organizations/{org}/service-accounts",
    tag = "service-accounts",
    params(("org" = OrganizationName, Path), PageQuery),
    responses((status = 200, body = Page<ServiceAccountView>)),
)]
async fn list(
    call: Call,
    Path(org): Path<OrganizationName>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<ServiceAccountView>>, Refusal> {
    let window = page.window(&call, &format!("service-accounts of {org}"))?;
    let mut tx = call.begin().await?;
    let allowed = call.authorize::<ViewOrganization>(&mut tx, &org).await?;
    let rows = queries::list_service_accounts(&mut tx, &allowed, &window).await?;
    Ok(Json(window.page(rows, |s| s.id.to_string())))
}

/// Deletes a service account with its tokens and grants.
#[utoipa::path(
    delete,
    path = "/v1/organizations/{org}/service-accounts/{name}",
    tag = "service-accounts",
    responses((status = 200, body = PolicyChanged)),
)]
async fn remove(
    call: Call,
    Path((org, name)): Path<(OrganizationName, String)>,
) -> Result<Json<PolicyChanged>, Refusal> {
    let mut tx = call.begin().await?;
    let allowed = call.authorize::<ManageServiceAccounts>(&mut tx, &org).await?;
    let found = queries::find_service_account(&mut tx, &allowed, &name)
        .await?
        .ok_or_else(Refusal::not_found)?;
    members::queries::strip_principal(&mut tx, &allowed, Principal::ServiceAccount(found.id), call.now()).await?;
    queries::delete_service_account(&mut tx, &allowed, found.id, call.now()).await?;
    call.record(&mut tx, &allowed, "service_account.delete", found.name.to_string())
        .await?;
    let epoch = policy::commit(&call.app, tx, &allowed).await?;
    Ok(Json(PolicyChanged {
        epoch,
        acknowledged: None,
    }))
}
