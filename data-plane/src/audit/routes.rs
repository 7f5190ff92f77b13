//! `GET /v1/audit`, `GET /v1/audit/export`: for owners, admins and auditors of the organization.

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use chassis::audit::{Filter, Wanted};
use chassis::http::{Json, Query};
use contract::api::{AuditEvent, Page, SignedCheckpoint};
use contract::policy::OrganizationRole;
use contract::problem::ProblemKind;
use futures::stream::{self, Stream};
use http::header;
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::queries;
use crate::call::Call;
use crate::cursor;
use crate::failure::{Answer, Failure};
use crate::permissions::System;
use crate::plane::Plane;

const READS: System = System::because("the caller manages or audits the organization");
/// So many rows of an export are read at once.
const PIECE: i64 = 500;

/// The routes.
pub fn router() -> OpenApiRouter<Plane> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(export))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Paging {
    /// How many rows at most.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Demands a role that reads the trail, and a token without scopes: rows name everything.
fn may_read(call: &Call) -> Answer<()> {
    let role = call.role();
    if (role.manages() || role == OrganizationRole::Auditor) && call.claims().scopes.is_empty() {
        return Ok(());
    }
    Err(Failure::new(
        ProblemKind::NotAllowed,
        "only owners, admins and auditors of the organization may read the audit trail",
    )
    .hint("ask one of them, or use a token without scopes"))
}

/// Lists what was changed in the plane, for owners, admins and auditors.
#[utoipa::path(get, path = "/v1/audit", tag = "audit", params(Wanted, Paging), responses((status = 200, body = Page<AuditEvent>)))]
async fn list(
    State(plane): State<Plane>,
    call: Call,
    Query(wanted): Query<Wanted>,
    Query(paging): Query<Paging>,
) -> Answer<Json<Page<AuditEvent>>> {
    may_read(&call)?;
    let limit = cursor::limit(paging.limit)?;
    let list = format!("audit {wanted:?}");
    let after: Option<i64> = call.position(&list, paging.cursor.as_deref())?;
    let filter = wanted.filter()?;
    let after = after.unwrap_or(filter.start());
    let mut conn = plane.pool.acquire().await?;
    let fetch = (after, limit as i64 + 1);
    let rows = queries::list_events(&mut conn, &READS, plane.organization, &filter, fetch).await?;
    Ok(Json(call.page(&list, rows, limit, |row: &AuditEvent| row.seq)?))
}

/// Where an export stands.
struct Export {
    call: Call,
    /// The last row that it will tell, as it was when the export began, and the control plane's word for it.
    end: SignedCheckpoint,
    told: i64,
    ended: bool,
}

/// Streams all of the trail as JSON lines, oldest first; the last one is a checkpoint that the control plane has signed.
#[utoipa::path(get, path = "/v1/audit/export", tag = "audit", responses((status = 200, body = String, content_type = "application/x-ndjson")))]
async fn export(State(plane): State<Plane>, call: Call) -> Answer<Response> {
    may_read(&call)?;
    let (seq, hash) = {
        let mut conn = plane.pool.acquire().await?;
        queries::get_head(&mut conn, &READS).await?
    };
    let end = plane.control.sign_checkpoint(seq, &hash).await?;
    let export = Export {
        call,
        end,
        told: 0,
        ended: false,
    };
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    Ok((kind, Body::from_stream(lines(export))).into_response())
}

/// The lines of an export, piece by piece; what fails on the way is told in a problem document as the last line.
fn lines(export: Export) -> impl Stream<Item = Result<Bytes, std::convert::Infallible>> {
    stream::unfold(export, |mut export| async move {
        if export.ended {
            return None;
        }
        let piece = export.next().await.unwrap_or_else(|failure| {
            export.ended = true;
            line(&failure.0.0).unwrap_or_default()
        });
        Some((Ok(Bytes::from(piece)), export))
    })
}

fn line<T: Serialize>(value: &T) -> Answer<Vec<u8>> {
    let mut line = serde_json::to_vec(value).map_err(Failure::internal)?;
    line.push(b'\n');
    Ok(line)
}

impl Export {
    async fn next(&mut self) -> Answer<Vec<u8>> {
        let last = self.end.checkpoint.seq as i64;
        if self.told >= last {
            self.ended = true;
            return line(&self.end);
        }
        // Whoever loses the right to read it gets no further piece (R6).
        self.call = self.call.renewed()?;
        may_read(&self.call)?;
        let filter = Filter::all();
        let plane = &self.call.plane;
        let mut conn = plane.pool.acquire().await?;
        let rows = queries::list_events(&mut conn, &READS, plane.organization, &filter, (self.told, PIECE)).await?;
        drop(conn);
        let mut lines = Vec::new();
        for row in rows.iter().filter(|row| row.seq as i64 <= last) {
            lines.extend(line(row)?);
        }
        // Whether rows are missing is for whoever checks the chain to say.
        self.told = rows.last().map_or(last, |row| row.seq as i64);
        Ok(lines)
    }
}
