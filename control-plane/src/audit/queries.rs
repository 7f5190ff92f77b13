//! SQL of the audit trail.

use chassis::audit::{Filter, Row, told};
use chrono::{DateTime, Utc};
use contract::api::{AuditEvent, NewCheckpoint};
use contract::audit::Trail;

use super::Acting;
use crate::authz::{Allowed, AsPlane, ViewAudit};
use crate::database::{Tx, signed, unsigned};

/// Takes the next number of the chain and the hash of the row before it; locks the organization's row.
pub(super) async fn lock_chain(tx: &mut Tx, proof: &impl Acting) -> Result<(i64, Vec<u8>), sqlx::Error> {
    sqlx::query_as("update organizations set audit_seq = audit_seq + 1 where id = $1 returning audit_seq, audit_hash")
        .bind(proof.organization().to_string())
        .fetch_one(&mut **tx)
        .await
}

/// Writes the row and makes its hash the chain's newest.
pub(super) async fn insert_event(tx: &mut Tx, proof: &impl Acting, row: &AuditEvent) -> Result<(), sqlx::Error> {
    sqlx::query(
        "with written as (
             insert into audit_events (organization_id, seq, format, at, actor, actor_name, token, via, action, subject,
                                       request_id, address, prev_hash, hash)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, decode($13, 'hex'), decode($14, 'hex'))
         )
         update organizations set audit_hash = decode($14, 'hex') where id = $1",
    )
    .bind(proof.organization().to_string())
    .bind(signed(row.seq))
    .bind(i32::try_from(row.format).unwrap_or(0))
    .bind(row.at)
    .bind(&row.actor)
    .bind(&row.actor_name)
    .bind(&row.token)
    .bind(&row.via)
    .bind(&row.action)
    .bind(&row.subject)
    .bind(&row.request_id)
    .bind(&row.address)
    .bind(&row.prev_hash)
    .bind(&row.hash)
    .execute(&mut **tx)
    .await
    .map(|_| ())
}

/// So many rows behind the number, in the order that is wanted.
pub(super) async fn list_events(
    tx: &mut Tx,
    allowed: &Allowed<ViewAudit>,
    filter: &Filter,
    (after, fetch): (i64, i64),
) -> Result<Vec<AuditEvent>, sqlx::Error> {
    let organization = allowed.organization();
    let rows: Vec<Row> = sqlx::query_as(sqlx::AssertSqlSafe(filter.statement("organization_id = $8")))
        .bind(after)
        .bind(filter.since)
        .bind(filter.until)
        .bind(&filter.action)
        .bind(&filter.actor)
        .bind(filter.pattern())
        .bind(fetch)
        .bind(organization.to_string())
        .fetch_all(&mut **tx)
        .await?;
    let rows = rows.into_iter();
    Ok(rows.map(|row| told(Trail::Control, organization, row)).collect())
}

/// The last row that there is: its number and its hash, as the organization's row keeps them.
pub(super) async fn get_head(tx: &mut Tx, allowed: &Allowed<ViewAudit>) -> Result<(u64, String), sqlx::Error> {
    let (seq, hash): (i64, Vec<u8>) = sqlx::query_as("select audit_seq, audit_hash from organizations where id = $1")
        .bind(allowed.organization().to_string())
        .fetch_one(&mut **tx)
        .await?;
    Ok((unsigned(seq), hex::encode(hash)))
}

/// Notes how far the plane's trail goes. `false` when it went further before, or ended with another row.
pub(super) async fn raise_plane_head(
    tx: &mut Tx,
    plane: &AsPlane,
    head: &NewCheckpoint,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "insert into plane_audit_heads as known (organization_id, seq, hash, signed_at) values ($1, $2, $3, $4)
         on conflict (organization_id) do update set seq = excluded.seq, hash = excluded.hash, signed_at = excluded.signed_at
         where known.seq < excluded.seq or known.seq = excluded.seq and known.hash = excluded.hash",
    )
    .bind(plane.organization().to_string())
    .bind(signed(head.seq))
    .bind(&head.hash)
    .bind(now)
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() == 1)
}
