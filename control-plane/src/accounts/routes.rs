//! `POST /v1/accounts`, `GET /v1/account`.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use chassis::http::Json;
use contract::api::{Account, SessionMade, SignUp, WhoAmI};
use contract::problem::ProblemKind;
use secrecy::SecretString;

use super::{EmailAddress, check_password, queries};
use crate::app::App;
use crate::audit::Source;
use crate::authz::System;
use crate::call::Call;
use crate::refusal::Refusal;
use crate::{organizations, sessions};

/// The routes of this slice.
pub fn router() -> Router<Arc<App>> {
    Router::new()
        .route("/v1/accounts", post(sign_up))
        .route("/v1/account", get(show))
}

async fn sign_up(
    State(app): State<Arc<App>>,
    ConnectInfo(address): ConnectInfo<SocketAddr>,
    source: Source,
    Json(body): Json<SignUp>,
) -> Result<(StatusCode, Json<SessionMade>), Refusal> {
    let password = SecretString::from(body.password.clone());
    let email: EmailAddress = body.email.parse()?;
    check_password(&body.password, &email)?;
    app.limiters.sign_up(address.ip())?;
    let password_hash = app
        .passwords
        .hash(password)
        .await
        .map_err(chassis::http::ApiError::internal)?;
    let account = Account {
        id: app.environment.id(),
        email: email.as_str().to_owned(),
        created_at: app.environment.now(),
    };
    let proof = System::because("anybody may sign up");
    let mut tx = app.pool.begin().await?;
    if !queries::insert_account(&mut tx, &proof, &account, &email, &password_hash).await? {
        return Err(Refusal::new(
            ProblemKind::AlreadyExists,
            format!("there is an account for `{email}` already", email = email.as_str()),
        )
        .hint("log in with `howdah login`"));
    }
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
    let made = sessions::begin(&app, &mut tx, &proof, account, joined).await?;
    tx.commit().await?;
    for organization in &made.organizations {
        app.planes.signal(organization.id);
    }
    Ok((StatusCode::CREATED, Json(made)))
}

async fn show(call: Call) -> Result<Json<WhoAmI>, Refusal> {
    let mut tx = call.begin().await?;
    let organizations = organizations::queries::list_own(&mut tx, &call.actor).await?;
    Ok(Json(WhoAmI {
        id: call.actor.principal(),
        name: call.actor.name().to_owned(),
        token: call.actor.token(),
        organizations,
    }))
}
