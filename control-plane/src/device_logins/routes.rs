//! `POST /v1/device-logins`, `POST /v1/device-logins/{answer,request,decision}`, and the page `/device`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use chassis::http::{ApiError, Json};
use contract::api::{
    DecideDeviceLogin, DeviceAnswer, DeviceLogin, DeviceQuestion, DeviceRequest, DeviceState, NewDeviceLogin,
};
use contract::token::{SecretToken, TokenKind};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{INTERVAL_SECONDS, LASTS, UserCode, answer, device_digest, over, page, queries, shown_client};
use crate::app::App;
use crate::authz::{Credential, System};
use crate::call::Call;
use crate::database::Tx;
use crate::peer::Peer;
use crate::refusal::Refusal;
use crate::sessions;

const WAITS: System = System::because("who holds the code of a log-in may ask how it stands");
/// Codes that happen to be taken are made anew so often.
const TRIES: usize = 5;

/// The routes of this slice.
pub fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(create))
        .routes(routes!(ask))
        .routes(routes!(show))
        .routes(routes!(decide))
        .route("/device", get(page::show))
}

/// Begins a log-in that is approved elsewhere.
///
/// A step of a log-in: sent again it begins another one, and the first ends by itself after ten minutes.
#[utoipa::path(post, path = "/v1/device-logins", tag = "device logins", security(()), request_body = NewDeviceLogin, responses((status = 201, body = DeviceLogin)))]
async fn create(
    State(app): State<Arc<App>>,
    peer: Peer,
    Json(wish): Json<NewDeviceLogin>,
) -> Result<(StatusCode, Json<DeviceLogin>), Refusal> {
    app.limiters.device_login(peer.address)?;
    let device_code = SecretToken::generate(TokenKind::Device, app.environment.random());
    let (client, now) = (shown_client(wish.client.as_deref()), app.environment.now());
    for _ in 0..TRIES {
        let Some(code) = UserCode::generate(app.environment.random()) else {
            continue;
        };
        let new = queries::NewLogin {
            device_digest: &device_digest(&app, &device_code),
            user_digest: &code.digest(&app),
            client: &client,
            address: peer.address.to_string(),
            created_at: now,
            expires_at: now + LASTS,
            interval_seconds: INTERVAL_SECONDS,
        };
        if queries::insert(&app.pool, &WAITS, &new).await? {
            let made = DeviceLogin {
                device_code: device_code.expose().to_owned(),
                user_code: code.shown(),
                verification_url: format!("{}/device", app.public_url),
                expires_in: LASTS.num_seconds().unsigned_abs(),
                interval: INTERVAL_SECONDS.unsigned_abs().into(),
            };
            return Ok((StatusCode::CREATED, Json(made)));
        }
    }
    Err(ApiError::overloaded("no code is free for a log-in by another device").into())
}

/// Asks how a log-in stands; once it is approved, the answer has its session, once.
///
/// A step of a log-in: it is there to be sent again, and the session is told once.
#[utoipa::path(post, path = "/v1/device-logins/answer", tag = "device logins", security(()), request_body = DeviceQuestion, responses((status = 200, body = DeviceAnswer)))]
async fn ask(
    State(app): State<Arc<App>>,
    peer: Peer,
    Json(question): Json<DeviceQuestion>,
) -> Result<Json<DeviceAnswer>, Refusal> {
    let code: SecretToken = question.device_code.parse().map_err(|_| over())?;
    let (digest, now) = (device_digest(&app, &code), app.environment.now());
    let mut tx = app.pool.begin().await?;
    let found = queries::find_waiting(&mut tx, &WAITS, &digest, now)
        .await?
        .ok_or_else(over)?;
    let approved = found.account_id.is_some();
    let (state, interval) = answer(found.asked_at, found.interval_seconds, found.denied, approved, now);
    let mut told = DeviceAnswer {
        state,
        interval: interval.unsigned_abs().into(),
        session_token: None,
        expires_at: None,
        account: None,
        organizations: Vec::new(),
    };
    match (state, found.account_id) {
        (DeviceState::Approved, Some(account)) => {
            log_in(&app, &mut tx, account.0, &peer, &mut told).await?;
            queries::delete(&mut tx, &WAITS, &digest).await?;
        }
        (DeviceState::Denied, _) => queries::delete(&mut tx, &WAITS, &digest).await?,
        _ => queries::note_question(&mut tx, &WAITS, &digest, interval, now).await?,
    }
    tx.commit().await?;
    Ok(Json(told))
}

async fn log_in(
    app: &App,
    tx: &mut Tx,
    account: contract::ids::AccountId,
    peer: &Peer,
    told: &mut DeviceAnswer,
) -> Result<(), Refusal> {
    let proof = System::because("the account's holder has approved the log-in");
    let account = queries::get_account(tx, &proof, account).await?;
    let organizations = sessions::queries::list_organizations_of(tx, &proof, account.id).await?;
    let made = sessions::begin(app, tx, &proof, account, organizations, peer).await?;
    told.session_token = Some(made.session_token);
    told.expires_at = Some(made.expires_at);
    told.account = Some(made.account);
    told.organizations = made.organizations;
    Ok(())
}

/// A person's session, and a code that he typed. What he types wrong is counted, so that nobody tries codes through.
fn typed(call: &Call, text: &str) -> Result<UserCode, Refusal> {
    if call.actor.credential() != Credential::Session {
        return Err(Refusal::not_allowed(
            "a log-in is approved by who is logged in, not by a token",
            "log in with `howdah login`, or use the page that the command line shows",
        ));
    }
    call.app.limiters.device_code(&call.actor.principal().to_string())?;
    UserCode::parse(text).ok_or_else(Refusal::not_found)
}

/// Shows who asks to be logged in, from where.
///
/// It changes nothing, so it can be sent again.
#[utoipa::path(post, path = "/v1/device-logins/request", tag = "device logins", request_body = DecideDeviceLogin, responses((status = 200, body = DeviceRequest)))]
async fn show(call: Call, Json(body): Json<DecideDeviceLogin>) -> Result<Json<DeviceRequest>, Refusal> {
    let code = typed(&call, &body.user_code)?;
    let digest = code.digest(&call.app);
    let found = queries::find_request(&call.app.pool, &call.actor, &digest, code.shown(), call.now()).await?;
    found.map(Json).ok_or_else(Refusal::not_found)
}

/// Approves a log-in as the caller, or refuses it.
///
/// A step of a log-in: what is decided is not decided again.
#[utoipa::path(post, path = "/v1/device-logins/decision", tag = "device logins", request_body = DecideDeviceLogin, responses((status = 204, description = "it is decided")))]
async fn decide(call: Call, Json(body): Json<DecideDeviceLogin>) -> Result<StatusCode, Refusal> {
    let code = typed(&call, &body.user_code)?;
    let mut tx = call.begin().await?;
    if body.approve {
        // The session that comes of it counts as proved: an old one must not make itself a younger one.
        call.proven(&mut tx).await?;
    }
    let digest = code.digest(&call.app);
    let who = queries::decide(&mut tx, &call.actor, &digest, body.approve, call.now())
        .await?
        .ok_or_else(Refusal::not_found)?;
    let action = if body.approve {
        "device_login.approve"
    } else {
        "device_login.refuse"
    };
    call.happened(&mut tx, action, who).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
