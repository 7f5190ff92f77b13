//! The routes of files.

use axum::extract::DefaultBodyLimit;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{chunk_lists, reads, writes};
use crate::plane::Plane;

/// The routes.
pub fn router() -> OpenApiRouter<Plane> {
    OpenApiRouter::new()
        .routes(routes!(reads::list, writes::delete))
        .merge(
            // An upload is as large as it is: it is stored as it arrives.
            OpenApiRouter::new()
                .routes(routes!(writes::put))
                .layer(DefaultBodyLimit::disable()),
        )
        .routes(routes!(chunk_lists::list))
        .routes(routes!(writes::copy))
        .routes(routes!(reads::content))
        .routes(routes!(reads::archive))
        .routes(routes!(reads::diff))
}
