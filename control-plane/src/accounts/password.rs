//! The password of an account: set by whoever proved lately that he holds it, or by a code that was mailed to its address. Both end
//! the other sessions, and so what was exchanged from them.
//!
//! `PUT /v1/account/password`, `POST /v1/password-resets`, `POST /v1/password-resets/redeem`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use chassis::http::{ApiError, Json};
use contract::api::{CodeMailed, ForAddress, NewPassword, ResetPassword};
use contract::ids::AccountId;
use contract::policy::Principal;
use contract::token::SecretToken;
use secrecy::SecretString;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::sign_ups::mailed;
use super::{EmailAddress, check_password, queries};
use crate::account_events::{self, Happening};
use crate::app::App;
use crate::authz::System;
use crate::call::Call;
use crate::database::Tx;
use crate::mail::{self, Letter};
use crate::mailed_codes::{self, Meaning, Purpose};
use crate::peer::Peer;
use crate::refusal::Refusal;
use crate::{policy, sessions};

/// The routes of this part.
pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(change_password))
        .routes(routes!(ask_reset))
        .routes(routes!(redeem_reset))
}

async fn hash(app: &App, password: String) -> Result<String, Refusal> {
    let hashed = app.passwords.hash(SecretString::from(password)).await;
    Ok(hashed.map_err(ApiError::internal)?)
}

/// Sets another password; all other sessions end.
#[utoipa::path(put, path = "/v1/account/password", tag = "accounts", request_body = NewPassword, responses((status = 204)))]
async fn change_password(call: Call, Json(body): Json<NewPassword>) -> Result<StatusCode, Refusal> {
    call.actor.proven(call.now())?;
    let app = &call.app;
    let email: EmailAddress = call.actor.name().parse()?;
    check_password(&body.password, &email)?;
    let password_hash = hash(app, body.password).await?;
    let proof = System::because("a person changes his own password");
    let mut tx = call.begin().await?;
    // Whoever was shut out while the password was worked on does not choose it.
    let account = call.proven(&mut tx).await?.account();
    queries::update_password(&mut tx, &proof, account, &password_hash).await?;
    mailed_codes::void(&mut tx, &proof, account, &[Purpose::ResetPassword]).await?;
    let ended = sessions::end_all(&mut tx, &proof, account, Some(call.actor.token()), call.now()).await?;
    mail::write(app, &mut tx, &proof, email.as_str(), &Letter::PasswordChanged).await?;
    call.happened(&mut tx, "password.change", format!("{ended} other sessions ended"))
        .await?;
    let changed = policy::bump_of(&mut tx, &proof, Principal::Account(account)).await?;
    tx.commit().await?;
    app.policy.announce_all(&changed);
    app.post.wake();
    Ok(StatusCode::NO_CONTENT)
}

/// Mails a code by which a new password can be set. The same answer, after the same work, whether or not there is an account.
///
/// Nobody is logged in whose key it could be: sent again it mails another code, which takes the place of the first.
#[utoipa::path(post, path = "/v1/password-resets", tag = "accounts", security(()), request_body = ForAddress, responses((status = 202, body = CodeMailed)))]
async fn ask_reset(
    State(app): State<Arc<App>>,
    peer: Peer,
    Json(body): Json<ForAddress>,
) -> Result<(StatusCode, Json<CodeMailed>), Refusal> {
    let email: EmailAddress = body.email.parse()?;
    app.limiters.reset(peer.address)?;
    app.limiters.mail(&email.key(), peer.address)?;
    let proof = System::because("anybody may ask for a mail to an address");
    let mut tx = app.pool.begin().await?;
    let found = queries::find_account_by_email(&mut tx, &proof, &email.key()).await?;
    // To the address as the account has it: another way to write it may be another mailbox.
    let (account, recipient) = match found {
        Some((account, _)) => (Some(account.id), account.email.parse()?),
        None => (None, email.clone()),
    };
    let meaning = Meaning {
        purpose: Purpose::ResetPassword,
        account,
        email: recipient,
        identity: None,
    };
    let code = mailed_codes::make(&app, &mut tx, &proof, &meaning).await?;
    let letter = match meaning.account {
        Some(_) => Letter::PasswordReset { code: code.expose() },
        None => Letter::PasswordResetOfNobody,
    };
    mail::write(&app, &mut tx, &proof, meaning.email.as_str(), &letter).await?;
    tx.commit().await?;
    app.post.wake();
    let next = "send the code that was mailed to `POST /v1/password-resets/redeem`, with the new password";
    Ok(mailed(&email, next))
}

/// Sets a new password by a code that was mailed; all sessions end. Second factors stay.
///
/// The code is good once, so sent again it changes nothing.
#[utoipa::path(post, path = "/v1/password-resets/redeem", tag = "accounts", security(()), request_body = ResetPassword, responses((status = 204)))]
async fn redeem_reset(
    State(app): State<Arc<App>>,
    peer: Peer,
    Json(body): Json<ResetPassword>,
) -> Result<StatusCode, Refusal> {
    app.limiters.code(peer.address)?;
    let code = mailed_codes::parse(&body.code)?;
    let proof = System::because("the code was mailed to the account's address");
    // A good code alone is worth the work of a hash, during which nothing is held: this transaction is given up.
    let mut tx = app.pool.begin().await?;
    let (_, email) = take_reset(&app, &mut tx, &proof, &code).await?;
    tx.rollback().await?;
    check_password(&body.password, &email)?;
    let password_hash = hash(&app, body.password).await?;
    let mut tx = app.pool.begin().await?;
    let (account, email) = take_reset(&app, &mut tx, &proof, &code).await?;
    queries::update_password(&mut tx, &proof, account, &password_hash).await?;
    let subject = take_over(&app, &mut tx, &proof, account).await?;
    let happening = Happening {
        account,
        action: "password.reset",
        subject: subject.to_owned(),
        token: None,
        peer: &peer,
        at: app.environment.now(),
    };
    account_events::record(&mut tx, &proof, &happening).await?;
    mail::write(&app, &mut tx, &proof, email.as_str(), &Letter::PasswordChanged).await?;
    let changed = policy::bump_of(&mut tx, &proof, Principal::Account(account)).await?;
    tx.commit().await?;
    app.policy.announce_all(&changed);
    app.post.wake();
    Ok(StatusCode::NO_CONTENT)
}

/// Takes a code that was mailed to the address that the account has still.
async fn take_reset(
    app: &App,
    tx: &mut Tx,
    proof: &System,
    code: &SecretToken,
) -> Result<(AccountId, EmailAddress), Refusal> {
    let taken = mailed_codes::take(app, tx, proof, code, &[Purpose::ResetPassword]).await?;
    let key = queries::lock_email_key(tx, proof, taken.account).await?;
    if key != Some(taken.email.key()) {
        return Err(mailed_codes::wrong());
    }
    Ok((taken.account, taken.email))
}

/// Ends what may be somebody else's: sessions and codes always; and if nobody had shown before that he reads the account's mail, also
/// whatever else logs in to it, since whoever made the account may have been anybody.
async fn take_over(app: &App, tx: &mut Tx, proof: &System, account: AccountId) -> Result<&'static str, Refusal> {
    let now = app.environment.now();
    let all = [
        Purpose::ResetPassword,
        Purpose::NewAddress,
        Purpose::VerifyAddress,
        Purpose::LinkIdentity,
    ];
    mailed_codes::void(tx, proof, account, &all).await?;
    sessions::end_all(tx, proof, account, None, now).await?;
    if queries::mark_verified(tx, proof, account, now).await? {
        queries::end_other_log_ins(tx, proof, account, now).await?;
        return Ok(
            "by mail; all sessions, tokens and other ways to log in ended, since the address was not verified before",
        );
    }
    Ok("by mail; all sessions ended")
}
