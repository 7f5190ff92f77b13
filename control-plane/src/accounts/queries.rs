//! SQL of accounts.

use chrono::{DateTime, Utc};
use contract::api::Account;
use contract::ids::AccountId;
use contract::names::OrganizationName;
use contract::token::SecretToken;

use super::EmailAddress;
use super::sign_ups::SignUpWish;
use crate::authz::{Actor, Proven, System};
use crate::database::{Text, Tx, violates};
use crate::{passkeys, second_factors, single_sign_on};

/// Adds an account. `false` when the address is taken.
pub async fn insert_account(
    tx: &mut Tx,
    _proof: &System,
    account: &Account,
    email: &EmailAddress,
    password_hash: Option<&str>,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "insert into accounts (id, email, email_key, password_hash, created_at) values ($1, $2, $3, $4, $5)
         on conflict on constraint accounts_email_key_unique do nothing",
    )
    .bind(account.id.to_string())
    .bind(email.as_str())
    .bind(email.key())
    .bind(password_hash)
    .bind(account.created_at)
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

type AccountRow = (Text<AccountId>, String, DateTime<Utc>, Option<String>);

fn account((id, email, created_at, hash): AccountRow) -> (Account, Option<String>) {
    let account = Account {
        id: id.0,
        email,
        created_at,
    };
    (account, hash)
}

/// The account of an address, with the hash of its password if it has one.
pub async fn find_account_by_email(
    tx: &mut Tx,
    _proof: &System,
    email_key: &str,
) -> Result<Option<(Account, Option<String>)>, sqlx::Error> {
    let row: Option<AccountRow> = sqlx::query_as(
        "select id, email, created_at, password_hash from accounts where email_key = $1 and deleted_at is null",
    )
    .bind(email_key)
    .fetch_optional(&mut **tx)
    .await?;
    Ok(row.map(account))
}

/// An account, with the hash of its password if it has one.
pub async fn find_account(
    tx: &mut Tx,
    _proof: &System,
    id: AccountId,
) -> Result<Option<(Account, Option<String>)>, sqlx::Error> {
    let row: Option<AccountRow> = sqlx::query_as(
        "select id, email, created_at, password_hash from accounts where id = $1 and deleted_at is null",
    )
    .bind(id.to_string())
    .fetch_optional(&mut **tx)
    .await?;
    Ok(row.map(account))
}

/// The hash of an account's password, locked until the transaction ends.
pub(crate) async fn lock_password(tx: &mut Tx, _proof: &System, id: AccountId) -> Result<Option<String>, sqlx::Error> {
    let row: Option<(Option<String>,)> =
        sqlx::query_as("select password_hash from accounts where id = $1 and deleted_at is null for update")
            .bind(id.to_string())
            .fetch_optional(&mut **tx)
            .await?;
    Ok(row.and_then(|(hash,)| hash))
}

/// The address of an account, in the form by which it is unique; locked until the transaction ends.
pub(crate) async fn lock_email_key(tx: &mut Tx, _proof: &System, id: AccountId) -> Result<Option<String>, sqlx::Error> {
    let row: Option<(String,)> =
        sqlx::query_as("select email_key from accounts where id = $1 and deleted_at is null for update")
            .bind(id.to_string())
            .fetch_optional(&mut **tx)
            .await?;
    Ok(row.map(|(key,)| key))
}

/// Whether it is proved that the caller reads the mail of his account; `None` for a service account.
pub(crate) async fn is_own_verified(tx: &mut Tx, actor: &Actor) -> Result<Option<bool>, sqlx::Error> {
    let row: Option<(bool,)> = sqlx::query_as("select verified_at is not null from accounts where id = $1")
        .bind(actor.principal().to_string())
        .fetch_optional(&mut **tx)
        .await?;
    Ok(row.map(|(verified,)| verified))
}

/// Notes that the holder of an account reads its mail. `false` when that was known before.
pub async fn mark_verified(
    tx: &mut Tx,
    _proof: &System,
    account: AccountId,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query("update accounts set verified_at = $2 where id = $1 and verified_at is null")
        .bind(account.to_string())
        .bind(now)
        .execute(&mut **tx)
        .await?;
    Ok(done.rows_affected() == 1)
}

pub(super) async fn update_password(
    tx: &mut Tx,
    _proof: &System,
    account: AccountId,
    password_hash: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query("update accounts set password_hash = $2 where id = $1 and deleted_at is null")
        .bind(account.to_string())
        .bind(password_hash)
        .execute(&mut **tx)
        .await
        .map(|_| ())
}

/// Makes an address the account's, as one that its holder reads. `false` when it is another account's.
pub(super) async fn update_address(
    tx: &mut Tx,
    _proof: &System,
    account: AccountId,
    email: &EmailAddress,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "update accounts set email = $2, email_key = $3, verified_at = $4 where id = $1 and deleted_at is null",
    )
    .bind(account.to_string())
    .bind(email.as_str())
    .bind(email.key())
    .bind(now)
    .execute(&mut **tx)
    .await;
    match done {
        Ok(done) => Ok(done.rows_affected() == 1),
        Err(error) if violates(&error, "accounts_email_key_unique") => Ok(false),
        Err(error) => Err(error),
    }
}

/// Ends everything but sessions and the password by which one acts as that account. The caller bumps the policies.
pub(crate) async fn end_other_log_ins(
    tx: &mut Tx,
    proof: &System,
    account: AccountId,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    second_factors::queries::delete_all(tx, proof, account).await?;
    end_keys(tx, proof, account, now).await
}

/// Ends identities at providers, passkeys and API tokens.
async fn end_keys(tx: &mut Tx, proof: &System, account: AccountId, now: DateTime<Utc>) -> Result<(), sqlx::Error> {
    single_sign_on::queries::delete_all(tx, proof, account).await?;
    passkeys::queries::delete_all(tx, proof, account).await?;
    sqlx::query("update api_tokens set revoked_at = $2 where principal = $1 and revoked_at is null")
        .bind(account.to_string())
        .bind(now)
        .execute(&mut **tx)
        .await
        .map(|_| ())
}

/// Ends every way to act as that account but its password and second factors that are older than the time. The caller bumps the
/// policies.
pub(super) async fn end_log_ins_but_factors_before(
    tx: &mut Tx,
    proof: &System,
    account: AccountId,
    since: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    for statement in [
        "delete from recovery_codes where account_id = $1 and exists (
             select 1 from authenticators where account_id = $1 and created_at >= $2)",
        "delete from authenticators where account_id = $1 and created_at >= $2",
    ] {
        sqlx::query(statement)
            .bind(account.to_string())
            .bind(since)
            .execute(&mut **tx)
            .await?;
    }
    end_keys(tx, proof, account, now).await
}

/// Forgets the password of an account: one logs in to it in other ways.
pub(crate) async fn forget_password(tx: &mut Tx, _proof: &System, account: AccountId) -> Result<(), sqlx::Error> {
    sqlx::query("update accounts set password_hash = null where id = $1")
        .bind(account.to_string())
        .execute(&mut **tx)
        .await
        .map(|_| ())
}

/// Whether there is a way to log in to the account.
pub(super) async fn has_log_in(tx: &mut Tx, proven: &Proven) -> Result<bool, sqlx::Error> {
    let (found,): (bool,) = sqlx::query_as(
        "select password_hash is not null or exists (select 1 from identities where account_id = $1)
             or exists (select 1 from passkeys where account_id = $1)
         from accounts where id = $1 for update",
    )
    .bind(proven.account().to_string())
    .fetch_one(&mut **tx)
    .await?;
    Ok(found)
}

/// Leaves of an account its id alone. No address looks like what stands in the place of its own.
pub(super) async fn bury_account(tx: &mut Tx, proven: &Proven, now: DateTime<Utc>) -> Result<(), sqlx::Error> {
    for statement in [
        "delete from mailed_codes where account_id = $1",
        "delete from account_events where account_id = $1",
    ] {
        sqlx::query(statement)
            .bind(proven.account().to_string())
            .execute(&mut **tx)
            .await?;
    }
    sqlx::query(
        "update accounts set email = '', email_key = 'deleted ' || id, password_hash = null, verified_at = null, deleted_at = $2
         where id = $1",
    )
    .bind(proven.account().to_string())
    .bind(now)
    .execute(&mut **tx)
    .await
    .map(|_| ())
}

pub(super) async fn insert_sign_up(
    tx: &mut Tx,
    _proof: &System,
    wish: &SignUpWish,
    code: &SecretToken,
    now: DateTime<Utc>,
    expires_at: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into sign_ups (secret_sha256, email, email_key, password_hash, organization, created_at, expires_at)
         values ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(code.sha256().as_slice())
    .bind(wish.email.as_str())
    .bind(wish.email.key())
    .bind(&wish.password_hash)
    .bind(wish.organization.as_ref().map(OrganizationName::as_str))
    .bind(now)
    .bind(expires_at)
    .execute(&mut **tx)
    .await
    .map(|_| ())
}

/// The sign-up of a code; counts the try. `None` when there were too many, or there is none.
pub(super) async fn try_sign_up(
    tx: &mut Tx,
    _proof: &System,
    code: &SecretToken,
    tries_max: i32,
    now: DateTime<Utc>,
) -> Result<Option<SignUpWish>, sqlx::Error> {
    let row: Option<(Text<EmailAddress>, String, Option<Text<OrganizationName>>)> = sqlx::query_as(
        "update sign_ups set tries = tries + 1 where secret_sha256 = $1 and expires_at > $2 and tries < $3
         returning email, password_hash, organization",
    )
    .bind(code.sha256().as_slice())
    .bind(now)
    .bind(tries_max)
    .fetch_optional(&mut **tx)
    .await?;
    Ok(row.map(|(email, password_hash, organization)| SignUpWish {
        email: email.0,
        password_hash,
        organization: organization.map(|name| name.0),
    }))
}

pub(super) async fn delete_sign_ups_of(tx: &mut Tx, _proof: &System, email: &EmailAddress) -> Result<(), sqlx::Error> {
    sqlx::query("delete from sign_ups where email_key = $1")
        .bind(email.key())
        .execute(&mut **tx)
        .await
        .map(|_| ())
}

/// The address of the caller's own account, as it is unique; `None` for a service account.
pub async fn find_own_email_key(tx: &mut Tx, actor: &Actor) -> Result<Option<String>, sqlx::Error> {
    let row: Option<(String,)> = sqlx::query_as("select email_key from accounts where id = $1")
        .bind(actor.principal().to_string())
        .fetch_optional(&mut **tx)
        .await?;
    Ok(row.map(|(key,)| key))
}
