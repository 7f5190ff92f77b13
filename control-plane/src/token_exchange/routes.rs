//! `POST /v1/token-exchange`.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use chassis::http::Json;
use contract::api::{ExchangedToken, TokenExchange};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::verify::Claims;
use super::{Refused, refused, tell};
use crate::app::App;
use crate::refusal::Refusal;

/// The routes of this slice.
pub fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(create))
}

/// Exchanges the OIDC token of a CI run for a token of this service.
#[utoipa::path(post, path = "/v1/token-exchange", tag = "token exchange", security(()), request_body = TokenExchange, responses((status = 201, body = ExchangedToken)))]
async fn create(
    State(app): State<Arc<App>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Json(wish): Json<TokenExchange>,
) -> Result<(StatusCode, Json<ExchangedToken>), Refusal> {
    app.limiters.exchange(peer.ip())?;
    let near = |claims: &Claims, trust: &str| format!("{} {trust}", claims.text("iss").unwrap_or_default());
    let (why, near) = match super::exchange(&app, &wish).await {
        Ok(made) => return Ok((StatusCode::CREATED, Json(made))),
        Err(Refused::Unable(refusal)) => return Err(refusal),
        Err(Refused::Doubt(doubt)) => (format!("a token that is not believed: {doubt}"), String::new()),
        Err(Refused::Misfit(claims, misfit)) => (format!("{claims}: {misfit}"), near(&claims, misfit.trust())),
        Err(Refused::Used(claims, trust)) => (format!("{claims}: it was used before"), near(&claims, &trust)),
    };
    tell(&app, &wish.organization, why, near);
    Err(refused())
}
