//! `GET /v1/organizations/{org}/members`, `GET,PATCH,DELETE …/members/{principal}` (an account id or an address).

use std::sync::Arc;

use axum::http::HeaderMap;
use chassis::etag;
use chassis::http::{Json, Path, Query};
use contract::api::{MemberView, Page, PolicyChanged};
use contract::names::OrganizationName;
use contract::policy::OrganizationRole;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{check_change, queries};
use crate::app::App;
use crate::authz::{Action, Allowed, Leave, ManageMembers, ViewOrganization};
use crate::call::Call;
use crate::database::Tx;
use crate::notices::occasions;
use crate::paging::PageQuery;
use crate::policy;
use crate::refusal::Refusal;

/// The routes of this slice.
pub fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show, update, remove))
}

/// Another role.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ChangeRole {
    /// What he is to be.
    role: OrganizationRole,
}

/// Lists the members.
#[utoipa::path(
    get,
    path = "/v1/organizations/{org}/members",
    tag = "members",
    params(("org" = OrganizationName, Path), PageQuery),
    responses((status = 200, body = Page<MemberView>)),
)]
async fn list(
    call: Call,
    Path(org): Path<OrganizationName>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<MemberView>>, Refusal> {
    let window = page.window(&call, &format!("members of {org}"))?;
    let mut tx = call.begin().await?;
    let allowed = call.authorize::<ViewOrganization>(&mut tx, &org).await?;
    let rows = queries::list_members(&mut tx, &allowed, &window).await?;
    Ok(Json(window.page(rows, |m| m.id.to_string())))
}

/// Shows a member, found by account id or e-mail address.
#[utoipa::path(
    get,
    path = "/v1/organizations/{org}/members/{principal}",
    tag = "members",
    responses((status = 200, body = MemberView)),
)]
async fn show(
    call: Call,
    Path((org, principal)): Path<(OrganizationName, String)>,
) -> Result<Json<MemberView>, Refusal> {
    let mut tx = call.begin().await?;
    let allowed = call.authorize::<ViewOrganization>(&mut tx, &org).await?;
    let member = queries::find_member(&mut tx, &allowed, &principal).await?;
    Ok(Json(member.ok_or_else(Refusal::not_found)?))
}

/// Gives a member another role.
#[utoipa::path(
    patch,
    path = "/v1/organizations/{org}/members/{principal}",
    tag = "members",
    params(etag::IfMatch),
    responses((status = 200, body = MemberView)),
)]
async fn update(
    call: Call,
    Path((org, principal)): Path<(OrganizationName, String)>,
    headers: HeaderMap,
    Json(body): Json<ChangeRole>,
) -> Result<Json<MemberView>, Refusal> {
    let mut tx = call.begin().await?;
    // An owner may do all that asks for a proof.
    if body.role == OrganizationRole::Owner {
        call.proven(&mut tx).await?;
    }
    let allowed = call.authorize::<ManageMembers>(&mut tx, &org).await?;
    let mut member = queries::find_member(&mut tx, &allowed, &principal)
        .await?
        .ok_or_else(Refusal::not_found)?;
    etag::check_match(&headers, Some(&member))?;
    let owners = queries::count_owners(&mut tx, &allowed).await?;
    check_change(allowed.role(), member.role, Some(body.role), owners)?;
    if member.role == OrganizationRole::Owner {
        call.actor.proven(call.now())?;
    }
    queries::update_role(&mut tx, &allowed, &member, body.role).await?;
    member.role = body.role;
    let subject = format!("{} to {}", member.name, body.role.as_str());
    call.record(&mut tx, &allowed, "member.role", subject).await?;
    occasions::role_changed(&call, &mut tx, &allowed, &member, body.role).await?;
    policy::commit(&call.app, tx, &allowed).await?;
    Ok(Json(member))
}

/// Takes a member out, by account id or e-mail address; oneself too.
#[utoipa::path(
    delete,
    path = "/v1/organizations/{org}/members/{principal}",
    tag = "members",
    responses((status = 200, body = PolicyChanged)),
)]
async fn remove(
    call: Call,
    Path((org, principal)): Path<(OrganizationName, String)>,
) -> Result<Json<PolicyChanged>, Refusal> {
    let mut tx = call.begin().await?;
    let own =
        call.actor.principal().to_string() == principal || call.actor.name().to_lowercase() == principal.to_lowercase();
    let epoch = if own {
        let allowed = call.authorize::<Leave>(&mut tx, &org).await?;
        take_out(&call, tx, &allowed, &principal).await?
    } else {
        let allowed = call.authorize::<ManageMembers>(&mut tx, &org).await?;
        take_out(&call, tx, &allowed, &principal).await?
    };
    Ok(Json(PolicyChanged {
        epoch,
        acknowledged: None,
    }))
}

async fn take_out<A: Action>(call: &Call, mut tx: Tx, allowed: &Allowed<A>, principal: &str) -> Result<u64, Refusal> {
    let member = queries::find_member(&mut tx, allowed, principal)
        .await?
        .ok_or_else(Refusal::not_found)?;
    let owners = queries::count_owners(&mut tx, allowed).await?;
    // Whoever leaves acts on himself: the rule about owners asks for the role that he has.
    check_change(allowed.role(), member.role, None, owners)?;
    if member.role == OrganizationRole::Owner {
        call.actor.proven(call.now())?;
    }
    queries::delete_member(&mut tx, allowed, &member, call.now()).await?;
    occasions::removed(call, &mut tx, allowed, &member).await?;
    call.record(&mut tx, allowed, "member.remove", member.name).await?;
    policy::commit(&call.app, tx, allowed).await
}
