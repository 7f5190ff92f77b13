//! SQL of accounts.

use chrono::{DateTime, Utc};
use contract::api::Account;
use contract::ids::AccountId;

use super::EmailAddress;
use crate::authz::{Actor, System};
use crate::database::{Text, Tx};

/// Adds an account. `false` when the address is taken.
pub async fn insert_account(
    tx: &mut Tx,
    _proof: &System,
    account: &Account,
    email: &EmailAddress,
    password_hash: &str,
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

type AccountRow = (Text<AccountId>, String, DateTime<Utc>, String);

/// The account of an address, with the hash of its password.
pub async fn find_account_by_email(
    tx: &mut Tx,
    _proof: &System,
    email_key: &str,
) -> Result<Option<(Account, String)>, sqlx::Error> {
    let row: Option<AccountRow> =
        sqlx::query_as("select id, email, created_at, password_hash from accounts where email_key = $1")
            .bind(email_key)
            .fetch_optional(&mut **tx)
            .await?;
    Ok(row.map(|(id, email, created_at, hash)| {
        let account = Account {
            id: id.0,
            email,
            created_at,
        };
        (account, hash)
    }))
}

/// The address of the caller's own account, as it is unique; `None` for a service account.
pub async fn find_own_email_key(tx: &mut Tx, actor: &Actor) -> Result<Option<String>, sqlx::Error> {
    let row: Option<(String,)> = sqlx::query_as("select email_key from accounts where id = $1")
        .bind(actor.principal().to_string())
        .fetch_optional(&mut **tx)
        .await?;
    Ok(row.map(|(key,)| key))
}
