//! SQL of requests for access.

use chrono::{DateTime, Utc};
use contract::ids::AccessRequestId;

use super::AccessRequestView;
use crate::authz::{Allowed, ChangePolicy, ViewWholePolicy};
use crate::database::{Text, Tx};
use crate::paging::Window;

pub(super) async fn insert_request(
    tx: &mut Tx,
    allowed: &Allowed<ChangePolicy>,
    new: &AccessRequestView,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into access_requests (id, organization_id, principal, principal_name, reference, missing, message, created_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(new.id.to_string())
    .bind(allowed.organization().to_string())
    .bind(allowed.actor().principal().to_string())
    .bind(&new.by)
    .bind(&new.reference)
    .bind(&new.missing)
    .bind(&new.message)
    .bind(new.created_at)
    .execute(&mut **tx)
    .await
    .map(|_| ())
}

/// The caller's own requests, and those about domains that he administers; all for who manages.
pub(super) async fn list_requests(
    tx: &mut Tx,
    allowed: &Allowed<ViewWholePolicy>,
    administered: &[String],
    window: &Window,
) -> Result<Vec<AccessRequestView>, sqlx::Error> {
    type Row = (
        Text<AccessRequestId>,
        String,
        String,
        Vec<String>,
        String,
        DateTime<Utc>,
    );
    let rows: Vec<Row> = sqlx::query_as(
        "select id, principal_name, reference, missing, message, created_at from access_requests
         where organization_id = $1 and id > $5 and ($2 or principal = $3 or missing && (
             select coalesce(array_agg(d.project || '/' || d.name), '{}') from domains d
             where d.organization_id = $1 and d.id = any($4)))
         order by id limit $6",
    )
    .bind(allowed.organization().to_string())
    .bind(allowed.role().manages())
    .bind(allowed.actor().principal().to_string())
    .bind(administered)
    .bind(&window.after)
    .bind(window.fetch)
    .fetch_all(&mut **tx)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(id, by, reference, missing, message, created_at)| AccessRequestView {
            id: id.0,
            by,
            reference,
            missing,
            message,
            created_at,
        })
        .collect())
}
