//! `GET /.well-known/jwks.json`.

use std::sync::Arc;

use axum::extract::State;
use chassis::http::Json;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;

/// The routes of this slice.
pub fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(show))
}

/// The public keys that access tokens and policies are verified by (RFC 7517).
#[utoipa::path(
    get,
    path = "/.well-known/jwks.json",
    tag = "keys",
    operation_id = "jwks",
    security(()),
    responses((status = 200, body = Object)),
)]
async fn show(State(app): State<Arc<App>>) -> Json<serde_json::Value> {
    Json(app.keys.jwks())
}
