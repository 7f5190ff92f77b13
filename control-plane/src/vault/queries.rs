//! SQL of data keys, and of the values that are sealed with them.

use chrono::{DateTime, Utc};
use sqlx::PgPool;

use super::rotation::Sealed;
use super::{KEY_ID_LENGTH, StoredKey};
use crate::authz::System;

/// All data keys, those of a purpose in the order of their versions.
pub(super) async fn list_keys(pool: &PgPool, _proof: &System) -> Result<Vec<StoredKey>, sqlx::Error> {
    let rows: Vec<(String, String, i32, String, Vec<u8>)> = sqlx::query_as(
        "select id, purpose, version, key_service, wrapped from data_encryption_keys order by purpose, version",
    )
    .fetch_all(pool)
    .await?;
    let stored = |(id, purpose, version, key_service, wrapped): (String, String, i32, String, Vec<u8>)| {
        let mut bytes = [0; KEY_ID_LENGTH];
        hex::decode_to_slice(&id, &mut bytes).map_err(|e| sqlx::Error::Decode(Box::new(e)))?;
        Ok(StoredKey {
            id: bytes,
            purpose,
            version,
            key_service,
            wrapped,
        })
    };
    rows.into_iter().map(stored).collect()
}

/// Adds a data key. Of two that add the same version one does.
pub(super) async fn insert_key(
    pool: &PgPool,
    _proof: &System,
    key: &StoredKey,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into data_encryption_keys (id, purpose, version, key_service, wrapped, created_at)
         values ($1, $2, $3, $4, $5, $6) on conflict on constraint data_encryption_keys_version_unique do nothing",
    )
    .bind(hex::encode(key.id))
    .bind(&key.purpose)
    .bind(key.version)
    .bind(&key.key_service)
    .bind(&key.wrapped)
    .bind(now)
    .execute(pool)
    .await
    .map(|_| ())
}

/// Replaces how a data key is wrapped. `false` when it was wrapped anew meanwhile.
pub(super) async fn update_wrapped(
    pool: &PgPool,
    _proof: &System,
    key: &StoredKey,
    key_service: &str,
    wrapped: &[u8],
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "update data_encryption_keys set key_service = $3, wrapped = $4 where id = $1 and key_service = $2",
    )
    .bind(hex::encode(key.id))
    .bind(&key.key_service)
    .bind(key_service)
    .bind(wrapped)
    .execute(pool)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Whether the service has run before.
pub(super) async fn has_signing_key(pool: &PgPool, _proof: &System) -> Result<bool, sqlx::Error> {
    let (found,): (bool,) = sqlx::query_as("select exists (select from signing_keys)")
        .fetch_one(pool)
        .await?;
    Ok(found)
}

/// The sealed values of a column, with their rows' keys, behind one of them.
pub(super) async fn list_sealed(
    pool: &PgPool,
    _proof: &System,
    of: &Sealed,
    after: &str,
    limit: i64,
) -> Result<Vec<(String, Vec<u8>)>, sqlx::Error> {
    let Sealed { table, key, column, .. } = of;
    let statement = format!(
        "select {key}::text, {column} from {table} where {column} is not null and length({column}) > 0 and {key}::text > $1
         order by {key}::text limit $2"
    );
    sqlx::query_as(sqlx::AssertSqlSafe(statement))
        .bind(after)
        .bind(limit)
        .fetch_all(pool)
        .await
}

/// Replaces a sealed value that is still what it was.
pub(super) async fn update_sealed(
    pool: &PgPool,
    _proof: &System,
    of: &Sealed,
    row: &str,
    (before, now): (&[u8], &[u8]),
) -> Result<bool, sqlx::Error> {
    let Sealed { table, key, column, .. } = of;
    let statement = format!("update {table} set {column} = $3 where {key}::text = $1 and {column} = $2");
    let done = sqlx::query(sqlx::AssertSqlSafe(statement))
        .bind(row)
        .bind(before)
        .bind(now)
        .execute(pool)
        .await?;
    Ok(done.rows_affected() == 1)
}
