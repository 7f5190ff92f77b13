//! SQL of signing keys.

use chrono::{DateTime, Utc};
use sqlx::PgPool;

use super::Fresh;
use crate::authz::System;

/// A key as it is stored.
pub(super) struct StoredKey {
    pub sealed: Vec<u8>,
    pub signs: bool,
}

/// Retires the key that began to sign at or before the first time, lets the next one sign where none does, stores what is missing,
/// deletes what was retired before the second time. Answers all keys, oldest first. One process at a time.
pub(super) async fn settle(
    pool: &PgPool,
    _proof: &System,
    spare: &[Fresh; 2],
    (retire, forget): (DateTime<Utc>, DateTime<Utc>),
    now: DateTime<Utc>,
) -> Result<Vec<StoredKey>, sqlx::Error> {
    let mut tx = pool.begin().await?;
    sqlx::query("lock table signing_keys in share row exclusive mode")
        .execute(&mut *tx)
        .await?;
    sqlx::query("delete from signing_keys where retired_at < $1")
        .bind(forget)
        .execute(&mut *tx)
        .await?;
    sqlx::query("update signing_keys set retired_at = $2 where retired_at is null and signs_from <= $1")
        .bind(retire)
        .bind(now)
        .execute(&mut *tx)
        .await?;
    // There was none to be the next one: at the first start, and at that of the first version that knows of one.
    for (key, missing) in spare.iter().zip([1_i64, 2]) {
        sqlx::query(
            "insert into signing_keys (kid, secret_encrypted, created_at) select $1, $2, $3
             where (select count(*) from signing_keys where retired_at is null) < $4",
        )
        .bind(&key.kid)
        .bind(&key.sealed)
        .bind(now)
        .bind(missing)
        .execute(&mut *tx)
        .await?;
    }
    sqlx::query(
        "update signing_keys set signs_from = $1
         where kid = (select kid from signing_keys where retired_at is null order by created_at, kid limit 1)
           and not exists (select 1 from signing_keys where retired_at is null and signs_from is not null)",
    )
    .bind(now)
    .execute(&mut *tx)
    .await?;
    let rows: Vec<(Vec<u8>, bool)> = sqlx::query_as(
        "select secret_encrypted, retired_at is null and signs_from is not null from signing_keys order by created_at, kid",
    )
    .fetch_all(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(rows
        .into_iter()
        .map(|(sealed, signs)| StoredKey { sealed, signs })
        .collect())
}
