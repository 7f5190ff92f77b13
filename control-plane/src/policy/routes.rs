//! Internal, for data planes: `GET /internal/v1/planes/{org id}/policy?after=&wait_seconds=`.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::get;
use chassis::http::{ApiError, Json, Path, Query};
use contract::claims::plane_audience;
use contract::ids::OrganizationId;
use contract::policy::{PolicyAnswer, PolicyClaims};
use serde::Deserialize;

use super::{REVOKED_TOKENS_KEPT, queries};
use crate::app::App;
use crate::authz::{self, AsPlane};
use crate::database::{Tx, confine};
use crate::refusal::Refusal;

/// A poll waits no longer than that.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// How often a waiting poll looks into the database for changes that another process made.
const RECHECK: Duration = Duration::from_secs(2);

/// The routes of this slice.
pub fn router() -> Router<Arc<App>> {
    Router::new().route("/internal/v1/planes/{org}/policy", get(poll))
}

#[derive(Deserialize)]
struct Poll {
    #[serde(default)]
    after: u64,
    #[serde(default)]
    wait_seconds: u64,
    /// How new the keys are that the plane knows; planes of the version before do not say it, and are sent none.
    keys: Option<u64>,
}

async fn poll(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    Path(org): Path<OrganizationId>,
    Query(query): Query<Poll>,
) -> Result<Json<PolicyAnswer>, Refusal> {
    let secret = chassis::http::bearer(&headers)?;
    let plane = authz::authenticate_plane(&app.pool, secret, org).await?;
    let mut news = app.policy.subscribe(org);
    let mut current = acknowledge(&app, &plane, query.after).await?;
    let until = tokio::time::Instant::now() + Duration::from_secs(query.wait_seconds).min(WAIT_MAX);
    let known = query.keys.unwrap_or(u64::MAX);
    while current <= query.after
        && app.keys.version() <= known
        && tokio::time::Instant::now() < until
        && !app.shutdown.has_begun()
    {
        let recheck = until.min(tokio::time::Instant::now() + RECHECK);
        tokio::select! {
            () = app.shutdown.begun() => break,
            () = tokio::time::sleep_until(recheck) => {}
            _ = news.wait_for(|epoch| *epoch > query.after) => {}
            () = app.keys.newer_than(known) => {}
        }
        let mut tx = plane.begin(&app.pool).await?;
        current = queries::get_epoch(&mut tx, &plane).await?;
    }
    let answer = if current <= query.after {
        PolicyAnswer {
            epoch: current,
            signed_snapshot: None,
            keys: None,
        }
    } else {
        snapshot(&app, &plane).await?
    };
    // The keys are asked for afterwards, so that they hold the one that has signed.
    Ok(Json(PolicyAnswer {
        keys: app.keys.published_since(known),
        ..answer
    }))
}

/// Takes `after` as the word that this epoch is enforced; answers the current one.
async fn acknowledge(app: &App, plane: &AsPlane, after: u64) -> Result<u64, Refusal> {
    let mut tx = plane.begin(&app.pool).await?;
    let current = queries::get_epoch(&mut tx, plane).await?;
    if after > 0 && after <= current {
        queries::acknowledge(&mut tx, plane, after).await?;
        tx.commit().await?;
        app.policy.acknowledge(plane.organization(), after);
    }
    Ok(current)
}

async fn snapshot(app: &App, plane: &AsPlane) -> Result<PolicyAnswer, Refusal> {
    let mut tx: Tx = app
        .pool
        .begin_with("begin transaction isolation level repeatable read, read only")
        .await?;
    confine(&mut tx, plane.organization()).await?;
    let now = app.environment.now();
    let policy = queries::get_snapshot(&mut tx, plane, now - REVOKED_TOKENS_KEPT).await?;
    drop(tx);
    // Whoever sees the epoch that a withdrawal raised signs with the key that came with it.
    app.keys
        .refresh(&app.pool, &app.vault, &app.environment)
        .await
        .map_err(ApiError::internal)?;
    let epoch = policy.epoch;
    let claims = PolicyClaims {
        iss: app.public_url.clone(),
        aud: plane_audience(plane.organization()),
        iat: now.timestamp(),
        policy,
    };
    let signed = app.keys.sign(&claims).map_err(ApiError::internal)?;
    Ok(PolicyAnswer {
        epoch,
        signed_snapshot: Some(signed),
        keys: None,
    })
}
