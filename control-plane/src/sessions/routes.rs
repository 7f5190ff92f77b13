//! `POST,GET,DELETE /v1/sessions`, `DELETE /v1/sessions/{id or current}`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use chassis::http::{Json, Path, Query};
use contract::api::{LogIn, Page, SessionMade, SessionView, SessionsEnded};
use contract::ids::TokenId;
use secrecy::SecretString;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::proving::{Claim, by_password};
use super::{cookie, queries};
use crate::app::App;
use crate::authz::{Credential, System};
use crate::call::Call;
use crate::paging::PageQuery;
use crate::peer::Peer;
use crate::refusal::Refusal;
use crate::{policy, second_factors};

/// The routes of this slice.
pub fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(revoke_others))
        .routes(routes!(create, list))
        .routes(routes!(revoke))
        .merge(super::proof::router())
}

/// Logs in: begins a session. Pages of this service get it as a cookie too.
///
/// Nobody is logged in whose key it could be: sent again it begins another session, which is listed and can be ended.
#[utoipa::path(post, path = "/v1/sessions", tag = "sessions", security(()), responses((status = 201, body = SessionMade)))]
async fn create(
    State(app): State<Arc<App>>,
    peer: Peer,
    headers: HeaderMap,
    Json(body): Json<LogIn>,
) -> Result<Response, Refusal> {
    let key = body.email.trim().to_lowercase();
    app.limiters
        .log_in(&key.chars().take(254).collect::<String>(), peer.address)?;
    let password = SecretString::from(body.password);
    let proof = System::because("a password proves who logs in");
    let shown = by_password(&app, &proof, &Claim::Address(&key), password).await?;
    let mut tx = app.pool.begin().await?;
    shown.still_fits(&mut tx, &proof).await?;
    let account = shown.account;
    second_factors::check(&app, &mut tx, &proof, account.id, body.second_factor.as_deref()).await?;
    let organizations = queries::list_organizations_of(&mut tx, &proof, account.id).await?;
    let made = super::begin(&app, &mut tx, &proof, account, organizations, &peer).await?;
    tx.commit().await?;
    cookie::answer(made, &headers, &app.public_url)
}

/// Lists the caller's sessions.
#[utoipa::path(get, path = "/v1/sessions", tag = "sessions", params(PageQuery), responses((status = 200, body = Page<SessionView>)))]
async fn list(call: Call, Query(page): Query<PageQuery>) -> Result<Json<Page<SessionView>>, Refusal> {
    call.actor.unlimited()?;
    let window = page.window(&call, "sessions")?;
    let mut tx = call.begin().await?;
    let rows = queries::list_own(&mut tx, &call.actor, call.now(), &window).await?;
    Ok(Json(window.page(rows, |s| s.id.to_string())))
}

/// Ends a session, by its id or as `current`, with the access tokens that were made from it.
#[utoipa::path(delete, path = "/v1/sessions/{id}", tag = "sessions", params(("id" = String, Path)), responses((status = 204)))]
async fn revoke(call: Call, Path(id): Path<String>) -> Result<StatusCode, Refusal> {
    call.actor.unlimited()?;
    let id = match id.as_str() {
        "current" if call.actor.credential() == Credential::Session => call.actor.token(),
        text => text.parse::<TokenId>().map_err(|_| Refusal::not_found())?,
    };
    super::revoke(&call, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Ends all sessions of the caller but the one in use.
#[utoipa::path(delete, path = "/v1/sessions", tag = "sessions", responses((status = 200, body = SessionsEnded)))]
async fn revoke_others(call: Call) -> Result<Json<SessionsEnded>, Refusal> {
    let account = call.actor.person()?;
    let proof = System::because("a person ends his own sessions");
    let mut tx = call.begin().await?;
    let ended = queries::end_all(&mut tx, &proof, account, Some(call.actor.token()), call.now()).await?;
    call.happened(&mut tx, "session.revoke", format!("{ended} others"))
        .await?;
    let changed = policy::bump_own(&mut tx, &call.actor).await?;
    let own = System::because("whose session it is ends it in all of his organizations");
    let organizations = changed.iter().map(|(organization, _)| *organization).collect();
    call.record_in(
        &mut tx,
        &own,
        organizations,
        "session.revoke",
        &format!("{ended} others"),
    )
    .await?;
    tx.commit().await?;
    call.app.policy.announce_all(&changed);
    Ok(Json(SessionsEnded { ended }))
}
