//! `POST,GET /v1/tokens`, `DELETE /v1/tokens/{id}`.

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::{delete, post};
use chassis::http::{Json, Path, Query};
use contract::api::{ApiToken, Page};
use contract::ids::{OrganizationId, TokenId};
use contract::names::{OrganizationName, ServiceAccountName};
use contract::policy::Principal;
use contract::token::{SecretToken, TokenKind};
use serde::Deserialize;

use super::{check_name, expiry, parse_scopes, queries};
use crate::app::App;
use crate::audit::{SystemIn, Who};
use crate::authz::{Credential, ManageServiceAccounts, System, UsePlane};
use crate::call::Call;
use crate::database::Tx;
use crate::paging::PageQuery;
use crate::refusal::Refusal;
use crate::{organizations, policy, service_accounts};

/// The routes of this slice.
pub fn router() -> Router<Arc<App>> {
    Router::new()
        .route("/v1/tokens", post(create).get(list))
        .route("/v1/tokens/{id}", delete(revoke))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewToken {
    name: String,
    #[serde(default)]
    scopes: Vec<String>,
    #[serde(default)]
    expires_in_days: Option<u32>,
    #[serde(default)]
    organization: Option<OrganizationName>,
    #[serde(default)]
    service_account: Option<ServiceAccountName>,
}

/// For whom the token is: the caller himself, or a service account that he manages.
async fn principal(
    call: &Call,
    tx: &mut Tx,
    body: &NewToken,
) -> Result<(Principal, Option<OrganizationId>, TokenKind), Refusal> {
    let own_kind = match call.actor.principal() {
        Principal::Account(_) => TokenKind::Personal,
        Principal::ServiceAccount(_) => TokenKind::ServiceAccount,
    };
    match (&body.organization, &body.service_account) {
        (None, Some(_)) => Err(Refusal::invalid(
            "/organization",
            "a service account belongs to an organization: name it too",
        )),
        (None, None) => Ok((call.actor.principal(), call.actor.organization(), own_kind)),
        (Some(org), None) => {
            let allowed = call.authorize::<UsePlane>(tx, org).await?;
            Ok((call.actor.principal(), Some(allowed.organization()), own_kind))
        }
        (Some(org), Some(name)) => {
            let allowed = call.authorize::<ManageServiceAccounts>(tx, org).await?;
            let found = service_accounts::queries::find_service_account(tx, &allowed, name.as_str())
                .await?
                .ok_or_else(Refusal::not_found)?;
            call.record(tx, &allowed, "token.create", format!("{} for sa:{name}", body.name))
                .await?;
            let principal = Principal::ServiceAccount(found.id);
            Ok((principal, Some(allowed.organization()), TokenKind::ServiceAccount))
        }
    }
}

async fn create(call: Call, Json(body): Json<NewToken>) -> Result<(StatusCode, Json<ApiToken>), Refusal> {
    call.actor.unlimited()?;
    check_name(&body.name)?;
    let scopes = parse_scopes(&body.scopes)?;
    let expires_at = expiry(body.expires_in_days, call.now())?;
    if call.actor.credential() == Credential::ApiToken && expires_at > call.actor.expires_at() {
        return Err(Refusal::not_allowed(
            "a token makes no token that outlives it",
            "choose fewer `expires_in_days`, or log in with `howdah login`",
        ));
    }
    let mut tx = call.begin().await?;
    let (principal, organization, kind) = principal(&call, &mut tx, &body).await?;
    let secret = SecretToken::generate(kind, call.app.environment.random());
    let mut token = ApiToken {
        id: call.id(),
        name: body.name,
        principal,
        scopes: scopes.iter().map(ToString::to_string).collect(),
        created_at: call.now(),
        expires_at,
        last_used_at: None,
        revoked_at: None,
        secret: None,
    };
    queries::insert_token(&mut tx, &call.actor, &token, organization, &secret).await?;
    if principal == call.actor.principal() {
        record_own(
            &call,
            &mut tx,
            organization,
            "token.create",
            &format!("{} for himself", token.name),
        )
        .await?;
    }
    tx.commit().await?;
    token.secret = Some(secret.expose().to_owned());
    Ok((StatusCode::CREATED, Json(token)))
}

/// Writes the row of a token of the caller's own in each organization that it is good for.
async fn record_own(
    call: &Call,
    tx: &mut Tx,
    organization: Option<OrganizationId>,
    action: &str,
    subject: &str,
) -> Result<(), Refusal> {
    let reached = match organization {
        Some(one) => vec![one],
        None => {
            let own = organizations::queries::list_own(tx, &call.actor).await?;
            own.into_iter().map(|o| o.id).collect()
        }
    };
    let proof = System::because("the caller's own token is good in all of his organizations");
    call.record_in(tx, &proof, reached, action, subject).await
}

async fn list(call: Call, Query(page): Query<PageQuery>) -> Result<Json<Page<ApiToken>>, Refusal> {
    call.actor.unlimited()?;
    let window = page.window(&call, "tokens")?;
    let mut tx = call.begin().await?;
    let rows = queries::list_visible(&mut tx, &call.actor, &window).await?;
    Ok(Json(window.page(rows, |t| t.id.to_string())))
}

async fn revoke(call: Call, Path(id): Path<TokenId>) -> Result<StatusCode, Refusal> {
    // A limited token may still revoke itself: that only takes rights away.
    if id != call.actor.token() {
        call.actor.unlimited()?;
    }
    let mut tx = call.begin().await?;
    let (principal, organization) = queries::revoke_visible(&mut tx, &call.actor, id, call.now())
        .await?
        .ok_or_else(Refusal::not_found)?;
    let changed = match organization {
        None => {
            let changed = policy::bump_own(&mut tx, &call.actor).await?;
            record_own(&call, &mut tx, None, "token.revoke", &format!("{id} of {principal}")).await?;
            changed
        }
        Some(organization) => {
            let proof = System::because("the caller sees the token that he revokes");
            let acting = SystemIn {
                system: &proof,
                organization,
                who: Who {
                    id: call.actor.principal().to_string(),
                    name: call.actor.name().to_owned(),
                    token: call.actor.token().to_string(),
                },
            };
            let epoch = policy::queries::bump(&mut tx, &acting).await?;
            call.record(&mut tx, &acting, "token.revoke", format!("{id} of {principal}"))
                .await?;
            vec![(organization, epoch)]
        }
    };
    tx.commit().await?;
    call.app.policy.announce_all(&changed);
    Ok(StatusCode::NO_CONTENT)
}
