//! `GET /v1/log-in-methods`, `GET /v1/log-in/{provider}`, `GET /v1/log-in/{provider}/callback`, `POST /v1/log-in/second-factor`,
//! `GET,POST,DELETE /v1/account/identities`, `POST /v1/accounts/link`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chassis::http::{ApiError, Json, Path, Query};
use contract::api::{LinkedIdentity, LogInMethods, LogInProvider, MailedCode, Page, SessionMade};
use contract::ids::AccountId;
use contract::problem::ProblemKind;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::arrival::{Arrival, Arrived};
use super::provider::{Beginning, Provider};
use super::queries::{self, Begun};
use super::{Identity, PATIENCE, SECOND_FACTOR_PATIENCE};
use crate::app::App;
use crate::authz::System;
use crate::call::Call;
use crate::mailed_codes::{self, Purpose};
use crate::peer::Peer;
use crate::refusal::Refusal;
use crate::sessions::{self, cookie};
use crate::{accounts, second_factors};

const SHOWN: System = System::because("a provider shows who somebody is");

/// The routes of this slice.
pub fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(methods))
        .routes(routes!(begin))
        .routes(routes!(callback))
        .routes(routes!(finish))
        .routes(routes!(list, begin_link, unlink))
        .routes(routes!(link))
}

/// Tells how one can log in.
#[utoipa::path(get, path = "/v1/log-in-methods", tag = "log-in", security(()), responses((status = 200, body = LogInMethods)))]
async fn methods(State(app): State<Arc<App>>) -> Json<LogInMethods> {
    let provider = |p: &Provider| LogInProvider {
        name: p.config.name.clone(),
        title: p.config.title.clone(),
        url: format!("{}/v1/log-in/{}", app.public_url, p.config.name),
    };
    Json(LogInMethods {
        password: true,
        passkeys: app.passkeys.is_some(),
        providers: app.providers.all().map(provider).collect(),
    })
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

/// Writes down what is begun; answers where the browser goes, and the cookie that binds it.
async fn prepare(app: &App, provider: &Provider, account: Option<AccountId>) -> Result<(String, HeaderValue), Refusal> {
    let random = || hex::encode(app.environment.random::<32>());
    let (begun, browser) = (
        Beginning {
            state: random(),
            nonce: random(),
            verifier: random(),
        },
        random(),
    );
    let now = app.environment.now();
    let url = provider.address(&begun, now).await?;
    let sealed = app
        .vault
        .seal(&app.environment, &begun.state, begun.verifier.as_bytes());
    let row = Begun {
        provider: provider.config.name.clone(),
        nonce: begun.nonce,
        sealed_verifier: sealed.map_err(ApiError::internal)?,
        account,
    };
    let mut tx = app.pool.begin().await?;
    let (state, bound) = (digest(&begun.state), digest(&browser));
    queries::insert_log_in(&mut tx, &SHOWN, &state, &bound, &row, now + PATIENCE).await?;
    tx.commit().await?;
    Ok((url, cookie::set(cookie::BROWSER, &browser, PATIENCE.num_seconds())?))
}

/// Leads a browser to a provider, to log in there.
#[utoipa::path(get, path = "/v1/log-in/{provider}", tag = "log-in", security(()), params(("provider" = String, Path)), responses((status = 303, description = "to the provider")))]
async fn begin(State(app): State<Arc<App>>, peer: Peer, Path(provider): Path<String>) -> Result<Response, Refusal> {
    app.limiters.code(peer.address)?;
    let provider = app.providers.find(&provider).ok_or_else(Refusal::not_found)?;
    let (url, bound) = prepare(&app, provider, None).await?;
    let location = HeaderValue::from_str(&url).map_err(ApiError::internal)?;
    let headers = [(header::LOCATION, location), (header::SET_COOKIE, bound)];
    Ok((StatusCode::SEE_OTHER, headers).into_response())
}

/// What a provider sends a browser back with.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct SentBack {
    /// The code that stands for who it is.
    code: Option<String>,
    /// What was begun.
    state: Option<String>,
    /// Why there is no code.
    error: Option<String>,
}

fn not_begun() -> Refusal {
    Refusal::new(
        ProblemKind::SignedOut,
        "this log-in was not begun in this browser, is over, or took too long",
    )
    .hint("begin again")
}

/// Who a provider says that it sends back, and to which account that is to be linked. What was begun is used up, whatever comes of it.
async fn identify(
    app: &App,
    provider: &Provider,
    sent: SentBack,
    headers: &HeaderMap,
) -> Result<(Identity, Option<AccountId>), Refusal> {
    let (Some(state), Some(browser)) = (sent.state, cookie::read(headers, cookie::BROWSER)) else {
        return Err(not_begun());
    };
    let now = app.environment.now();
    let mut tx = app.pool.begin().await?;
    let (of_state, bound) = (digest(&state), digest(browser));
    let begun = queries::take_log_in(&mut tx, &SHOWN, &of_state, &bound, &provider.config.name, now)
        .await?
        .ok_or_else(not_begun)?;
    tx.commit().await?;
    let Some(code) = sent.code else {
        let why = sent.error.unwrap_or_default();
        let why: String = why.chars().filter(char::is_ascii_graphic).take(100).collect();
        let detail = format!("`{}` did not say who you are: {why}", provider.config.title);
        return Err(Refusal::new(ProblemKind::SignedOut, detail).hint("begin again"));
    };
    let verifier = app
        .vault
        .open(&state, &begun.sealed_verifier)
        .map_err(ApiError::internal)?;
    let verifier = String::from_utf8(verifier).map_err(ApiError::internal)?;
    let identity = provider.identify(code, verifier, begun.nonce, now).await?;
    Ok((identity, begun.account))
}

/// Takes a browser that a provider sends back: makes a session, an account, or links an identity.
#[utoipa::path(get, path = "/v1/log-in/{provider}/callback", tag = "log-in", security(()), params(("provider" = String, Path), SentBack), responses((status = 200, description = "a page; the session is a cookie")))]
async fn callback(
    State(app): State<Arc<App>>,
    peer: Peer,
    Path(provider): Path<String>,
    headers: HeaderMap,
    Query(sent): Query<SentBack>,
) -> Result<Response, Refusal> {
    let provider = app.providers.find(&provider).ok_or_else(Refusal::not_found)?;
    let (identity, account) = identify(&app, provider, sent, &headers).await?;
    let arrival = Arrival {
        app: &app,
        proof: &SHOWN,
        peer: &peer,
        title: &provider.config.title,
    };
    let mut tx = app.pool.begin().await?;
    if let Some(account) = account {
        arrival.link(&mut tx, account, &identity).await?;
        tx.commit().await?;
        app.post.wake();
        return page("It is linked. You can log in this way from now on.", &[]);
    }
    let arrived = arrival.log_in(&mut tx, &identity).await?;
    let again = hex::encode(app.environment.random::<32>());
    let (patience, until) = (
        SECOND_FACTOR_PATIENCE.num_seconds(),
        app.environment.now() + SECOND_FACTOR_PATIENCE,
    );
    if let Arrived::SecondFactor(account) = &arrived {
        queries::insert_half(&mut tx, &SHOWN, &digest(&again), *account, until).await?;
    }
    tx.commit().await?;
    app.post.wake();
    match arrived {
        Arrived::Session(made) => page("You are logged in.", &session_cookies(&made)?),
        Arrived::SecondFactor(_) => page(
            "The account asks for a second factor too: send it to /v1/log-in/second-factor.",
            &[cookie::set(cookie::BROWSER, &again, patience)?],
        ),
        Arrived::Asked => page(
            "There is an account of this address already. A mail to it says how to let this log in to it.",
            &[cookie::set(cookie::BROWSER, "", 0)?],
        ),
    }
}

fn session_cookies(made: &SessionMade) -> Result<[HeaderValue; 2], Refusal> {
    Ok([
        cookie::set(cookie::SESSION, &made.session_token, sessions::LIFETIME.num_seconds())?,
        cookie::set(cookie::BROWSER, "", 0)?,
    ])
}

/// A page of one fixed sentence. It holds nothing that anybody sent.
fn page(sentence: &'static str, cookies: &[HeaderValue]) -> Result<Response, Refusal> {
    let text = format!("<!doctype html><meta charset=\"utf-8\"><title>Howdah</title><p>{sentence}</p>");
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; frame-ancestors 'none'",
        ),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    let mut response = (headers, text).into_response();
    for cookie in cookies {
        response.headers_mut().append(header::SET_COOKIE, cookie.clone());
    }
    Ok(response)
}

/// A second factor.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SecondFactor {
    /// A code of an authenticator, or a recovery code.
    second_factor: String,
}

/// Finishes a log-in with a provider by the second factor of the account; answers the session, as a cookie too.
///
/// A step of a log-in: its cookie is good once, so sent again it begins no second session.
#[utoipa::path(post, path = "/v1/log-in/second-factor", tag = "log-in", security(()), request_body = SecondFactor, responses((status = 201, body = SessionMade)))]
async fn finish(
    State(app): State<Arc<App>>,
    peer: Peer,
    headers: HeaderMap,
    Json(body): Json<SecondFactor>,
) -> Result<Response, Refusal> {
    app.limiters.code(peer.address)?;
    let browser = cookie::read(&headers, cookie::BROWSER).ok_or_else(not_begun)?;
    let mut tx = app.pool.begin().await?;
    let account = queries::take_half(&mut tx, &SHOWN, &digest(browser), app.environment.now())
        .await?
        .ok_or_else(not_begun)?;
    // A wrong one leaves it waiting: the transaction is given up.
    second_factors::check(&app, &mut tx, &SHOWN, account, Some(&body.second_factor)).await?;
    let arrival = Arrival {
        app: &app,
        proof: &SHOWN,
        peer: &peer,
        title: "",
    };
    let Arrived::Session(made) = arrival.session(&mut tx, account).await? else {
        return Err(not_begun());
    };
    tx.commit().await?;
    let cookies = session_cookies(&made)?;
    let mut response = (StatusCode::CREATED, Json(*made)).into_response();
    for cookie in cookies {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    Ok(response)
}

/// Lists the identities at providers that log in to the caller's account.
#[utoipa::path(get, path = "/v1/account/identities", tag = "log-in", responses((status = 200, body = Page<LinkedIdentity>)))]
async fn list(call: Call) -> Result<Json<Page<LinkedIdentity>>, Refusal> {
    call.actor.person()?;
    let mut tx = call.begin().await?;
    Ok(Json(Page {
        items: queries::list_own(&mut tx, &call.actor).await?,
        next_cursor: None,
    }))
}

/// A provider.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AtProvider {
    /// Its name.
    provider: String,
}

/// Where a browser goes.
#[derive(Serialize, ToSchema)]
struct GoTo {
    /// The address at the provider.
    url: String,
}

/// Begins to link an identity to the caller's account. The browser that asks is the one that has to come back.
///
/// A step of a log-in: sent again it begins anew, and what was begun before ends by itself.
#[utoipa::path(post, path = "/v1/account/identities", tag = "log-in", request_body = AtProvider, responses((status = 200, body = GoTo)))]
async fn begin_link(call: Call, Json(body): Json<AtProvider>) -> Result<Response, Refusal> {
    let proven = call.actor.proven(call.now())?;
    let provider = call.app.providers.find(&body.provider).ok_or_else(Refusal::not_found)?;
    let (url, bound) = prepare(&call.app, provider, Some(proven.account())).await?;
    Ok(([(header::SET_COOKIE, bound)], Json(GoTo { url })).into_response())
}

/// Which identity.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct WhichIdentity {
    /// The provider's issuer.
    issuer: String,
    /// Who it is there.
    subject: String,
}

/// Lets an identity log in no more. The last way to log in stays.
#[utoipa::path(delete, path = "/v1/account/identities", tag = "log-in", params(WhichIdentity), responses((status = 204)))]
async fn unlink(call: Call, Query(which): Query<WhichIdentity>) -> Result<StatusCode, Refusal> {
    let mut tx = call.begin().await?;
    let proven = call.proven(&mut tx).await?;
    if !queries::delete_own(&mut tx, &proven, &which.issuer, &which.subject).await? {
        return Err(Refusal::not_found());
    }
    accounts::keeps_a_log_in(&mut tx, &proven).await?;
    call.happened(&mut tx, "identity.unlink", which.issuer).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Links an identity to an account by the code that was mailed to the account's address.
///
/// The code is good once, so sent again it changes nothing.
#[utoipa::path(post, path = "/v1/accounts/link", tag = "log-in", security(()), request_body = MailedCode, responses((status = 204)))]
async fn link(State(app): State<Arc<App>>, peer: Peer, Json(body): Json<MailedCode>) -> Result<StatusCode, Refusal> {
    app.limiters.code(peer.address)?;
    let code = mailed_codes::parse(&body.code)?;
    let mut tx = app.pool.begin().await?;
    let taken = mailed_codes::take(&app, &mut tx, &SHOWN, &code, &[Purpose::LinkIdentity]).await?;
    // Mailed to an address that is not the account's any more, it is nobody's.
    let key = accounts::queries::lock_email_key(&mut tx, &SHOWN, taken.account).await?;
    if key != Some(taken.email.key()) {
        return Err(mailed_codes::wrong());
    }
    let identity = taken.identity.ok_or_else(mailed_codes::wrong)?;
    let provider = app.providers.all().find(|p| p.config.issuer == identity.0);
    let arrival = Arrival {
        app: &app,
        proof: &SHOWN,
        peer: &peer,
        title: provider.map_or("a provider", |p| p.config.title.as_str()),
    };
    let changed = arrival.link_by_mail(&mut tx, taken.account, identity).await?;
    tx.commit().await?;
    app.policy.announce_all(&changed);
    app.post.wake();
    Ok(StatusCode::NO_CONTENT)
}
