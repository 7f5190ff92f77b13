//! `POST,GET /v1/organizations`, `GET,PATCH,DELETE /v1/organizations/{org}`.

use std::sync::Arc;

use axum::http::{HeaderMap, StatusCode};
use chassis::etag;
use chassis::http::{Json, Path, Query};
use chassis::idempotency::KeyHeader;
use contract::api::{ChangeOrganization, Organization, OrganizationDeleted, OrganizationSettings, Page};
use contract::names::OrganizationName;
use contract::policy::Principal;
use contract::problem::ProblemKind;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Founder, queries};
use crate::app::App;
use crate::authz::{Action, Allowed, ChangeSettings, Credential, DeleteOrganization, ViewOrganization};
use crate::call::Call;
use crate::database::Tx;
use crate::paging::PageQuery;
use crate::refusal::Refusal;
use crate::{deletions, policy};

/// The routes of this slice.
pub fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(create, list))
        .routes(routes!(show, change, delete))
}

/// An organization to be founded.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewOrganization {
    /// Its name.
    name: OrganizationName,
}

/// Founds an organization, which the caller owns.
#[utoipa::path(post, path = "/v1/organizations", tag = "organizations", params(KeyHeader), responses((status = 201, body = Organization)))]
async fn create(call: Call, Json(body): Json<NewOrganization>) -> Result<(StatusCode, Json<Organization>), Refusal> {
    call.actor.unlimited()?;
    let (Principal::Account(owner), None) = (call.actor.principal(), call.actor.organization()) else {
        return Err(Refusal::not_allowed(
            "only people found organizations; this token stands for a service account or is bound to one organization",
            "log in with `howdah login`",
        ));
    };
    let mut tx = call.begin().await?;
    call.unanswered(&mut tx).await?;
    let founder = Founder {
        id: owner,
        email: call.actor.name(),
        token: call.actor.token().to_string(),
        source: &call.source,
    };
    let organization = super::found(&call.app, &mut tx, founder, body.name).await?;
    let id = organization.id;
    let answer = call.commit(tx, StatusCode::CREATED, organization).await?;
    call.app.planes.signal(id);
    Ok(answer)
}

/// Lists the organizations that the caller belongs to.
#[utoipa::path(
    get,
    path = "/v1/organizations",
    tag = "organizations",
    params(PageQuery),
    responses((status = 200, body = Page<Organization>)),
)]
async fn list(call: Call, Query(page): Query<PageQuery>) -> Result<Json<Page<Organization>>, Refusal> {
    let window = page.window(&call, "organizations")?;
    let mut tx = call.begin().await?;
    let own = queries::list_own(&mut tx, &call.actor).await?;
    let rows = own.into_iter().filter(|o| o.id.to_string() > window.after).collect();
    Ok(Json(window.page(rows, |o| o.id.to_string())))
}

/// Shows an organization and its settings.
#[utoipa::path(
    get,
    path = "/v1/organizations/{org}",
    tag = "organizations",
    params(("org" = OrganizationName, Path)),
    responses((status = 200, body = OrganizationSettings)),
)]
async fn show(call: Call, Path(org): Path<OrganizationName>) -> Result<Json<OrganizationSettings>, Refusal> {
    let mut tx = call.begin().await?;
    let allowed = call.authorize::<ViewOrganization>(&mut tx, &org).await?;
    settings(&mut tx, &allowed).await
}

async fn settings<A: Action>(tx: &mut Tx, allowed: &Allowed<A>) -> Result<Json<OrganizationSettings>, Refusal> {
    Ok(Json(OrganizationSettings {
        organization: Organization {
            id: allowed.organization(),
            name: allowed.organization_name().clone(),
            role: allowed.role(),
            created_at: allowed.created_at(),
        },
        release_approvals: queries::get_release_approvals(tx, allowed).await?,
    }))
}

/// Changes the settings of an organization.
///
/// A release that counts already goes on counting; what is proposed needs as many approvals as are demanded now.
#[utoipa::path(
    patch,
    path = "/v1/organizations/{org}",
    tag = "organizations",
    params(("org" = OrganizationName, Path), etag::IfMatch),
    responses((status = 200, body = OrganizationSettings)),
)]
async fn change(
    call: Call,
    Path(org): Path<OrganizationName>,
    headers: HeaderMap,
    Json(body): Json<ChangeOrganization>,
) -> Result<Json<OrganizationSettings>, Refusal> {
    let mut tx = call.begin().await?;
    let allowed = call.authorize::<ChangeSettings>(&mut tx, &org).await?;
    etag::check_match(&headers, Some(&settings(&mut tx, &allowed).await?.0))?;
    let approvals = match body.release_approvals {
        1 => 1,
        2 => 2,
        other => {
            return Err(Refusal::invalid(
                "/release_approvals",
                format!("a release needs 1 or 2 approvals of each domain, not {other}"),
            ));
        }
    };
    queries::update_release_approvals(&mut tx, &allowed, approvals).await?;
    call.record(
        &mut tx,
        &allowed,
        "organization.release_approvals",
        approvals.to_string(),
    )
    .await?;
    let answer = settings(&mut tx, &allowed).await?;
    tx.commit().await?;
    Ok(answer)
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct HowSoon {
    /// Nothing is kept: everything goes at once.
    #[serde(default)]
    now: bool,
}

/// Ends all access; everything is kept for a while in which an owner may have it back, unless it is to go at once.
#[utoipa::path(
    delete,
    path = "/v1/organizations/{org}",
    tag = "organizations",
    params(("org" = OrganizationName, Path), HowSoon),
    responses((status = 202, body = OrganizationDeleted)),
)]
async fn delete(
    call: Call,
    Path(org): Path<OrganizationName>,
    Query(how): Query<HowSoon>,
) -> Result<(StatusCode, Json<OrganizationDeleted>), Refusal> {
    let (mut tx, now) = (call.begin().await?, call.now());
    // A session may have been left open; a token that may do all was made for scripts.
    if call.actor.credential() == Credential::Session {
        call.proven(&mut tx).await?;
    } else {
        call.actor.unlimited()?;
    }
    let allowed = match call.authorize::<DeleteOrganization>(&mut tx, &org).await {
        Err(refusal) if how.now && refusal.0.0.kind() == Some(ProblemKind::NotFound) => {
            drop(tx);
            let erased = deletions::erase_now(&call, &org).await?;
            return Ok((StatusCode::ACCEPTED, Json(erased)));
        }
        allowed => allowed?,
    };
    let kept_until = if how.now { now } else { now + call.app.deletion_grace };
    deletions::queries::begin_deletion(&mut tx, &allowed, now, kept_until).await?;
    call.record(&mut tx, &allowed, "organization.delete", org.to_string())
        .await?;
    policy::commit(&call.app, tx, &allowed).await?;
    call.app.planes.forget_route(allowed.organization());
    call.app.planes.signal(allowed.organization());
    let deleted = OrganizationDeleted {
        id: allowed.organization(),
        name: allowed.organization_name().clone(),
        deleted_at: now,
        kept_until,
    };
    Ok((StatusCode::ACCEPTED, Json(deleted)))
}
