//! SQL of the audit trail.

use chrono::{DateTime, Utc};
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

/// Which rows are wanted.
#[derive(Debug, Default)]
pub(super) struct Filter {
    pub since: Option<DateTime<Utc>>,
    pub until: Option<DateTime<Utc>>,
    /// `noun.verb`, or a noun for all that was done with such things.
    pub action: Option<String>,
    /// Id, name or token.
    pub actor: Option<String>,
    /// A part of what the row says.
    pub text: Option<String>,
    pub oldest_first: bool,
}

#[derive(sqlx::FromRow)]
struct Row {
    seq: i64,
    format: i32,
    at: DateTime<Utc>,
    actor: String,
    actor_name: String,
    token: String,
    via: String,
    action: String,
    subject: String,
    request_id: String,
    address: String,
    prev_hash: Vec<u8>,
    hash: Vec<u8>,
}

/// A pattern that finds the text itself, whatever it holds.
fn containing(text: &str) -> String {
    let literal = text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
    format!("%{literal}%")
}

/// So many rows behind the number, in the order that is wanted.
pub(super) async fn list_events(
    conn: &mut PgConnection,
    _: &System,
    organization: OrganizationId,
    filter: &Filter,
    (after, fetch): (i64, i64),
) -> Answer<Vec<AuditEvent>> {
    let (behind, order) = if filter.oldest_first {
        ("seq > $1", "asc")
    } else {
        ("seq < $1", "desc")
    };
    let statement = format!(
        "select seq, format, at, actor, actor_name, token, via, action, subject, request_id, address, prev_hash, hash
         from audit_events
         where {behind} and ($2::timestamptz is null or at >= $2) and ($3::timestamptz is null or at < $3)
           and ($4::text is null or action = $4 or split_part(action, '.', 1) = $4)
           and ($5::text is null or actor = $5 or token = $5 or lower(actor_name) = lower($5))
           and ($6::text is null or subject ilike $6 or action ilike $6 or actor_name ilike $6 or via ilike $6
                or request_id ilike $6)
         order by seq {order} limit $7"
    );
    let rows: Vec<Row> = sqlx::query_as(sqlx::AssertSqlSafe(statement))
        .bind(after)
        .bind(filter.since)
        .bind(filter.until)
        .bind(&filter.action)
        .bind(&filter.actor)
        .bind(filter.text.as_deref().map(containing))
        .bind(fetch)
        .fetch_all(conn)
        .await?;
    let shown = |row: Row| AuditEvent {
        trail: Trail::Plane,
        organization,
        seq: row.seq.unsigned_abs(),
        format: row.format.unsigned_abs(),
        at: row.at,
        actor: row.actor,
        actor_name: row.actor_name,
        token: row.token,
        via: row.via,
        action: row.action,
        subject: row.subject,
        request_id: row.request_id,
        address: row.address,
        prev_hash: hex::encode(row.prev_hash),
        hash: hex::encode(row.hash),
    };
    Ok(rows.into_iter().map(shown).collect())
}

/// The last row that there is: its number and its hash.
pub(super) async fn get_head(conn: &mut PgConnection, _: &System) -> Answer<(u64, String)> {
    let (seq, hash): (i64, Vec<u8>) = sqlx::query_as("select seq, hash from audit_chain")
        .fetch_one(conn)
        .await?;
    Ok((seq.unsigned_abs(), hex::encode(hash)))
}
