//! SQL of the audit trail.

use super::{Acting, Event, Who};
use crate::database::Tx;

/// Takes the next number of the chain and the hash of the row before it; locks the organization's row.
pub(super) async fn lock_chain(tx: &mut Tx, proof: &impl Acting) -> Result<(i64, Vec<u8>), sqlx::Error> {
    sqlx::query_as("update organizations set audit_seq = audit_seq + 1 where id = $1 returning audit_seq, audit_hash")
        .bind(proof.organization().to_string())
        .fetch_one(&mut **tx)
        .await
}

/// Writes the row and makes its hash the chain's newest.
pub(super) async fn insert_event(
    tx: &mut Tx,
    proof: &impl Acting,
    seq: i64,
    who: &Who,
    event: &Event<'_>,
    prev_hash: &[u8],
    hash: &[u8],
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "with written as (
             insert into audit_events (organization_id, seq, at, actor, actor_name, token, action, subject, prev_hash, hash)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
         )
         update organizations set audit_hash = $10 where id = $1",
    )
    .bind(proof.organization().to_string())
    .bind(seq)
    .bind(event.at)
    .bind(&who.id)
    .bind(&who.name)
    .bind(&who.token)
    .bind(event.action)
    .bind(&event.subject)
    .bind(prev_hash)
    .bind(hash)
    .execute(&mut **tx)
    .await
    .map(|_| ())
}
