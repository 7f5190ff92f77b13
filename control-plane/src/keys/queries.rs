//! SQL of signing keys.

use chrono::{DateTime, Utc};
use sqlx::PgPool;

use crate::authz::System;

/// A key as it is stored.
pub(super) struct StoredKey {
    pub sealed: Vec<u8>,
    pub retired: bool,
}

/// Stores the key if none is in use, and answers all keys, newest last.
pub(super) async fn insert_unless_there(
    pool: &PgPool,
    _proof: &System,
    kid: &str,
    sealed: &[u8],
    now: DateTime<Utc>,
) -> Result<Vec<StoredKey>, sqlx::Error> {
    let mut tx = pool.begin().await?;
    sqlx::query("lock table signing_keys in share row exclusive mode")
        .execute(&mut *tx)
        .await?;
    sqlx::query(
        "insert into signing_keys (kid, secret_encrypted, created_at) select $1, $2, $3
         where not exists (select 1 from signing_keys where retired_at is null)",
    )
    .bind(kid)
    .bind(sealed)
    .bind(now)
    .execute(&mut *tx)
    .await?;
    let rows: Vec<(Vec<u8>, bool)> =
        sqlx::query_as("select secret_encrypted, retired_at is not null from signing_keys order by created_at")
            .fetch_all(&mut *tx)
            .await?;
    tx.commit().await?;
    Ok(rows
        .into_iter()
        .map(|(sealed, retired)| StoredKey { sealed, retired })
        .collect())
}
