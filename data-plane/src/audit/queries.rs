//! SQL of the audit trail.

use chassis::audit::{Filter, Row, told};
use contract::api::AuditEvent;
use contract::audit::{Entry, FORMAT, Trail};
use contract::ids::OrganizationId;
use sqlx::PgConnection;

use crate::failure::Answer;
use crate::permissions::System;
use crate::plane::Tx;

/// Takes the next number of the chain and the hash of the row before it; locks the chain.
pub(super) async fn lock_chain(tx: &mut Tx, _: &System) -> Answer<(u64, Vec<u8>)> {
    let (seq, hash): (i64, Vec<u8>) = sqlx::query_as("update audit_chain set seq = seq + 1 returning seq, hash")
        .fetch_one(&mut **tx)
        .await?;
    Ok((seq.unsigned_abs(), hash))
}

/// Writes the row and makes its hash the chain's newest.
pub(super) async fn insert_event(tx: &mut Tx, _: &System, entry: &Entry<'_>, prev_hash: &[u8]) -> Answer<()> {
    sqlx::query(
        "with written as (
             insert into audit_events (seq, format, at, actor, actor_name, token, via, action, subject, request_id, address,
                                       prev_hash, hash)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
         )
         update audit_chain set hash = $13",
    )
    .bind(entry.seq as i64)
    .bind(FORMAT as i32)
    .bind(entry.at)
    .bind(entry.actor)
    .bind(entry.actor_name)
    .bind(entry.token)
    .bind(entry.via)
    .bind(entry.action)
    .bind(entry.subject)
    .bind(entry.request_id)
    .bind(entry.address)
    .bind(prev_hash)
    .bind(entry.link(prev_hash).as_slice())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// So many rows behind the number, in the order that is wanted.
pub(super) async fn list_events(
    conn: &mut PgConnection,
    _: &System,
    organization: OrganizationId,
    filter: &Filter,
    (after, fetch): (i64, i64),
) -> Answer<Vec<AuditEvent>> {
    let rows: Vec<Row> = sqlx::query_as(sqlx::AssertSqlSafe(filter.statement("true")))
        .bind(after)
        .bind(filter.since)
        .bind(filter.until)
        .bind(&filter.action)
        .bind(&filter.actor)
        .bind(filter.pattern())
        .bind(fetch)
        .fetch_all(conn)
        .await?;
    let rows = rows.into_iter();
    Ok(rows.map(|row| told(Trail::Plane, organization, row)).collect())
}

/// The last row that there is: its number and its hash.
pub(super) async fn get_head(conn: &mut PgConnection, _: &System) -> Answer<(u64, String)> {
    let (seq, hash): (i64, Vec<u8>) = sqlx::query_as("select seq, hash from audit_chain")
        .fetch_one(conn)
        .await?;
    Ok((seq.unsigned_abs(), hex::encode(hash)))
}
