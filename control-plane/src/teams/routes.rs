//! `POST,GET …/teams`, `DELETE …/teams/{team}`, `PUT,DELETE …/teams/{team}/members/{email or sa:name}`.

use std::sync::Arc;

use axum::http::StatusCode;
use chassis::http::{Json, Path, Query};
use chassis::idempotency::KeyHeader;
use contract::api::{Page, PolicyChanged};
use contract::ids::TeamId;
use contract::names::{OrganizationName, TeamName};
use contract::problem::ProblemKind;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{TeamView, queries};
use crate::app::App;
use crate::authz::{Allowed, ManageTeams, ViewOrganization};
use crate::call::Call;
use crate::database::Tx;
use crate::grants;
use crate::notices::occasions;
use crate::paging::PageQuery;
use crate::policy::{self, subjects};
use crate::refusal::Refusal;

/// The routes of this slice.
pub fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(create, list))
        .routes(routes!(remove))
        .routes(routes!(add_member, remove_member))
}

/// A team to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewTeam {
    /// Its name.
    name: TeamName,
}

fn changed(epoch: u64) -> Json<PolicyChanged> {
    Json(PolicyChanged {
        epoch,
        acknowledged: None,
    })
}

/// Makes a team.
#[utoipa::path(
    post,
    path = "/v1/organizations/{org}/teams",
    tag = "teams",
    params(("org" = OrganizationName, Path), KeyHeader),
    responses((status = 201, body = TeamView)),
)]
async fn create(
    call: Call,
    Path(org): Path<OrganizationName>,
    Json(body): Json<NewTeam>,
) -> Result<(StatusCode, Json<TeamView>), Refusal> {
    let mut tx = call.begin().await?;
    let allowed = call.authorize::<ManageTeams>(&mut tx, &org).await?;
    let team = TeamView {
        id: call.id(),
        name: body.name,
        members: Vec::new(),
        created_at: call.now(),
    };
    if !queries::insert_team(&mut tx, &allowed, &team).await? {
        return Err(Refusal::new(
            ProblemKind::AlreadyExists,
            format!("there is a team `{}` in `{org}` already", team.name),
        ));
    }
    call.record(&mut tx, &allowed, "team.create", team.name.to_string())
        .await?;
    policy::commit_answer(&call, tx, &allowed, StatusCode::CREATED, team).await
}

/// Lists the teams.
#[utoipa::path(
    get,
    path = "/v1/organizations/{org}/teams",
    tag = "teams",
    params(("org" = OrganizationName, Path), PageQuery),
    responses((status = 200, body = Page<TeamView>)),
)]
async fn list(
    call: Call,
    Path(org): Path<OrganizationName>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<TeamView>>, Refusal> {
    let window = page.window(&call, &format!("teams of {org}"))?;
    let mut tx = call.begin().await?;
    let allowed = call.authorize::<ViewOrganization>(&mut tx, &org).await?;
    let rows = queries::list_teams(&mut tx, &allowed, &window).await?;
    Ok(Json(window.page(rows, |t| t.id.to_string())))
}

/// Deletes a team, and with it what was granted to it.
#[utoipa::path(delete, path = "/v1/organizations/{org}/teams/{team}", tag = "teams", responses((status = 200, body = PolicyChanged)))]
async fn remove(
    call: Call,
    Path((org, team)): Path<(OrganizationName, String)>,
) -> Result<Json<PolicyChanged>, Refusal> {
    let mut tx = call.begin().await?;
    let allowed = call.authorize::<ManageTeams>(&mut tx, &org).await?;
    let (id, name) = queries::find_team(&mut tx, &allowed, &team)
        .await?
        .ok_or_else(Refusal::not_found)?;
    queries::delete_team(&mut tx, &allowed, id).await?;
    call.record(&mut tx, &allowed, "team.delete", name.to_string()).await?;
    Ok(changed(policy::commit(&call.app, tx, &allowed).await?))
}

/// Adds a member by e-mail address, or a service account by `sa:NAME`.
#[utoipa::path(put, path = "/v1/organizations/{org}/teams/{team}/members/{member}", tag = "teams", responses((status = 200, body = PolicyChanged)))]
async fn add_member(
    call: Call,
    Path((org, team, member)): Path<(OrganizationName, String, String)>,
) -> Result<Json<PolicyChanged>, Refusal> {
    let mut tx = call.begin().await?;
    let allowed = call.authorize::<ManageTeams>(&mut tx, &org).await?;
    let (id, name) = queries::find_team(&mut tx, &allowed, &team)
        .await?
        .ok_or_else(Refusal::not_found)?;
    let principal = subjects::find_principal(&mut tx, &allowed, &member).await?;
    let own = subjects::is_own(&mut tx, &allowed, &principal.to_string()).await?;
    let by_own_hand = own && brings_more(&mut tx, &allowed, id).await?;
    grants::check_self_grant(allowed.role(), own, !by_own_hand)?;
    if !queries::insert_member(&mut tx, &allowed, id, principal).await? {
        let epoch = policy::queries::get_epoch(&mut tx, &allowed).await?;
        return Ok(changed(epoch));
    }
    let action = if by_own_hand {
        grants::tell_self_grant(&call, &allowed, &format!("membership of the team `{name}`"));
        grants::SELF_GRANT
    } else {
        "team.add"
    };
    call.record(&mut tx, &allowed, action, format!("{member} to {name}"))
        .await?;
    let news = ("team.add", format!("added you to the team `{name}`"));
    occasions::team_changed(&call, &mut tx, &allowed, principal, news).await?;
    if by_own_hand {
        let held = grants::queries::list_resources_of(&mut tx, &allowed, &id.to_string()).await?;
        occasions::team_joined_by_own_hand(&call, &mut tx, &allowed, name.as_str(), held).await?;
    }
    Ok(changed(policy::commit(&call.app, tx, &allowed).await?))
}

/// Whether a team holds something on a resource that the caller does not administer.
async fn brings_more(tx: &mut Tx, allowed: &Allowed<ManageTeams>, team: TeamId) -> Result<bool, Refusal> {
    let held = grants::queries::list_resources_of(tx, allowed, &team.to_string()).await?;
    let administered = grants::queries::list_administered(tx, allowed).await?;
    let all = administered.iter().any(|r| r == "org");
    Ok(!all && held.iter().any(|resource| !administered.contains(resource)))
}

/// Takes a member out.
#[utoipa::path(delete, path = "/v1/organizations/{org}/teams/{team}/members/{member}", tag = "teams", responses((status = 200, body = PolicyChanged)))]
async fn remove_member(
    call: Call,
    Path((org, team, member)): Path<(OrganizationName, String, String)>,
) -> Result<Json<PolicyChanged>, Refusal> {
    let mut tx = call.begin().await?;
    let allowed = call.authorize::<ManageTeams>(&mut tx, &org).await?;
    let (id, name) = queries::find_team(&mut tx, &allowed, &team)
        .await?
        .ok_or_else(Refusal::not_found)?;
    let principal = subjects::find_principal(&mut tx, &allowed, &member).await?;
    if !queries::delete_member(&mut tx, &allowed, id, principal).await? {
        return Err(Refusal::not_found());
    }
    call.record(&mut tx, &allowed, "team.remove", format!("{member} from {name}"))
        .await?;
    let news = ("team.remove", format!("took you out of the team `{name}`"));
    occasions::team_changed(&call, &mut tx, &allowed, principal, news).await?;
    Ok(changed(policy::commit(&call.app, tx, &allowed).await?))
}
