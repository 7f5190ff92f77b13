//! `POST,GET /v1/tokens`, `DELETE /v1/tokens/{id}`.

use std::sync::Arc;

use axum::http::StatusCode;
use chassis::http::{Json, Path, Query};
use chassis::idempotency::KeyHeader;
use contract::api::{ApiToken, Page};
use contract::claims::Scope;
use contract::ids::{OrganizationId, TokenId};
use contract::names::{OrganizationName, ServiceAccountName};
use contract::policy::Principal;
use contract::token::{SecretToken, TokenKind};
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{check_idle, check_name, expiry, found, is_powerful, kind_of, parse_scopes, queries, rotation, standing};
use crate::app::App;
use crate::audit::{SystemIn, Who};
use crate::authz::{self, Credential, ManageServiceAccounts, System, UsePlane};
use crate::call::Call;
use crate::database::Tx;
use crate::paging::PageQuery;
use crate::refusal::Refusal;
use crate::{organizations, policy, service_accounts};

/// The routes of this slice.
pub fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(create, list))
        .routes(routes!(revoke))
        .routes(routes!(rotation::rotate))
        .routes(routes!(found::revoke_found))
        .routes(routes!(standing::show_policy, standing::set_policy))
        .routes(routes!(standing::list))
        .routes(routes!(standing::end))
        .routes(routes!(standing::approve))
}

/// A token to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewToken {
    /// Its name.
    name: String,
    /// Limits, `verb:resource` each; none = all that its principal may.
    #[serde(default)]
    scopes: Vec<String>,
    /// Days until it ends.
    #[serde(default)]
    expires_in_days: Option<u32>,
    /// Only for this organization.
    #[serde(default)]
    organization: Option<OrganizationName>,
    /// For this service account of the organization, and not for the caller.
    #[serde(default)]
    service_account: Option<ServiceAccountName>,
    #[serde(default)]
    idle_days: Option<u32>,
}

/// For whom the token is: the caller himself, or a service account that he manages.
async fn principal(
    call: &Call,
    tx: &mut Tx,
    body: &NewToken,
) -> Result<(Principal, Option<OrganizationId>, TokenKind), Refusal> {
    let own_kind = kind_of(call.actor.principal());
    match (&body.organization, &body.service_account) {
        (None, Some(_)) => Err(Refusal::invalid(
            "/organization",
            "a service account belongs to an organization: name it too",
        )),
        (None, None) => Ok((call.actor.principal(), call.actor.organization(), own_kind)),
        (Some(org), None) => {
            let allowed = call.authorize::<UsePlane>(tx, org).await?;
            let subject = format!("{} for himself", body.name);
            call.record(tx, &allowed, "token.create", subject).await?;
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

/// Refuses a session that was ended meanwhile, and one whose holder is not proved to be who he is where the token would do much.
async fn check_maker(call: &Call, tx: &mut Tx, scopes: &[Scope]) -> Result<(), Refusal> {
    if call.actor.credential() != Credential::Session {
        return Ok(());
    }
    // The token outlives the session that makes it.
    if is_powerful(scopes) {
        call.proven(tx).await?;
    }
    authz::still_stands(tx, &call.actor, call.now()).await
}

/// Makes an API token. The secret is in this answer only.
#[utoipa::path(post, path = "/v1/tokens", tag = "tokens", params(KeyHeader), responses((status = 201, body = ApiToken)))]
async fn create(call: Call, Json(body): Json<NewToken>) -> Result<(StatusCode, Json<ApiToken>), Refusal> {
    call.actor.unlimited()?;
    if call.actor.ci().is_some() {
        // What that one writes would not name the run any more.
        return Err(Refusal::not_allowed(
            "the token of a CI run makes no other tokens",
            "exchange another OIDC token of the run",
        ));
    }
    check_name(&body.name)?;
    check_idle(body.idle_days)?;
    let scopes = parse_scopes(&body.scopes)?;
    let expires_at = expiry(body.expires_in_days, call.now())?;
    if call.actor.credential() == Credential::ApiToken && expires_at > call.actor.expires_at() {
        return Err(Refusal::not_allowed(
            "a token makes no token that outlives it",
            "choose fewer `expires_in_days`, or log in with `howdah login`",
        ));
    }
    let mut tx = call.begin().await?;
    // Of one that is for an organization the row is written where that is known.
    let named = body.organization.is_some();
    check_maker(&call, &mut tx, &scopes).await?;
    let (principal, organization, kind) = principal(&call, &mut tx, &body).await?;
    call.unanswered(&mut tx).await?;
    let secret = SecretToken::generate(kind, call.app.environment.random());
    let token = ApiToken {
        id: call.id(),
        name: body.name,
        principal,
        scopes: scopes.iter().map(ToString::to_string).collect(),
        created_at: call.now(),
        expires_at,
        last_used_at: None,
        revoked_at: None,
        kind: kind.as_str().to_owned(),
        principal_name: String::new(),
        organization,
        idle_days: body.idle_days,
        replaced_by: None,
        standing: None,
        ci: None,
        secret: Some(secret.expose().to_owned()),
    };
    queries::insert_token(&mut tx, &call.actor, &token, organization, &secret).await?;
    if !named {
        let limits = if token.scopes.is_empty() {
            "no limits".to_owned()
        } else {
            token.scopes.join(" ")
        };
        let subject = format!("{} for himself, {limits}", token.name);
        record_own(&call, &mut tx, organization, "token.create", subject).await?;
    }
    call.commit(tx, StatusCode::CREATED, token).await
}

/// Lists the API tokens that the caller may see.
#[utoipa::path(get, path = "/v1/tokens", tag = "tokens", params(PageQuery), responses((status = 200, body = Page<ApiToken>)))]
async fn list(call: Call, Query(page): Query<PageQuery>) -> Result<Json<Page<ApiToken>>, Refusal> {
    call.actor.unlimited()?;
    let window = page.window(&call, "tokens")?;
    let mut tx = call.begin().await?;
    let rows = queries::list_visible(&mut tx, &call.actor, call.now(), &window).await?;
    Ok(Json(window.page(rows, |t| t.id.to_string())))
}

/// Revokes an API token.
#[utoipa::path(delete, path = "/v1/tokens/{id}", tag = "tokens", params(("id" = TokenId, Path)), responses((status = 204)))]
async fn revoke(call: Call, Path(id): Path<TokenId>) -> Result<StatusCode, Refusal> {
    // A limited token may still revoke itself: that only takes rights away.
    if id != call.actor.token() {
        call.actor.unlimited()?;
    }
    revoke_now(&call, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Revokes a token that the caller sees.
pub(super) async fn revoke_now(call: &Call, id: TokenId) -> Result<(), Refusal> {
    let mut tx = call.begin().await?;
    let changed = revoke_in(call, &mut tx, id).await?;
    tx.commit().await?;
    call.app.policy.announce_all(&changed);
    Ok(())
}

/// The same in a transaction; who waits for a policy is to be told of what it answers.
pub(super) async fn revoke_in(call: &Call, tx: &mut Tx, id: TokenId) -> Result<Vec<(OrganizationId, u64)>, Refusal> {
    let (principal, organization) = queries::revoke_visible(tx, &call.actor, id, call.now())
        .await?
        .ok_or_else(Refusal::not_found)?;
    let Some(organization) = organization else {
        record_own(call, tx, None, "token.revoke", format!("{id} of {principal}")).await?;
        return policy::bump_own(tx, &call.actor).await;
    };
    let epoch = policy::queries::bump(tx, &acting(call, organization)).await?;
    record_own(
        call,
        tx,
        Some(organization),
        "token.revoke",
        format!("{id} of {principal}"),
    )
    .await?;
    Ok(vec![(organization, epoch)])
}

const SEEN: System = System::because("the caller sees the token that he changes");

fn acting(call: &Call, organization: OrganizationId) -> SystemIn<'static> {
    SystemIn {
        system: &SEEN,
        organization,
        who: Who {
            id: call.actor.principal().to_string(),
            name: call.actor.name().to_owned(),
            token: call.actor.token().to_string(),
        },
    }
}

/// Writes the row of a token that the caller sees in each organization that it is good for; of one that belongs to none, among what
/// happened to his account too.
pub(super) async fn record_own(
    call: &Call,
    tx: &mut Tx,
    organization: Option<OrganizationId>,
    action: &'static str,
    subject: String,
) -> Result<(), Refusal> {
    let reached = match organization {
        Some(one) => vec![one],
        None => {
            call.happened(tx, action, subject.clone()).await?;
            let own = organizations::queries::list_own(tx, &call.actor).await?;
            own.into_iter().map(|o| o.id).collect()
        }
    };
    call.record_in(tx, &SEEN, reached, action, &subject).await
}
