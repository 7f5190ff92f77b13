//! The address of an account: verified by a code that is mailed to it, changed by a code that is mailed to the new one, and taken
//! back for a week by a code that is mailed to the one of before.
//!
//! `POST /v1/account/email`, `POST /v1/account/email/verification`, `POST /v1/account/email/confirm`, `POST /v1/accounts/undo-email`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use chassis::http::Json;
use chassis::idempotency::KeyHeader;
use contract::api::{CodeMailed, ForAddress, MailedCode};
use contract::ids::AccountId;
use contract::policy::Principal;
use contract::problem::ProblemKind;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::sign_ups::mailed;
use super::{EmailAddress, queries};
use crate::account_events::{self, Happening};
use crate::app::App;
use crate::authz::{self, System};
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
        .routes(routes!(change_email))
        .routes(routes!(send_verification))
        .routes(routes!(confirm_email))
        .routes(routes!(undo_email))
}

const NEXT: &str = "send the code that was mailed to `POST /v1/account/email/confirm`, logged in";

/// Writes the mail by which the holder of an account shows that he reads its address.
pub(super) async fn ask_to_verify(
    app: &App,
    tx: &mut Tx,
    proof: &System,
    account: AccountId,
    email: &EmailAddress,
) -> Result<(), Refusal> {
    mailed_codes::void(tx, proof, account, &[Purpose::VerifyAddress]).await?;
    let meaning = Meaning {
        purpose: Purpose::VerifyAddress,
        account: Some(account),
        email: email.clone(),
        identity: None,
    };
    let code = mailed_codes::make(app, tx, proof, &meaning).await?;
    let letter = Letter::VerifyAddress { code: code.expose() };
    mail::write(app, tx, proof, email.as_str(), &letter).await?;
    Ok(())
}

/// Mails a code to the account's own address, which shows that its holder reads what comes there.
#[utoipa::path(post, path = "/v1/account/email/verification", tag = "accounts", params(KeyHeader), responses((status = 202, body = CodeMailed)))]
async fn send_verification(call: Call) -> Result<(StatusCode, Json<CodeMailed>), Refusal> {
    let account = call.actor.person()?;
    let email: EmailAddress = call.actor.name().parse()?;
    call.app.limiters.mail(&email.key(), call.peer.address)?;
    let proof = System::because("a person verifies his own address");
    let mut tx = call.begin().await?;
    call.unanswered(&mut tx).await?;
    ask_to_verify(&call.app, &mut tx, &proof, account, &email).await?;
    let (status, Json(answer)) = mailed(&email, NEXT);
    let answer = call.commit(tx, status, answer).await?;
    call.app.post.wake();
    Ok(answer)
}

/// Asks for another address: a code is mailed to it. The same answer whether or not it has an account already.
#[utoipa::path(post, path = "/v1/account/email", tag = "accounts", params(KeyHeader), request_body = ForAddress, responses((status = 202, body = CodeMailed)))]
async fn change_email(call: Call, Json(body): Json<ForAddress>) -> Result<(StatusCode, Json<CodeMailed>), Refusal> {
    call.actor.proven(call.now())?;
    let email: EmailAddress = body.email.parse()?;
    let app = &call.app;
    app.limiters.mail(&email.key(), call.peer.address)?;
    let proof = System::because("a person changes his own address");
    let mut tx = call.begin().await?;
    let proven = call.proven(&mut tx).await?;
    call.unanswered(&mut tx).await?;
    let holder = queries::find_account_by_email(&mut tx, &proof, &email.key()).await?;
    let taken = holder.is_some_and(|(account, _)| account.id != proven.account());
    mailed_codes::void(&mut tx, &proof, proven.account(), &[Purpose::NewAddress]).await?;
    let meaning = Meaning {
        purpose: Purpose::NewAddress,
        account: (!taken).then_some(proven.account()),
        email,
        identity: None,
    };
    let code = mailed_codes::make(app, &mut tx, &proof, &meaning).await?;
    let letter = if taken {
        Letter::NewAddressTaken
    } else {
        Letter::NewAddress { code: code.expose() }
    };
    mail::write(app, &mut tx, &proof, meaning.email.as_str(), &letter).await?;
    call.happened(&mut tx, "email.ask", format!("for {}", meaning.email.as_str()))
        .await?;
    let (status, Json(answer)) = mailed(&meaning.email, NEXT);
    let answer = call.commit(tx, status, answer).await?;
    app.post.wake();
    Ok(answer)
}

/// Confirms the account's address, or makes another one its address, by the code that was mailed there.
///
/// The code is good once, so sent again it changes nothing.
#[utoipa::path(post, path = "/v1/account/email/confirm", tag = "accounts", request_body = MailedCode, responses((status = 200, body = ForAddress)))]
async fn confirm_email(call: Call, Json(body): Json<MailedCode>) -> Result<Json<ForAddress>, Refusal> {
    let own = call.actor.person()?;
    let app = &call.app;
    app.limiters.code(call.peer.address)?;
    let code = mailed_codes::parse(&body.code)?;
    let proof = System::because("a mailed code proves an address");
    let mut tx = call.begin().await?;
    authz::still_stands(&mut tx, &call.actor, call.now()).await?;
    let purposes = [Purpose::VerifyAddress, Purpose::NewAddress];
    let taken = mailed_codes::take(app, &mut tx, &proof, &code, &purposes).await?;
    let (account, email) = (taken.account, taken.email);
    if account != own {
        // Not used up: the transaction is given up.
        return Err(mailed_codes::wrong());
    }
    if taken.purpose == Purpose::VerifyAddress {
        if email.key() != call.actor.name().to_lowercase() {
            return Err(mailed_codes::wrong());
        }
        queries::mark_verified(&mut tx, &proof, account, call.now()).await?;
        call.happened(&mut tx, "email.verify", email.as_str().to_owned())
            .await?;
        tx.commit().await?;
    } else {
        move_to(&call, tx, &proof, account, &email).await?;
    }
    Ok(Json(ForAddress {
        email: email.as_str().to_owned(),
    }))
}

/// Makes the address the account's, and tells the one of before.
async fn move_to(
    call: &Call,
    mut tx: Tx,
    proof: &System,
    account: AccountId,
    email: &EmailAddress,
) -> Result<(), Refusal> {
    let app = &call.app;
    let before: EmailAddress = call.actor.name().parse()?;
    set(&mut tx, proof, account, email, call).await?;
    let meaning = Meaning {
        purpose: Purpose::UndoAddress,
        account: Some(account),
        email: before,
        identity: None,
    };
    let undo = mailed_codes::make(app, &mut tx, proof, &meaning).await?;
    let letter = Letter::AddressChanged {
        to: email.as_str(),
        code: undo.expose(),
    };
    mail::write(app, &mut tx, proof, meaning.email.as_str(), &letter).await?;
    // What was mailed to the address of before for other things is not its holder's any more.
    let voided = [Purpose::ResetPassword, Purpose::VerifyAddress, Purpose::LinkIdentity];
    mailed_codes::void(&mut tx, proof, account, &voided).await?;
    let subject = format!("{} to {}", meaning.email.as_str(), email.as_str());
    call.happened(&mut tx, "email.change", subject).await?;
    let changed = policy::bump_of(&mut tx, proof, Principal::Account(account)).await?;
    tx.commit().await?;
    app.policy.announce_all(&changed);
    app.post.wake();
    Ok(())
}

async fn set(
    tx: &mut Tx,
    proof: &System,
    account: AccountId,
    email: &EmailAddress,
    call: &Call,
) -> Result<(), Refusal> {
    if queries::update_address(tx, proof, account, email, call.now()).await? {
        return Ok(());
    }
    Err(taken(email))
}

fn taken(email: &EmailAddress) -> Refusal {
    Refusal::new(
        ProblemKind::Conflict,
        format!("`{}` is the address of another account by now", email.as_str()),
    )
    .hint("choose another address, or delete that account first")
}

/// Takes a change of the address back, by the code that was mailed to the address of before. Ends sessions, tokens and all that logs in
/// to the account: a code that is mailed to that address leads back in, with the second factors that are older than the change.
///
/// The code is good once, so sent again it changes nothing.
#[utoipa::path(post, path = "/v1/accounts/undo-email", tag = "accounts", security(()), request_body = MailedCode, responses((status = 200, body = ForAddress)))]
async fn undo_email(
    State(app): State<Arc<App>>,
    peer: Peer,
    Json(body): Json<MailedCode>,
) -> Result<Json<ForAddress>, Refusal> {
    app.limiters.code(peer.address)?;
    let code = mailed_codes::parse(&body.code)?;
    let proof = System::because("the code was mailed to the address of before");
    let now = app.environment.now();
    let mut tx = app.pool.begin().await?;
    let undone = mailed_codes::take(&app, &mut tx, &proof, &code, &[Purpose::UndoAddress]).await?;
    let (account, email) = (undone.account, undone.email);
    let (before, _) = queries::find_account(&mut tx, &proof, account)
        .await?
        .ok_or_else(mailed_codes::wrong)?;
    let replaced = before.email;
    if !queries::update_address(&mut tx, &proof, account, &email, now).await? {
        return Err(taken(&email));
    }
    // Later changes are taken back with this one, by whose codes it must not be undone; earlier ones can still be.
    mailed_codes::void_undo_since(&mut tx, &proof, account, undone.made_at).await?;
    let voided = [
        Purpose::ResetPassword,
        Purpose::NewAddress,
        Purpose::VerifyAddress,
        Purpose::LinkIdentity,
    ];
    mailed_codes::void(&mut tx, &proof, account, &voided).await?;
    sessions::end_all(&mut tx, &proof, account, None, now).await?;
    // Whoever changed the address knew the password, and may have made himself other ways in.
    queries::forget_password(&mut tx, &proof, account).await?;
    queries::end_log_ins_but_factors_before(&mut tx, &proof, account, undone.made_at, now).await?;
    tell_of_undo(&app, &mut tx, &proof, &replaced, &email).await?;
    let happening = Happening {
        account,
        action: "email.undo",
        subject: format!(
            "from {replaced} back to {}; password, sessions, tokens and other ways to log in ended",
            email.as_str()
        ),
        token: None,
        peer: &peer,
        at: now,
    };
    account_events::record(&mut tx, &proof, &happening).await?;
    let changed = policy::bump_of(&mut tx, &proof, Principal::Account(account)).await?;
    tx.commit().await?;
    app.policy.announce_all(&changed);
    app.post.wake();
    Ok(Json(ForAddress {
        email: email.as_str().to_owned(),
    }))
}

/// Tells both addresses, so that whoever holds the account hears of it, whichever is his.
async fn tell_of_undo(
    app: &App,
    tx: &mut Tx,
    proof: &System,
    from: &str,
    back_to: &EmailAddress,
) -> Result<(), Refusal> {
    let letter = Letter::AddressTakenBack { to: back_to.as_str() };
    for recipient in [from, back_to.as_str()] {
        mail::write(app, tx, proof, recipient, &letter).await?;
    }
    Ok(())
}
