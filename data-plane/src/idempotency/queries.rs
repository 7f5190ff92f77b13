//! SQL of kept answers: those of a caller are found by the session or API token in use alone.

use chrono::{DateTime, Utc};
use contract::ids::TokenId;
use http::StatusCode;

use super::{Kept, Keyed};
use crate::failure::{Answer, Failure};
use crate::plane::Tx;

/// How many old answers go with a new one.
const FORGOTTEN_AT_ONCE: i64 = 100;

/// Locks the key until the transaction ends; false while another one holds it.
pub(super) async fn lock(tx: &mut Tx, token: TokenId, key: &str) -> Answer<bool> {
    let locked = sqlx::query_scalar(
        "select pg_try_advisory_xact_lock(hashtextextended('kept answer ' || $1::text || ' ' || $2, 0))",
    )
    .bind(token.uuid())
    .bind(key)
    .fetch_one(&mut **tx)
    .await?;
    Ok(locked)
}

/// The digest of the request that was answered, and the answer.
pub(super) async fn find_answer(
    tx: &mut Tx,
    token: TokenId,
    key: &str,
    since: DateTime<Utc>,
) -> Answer<Option<(Vec<u8>, Kept)>> {
    let row: Option<(Vec<u8>, i16, String)> = sqlx::query_as(
        "select request_digest, status, answer from kept_answers where token_id = $1 and key = $2 and created_at > $3",
    )
    .bind(token.uuid())
    .bind(key)
    .bind(since)
    .fetch_optional(&mut **tx)
    .await?;
    let kept = |(digest, status, json): (Vec<u8>, i16, String)| {
        let status = u16::try_from(status)
            .ok()
            .and_then(|status| StatusCode::from_u16(status).ok());
        let kept = Kept {
            status: status.unwrap_or(StatusCode::OK),
            json: json.into(),
        };
        (digest, kept)
    };
    Ok(row.map(kept))
}

/// Keeps an answer, in the place of one whose time is over.
pub(super) async fn upsert_answer(
    tx: &mut Tx,
    token: TokenId,
    keyed: &Keyed,
    kept: &Kept,
    now: DateTime<Utc>,
) -> Answer<()> {
    let text = std::str::from_utf8(&kept.json).map_err(Failure::internal)?;
    sqlx::query(
        "insert into kept_answers (token_id, key, request_digest, status, answer, created_at)
         values ($1, $2, $3, $4, $5, $6)
         on conflict (token_id, key) do update set request_digest = excluded.request_digest, status = excluded.status,
             answer = excluded.answer, created_at = excluded.created_at",
    )
    .bind(token.uuid())
    .bind(&keyed.key)
    .bind(keyed.digest().as_slice())
    .bind(i16::try_from(kept.status.as_u16()).map_err(Failure::internal)?)
    .bind(text)
    .bind(now)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Forgets some of the answers whose time is over.
pub(super) async fn delete_before(tx: &mut Tx, before: DateTime<Utc>) -> Answer<()> {
    sqlx::query(
        "delete from kept_answers where (token_id, key) in (
             select token_id, key from kept_answers where created_at <= $1 limit $2 for update skip locked)",
    )
    .bind(before)
    .bind(FORGOTTEN_AT_ONCE)
    .execute(&mut **tx)
    .await?;
    Ok(())
}
