//! `GET /v1/access/exposure`: who read anything that was made from a repo (R12).

use axum::extract::State;
use chassis::http::{Json, Query};
use chrono::{DateTime, TimeDelta, Utc};
use contract::api::{Exposed, Page};
use contract::policy::Permission;
use contract::reference::RepoRef;
use provenance::access::shown_name;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::queries;
use crate::call::Call;
use crate::commits::origins;
use crate::cursor;
use crate::failure::Answer;
use crate::permissions::System;
use crate::plane::Plane;

const DECIDE: System = System::because("which origins hold a domain is asked for who manages that domain");

/// The routes.
pub fn router() -> OpenApiRouter<Plane> {
    OpenApiRouter::new().routes(routes!(exposure))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ExposureQuery {
    /// The repo, `[project/]repo`.
    repo: String,
    /// Only who read since then; to the hour.
    since: Option<DateTime<Utc>>,
    /// How many rows at most.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Lists who read commits that were made from a repo, for those who manage it. Who read by a release is listed too.
#[utoipa::path(get, path = "/v1/access/exposure", tag = "access", params(ExposureQuery), responses((status = 200, body = Page<Exposed>)))]
async fn exposure(
    State(plane): State<Plane>,
    call: Call,
    Query(query): Query<ExposureQuery>,
) -> Answer<Json<Page<Exposed>>> {
    let limit = cursor::limit(query.limit)?;
    let reference: RepoRef = query.repo.parse()?;
    // The time of a reading is that of the first one in its hour.
    let since = query.since.map_or(DateTime::UNIX_EPOCH, |at| at - TimeDelta::hours(1));
    let list = format!("exposure {} {}", query.repo, since.timestamp());
    let after: Option<(String, Uuid)> = call.position(&list, query.cursor.as_deref())?;
    let mut conn = plane.pool.acquire().await?;
    let repo = call.repo(&mut conn, &reference).await?;
    let allowed = call.allowed(&repo, Permission::Admin)?;
    let (policy, viewer) = (&call.rights().policy, &call.rights().subject);
    let (mut sets, mut shown) = (Vec::new(), Vec::new());
    for id in queries::origin_sets(&mut conn, &DECIDE).await? {
        let set = origins::get(&plane, &mut conn, &DECIDE, id).await?;
        if set.get(repo.id).is_some() {
            sets.push(id);
            if call.rights().can(Permission::Discover, set.home()) {
                shown.push(set.home().uuid());
            }
        }
    }
    let fetch = i64::try_from(limit + 1).unwrap_or(i64::MAX);
    let found = queries::list(&mut conn, &allowed, (&sets, &shown, since), after, fetch).await?;
    let page = call.page(&list, found, limit, queries::Found::position)?;
    let items = page.items.into_iter().map(|f| Exposed {
        id: f.reader,
        name: f.name,
        read: match f.commit {
            Some((commit, repo)) => format!("{}@{commit}", shown_name(policy, viewer, repo)),
            // All of it together, and so often as it is (R15).
            None => "something restricted that was made from it".to_owned(),
        },
        first_at: f.first_at,
        last_at: f.last_at,
    });
    Ok(Json(Page {
        items: items.collect(),
        next_cursor: page.next_cursor,
    }))
}
