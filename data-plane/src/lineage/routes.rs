//! `/v1/provenance` and `/v1/impact`, and what they are checked by: `/v1/evidence`, `/v1/manifest`.

use axum::extract::State;
use chassis::http::{Json, Query};
use contract::api::Lineage;
use contract::reference::CommitRef;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Direction, evidence, shown, walk};
use crate::call::Call;
use crate::failure::Answer;
use crate::plane::Plane;

/// The routes.
pub fn router() -> OpenApiRouter<Plane> {
    OpenApiRouter::new()
        .routes(routes!(provenance))
        .routes(routes!(impact))
        .routes(routes!(evidence::show))
        .routes(routes!(evidence::manifest))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct RefQuery {
    /// A commit: `[project/]repo@branch` or `…@id`, with `^n` or `.n`.
    #[serde(rename = "ref")]
    reference: String,
}

/// Says what a commit was made from.
#[utoipa::path(get, path = "/v1/provenance", tag = "lineage", params(RefQuery), responses((status = 200, body = Lineage)))]
async fn provenance(State(plane): State<Plane>, call: Call, Query(query): Query<RefQuery>) -> Answer<Json<Lineage>> {
    lineage(&plane, &call, &query.reference, Direction::Up).await
}

/// Says what was made from a commit.
#[utoipa::path(get, path = "/v1/impact", tag = "lineage", params(RefQuery), responses((status = 200, body = Lineage)))]
async fn impact(State(plane): State<Plane>, call: Call, Query(query): Query<RefQuery>) -> Answer<Json<Lineage>> {
    lineage(&plane, &call, &query.reference, Direction::Down).await
}

async fn lineage(plane: &Plane, call: &Call, reference: &str, direction: Direction) -> Answer<Json<Lineage>> {
    let reference: CommitRef = reference.parse()?;
    let mut conn = plane.pool.acquire().await?;
    let commit = call.locate_readable(&mut conn, &reference).await?.commit;
    let found = walk(&mut conn, commit.id, direction).await?;
    Ok(Json(shown(&mut conn, call, &commit, direction, &found).await?))
}
