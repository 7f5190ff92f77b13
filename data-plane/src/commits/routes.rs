//! Handlers.

use axum::Router;

use crate::plane::Plane;

/// The routes.
pub fn router() -> Router<Plane> {
    Router::new()
}
