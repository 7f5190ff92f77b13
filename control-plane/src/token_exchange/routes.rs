//! `POST /v1/token-exchange`.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use chassis::http::Json;
use contract::api::{ExchangedToken, TokenExchange};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Refused, refused, tell};
use crate::app::App;
use crate::refusal::Refusal;

/// The routes of this slice.
pub fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(create))
}

/// Exchanges the OIDC token of a CI run for a token of this service.
///
/// A step of a log-in: the issuer's token is good once, so sent again it makes no second one. Ask the issuer for another.
#[utoipa::path(post, path = "/v1/token-exchange", tag = "token exchange", security(()), request_body = TokenExchange, responses((status = 201, body = ExchangedToken)))]
async fn create(
    State(app): State<Arc<App>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Json(wish): Json<TokenExchange>,
) -> Result<(StatusCode, Json<ExchangedToken>), Refusal> {
    app.limiters.exchange(peer.ip())?;
    let (why, signed) = match super::exchange(&app, &wish).await {
        Ok(made) => return Ok((StatusCode::CREATED, Json(made))),
        Err(Refused::Unable(refusal)) => return Err(refusal),
        Err(Refused::Doubt(doubt)) => (format!("a token that is not believed: {doubt}"), false),
        Err(Refused::Misfit(claims, misfit)) => (format!("{claims}: {misfit}"), true),
        Err(Refused::Used(claims)) => (format!("{claims}: it was used before"), true),
    };
    tell(&app, &wish.organization, why, signed);
    Err(refused())
}
