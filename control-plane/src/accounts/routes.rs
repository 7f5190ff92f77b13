//! `POST /v1/accounts`, `GET /v1/account`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use chassis::http::{ApiError, Json};
use contract::api::{Account, CodeMailed, SessionMade, SignUp, WhoAmI};
use contract::problem::ProblemKind;
use secrecy::SecretString;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::sign_ups::{self, SignUpWish};
use super::{EmailAddress, address, check_password, deletion, password, queries};
use crate::account_events::{self, Happening};
use crate::app::App;
use crate::audit::Source;
use crate::authz::System;
use crate::call::Call;
use crate::peer::Peer;
use crate::refusal::Refusal;
use crate::{organizations, sessions};

/// The routes of this slice.
pub fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(sign_up))
        .routes(routes!(show))
        .merge(sign_ups::router())
        .merge(address::router())
        .merge(password::router())
        .merge(deletion::router())
}

/// Makes an account at once, or, where addresses are verified first, writes the mail that leads to one.
///
/// Nobody is logged in whose key it could be. An address has one account, so sent again it makes no second one: log in.
#[utoipa::path(
    post,
    path = "/v1/accounts",
    tag = "accounts",
    security(()),
    responses((status = 201, body = SessionMade), (status = 202, body = CodeMailed))
)]
async fn sign_up(
    State(app): State<Arc<App>>,
    peer: Peer,
    source: Source,
    Json(body): Json<SignUp>,
) -> Result<Response, Refusal> {
    let password = SecretString::from(body.password.clone());
    let email: EmailAddress = body.email.parse()?;
    check_password(&body.password, &email)?;
    app.limiters.sign_up(peer.address)?;
    if app.verification_required {
        app.limiters.mail(&email.key(), peer.address)?;
    }
    let password_hash = app.passwords.hash(password).await.map_err(ApiError::internal)?;
    if app.verification_required {
        let wish = SignUpWish {
            email,
            password_hash,
            organization: body.organization,
        };
        return Ok(sign_ups::begin(&app, &wish).await?.into_response());
    }
    let account = Account {
        id: app.environment.id(),
        email: email.as_str().to_owned(),
        created_at: app.environment.now(),
    };
    let proof = System::because("anybody may sign up");
    let mut tx = app.pool.begin().await?;
    if !queries::insert_account(&mut tx, &proof, &account, &email, Some(&password_hash)).await? {
        return Err(Refusal::new(
            ProblemKind::AlreadyExists,
            format!("there is an account for `{email}` already", email = email.as_str()),
        )
        .hint("log in with `howdah login`"));
    }
    address::ask_to_verify(&app, &mut tx, &proof, account.id, &email).await?;
    let happening = Happening {
        account: account.id,
        action: "account.create",
        subject: account.email.clone(),
        token: None,
        peer: &peer,
        at: account.created_at,
    };
    account_events::record(&mut tx, &proof, &happening).await?;
    let mut joined = Vec::new();
    if let Some(name) = body.organization {
        let founder = organizations::Founder {
            id: account.id,
            email: &account.email,
            token: String::new(),
            source: &source,
        };
        joined.push(organizations::found(&app, &mut tx, founder, name).await?);
    }
    let made = sessions::begin(&app, &mut tx, &proof, account, joined, &peer).await?;
    tx.commit().await?;
    app.post.wake();
    for organization in &made.organizations {
        app.planes.signal(organization.id);
    }
    Ok((StatusCode::CREATED, Json(made)).into_response())
}

/// Says who the caller is.
#[utoipa::path(get, path = "/v1/account", tag = "accounts", responses((status = 200, body = WhoAmI)))]
async fn show(call: Call) -> Result<Json<WhoAmI>, Refusal> {
    let mut tx = call.begin().await?;
    let organizations = organizations::queries::list_own(&mut tx, &call.actor).await?;
    Ok(Json(WhoAmI {
        id: call.actor.principal(),
        name: call.actor.name().to_owned(),
        token: call.actor.token(),
        email_verified: queries::is_own_verified(&mut tx, &call.actor).await?,
        organizations,
    }))
}
