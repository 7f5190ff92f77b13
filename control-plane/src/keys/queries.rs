//! SQL of signing keys.

use chrono::{DateTime, Utc};
use sqlx::{PgExecutor, PgPool};

use super::Fresh;
use crate::authz::System;
use crate::database::{Tx, unsigned};

/// All that is stored.
pub(super) struct Stored {
    pub keys: Vec<StoredKey>,
    pub version: u64,
}

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
) -> Result<Stored, sqlx::Error> {
    let mut tx = pool.begin().await?;
    lock(&mut tx).await?;
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
    let version = version_in(&mut *tx).await?;
    tx.commit().await?;
    let keys = rows.into_iter().map(|(sealed, signs)| StoredKey { sealed, signs });
    Ok(Stored {
        keys: keys.collect(),
        version,
    })
}

async fn lock(tx: &mut Tx) -> Result<(), sqlx::Error> {
    sqlx::query("lock table signing_keys in share row exclusive mode")
        .execute(&mut **tx)
        .await
        .map(|_| ())
}

async fn version_in(from: impl PgExecutor<'_>) -> Result<u64, sqlx::Error> {
    let (version,): (i64,) = sqlx::query_as("select version from published_keys")
        .fetch_one(from)
        .await?;
    Ok(unsigned(version))
}

/// How new the stored keys are.
pub(super) async fn get_version(pool: &PgPool, _proof: &System) -> Result<u64, sqlx::Error> {
    version_in(pool).await
}

/// Takes a key away, and lets the spare one sign from now on in the place of the one that does. The ids of those that are stored when
/// there is no such key.
pub(super) async fn withdraw(
    tx: &mut Tx,
    _proof: &System,
    kid: &str,
    spare: &Fresh,
    now: DateTime<Utc>,
) -> Result<Result<(), Vec<String>>, sqlx::Error> {
    lock(tx).await?;
    let gone = sqlx::query("delete from signing_keys where kid = $1")
        .bind(kid)
        .execute(&mut **tx)
        .await?;
    if gone.rows_affected() == 0 {
        let known = sqlx::query_scalar("select kid from signing_keys order by created_at, kid")
            .fetch_all(&mut **tx)
            .await?;
        return Ok(Err(known));
    }
    sqlx::query("update signing_keys set retired_at = $1 where retired_at is null and signs_from is not null")
        .bind(now)
        .execute(&mut **tx)
        .await?;
    sqlx::query("insert into signing_keys (kid, secret_encrypted, created_at, signs_from) values ($1, $2, $3, $3)")
        .bind(&spare.kid)
        .bind(&spare.sealed)
        .bind(now)
        .execute(&mut **tx)
        .await?;
    Ok(Ok(()))
}
