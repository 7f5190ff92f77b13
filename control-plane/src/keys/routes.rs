//! `GET /.well-known/jwks.json`.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use chassis::http::Json;

use crate::app::App;

/// The routes of this slice.
pub fn router() -> Router<Arc<App>> {
    Router::new().route("/.well-known/jwks.json", get(show))
}

async fn show(State(app): State<Arc<App>>) -> Json<serde_json::Value> {
    Json(app.jwks.clone())
}
