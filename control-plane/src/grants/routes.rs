//! `POST,GET …/grants` (`?resource=`), `DELETE …/grants/{id}?wait=true`.

use std::sync::Arc;

use axum::http::StatusCode;
use chassis::http::{Json, Path, Query};
use chassis::idempotency::KeyHeader;
use contract::api::{GrantView, NewGrant, Page, PolicyChanged};
use contract::names::OrganizationName;
use contract::policy::{Permission, Role};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{SELF_GRANT, check_self_grant, may_give, queries, tell_self_grant};
use crate::app::App;
use crate::authz::{ChangePolicy, ViewPolicy, ViewWholePolicy};
use crate::call::Call;
use crate::notices::occasions;
use crate::paging::PageQuery;
use crate::policy::{self, subjects};
use crate::refusal::Refusal;

/// The routes of this slice.
pub fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(create, list))
        .routes(routes!(remove))
}

/// Gives a grant.
#[utoipa::path(
    post,
    path = "/v1/organizations/{org}/grants",
    tag = "grants",
    params(("org" = OrganizationName, Path), KeyHeader),
    responses((status = 201, body = GrantView), (status = 200, body = GrantView, description = "it was given already")),
)]
async fn create(
    call: Call,
    Path(org): Path<OrganizationName>,
    Json(body): Json<NewGrant>,
) -> Result<(StatusCode, Json<GrantView>), Refusal> {
    let mut tx = call.begin().await?;
    let allowed = call.authorize::<ChangePolicy>(&mut tx, &org).await?;
    let role: Role = body
        .role
        .parse()
        .map_err(|e| Refusal::invalid("/role", format!("{e}")))?;
    let target = subjects::find_target(&mut tx, &allowed, &body.resource).await?;
    subjects::require(&mut tx, &allowed, &target, Permission::Admin, true).await?;
    let grantee = subjects::find_grantee(&mut tx, &allowed, &body.subject).await?;
    let held = subjects::own_permissions(&mut tx, &allowed, &target).await?;
    let own = subjects::is_own(&mut tx, &allowed, &grantee).await?;
    check_self_grant(allowed.role(), own, held.contains(&Permission::Admin))?;
    if !may_give(&held, role, allowed.role().manages()) {
        return Err(Refusal::not_allowed(
            &format!(
                "you do not hold all that `{}` on `{}` allows",
                role.as_str(),
                target.shown()
            ),
            "give a weaker role, or ask an owner",
        ));
    }
    let epoch = policy::queries::get_epoch(&mut tx, &allowed).await? + 1;
    let new = queries::NewRow {
        id: call.id(),
        grantee: &grantee,
        role,
        resource: &target.stored(),
        epoch,
        now: call.now(),
    };
    let added = queries::insert_grant(&mut tx, &allowed, &new).await?;
    let grant = queries::find_same(&mut tx, &allowed, &grantee, role, &target.stored())
        .await?
        .ok_or_else(Refusal::not_found)?;
    if !added {
        return Ok((StatusCode::OK, Json(grant.view)));
    }
    let by_own_hand = own && !held.contains(&Permission::Admin);
    let action = if by_own_hand {
        tell_self_grant(&call, &allowed, &format!("`{}` on `{}`", role.as_str(), target.shown()));
        SELF_GRANT
    } else {
        "grant.create"
    };
    let subject = format!("{} {} {}", grant.view.subject, grant.view.role, grant.view.resource);
    call.record(&mut tx, &allowed, action, subject).await?;
    occasions::grant_given(&call, &mut tx, &allowed, &grant, by_own_hand).await?;
    policy::commit_answer(&call, tx, &allowed, StatusCode::CREATED, grant.view).await
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// Only on this: `org`, `project:NAME` or `[project/]repo`.
    resource: Option<String>,
}

/// Lists grants, of all resources or of one.
#[utoipa::path(
    get,
    path = "/v1/organizations/{org}/grants",
    tag = "grants",
    params(("org" = OrganizationName, Path), ListQuery, PageQuery),
    responses((status = 200, body = Page<GrantView>)),
)]
async fn list(
    call: Call,
    Path(org): Path<OrganizationName>,
    Query(query): Query<ListQuery>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<GrantView>>, Refusal> {
    let on = query.resource.as_deref().unwrap_or_default();
    let window = page.window(&call, &format!("grants of {org} on {on}"))?;
    let mut tx = call.begin().await?;
    let allowed = call.authorize::<ViewPolicy>(&mut tx, &org).await?;
    let resource = match &query.resource {
        None => {
            call.authorize::<ViewWholePolicy>(&mut tx, &org).await?;
            None
        }
        Some(text) => {
            let target = subjects::find_target(&mut tx, &allowed, text).await?;
            subjects::require(&mut tx, &allowed, &target, Permission::Discover, true).await?;
            Some(target.stored())
        }
    };
    let administered = queries::list_administered(&mut tx, &allowed).await?;
    let rows = queries::list_grants(&mut tx, &allowed, &administered, resource.as_deref(), &window).await?;
    let rows: Vec<GrantView> = rows.into_iter().map(|g| g.view).collect();
    Ok(Json(window.page(rows, |g| g.id.clone())))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Wait {
    /// Answers when the data plane enforces it.
    #[serde(default)]
    wait: bool,
}

/// Takes a grant back.
#[utoipa::path(
    delete,
    path = "/v1/organizations/{org}/grants/{id}",
    tag = "grants",
    params(Wait),
    responses((status = 200, body = PolicyChanged)),
)]
async fn remove(
    call: Call,
    Path((org, id)): Path<(OrganizationName, String)>,
    Query(query): Query<Wait>,
) -> Result<Json<PolicyChanged>, Refusal> {
    let mut tx = call.begin().await?;
    let allowed = call.authorize::<ChangePolicy>(&mut tx, &org).await?;
    let grant = queries::find_grant(&mut tx, &allowed, &id)
        .await?
        .ok_or_else(Refusal::not_found)?;
    let own = grant.grantee == call.actor.principal().to_string();
    let administered = queries::list_administered(&mut tx, &allowed).await?;
    let administers = administered.iter().any(|r| *r == grant.resource || r == "org");
    if !(allowed.role().manages() || administers) {
        // One may know of one's own grant, but its giver takes it back.
        return Err(if own {
            Refusal::not_allowed("your own grant is not yours to remove", "ask an owner of the resource")
        } else {
            Refusal::not_found()
        });
    }
    let scope = if grant.view.resource == "org" {
        "*"
    } else {
        &grant.view.resource
    };
    if !call.actor.covers("admin", scope) {
        return Err(Refusal::not_allowed(
            &format!("the token's scopes do not allow `admin` on `{}`", grant.view.resource),
            format!("use a token with the scope `admin:{scope}`"),
        ));
    }
    queries::delete_grant(&mut tx, &allowed, &grant).await?;
    let subject = format!("{} {} {}", grant.view.subject, grant.view.role, grant.view.resource);
    call.record(&mut tx, &allowed, "grant.delete", subject).await?;
    occasions::grant_taken(&call, &mut tx, &allowed, &grant).await?;
    let epoch = policy::commit(&call.app, tx, &allowed).await?;
    let acknowledged = if query.wait {
        policy::wait_for_acknowledgement(&call.app, &allowed, epoch).await?
    } else {
        None
    };
    Ok(Json(PolicyChanged { epoch, acknowledged }))
}
