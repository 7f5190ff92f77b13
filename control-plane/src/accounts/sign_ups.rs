//! Sign-ups whose address has to be verified first: there is no account before that, and known and unknown addresses get the same
//! answer after the same work. The code that was mailed finishes one together with the password that was chosen: the code alone would
//! let a stranger choose the password of an account that somebody else verifies.
//!
//! `POST /v1/accounts/verify`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use chassis::http::{ApiError, Json};
use chrono::Duration;
use contract::api::{Account, CodeMailed, SessionMade, VerifySignUp};
use contract::names::OrganizationName;
use contract::problem::ProblemKind;
use contract::token::{SecretToken, TokenKind};
use secrecy::SecretString;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{EmailAddress, queries};
use crate::account_events::{self, Happening};
use crate::app::App;
use crate::audit::Source;
use crate::authz::System;
use crate::database::Tx;
use crate::mail::{self, Letter};
use crate::peer::Peer;
use crate::refusal::Refusal;
use crate::{mailed_codes, organizations, sessions};

/// For how long a sign-up can be finished.
const LIFETIME: Duration = Duration::hours(24);
/// How many passwords may be tried with one code.
const TRIES_MAX: i32 = 10;

/// The routes of this part.
pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(verify))
}

/// A sign-up that is not finished.
pub(super) struct SignUpWish {
    pub email: EmailAddress,
    pub password_hash: String,
    pub organization: Option<OrganizationName>,
}

/// What is answered whether or not there is an account of that address.
pub(super) fn mailed(email: &EmailAddress, next: &str) -> (StatusCode, Json<CodeMailed>) {
    let answer = CodeMailed {
        email: email.as_str().to_owned(),
        next: next.to_owned(),
    };
    (StatusCode::ACCEPTED, Json(answer))
}

/// Begins a sign-up: writes the mail, and the row that its code finishes.
pub(super) async fn begin(app: &App, wish: &SignUpWish) -> Result<(StatusCode, Json<CodeMailed>), Refusal> {
    if let Some(name) = &wish.organization {
        organizations::check_name(name)?;
    }
    let proof = System::because("anybody may sign up");
    let mut tx = app.pool.begin().await?;
    let known = queries::find_account_by_email(&mut tx, &proof, &wish.email.key())
        .await?
        .is_some();
    let code = SecretToken::generate(TokenKind::Code, app.environment.random());
    let now = app.environment.now();
    // Of a known address nobody gets the code; the row is written all the same, so that both cost the same.
    queries::insert_sign_up(&mut tx, &proof, wish, &code, now, now + LIFETIME).await?;
    let letter = if known {
        Letter::SignUpAgain
    } else {
        Letter::SignUp { code: code.expose() }
    };
    mail::write(app, &mut tx, &proof, wish.email.as_str(), &letter).await?;
    tx.commit().await?;
    app.post.wake();
    Ok(mailed(
        &wish.email,
        "send the code that was mailed to `POST /v1/accounts/verify`, with the password",
    ))
}

/// Finishes a sign-up by the code that was mailed and the password that was chosen; answers the first session.
///
/// The code is good once, so sent again it changes nothing: log in.
#[utoipa::path(post, path = "/v1/accounts/verify", tag = "accounts", security(()), request_body = VerifySignUp, responses((status = 201, body = SessionMade)))]
async fn verify(
    State(app): State<Arc<App>>,
    peer: Peer,
    source: Source,
    headers: HeaderMap,
    Json(body): Json<VerifySignUp>,
) -> Result<Response, Refusal> {
    app.limiters.code(peer.address)?;
    let code = mailed_codes::parse(&body.code)?;
    let proof = System::because("the code and the password prove who signed up");
    let mut tx = app.pool.begin().await?;
    let wish = queries::try_sign_up(&mut tx, &proof, &code, TRIES_MAX, app.environment.now())
        .await?
        .ok_or_else(mailed_codes::wrong)?;
    tx.commit().await?;
    let fits = app
        .passwords
        .verify(SecretString::from(body.password), Some(wish.password_hash.clone()))
        .await
        .map_err(ApiError::internal)?;
    if !fits {
        return Err(Refusal::new(
            ProblemKind::SignedOut,
            "the password is not the one that was chosen at sign-up",
        )
        .hint("send the password of the sign-up with the code; if you did not sign up, do nothing"));
    }
    let mut tx = app.pool.begin().await?;
    let made = finish(&app, &mut tx, &proof, wish, (&peer, &source)).await?;
    tx.commit().await?;
    for organization in &made.organizations {
        app.planes.signal(organization.id);
    }
    sessions::cookie::answer(made, &headers, &app.public_url)
}

async fn finish(
    app: &App,
    tx: &mut Tx,
    proof: &System,
    wish: SignUpWish,
    (peer, source): (&Peer, &Source),
) -> Result<SessionMade, Refusal> {
    let account = Account {
        id: app.environment.id(),
        email: wish.email.as_str().to_owned(),
        created_at: app.environment.now(),
    };
    if !queries::insert_account(tx, proof, &account, &wish.email, Some(&wish.password_hash)).await? {
        return Err(Refusal::new(
            ProblemKind::AlreadyExists,
            format!("there is an account for `{}` by now", wish.email.as_str()),
        )
        .hint("log in with `howdah login`"));
    }
    // All other sign-ups of this address are over: whoever began them does not read its mail.
    queries::delete_sign_ups_of(tx, proof, &wish.email).await?;
    queries::mark_verified(tx, proof, account.id, account.created_at).await?;
    let happening = Happening {
        account: account.id,
        action: "account.create",
        subject: format!("{}, verified by mail", account.email),
        token: None,
        peer,
        at: account.created_at,
    };
    account_events::record(tx, proof, &happening).await?;
    let mut joined = Vec::new();
    if let Some(name) = wish.organization {
        // The name was free when the sign-up began. Who was slower has his account, and chooses another.
        let founder = organizations::Founder {
            id: account.id,
            email: &account.email,
            token: String::new(),
            source,
        };
        match organizations::found(app, tx, founder, name).await {
            Ok(organization) => joined.push(organization),
            Err(refusal) if refusal.0.0.kind() == Some(ProblemKind::AlreadyExists) => {}
            Err(refusal) => return Err(refusal),
        }
    }
    sessions::begin(app, tx, proof, account, joined, peer).await
}
