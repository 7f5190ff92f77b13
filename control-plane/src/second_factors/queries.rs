//! SQL of second factors.

use chrono::{DateTime, Utc};
use contract::ids::AccountId;

use crate::authz::{Proven, System};
use crate::database::{Tx, signed};

/// An authenticator of an account.
pub(super) struct Authenticator {
    pub sealed_secret: Vec<u8>,
    /// Whether its first code was sent: until then it is not asked for.
    pub confirmed: bool,
}

pub(super) async fn find_authenticator(
    tx: &mut Tx,
    _proof: &System,
    account: AccountId,
) -> Result<Option<Authenticator>, sqlx::Error> {
    let row: Option<(Vec<u8>, bool)> = sqlx::query_as(
        "select sealed_secret, confirmed_at is not null from authenticators where account_id = $1 for update",
    )
    .bind(account.to_string())
    .fetch_optional(&mut **tx)
    .await?;
    Ok(row.map(|(sealed_secret, confirmed)| Authenticator {
        sealed_secret,
        confirmed,
    }))
}

/// Puts an authenticator in the place of one that was not confirmed. `false` when there is one that was.
pub(super) async fn insert_authenticator(
    tx: &mut Tx,
    proven: &Proven,
    sealed_secret: &[u8],
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "insert into authenticators as a (account_id, sealed_secret, created_at) values ($1, $2, $3)
         on conflict (account_id) do update set sealed_secret = $2, created_at = $3, last_step = 0
         where a.confirmed_at is null",
    )
    .bind(proven.account().to_string())
    .bind(sealed_secret)
    .bind(now)
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

pub(super) async fn confirm_authenticator(tx: &mut Tx, proven: &Proven, now: DateTime<Utc>) -> Result<(), sqlx::Error> {
    sqlx::query("update authenticators set confirmed_at = $2 where account_id = $1")
        .bind(proven.account().to_string())
        .bind(now)
        .execute(&mut **tx)
        .await
        .map(|_| ())
}

/// Uses a step up. `false` when it, or a later one, was used before.
pub(super) async fn use_step(tx: &mut Tx, _proof: &System, account: AccountId, step: u64) -> Result<bool, sqlx::Error> {
    let done = sqlx::query("update authenticators set last_step = $2 where account_id = $1 and last_step < $2")
        .bind(account.to_string())
        .bind(signed(step))
        .execute(&mut **tx)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Uses a recovery code up. `false` when there is none like that.
pub(super) async fn delete_recovery_code(
    tx: &mut Tx,
    _proof: &System,
    account: AccountId,
    code_mac: &[u8],
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query("delete from recovery_codes where account_id = $1 and code_mac = $2")
        .bind(account.to_string())
        .bind(code_mac)
        .execute(&mut **tx)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Puts these recovery codes in the place of those before.
pub(super) async fn replace_recovery_codes(
    tx: &mut Tx,
    proven: &Proven,
    code_macs: &[[u8; 32]],
) -> Result<(), sqlx::Error> {
    let macs: Vec<&[u8]> = code_macs.iter().map(<[u8; 32]>::as_slice).collect();
    sqlx::query("delete from recovery_codes where account_id = $1")
        .bind(proven.account().to_string())
        .execute(&mut **tx)
        .await?;
    sqlx::query("insert into recovery_codes (account_id, code_mac) select $1, unnest($2::bytea[])")
        .bind(proven.account().to_string())
        .bind(macs)
        .execute(&mut **tx)
        .await
        .map(|_| ())
}

/// How many recovery codes are left.
pub(super) async fn count_recovery_codes(tx: &mut Tx, _proof: &System, account: AccountId) -> Result<u32, sqlx::Error> {
    let (count,): (i64,) = sqlx::query_as("select count(*) from recovery_codes where account_id = $1")
        .bind(account.to_string())
        .fetch_one(&mut **tx)
        .await?;
    Ok(u32::try_from(count).unwrap_or(0))
}

/// Removes all second factors of an account. `false` when none was asked for.
pub async fn delete_all(tx: &mut Tx, _proof: &System, account: AccountId) -> Result<bool, sqlx::Error> {
    sqlx::query("delete from recovery_codes where account_id = $1")
        .bind(account.to_string())
        .execute(&mut **tx)
        .await?;
    let row: Option<(bool,)> =
        sqlx::query_as("delete from authenticators where account_id = $1 returning confirmed_at is not null")
            .bind(account.to_string())
            .fetch_optional(&mut **tx)
            .await?;
    Ok(row.is_some_and(|(confirmed,)| confirmed))
}
