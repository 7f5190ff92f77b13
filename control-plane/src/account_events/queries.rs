//! SQL of what happened to accounts.

use chrono::{DateTime, Utc};
use contract::api::AccountEvent;
use contract::ids::AccountId;

use crate::authz::{Actor, System};
use crate::database::{Tx, signed, unsigned};

/// Takes the next number of the chain and the hash of the event before it; locks the account's row.
pub(super) async fn lock_chain(
    tx: &mut Tx,
    _proof: &System,
    account: AccountId,
) -> Result<(i64, Vec<u8>), sqlx::Error> {
    sqlx::query_as("update accounts set event_seq = event_seq + 1 where id = $1 returning event_seq, event_hash")
        .bind(account.to_string())
        .fetch_one(&mut **tx)
        .await
}

/// Writes the event and makes its hash the chain's newest.
pub(super) async fn insert_event(
    tx: &mut Tx,
    _proof: &System,
    account: AccountId,
    event: &AccountEvent,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "with written as (
             insert into account_events (account_id, seq, at, action, subject, token, address, prev_hash, hash)
             values ($1, $2, $3, $4, $5, $6, $7, decode($8, 'hex'), decode($9, 'hex'))
         )
         update accounts set event_hash = decode($9, 'hex') where id = $1",
    )
    .bind(account.to_string())
    .bind(signed(event.seq))
    .bind(event.at)
    .bind(&event.action)
    .bind(&event.subject)
    .bind(&event.token)
    .bind(&event.address)
    .bind(&event.prev_hash)
    .bind(&event.hash)
    .execute(&mut **tx)
    .await
    .map(|_| ())
}

/// What happened to the caller's own account before an event, newest first.
pub(super) async fn list_own(
    tx: &mut Tx,
    actor: &Actor,
    before: Option<u64>,
    most: i64,
) -> Result<Vec<AccountEvent>, sqlx::Error> {
    type Row = (i64, DateTime<Utc>, String, String, String, String, Vec<u8>, Vec<u8>);
    let rows: Vec<Row> = sqlx::query_as(
        "select seq, at, action, subject, token, address, prev_hash, hash from account_events
         where account_id = $1 and ($2::bigint is null or seq < $2) order by seq desc limit $3",
    )
    .bind(actor.principal().to_string())
    .bind(before.map(signed))
    .bind(most)
    .fetch_all(&mut **tx)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| AccountEvent {
            seq: unsigned(row.0),
            at: row.1,
            action: row.2,
            subject: row.3,
            token: row.4,
            address: row.5,
            prev_hash: hex::encode(row.6),
            hash: hex::encode(row.7),
        })
        .collect())
}
