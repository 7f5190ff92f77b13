//! The routes of files.

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};

use super::{chunk_lists, reads, writes};
use crate::plane::Plane;

/// The routes.
pub fn router() -> Router<Plane> {
    Router::new()
        .route("/v1/files", get(reads::list).delete(writes::delete))
        .merge(
            // An upload is as large as it is: it is stored as it arrives.
            Router::new()
                .route("/v1/files", post(writes::put))
                .layer(DefaultBodyLimit::disable()),
        )
        .route("/v1/chunks", post(chunk_lists::list))
        .route("/v1/copies", post(writes::copy))
        .route("/v1/content", get(reads::content))
        .route("/v1/archive", get(reads::archive))
        .route("/v1/diff", get(reads::diff))
}
