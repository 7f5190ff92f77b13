//! SQL of log-ins by another device.

use chrono::{DateTime, Utc};
use contract::api::{Account, DeviceRequest};
use contract::ids::AccountId;
use sqlx::PgPool;

use crate::authz::{Actor, System};
use crate::database::{Text, Tx};

/// One to be kept.
pub(super) struct NewLogin<'a> {
    pub device_digest: &'a [u8; 32],
    pub user_digest: &'a [u8; 32],
    pub client: &'a str,
    pub address: String,
    pub created_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
    pub interval_seconds: i32,
}

/// Keeps one. `false` when another one has the same code.
pub(super) async fn insert(pool: &PgPool, _proof: &System, new: &NewLogin<'_>) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "insert into device_logins (device_digest, user_digest, client, address, created_at, expires_at, interval_seconds)
         values ($1, $2, $3, $4, $5, $6, $7) on conflict do nothing",
    )
    .bind(new.device_digest.as_slice())
    .bind(new.user_digest.as_slice())
    .bind(new.client)
    .bind(&new.address)
    .bind(new.created_at)
    .bind(new.expires_at)
    .bind(new.interval_seconds)
    .execute(pool)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// One as who asks for its session finds it, locked.
#[derive(sqlx::FromRow)]
pub(super) struct Waiting {
    pub interval_seconds: i32,
    pub asked_at: Option<DateTime<Utc>>,
    pub denied: bool,
    pub account_id: Option<Text<AccountId>>,
}

pub(super) async fn find_waiting(
    tx: &mut Tx,
    _proof: &System,
    device_digest: &[u8; 32],
    now: DateTime<Utc>,
) -> Result<Option<Waiting>, sqlx::Error> {
    sqlx::query_as(
        "select interval_seconds, asked_at, denied, account_id from device_logins
         where device_digest = $1 and expires_at > $2 for update",
    )
    .bind(device_digest.as_slice())
    .bind(now)
    .fetch_optional(&mut **tx)
    .await
}

pub(super) async fn note_question(
    tx: &mut Tx,
    _proof: &System,
    device_digest: &[u8; 32],
    interval_seconds: i32,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query("update device_logins set asked_at = $3, interval_seconds = $2 where device_digest = $1")
        .bind(device_digest.as_slice())
        .bind(interval_seconds)
        .bind(now)
        .execute(&mut **tx)
        .await
        .map(|_| ())
}

pub(super) async fn delete(tx: &mut Tx, _proof: &System, device_digest: &[u8; 32]) -> Result<(), sqlx::Error> {
    sqlx::query("delete from device_logins where device_digest = $1")
        .bind(device_digest.as_slice())
        .execute(&mut **tx)
        .await
        .map(|_| ())
}

pub(super) async fn get_account(tx: &mut Tx, _proof: &System, id: AccountId) -> Result<Account, sqlx::Error> {
    let (email, created_at): (String, DateTime<Utc>) =
        sqlx::query_as("select email, created_at from accounts where id = $1")
            .bind(id.to_string())
            .fetch_one(&mut **tx)
            .await?;
    Ok(Account { id, email, created_at })
}

/// What somebody who is logged in is shown of one that nobody has decided.
pub(super) async fn find_request(
    pool: &PgPool,
    _actor: &Actor,
    user_digest: &[u8; 32],
    user_code: String,
    now: DateTime<Utc>,
) -> Result<Option<DeviceRequest>, sqlx::Error> {
    let row: Option<(String, String, DateTime<Utc>, DateTime<Utc>)> = sqlx::query_as(
        "select client, address, created_at, expires_at from device_logins
         where user_digest = $1 and expires_at > $2 and account_id is null and not denied",
    )
    .bind(user_digest.as_slice())
    .bind(now)
    .fetch_optional(pool)
    .await?;
    Ok(row.map(|(client, address, requested_at, expires_at)| DeviceRequest {
        user_code,
        client,
        address,
        requested_at,
        expires_at,
    }))
}

/// Decides one, once; answers who asked. `None` when there is none of that code that waits.
pub(super) async fn decide(
    tx: &mut Tx,
    actor: &Actor,
    user_digest: &[u8; 32],
    approve: bool,
    now: DateTime<Utc>,
) -> Result<Option<String>, sqlx::Error> {
    let row: Option<(String,)> = sqlx::query_as(
        "update device_logins set account_id = case when $3 then $4 end, denied = not $3
         where user_digest = $1 and expires_at > $2 and account_id is null and not denied
         returning client || ' from ' || address",
    )
    .bind(user_digest.as_slice())
    .bind(now)
    .bind(approve)
    .bind(actor.principal().to_string())
    .fetch_optional(&mut **tx)
    .await?;
    Ok(row.map(|(who,)| who))
}

pub(super) async fn delete_expired(pool: &PgPool, _proof: &System, now: DateTime<Utc>) -> Result<(), sqlx::Error> {
    sqlx::query("delete from device_logins where expires_at <= $1")
        .bind(now)
        .execute(pool)
        .await
        .map(|_| ())
}
