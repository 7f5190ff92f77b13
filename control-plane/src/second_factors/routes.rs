//! `GET /v1/account/second-factors`, `POST,DELETE /v1/account/totp`, `POST /v1/account/totp/confirm`, `POST /v1/account/recovery-codes`.

use std::sync::Arc;

use axum::http::StatusCode;
use chassis::http::{ApiError, Json};
use chassis::idempotency::KeyHeader;
use contract::api::{RecoveryCodes, SecondFactors, TotpBegun, TotpCode};
use contract::problem::ProblemKind;
use totp_rs::Secret;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Given, SECRET_LENGTH, purpose, queries, recovery_codes, totp, use_step};
use crate::app::App;
use crate::authz::{Proven, System};
use crate::call::Call;
use crate::database::Tx;
use crate::mail::{self, Letter};
use crate::refusal::Refusal;

/// The routes of this slice.
pub fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(show))
        .routes(routes!(begin, remove))
        .routes(routes!(confirm))
        .routes(routes!(renew))
}

const OWN: System = System::because("a person asks for his own second factors");

/// Tells which second factors the caller's account has.
#[utoipa::path(get, path = "/v1/account/second-factors", tag = "second-factors", responses((status = 200, body = SecondFactors)))]
async fn show(call: Call) -> Result<Json<SecondFactors>, Refusal> {
    let account = call.actor.person()?;
    let mut tx = call.begin().await?;
    let found = queries::find_authenticator(&mut tx, &OWN, account).await?;
    Ok(Json(SecondFactors {
        totp: found.is_some_and(|a| a.confirmed),
        recovery_codes_left: queries::count_recovery_codes(&mut tx, &OWN, account).await?,
    }))
}

/// Begins to enrol an authenticator: it counts once its first code was sent.
#[utoipa::path(post, path = "/v1/account/totp", tag = "second-factors", params(KeyHeader), responses((status = 201, body = TotpBegun)))]
async fn begin(call: Call) -> Result<(StatusCode, Json<TotpBegun>), Refusal> {
    let proven = call.actor.proven(call.now())?;
    let app = &call.app;
    let secret: [u8; SECRET_LENGTH] = app.environment.random();
    let sealed = app
        .vault
        .seal(&app.environment, &purpose(proven.account()), &secret)
        .map_err(ApiError::internal)?;
    let mut tx = call.begin().await?;
    let proven = call.proven(&mut tx).await?;
    call.unanswered(&mut tx).await?;
    if !queries::insert_authenticator(&mut tx, &proven, &sealed, call.now()).await? {
        return Err(
            Refusal::new(ProblemKind::Conflict, "the account has an authenticator already")
                .hint("disable it first: `howdah account totp disable`"),
        );
    }
    call.happened(&mut tx, "totp.begin", String::new()).await?;
    // A name with a colon would be cut by authenticators.
    let url = totp(&secret, &call.actor.name().replace(':', ""))?
        .to_url()
        .map_err(ApiError::internal)?;
    let secret = Secret::from(secret).to_base32();
    call.commit(tx, StatusCode::CREATED, TotpBegun { secret, url }).await
}

/// Confirms the authenticator by its first code; from now on it is asked for. Answers the recovery codes, once.
#[utoipa::path(post, path = "/v1/account/totp/confirm", tag = "second-factors", params(KeyHeader), request_body = TotpCode, responses((status = 200, body = RecoveryCodes)))]
async fn confirm(call: Call, Json(body): Json<TotpCode>) -> Result<(StatusCode, Json<RecoveryCodes>), Refusal> {
    let proven = call.actor.proven(call.now())?;
    let app = &call.app;
    app.limiters.second_factor(proven.account())?;
    let mut tx = call.begin().await?;
    let proven = call.proven(&mut tx).await?;
    call.unanswered(&mut tx).await?;
    let found = queries::find_authenticator(&mut tx, &OWN, proven.account()).await?;
    let Some(authenticator) = found.filter(|a| !a.confirmed) else {
        return Err(Refusal::new(
            ProblemKind::Conflict,
            "there is no authenticator that waits for its first code",
        )
        .hint("begin with `howdah account totp enable`"));
    };
    let fits = match Given::parse(&body.code) {
        Given::Digits(digits) => use_step(app, &mut tx, &OWN, proven.account(), &authenticator, &digits).await?,
        Given::Recovery(_) => false,
    };
    if !fits {
        return Err(
            Refusal::invalid("/code", "that is not what the authenticator shows now")
                .hint("check its clock, and send the six digits while they are shown"),
        );
    }
    queries::confirm_authenticator(&mut tx, &proven, call.now()).await?;
    let codes = fresh_codes(&call, &mut tx, &proven).await?;
    tell(
        &call,
        &mut tx,
        "totp.enable",
        "Your account asks for the codes of an authenticator from now on",
    )
    .await?;
    let answer = call.commit(tx, StatusCode::OK, codes).await?;
    app.post.wake();
    Ok(answer)
}

/// Asks for codes of the authenticator no more; recovery codes end with it.
#[utoipa::path(delete, path = "/v1/account/totp", tag = "second-factors", responses((status = 204)))]
async fn remove(call: Call) -> Result<StatusCode, Refusal> {
    let mut tx = call.begin().await?;
    let proven = call.proven(&mut tx).await?;
    if !queries::delete_all(&mut tx, &OWN, proven.account()).await? {
        return Err(Refusal::not_found());
    }
    tell(
        &call,
        &mut tx,
        "totp.disable",
        "Your account does not ask for the codes of an authenticator any more",
    )
    .await?;
    tx.commit().await?;
    call.app.post.wake();
    Ok(StatusCode::NO_CONTENT)
}

/// Makes new recovery codes; those of before are good for nothing then.
#[utoipa::path(post, path = "/v1/account/recovery-codes", tag = "second-factors", params(KeyHeader), responses((status = 200, body = RecoveryCodes)))]
async fn renew(call: Call) -> Result<(StatusCode, Json<RecoveryCodes>), Refusal> {
    let mut tx = call.begin().await?;
    let proven = call.proven(&mut tx).await?;
    call.unanswered(&mut tx).await?;
    let found = queries::find_authenticator(&mut tx, &OWN, proven.account()).await?;
    if !found.is_some_and(|a| a.confirmed) {
        return Err(Refusal::new(
            ProblemKind::Conflict,
            "recovery codes take the place of an authenticator, and there is none",
        )
        .hint("begin with `howdah account totp enable`"));
    }
    let codes = fresh_codes(&call, &mut tx, &proven).await?;
    tell(
        &call,
        &mut tx,
        "recovery-codes.renew",
        "Your account has new recovery codes",
    )
    .await?;
    let answer = call.commit(tx, StatusCode::OK, codes).await?;
    call.app.post.wake();
    Ok(answer)
}

async fn fresh_codes(call: &Call, tx: &mut Tx, proven: &Proven) -> Result<RecoveryCodes, Refusal> {
    let (shown, kept) = recovery_codes(&call.app, proven.account());
    queries::replace_recovery_codes(tx, proven, &kept).await?;
    Ok(RecoveryCodes { recovery_codes: shown })
}

async fn tell(call: &Call, tx: &mut Tx, action: &'static str, what: &str) -> Result<(), Refusal> {
    mail::write(&call.app, tx, &OWN, call.actor.name(), &Letter::LogInChanged { what }).await?;
    call.happened(tx, action, String::new()).await
}
