//! `POST /v1/account/passkeys/begin`, `GET,POST /v1/account/passkeys`, `DELETE /v1/account/passkeys/{id}`,
//! `POST /v1/passkey-log-ins/begin`, `POST /v1/passkey-log-ins`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use chassis::http::{ApiError, Json, Path};
use contract::api::{Page, PasskeyView, SessionMade};
use contract::ids::{AccountId, PasskeyId};
use contract::problem::ProblemKind;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use webauthn_rs::Webauthn;
use webauthn_rs::prelude::{
    DiscoverableAuthentication, Passkey, PasskeyRegistration, PublicKeyCredential, RegisterPublicKeyCredential,
};

use super::{PATIENCE, check_name, handle, queries, refused};
use crate::app::App;
use crate::authz::System;
use crate::call::Call;
use crate::database::Tx;
use crate::mail::{self, Letter};
use crate::peer::Peer;
use crate::refusal::Refusal;
use crate::{accounts, sessions};

const OWN: System = System::because("a person registers a passkey for himself");
const SHOWN: System = System::because("a passkey shows who logs in");

/// The routes of this slice.
pub fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(begin_registration))
        .routes(routes!(list, register))
        .routes(routes!(remove))
        .routes(routes!(begin_log_in))
        .routes(routes!(log_in))
}

/// A challenge for a device.
#[derive(Serialize, ToSchema)]
struct Challenge {
    /// To be sent back with what the device answers; good once, for five minutes.
    ceremony: String,
    /// For `navigator.credentials.create` or `.get`.
    #[schema(value_type = Object)]
    options: Value,
}

/// What a device made of a challenge.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Registered {
    /// Of the challenge.
    ceremony: String,
    /// What the passkey is called.
    name: String,
    /// What the device answered.
    #[schema(value_type = Object)]
    credential: RegisterPublicKeyCredential,
}

/// What a device made of a challenge.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Asserted {
    /// Of the challenge.
    ceremony: String,
    /// What the device answered.
    #[schema(value_type = Object)]
    credential: PublicKeyCredential,
}

fn checker(app: &App) -> Result<&Webauthn, Refusal> {
    app.passkeys.as_ref().ok_or_else(|| {
        Refusal::new(
            ProblemKind::Conflict,
            "this installation has no name that passkeys can be bound to",
        )
        .hint("reach it by a name instead of a number, as its operator has to configure")
    })
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

/// Keeps a challenge, and hands it out.
async fn hand_out(
    app: &App,
    tx: &mut Tx,
    account: Option<AccountId>,
    options: Value,
    state: &impl Serialize,
) -> Result<Challenge, Refusal> {
    let ceremony = hex::encode(app.environment.random::<32>());
    let state = serde_json::to_value(state).map_err(ApiError::internal)?;
    let until = app.environment.now() + PATIENCE;
    queries::insert_ceremony(tx, &OWN, &digest(&ceremony), account, &state, until).await?;
    Ok(Challenge { ceremony, options })
}

/// Gives out a challenge by which a device makes a passkey.
///
/// Sent again it answers another challenge; one that is not used ends after five minutes.
#[utoipa::path(post, path = "/v1/account/passkeys/begin", tag = "passkeys", responses((status = 200, body = Challenge)))]
async fn begin_registration(call: Call) -> Result<Json<Challenge>, Refusal> {
    call.actor.proven(call.now())?;
    let checker = checker(&call.app)?;
    let mut tx = call.begin().await?;
    let proven = call.proven(&mut tx).await?;
    let known = queries::list_credential_ids(&mut tx, &proven).await?;
    let name = call.actor.name();
    let (options, state) = checker
        .start_passkey_registration(handle(proven.account())?, name, name, Some(known))
        .map_err(|e| ApiError::internal(format!("{e:?}")))?;
    let mut options = serde_json::to_value(options).map_err(ApiError::internal)?;
    // Logging in asks for no address: the device has to know whose the key is.
    if let Some(selection) = options.pointer_mut("/publicKey/authenticatorSelection") {
        selection["residentKey"] = "required".into();
        selection["requireResidentKey"] = true.into();
    }
    let challenge = hand_out(&call.app, &mut tx, Some(proven.account()), options, &state).await?;
    tx.commit().await?;
    Ok(Json(challenge))
}

/// Registers a passkey; it logs in to the account from then on.
///
/// A challenge is good once, and so is a passkey, so sent again it registers no second one.
#[utoipa::path(post, path = "/v1/account/passkeys", tag = "passkeys", request_body = Registered, responses((status = 201, body = PasskeyView)))]
async fn register(
    call: Call,
    body: Result<Json<Registered>, ApiError>,
) -> Result<(StatusCode, Json<PasskeyView>), Refusal> {
    // Before the body is looked at: who may not do it is told that.
    let proven = call.actor.proven(call.now())?;
    let Json(body) = body?;
    let checker = checker(&call.app)?;
    check_name(&body.name)?;
    let mut tx = call.begin().await?;
    let ceremony = digest(&body.ceremony);
    let state = queries::take_ceremony(&mut tx, &OWN, &ceremony, Some(proven.account()), call.now()).await?;
    // Used up, whatever comes of it.
    tx.commit().await?;
    let state = state.ok_or_else(|| refused(&"no such challenge"))?;
    let state: PasskeyRegistration = serde_json::from_value(state).map_err(ApiError::internal)?;
    let passkey = checker
        .finish_passkey_registration(&body.credential, &state)
        .map_err(|e| refused(&e))?;
    let view = PasskeyView {
        id: call.id(),
        name: body.name,
        created_at: call.now(),
        last_used_at: None,
    };
    let stored = serde_json::to_value(&passkey).map_err(ApiError::internal)?;
    let mut tx = call.begin().await?;
    let proven = call.proven(&mut tx).await?;
    if !queries::insert_passkey(&mut tx, &proven, &view, passkey.cred_id().as_ref(), &stored).await? {
        return Err(Refusal::new(
            ProblemKind::AlreadyExists,
            "that passkey is registered already",
        ));
    }
    let what = format!("The passkey `{}` logs in to your account from now on", view.name);
    mail::write(
        &call.app,
        &mut tx,
        &OWN,
        call.actor.name(),
        &Letter::LogInChanged { what: &what },
    )
    .await?;
    call.happened(&mut tx, "passkey.add", view.name.clone()).await?;
    tx.commit().await?;
    call.app.post.wake();
    Ok((StatusCode::CREATED, Json(view)))
}

/// Lists the caller's passkeys.
#[utoipa::path(get, path = "/v1/account/passkeys", tag = "passkeys", responses((status = 200, body = Page<PasskeyView>)))]
async fn list(call: Call) -> Result<Json<Page<PasskeyView>>, Refusal> {
    call.actor.person()?;
    let mut tx = call.begin().await?;
    Ok(Json(Page {
        items: queries::list_own(&mut tx, &call.actor).await?,
        next_cursor: None,
    }))
}

/// Removes a passkey. The last way to log in stays.
#[utoipa::path(delete, path = "/v1/account/passkeys/{id}", tag = "passkeys", params(("id" = PasskeyId, Path)), responses((status = 204)))]
async fn remove(call: Call, Path(id): Path<PasskeyId>) -> Result<StatusCode, Refusal> {
    let mut tx = call.begin().await?;
    let proven = call.proven(&mut tx).await?;
    let name = queries::delete_own(&mut tx, &proven, id)
        .await?
        .ok_or_else(Refusal::not_found)?;
    accounts::keeps_a_log_in(&mut tx, &proven).await?;
    let what = format!("The passkey `{name}` does not log in to your account any more");
    mail::write(
        &call.app,
        &mut tx,
        &OWN,
        call.actor.name(),
        &Letter::LogInChanged { what: &what },
    )
    .await?;
    call.happened(&mut tx, "passkey.remove", name).await?;
    tx.commit().await?;
    call.app.post.wake();
    Ok(StatusCode::NO_CONTENT)
}

/// Gives out a challenge by which a device shows whose passkey it holds. The same for everybody.
///
/// A step of a log-in: sent again it answers another challenge; one that is not used ends after five minutes.
#[utoipa::path(post, path = "/v1/passkey-log-ins/begin", tag = "passkeys", security(()), responses((status = 200, body = Challenge)))]
async fn begin_log_in(State(app): State<Arc<App>>, peer: Peer) -> Result<Json<Challenge>, Refusal> {
    app.limiters.code(peer.address)?;
    let (options, state) = checker(&app)?
        .start_discoverable_authentication()
        .map_err(|e| ApiError::internal(format!("{e:?}")))?;
    let options = serde_json::to_value(options).map_err(ApiError::internal)?;
    let mut tx = app.pool.begin().await?;
    let challenge = hand_out(&app, &mut tx, None, options, &state).await?;
    tx.commit().await?;
    Ok(Json(challenge))
}

/// Logs in by a passkey; answers the session, as a cookie too.
///
/// A step of a log-in: a challenge is good once, so sent again it begins no second session.
#[utoipa::path(post, path = "/v1/passkey-log-ins", tag = "passkeys", security(()), request_body = Asserted, responses((status = 201, body = SessionMade)))]
async fn log_in(State(app): State<Arc<App>>, peer: Peer, Json(body): Json<Asserted>) -> Result<Response, Refusal> {
    app.limiters.code(peer.address)?;
    let checker = checker(&app)?;
    let now = app.environment.now();
    let mut tx = app.pool.begin().await?;
    let state = queries::take_ceremony(&mut tx, &SHOWN, &digest(&body.ceremony), None, now).await?;
    // Used up, whatever comes of it.
    tx.commit().await?;
    let state = state.ok_or_else(|| refused(&"no such challenge"))?;
    let state: DiscoverableAuthentication = serde_json::from_value(state).map_err(ApiError::internal)?;
    let (user, credential_id) = checker
        .identify_discoverable_authentication(&body.credential)
        .map_err(|e| refused(&e))?;
    let mut tx = app.pool.begin().await?;
    let found = queries::find_credential(&mut tx, &SHOWN, credential_id).await?;
    let (account, stored) = found.ok_or_else(|| refused(&"no such credential"))?;
    if handle(account)? != user {
        return Err(refused(&"another account's"));
    }
    let mut passkey: Passkey = serde_json::from_value(stored).map_err(ApiError::internal)?;
    let result = checker
        .finish_discoverable_authentication_v2(&body.credential, state, &passkey)
        .map_err(|e| refused(&e))?;
    passkey.update_credential(&result);
    let stored = serde_json::to_value(&passkey).map_err(ApiError::internal)?;
    queries::update_credential(&mut tx, &SHOWN, credential_id, &stored, now).await?;
    let (account, _) = accounts::queries::find_account(&mut tx, &SHOWN, account)
        .await?
        .ok_or_else(|| refused(&"no such account"))?;
    let organizations = sessions::queries::list_organizations_of(&mut tx, &SHOWN, account.id).await?;
    let made = sessions::begin(&app, &mut tx, &SHOWN, account, organizations, &peer).await?;
    tx.commit().await?;
    let cookie = sessions::cookie::set(
        sessions::cookie::SESSION,
        &made.session_token,
        sessions::LIFETIME.num_seconds(),
    )?;
    let headers = [(axum::http::header::SET_COOKIE, cookie)];
    Ok((StatusCode::CREATED, headers, Json(made)).into_response())
}
