//! `/v1/provenance` and `/v1/impact`, and what they are checked by: `/v1/evidence`, `/v1/manifest`.

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use chassis::http::{Json, Query};
use contract::api::Lineage;
use contract::reference::CommitRef;
use serde::Deserialize;

use super::{Direction, evidence, shown, walk};
use crate::call::Call;
use crate::failure::Answer;
use crate::plane::Plane;

/// The routes.
pub fn router() -> Router<Plane> {
    Router::new()
        .route("/v1/provenance", get(provenance))
        .route("/v1/impact", get(impact))
        .route("/v1/evidence", get(evidence::show))
        .route("/v1/manifest", get(evidence::manifest))
}

#[derive(Deserialize)]
struct RefQuery {
    #[serde(rename = "ref")]
    reference: String,
}

async fn provenance(State(plane): State<Plane>, call: Call, Query(query): Query<RefQuery>) -> Answer<Json<Lineage>> {
    lineage(&plane, &call, &query.reference, Direction::Up).await
}

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
