//! `POST,GET /v1/sessions`, `DELETE /v1/sessions/{id or current}`.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use axum::routing::{delete, post};
use chassis::http::{ApiError, Json, Path, Query};
use contract::api::{LogIn, Page, SessionMade};
use contract::ids::TokenId;
use contract::problem::ProblemKind;
use secrecy::SecretString;

use super::{SessionView, queries};
use crate::app::App;
use crate::authz::{Credential, System};
use crate::call::Call;
use crate::paging::PageQuery;
use crate::refusal::Refusal;
use crate::{accounts, policy};

/// The routes of this slice.
pub fn router() -> Router<Arc<App>> {
    Router::new()
        .route("/v1/sessions", post(create).get(list))
        .route("/v1/sessions/{id}", delete(revoke))
}

/// One answer for an unknown address, a malformed one and a wrong password.
fn refused() -> Refusal {
    Refusal::new(
        ProblemKind::SignedOut,
        "there is no account with that address and password",
    )
    .hint("check both, or make an account with `howdah signup`")
}

async fn create(
    State(app): State<Arc<App>>,
    ConnectInfo(address): ConnectInfo<SocketAddr>,
    Json(body): Json<LogIn>,
) -> Result<(StatusCode, Json<SessionMade>), Refusal> {
    let key = body.email.trim().to_lowercase();
    app.limiters
        .log_in(&key.chars().take(254).collect::<String>(), address.ip())?;
    let password = SecretString::from(body.password);
    let proof = System::because("a password proves who logs in");
    let mut tx = app.pool.begin().await?;
    let found = accounts::queries::find_account_by_email(&mut tx, &proof, &key).await?;
    // Nothing is held while the hash is worked out: a crowd of log-ins must not take all connections.
    drop(tx);
    let (account, stored) = found.map_or((None, None), |(account, hash)| (Some(account), Some(hash)));
    let fits = app
        .passwords
        .verify(password, stored)
        .await
        .map_err(ApiError::internal)?;
    let Some(account) = account.filter(|_| fits) else {
        return Err(refused());
    };
    let mut tx = app.pool.begin().await?;
    let organizations = queries::list_organizations_of(&mut tx, &proof, account.id).await?;
    let made = super::begin(&app, &mut tx, &proof, account, organizations).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(made)))
}

async fn list(call: Call, Query(page): Query<PageQuery>) -> Result<Json<Page<SessionView>>, Refusal> {
    call.actor.unlimited()?;
    let window = page.window(&call, "sessions")?;
    let mut tx = call.begin().await?;
    let rows = queries::list_own(&mut tx, &call.actor, call.now(), &window).await?;
    Ok(Json(window.page(rows, |s| s.id.to_string())))
}

async fn revoke(call: Call, Path(id): Path<String>) -> Result<StatusCode, Refusal> {
    call.actor.unlimited()?;
    let id = match id.as_str() {
        "current" if call.actor.credential() == Credential::Session => call.actor.token(),
        text => text.parse::<TokenId>().map_err(|_| Refusal::not_found())?,
    };
    let mut tx = call.begin().await?;
    if !queries::revoke_own(&mut tx, &call.actor, id, call.now()).await? {
        return Err(Refusal::not_found());
    }
    let changed = policy::bump_own(&mut tx, &call.actor).await?;
    let own = System::because("whose session it is ends it in all of his organizations");
    let organizations = changed.iter().map(|(organization, _)| *organization).collect();
    call.record_in(&mut tx, &own, organizations, "session.revoke", &id.to_string())
        .await?;
    tx.commit().await?;
    call.app.policy.announce_all(&changed);
    Ok(StatusCode::NO_CONTENT)
}
