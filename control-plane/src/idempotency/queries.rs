//! Kept answers. Those of a caller are found by his session or token alone, so the actor is the proof.

use chrono::{DateTime, Utc};
use sqlx::PgPool;

use super::Kept;
use crate::authz::{Actor, System};
use crate::database::Tx;

/// Locks the key until the transaction ends; false while another one holds it. From here on the transaction sees this caller's answers,
/// also where it is confined to an organization.
pub(super) async fn lock(tx: &mut Tx, actor: &Actor, key: &str) -> Result<bool, sqlx::Error> {
    let (locked, _): (bool, String) = sqlx::query_as(
        "select pg_try_advisory_xact_lock(hashtextextended('kept answer ' || $1 || ' ' || $2, 0)),
                set_config('howdah.caller', $1, true)",
    )
    .bind(actor.token().to_string())
    .bind(key)
    .fetch_one(&mut **tx)
    .await?;
    Ok(locked)
}

pub(super) async fn find_answer(
    tx: &mut Tx,
    actor: &Actor,
    key: &str,
    since: DateTime<Utc>,
) -> Result<Option<Kept>, sqlx::Error> {
    let row: Option<(Vec<u8>, i16, Vec<u8>)> = sqlx::query_as(
        "select request_digest, status, answer_encrypted from kept_answers
         where token_id = $1 and key = $2 and created_at > $3",
    )
    .bind(actor.token().to_string())
    .bind(key)
    .bind(since)
    .fetch_optional(&mut **tx)
    .await?;
    Ok(row.map(|(digest, status, sealed)| Kept { digest, status, sealed }))
}

/// Keeps an answer, in the place of one whose time is over.
pub(super) async fn upsert_answer(
    tx: &mut Tx,
    actor: &Actor,
    key: &str,
    kept: &Kept,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into kept_answers (token_id, key, request_digest, status, answer_encrypted, created_at)
         values ($1, $2, $3, $4, $5, $6)
         on conflict (token_id, key) do update set request_digest = excluded.request_digest, status = excluded.status,
             answer_encrypted = excluded.answer_encrypted, created_at = excluded.created_at",
    )
    .bind(actor.token().to_string())
    .bind(key)
    .bind(&kept.digest)
    .bind(kept.status)
    .bind(&kept.sealed)
    .bind(now)
    .execute(&mut **tx)
    .await
    .map(|_| ())
}

pub(super) async fn delete_before(pool: &PgPool, _proof: &System, before: DateTime<Utc>) -> Result<(), sqlx::Error> {
    sqlx::query("delete from kept_answers where created_at <= $1")
        .bind(before)
        .execute(pool)
        .await
        .map(|_| ())
}
