//! SQL of passkeys and of challenges.

use chrono::{DateTime, Utc};
use contract::api::PasskeyView;
use contract::ids::{AccountId, PasskeyId};
use serde_json::Value;
use sqlx::PgPool;

use crate::authz::{Actor, Proven, System};
use crate::database::{Text, Tx};

pub(super) async fn insert_ceremony(
    tx: &mut Tx,
    _proof: &System,
    secret: &[u8],
    account: Option<AccountId>,
    state: &Value,
    expires_at: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query("insert into passkey_ceremonies (secret_sha256, account_id, state, expires_at) values ($1, $2, $3, $4)")
        .bind(secret)
        .bind(account.map(|id| id.to_string()))
        .bind(state)
        .bind(expires_at)
        .execute(&mut **tx)
        .await
        .map(|_| ())
}

/// Uses a challenge up. With an account: one of a registration for it; without: one of a log-in.
pub(super) async fn take_ceremony(
    tx: &mut Tx,
    _proof: &System,
    secret: &[u8],
    account: Option<AccountId>,
    now: DateTime<Utc>,
) -> Result<Option<Value>, sqlx::Error> {
    let row: Option<(Value,)> = sqlx::query_as(
        "delete from passkey_ceremonies
         where secret_sha256 = $1 and account_id is not distinct from $2 and expires_at > $3 returning state",
    )
    .bind(secret)
    .bind(account.map(|id| id.to_string()))
    .bind(now)
    .fetch_optional(&mut **tx)
    .await?;
    Ok(row.map(|(state,)| state))
}

/// Adds a passkey. `false` when it is registered already.
pub(super) async fn insert_passkey(
    tx: &mut Tx,
    proven: &Proven,
    view: &PasskeyView,
    credential_id: &[u8],
    credential: &Value,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "insert into passkeys (id, account_id, name, credential_id, credential, created_at) values ($1, $2, $3, $4, $5, $6)
         on conflict on constraint passkeys_credential_id_unique do nothing",
    )
    .bind(view.id.to_string())
    .bind(proven.account().to_string())
    .bind(&view.name)
    .bind(credential_id)
    .bind(credential)
    .bind(view.created_at)
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// The credentials that an account has: the same device is not registered twice.
pub(super) async fn list_credential_ids(tx: &mut Tx, proven: &Proven) -> Result<Vec<Vec<u8>>, sqlx::Error> {
    let rows: Vec<(Vec<u8>,)> = sqlx::query_as("select credential_id from passkeys where account_id = $1")
        .bind(proven.account().to_string())
        .fetch_all(&mut **tx)
        .await?;
    Ok(rows.into_iter().map(|(id,)| id).collect())
}

pub(super) async fn list_own(tx: &mut Tx, actor: &Actor) -> Result<Vec<PasskeyView>, sqlx::Error> {
    type Row = (Text<PasskeyId>, String, DateTime<Utc>, Option<DateTime<Utc>>);
    let rows: Vec<Row> =
        sqlx::query_as("select id, name, created_at, last_used_at from passkeys where account_id = $1 order by id")
            .bind(actor.principal().to_string())
            .fetch_all(&mut **tx)
            .await?;
    Ok(rows
        .into_iter()
        .map(|(id, name, created_at, last_used_at)| PasskeyView {
            id: id.0,
            name,
            created_at,
            last_used_at,
        })
        .collect())
}

/// Removes a passkey of the account; answers its name.
pub(super) async fn delete_own(tx: &mut Tx, proven: &Proven, id: PasskeyId) -> Result<Option<String>, sqlx::Error> {
    let row: Option<(String,)> =
        sqlx::query_as("delete from passkeys where account_id = $1 and id = $2 returning name")
            .bind(proven.account().to_string())
            .bind(id.to_string())
            .fetch_optional(&mut **tx)
            .await?;
    Ok(row.map(|(name,)| name))
}

/// Whose passkey a credential is, and what is known of it. Locked, so that its counter goes up one use after the other.
pub(super) async fn find_credential(
    tx: &mut Tx,
    _proof: &System,
    credential_id: &[u8],
) -> Result<Option<(AccountId, Value)>, sqlx::Error> {
    let row: Option<(Text<AccountId>, Value)> =
        sqlx::query_as("select account_id, credential from passkeys where credential_id = $1 for update")
            .bind(credential_id)
            .fetch_optional(&mut **tx)
            .await?;
    Ok(row.map(|(account, credential)| (account.0, credential)))
}

pub(super) async fn update_credential(
    tx: &mut Tx,
    _proof: &System,
    credential_id: &[u8],
    credential: &Value,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query("update passkeys set credential = $2, last_used_at = $3 where credential_id = $1")
        .bind(credential_id)
        .bind(credential)
        .bind(now)
        .execute(&mut **tx)
        .await
        .map(|_| ())
}

/// Removes all passkeys of an account.
pub async fn delete_all(tx: &mut Tx, _proof: &System, account: AccountId) -> Result<(), sqlx::Error> {
    sqlx::query("delete from passkeys where account_id = $1")
        .bind(account.to_string())
        .execute(&mut **tx)
        .await
        .map(|_| ())
}

/// Forgets challenges whose time is over.
pub async fn delete_expired(pool: &PgPool, _proof: &System, now: DateTime<Utc>) -> Result<(), sqlx::Error> {
    sqlx::query("delete from passkey_ceremonies where expires_at <= $1")
        .bind(now)
        .execute(pool)
        .await
        .map(|_| ())
}
