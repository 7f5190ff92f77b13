//! How tokens stand in an organization: what it demands of them, and what its admins do about those that work in it, personal ones
//! included. `GET,PUT …/token-policy`, `GET …/tokens`, `DELETE …/tokens/{id}`, `POST …/tokens/{id}/approval`.

use axum::http::StatusCode;
use chassis::http::{Json, Path, Query};
use contract::api::{ApiToken, Page, PolicyChanged, TokenPolicy};
use contract::ids::TokenId;
use contract::names::OrganizationName;

use super::{DAYS_MAX, standing_queries as queries};
use crate::authz::{ManageTokens, ViewTokens};
use crate::call::Call;
use crate::paging::PageQuery;
use crate::policy;
use crate::refusal::Refusal;

fn changed(epoch: u64) -> Json<PolicyChanged> {
    Json(PolicyChanged {
        epoch,
        acknowledged: None,
    })
}

fn check(policy: &TokenPolicy) -> Result<(), Refusal> {
    for (pointer, days) in [("/longest_days", policy.longest_days), ("/idle_days", policy.idle_days)] {
        if days.is_some_and(|days| !(1..=DAYS_MAX).contains(&days)) {
            return Err(Refusal::invalid(pointer, format!("1 to {DAYS_MAX} days, or nothing")));
        }
    }
    Ok(())
}

/// Shows what the organization demands of tokens.
#[utoipa::path(get, path = "/v1/organizations/{org}/token-policy", tag = "token policy", params(("org" = OrganizationName, Path)), responses((status = 200, body = TokenPolicy)))]
pub(super) async fn show_policy(call: Call, Path(org): Path<OrganizationName>) -> Result<Json<TokenPolicy>, Refusal> {
    let mut tx = call.begin().await?;
    let allowed = call.authorize::<ViewTokens>(&mut tx, &org).await?;
    Ok(Json(queries::get_policy(&mut tx, &allowed).await?))
}

/// Says what the organization demands of tokens, those that are there included.
#[utoipa::path(put, path = "/v1/organizations/{org}/token-policy", tag = "token policy", params(("org" = OrganizationName, Path)), request_body = TokenPolicy, responses((status = 200, body = PolicyChanged)))]
pub(super) async fn set_policy(
    call: Call,
    Path(org): Path<OrganizationName>,
    Json(body): Json<TokenPolicy>,
) -> Result<Json<PolicyChanged>, Refusal> {
    call.actor.unlimited()?;
    let mut tx = call.begin().await?;
    let allowed = call.authorize::<ManageTokens>(&mut tx, &org).await?;
    check(&body)?;
    queries::set_policy(&mut tx, &allowed, &body).await?;
    let days = |days: Option<u32>| days.map_or_else(|| "any".to_owned(), |days| days.to_string());
    let subject = format!(
        "longest days {}, idle days {}, approval {}",
        days(body.longest_days),
        days(body.idle_days),
        body.approval
    );
    call.record(&mut tx, &allowed, "token_policy.set", subject).await?;
    Ok(changed(policy::commit(&call.app, tx, &allowed).await?))
}

/// Lists every token that works in the organization, with how it stands there.
#[utoipa::path(get, path = "/v1/organizations/{org}/tokens", tag = "token policy", params(("org" = OrganizationName, Path), PageQuery),
    responses((status = 200, body = Page<ApiToken>)))]
pub(super) async fn list(
    call: Call,
    Path(org): Path<OrganizationName>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<ApiToken>>, Refusal> {
    let window = page.window(&call, &format!("tokens of {org}"))?;
    let mut tx = call.begin().await?;
    let allowed = call.authorize::<ViewTokens>(&mut tx, &org).await?;
    let rows = queries::list_working(&mut tx, &allowed, call.now(), &window).await?;
    Ok(Json(window.page(rows, |t| t.id.to_string())))
}

/// Ends a token in the organization: one that is good for others too is blocked in this one.
#[utoipa::path(delete, path = "/v1/organizations/{org}/tokens/{id}", tag = "token policy", params(("org" = OrganizationName, Path), ("id" = TokenId, Path)), responses((status = 200, body = PolicyChanged)))]
pub(super) async fn end(
    call: Call,
    Path((org, id)): Path<(OrganizationName, TokenId)>,
) -> Result<Json<PolicyChanged>, Refusal> {
    call.actor.unlimited()?;
    let mut tx = call.begin().await?;
    let allowed = call.authorize::<ManageTokens>(&mut tx, &org).await?;
    let token = queries::find_working(&mut tx, &allowed, id, call.now())
        .await?
        .ok_or_else(Refusal::not_found)?;
    let action = if token.organization.is_some() {
        queries::revoke(&mut tx, &allowed, id, call.now()).await?;
        "token.revoke"
    } else {
        queries::decide(&mut tx, &allowed, id, queries::Decision::Blocked, call.now()).await?;
        "token.block"
    };
    call.record(&mut tx, &allowed, action, format!("{id} of {}", token.principal_name))
        .await?;
    Ok(changed(policy::commit(&call.app, tx, &allowed).await?))
}

/// Lets a token work in the organization.
///
/// Sent again it changes nothing: what was approved is approved.
#[utoipa::path(post, path = "/v1/organizations/{org}/tokens/{id}/approval", tag = "token policy", params(("org" = OrganizationName, Path), ("id" = TokenId, Path)), responses((status = 201, body = PolicyChanged)))]
pub(super) async fn approve(
    call: Call,
    Path((org, id)): Path<(OrganizationName, TokenId)>,
) -> Result<(StatusCode, Json<PolicyChanged>), Refusal> {
    call.actor.unlimited()?;
    let mut tx = call.begin().await?;
    let allowed = call.authorize::<ManageTokens>(&mut tx, &org).await?;
    let token = queries::find_working(&mut tx, &allowed, id, call.now())
        .await?
        .ok_or_else(Refusal::not_found)?;
    queries::decide(&mut tx, &allowed, id, queries::Decision::Approved, call.now()).await?;
    let scopes = if token.scopes.is_empty() {
        "no limits".to_owned()
    } else {
        token.scopes.join(" ")
    };
    let subject = format!("{id} of {}, {scopes}", token.principal_name);
    call.record(&mut tx, &allowed, "token.approve", subject).await?;
    Ok((
        StatusCode::CREATED,
        changed(policy::commit(&call.app, tx, &allowed).await?),
    ))
}
