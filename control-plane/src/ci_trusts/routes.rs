//! `POST,GET …/ci-trusts`, `DELETE …/ci-trusts/{name or id}`.

use std::sync::Arc;

use axum::http::StatusCode;
use chassis::http::{Json, Path, Query};
use contract::api::{CiTrust, NewCiTrust, Page, PolicyChanged};
use contract::ci::{CiIssuer, CiProvider};
use contract::names::{OrganizationName, ServiceAccountName};
use contract::problem::ProblemKind;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{check_audience, check_conditions, check_life, naming, queries};
use crate::app::App;
use crate::authz::{Credential, ManageServiceAccounts, ViewCiTrusts};
use crate::call::Call;
use crate::paging::PageQuery;
use crate::policy;
use crate::refusal::Refusal;
use crate::service_accounts;
use crate::tokens::parse_scopes;

/// The routes of this slice.
pub fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(create, list))
        .routes(routes!(remove))
}

fn allowed_issuer<'a>(app: &'a App, url: &str) -> Result<&'a CiIssuer, Refusal> {
    app.ci_issuers.find(url).ok_or_else(|| {
        let known: Vec<&str> = app.ci_issuers.allowed().map(|issuer| issuer.url.as_str()).collect();
        Refusal::invalid(
            "/issuer",
            format!(
                "the operator of this service allows no such issuer, but: {}",
                known.join(", ")
            ),
        )
    })
}

/// Trusts runs of a CI system.
#[utoipa::path(post, path = "/v1/organizations/{org}/ci-trusts", tag = "ci trusts", responses((status = 201, body = CiTrust)))]
async fn create(
    call: Call,
    Path(org): Path<OrganizationName>,
    Json(body): Json<NewCiTrust>,
) -> Result<(StatusCode, Json<CiTrust>), Refusal> {
    // What it lets in may do what its scopes say, which may be more than a limited token may.
    call.actor.unlimited()?;
    // It goes on letting runs in when the session or token is over.
    if call.actor.credential() == Credential::ApiToken {
        return Err(Refusal::not_allowed(
            "a trust outlives every API token, so none makes one",
            "log in with `howdah login`, and unset HOWDAH_TOKEN",
        ));
    }
    call.actor.proven(call.now())?;
    let mut tx = call.begin().await?;
    let allowed = call.authorize::<ManageServiceAccounts>(&mut tx, &org).await?;
    let name: ServiceAccountName = body
        .name
        .parse()
        .map_err(|e| Refusal::invalid("/name", format!("{e}")))?;
    let issuer = allowed_issuer(&call.app, &body.issuer)?;
    let audience = body
        .audience
        .unwrap_or_else(|| format!("{}/o/{}", call.app.public_url, allowed.organization_name()));
    check_audience(issuer.provider, &issuer.url, &audience)?;
    check_conditions(issuer.provider, &body.conditions)?;
    let life_minutes = check_life(body.life_minutes)?;
    let scopes = parse_scopes(&body.scopes)?;
    let account = service_accounts::queries::find_service_account(&mut tx, &allowed, body.service_account.as_str())
        .await?
        .ok_or_else(|| {
            let why = format!("there is no service account `{}` in `{org}`", body.service_account);
            Refusal::invalid("/service_account", why)
        })?;
    let new = CiTrust {
        id: call.id(),
        name: name.to_string(),
        provider: issuer.provider,
        issuer: issuer.url.clone(),
        audience,
        service_account: account.name,
        conditions: body.conditions,
        scopes: scopes.iter().map(ToString::to_string).collect(),
        life_minutes,
        created_at: call.now(),
    };
    if !queries::insert_trust(&mut tx, &allowed, &new, account.id).await? {
        return Err(Refusal::new(
            ProblemKind::AlreadyExists,
            format!("there is a trust `{name}` in `{org}` already"),
        ));
    }
    let scopes = if new.scopes.is_empty() {
        "all that it may".to_owned()
    } else {
        new.scopes.join(" ")
    };
    let subject = format!(
        "{name}: runs of {} for {} as sa:{}, for {life_minutes} minutes, scopes {scopes}, where {}",
        new.issuer,
        new.audience,
        new.service_account,
        naming::in_words(new.provider, &new.conditions)
    );
    call.record(&mut tx, &allowed, "ci_trust.create", subject).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(new)))
}

/// Lists what CI systems are trusted with.
#[utoipa::path(get, path = "/v1/organizations/{org}/ci-trusts", tag = "ci trusts", params(PageQuery), responses((status = 200, body = Page<CiTrust>)))]
async fn list(
    call: Call,
    Path(org): Path<OrganizationName>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<CiTrust>>, Refusal> {
    let window = page.window(&call, &format!("ci-trusts of {org}"))?;
    let mut tx = call.begin().await?;
    let allowed = call.authorize::<ViewCiTrusts>(&mut tx, &org).await?;
    let provider = |url: &str| {
        call.app
            .ci_issuers
            .find(url)
            .map_or(CiProvider::Generic, |i| i.provider)
    };
    let rows = queries::list_trusts(&mut tx, &allowed, provider, &window).await?;
    Ok(Json(window.page(rows, |t| t.id.to_string())))
}

/// Deletes a trust, and with it the tokens that came of it.
#[utoipa::path(delete, path = "/v1/organizations/{org}/ci-trusts/{trust}", tag = "ci trusts", responses((status = 200, body = PolicyChanged)))]
async fn remove(
    call: Call,
    Path((org, trust)): Path<(OrganizationName, String)>,
) -> Result<Json<PolicyChanged>, Refusal> {
    let mut tx = call.begin().await?;
    let allowed = call.authorize::<ManageServiceAccounts>(&mut tx, &org).await?;
    let name = queries::delete_trust(&mut tx, &allowed, &trust, call.now())
        .await?
        .ok_or_else(Refusal::not_found)?;
    call.record(&mut tx, &allowed, "ci_trust.delete", name).await?;
    let epoch = policy::commit(&call.app, tx, &allowed).await?;
    Ok(Json(PolicyChanged {
        epoch,
        acknowledged: None,
    }))
}
