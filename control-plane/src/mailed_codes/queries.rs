//! SQL of mailed codes.

use chrono::{DateTime, Utc};
use contract::ids::AccountId;
use contract::token::SecretToken;
use sqlx::PgPool;

use super::{Meaning, Purpose, Taken};
use crate::accounts::EmailAddress;
use crate::authz::System;
use crate::database::{Text, Tx};

pub(super) async fn insert_code(
    tx: &mut Tx,
    _proof: &System,
    code: &SecretToken,
    meaning: &Meaning,
    now: DateTime<Utc>,
    expires_at: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let (issuer, subject) = meaning.identity.as_ref().map(|(i, s)| (i.as_str(), s.as_str())).unzip();
    sqlx::query(
        "insert into mailed_codes (secret_sha256, purpose, account_id, email, email_key, issuer, subject, created_at, expires_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(code.sha256().as_slice())
    .bind(meaning.purpose.as_str())
    .bind(meaning.account.map(|id| id.to_string()))
    .bind(meaning.email.as_str())
    .bind(meaning.email.key())
    .bind(issuer)
    .bind(subject)
    .bind(now)
    .bind(expires_at)
    .execute(&mut **tx)
    .await
    .map(|_| ())
}

fn words(purposes: &[Purpose]) -> Vec<&'static str> {
    purposes.iter().map(|purpose| purpose.as_str()).collect()
}

/// Takes a code of an account that is good for one of these purposes; nobody else gets it then.
pub(super) async fn delete_code(
    tx: &mut Tx,
    _proof: &System,
    code: &SecretToken,
    purposes: &[Purpose],
    now: DateTime<Utc>,
) -> Result<Option<Taken>, sqlx::Error> {
    type Row = (
        Text<Purpose>,
        Text<AccountId>,
        Text<EmailAddress>,
        Option<String>,
        Option<String>,
        DateTime<Utc>,
    );
    let row: Option<Row> = sqlx::query_as(
        "delete from mailed_codes
         where secret_sha256 = $1 and purpose = any($2) and expires_at > $3 and account_id is not null
         returning purpose, account_id, email, issuer, subject, created_at",
    )
    .bind(code.sha256().as_slice())
    .bind(words(purposes))
    .bind(now)
    .fetch_optional(&mut **tx)
    .await?;
    Ok(row.map(|(purpose, account, email, issuer, subject, made_at)| Taken {
        purpose: purpose.0,
        account: account.0,
        email: email.0,
        identity: issuer.zip(subject),
        made_at,
    }))
}

pub(super) async fn delete_codes_of(
    tx: &mut Tx,
    _proof: &System,
    account: AccountId,
    purposes: &[Purpose],
) -> Result<(), sqlx::Error> {
    sqlx::query("delete from mailed_codes where account_id = $1 and purpose = any($2)")
        .bind(account.to_string())
        .bind(words(purposes))
        .execute(&mut **tx)
        .await
        .map(|_| ())
}

pub(super) async fn delete_undo_since(
    tx: &mut Tx,
    _proof: &System,
    account: AccountId,
    since: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query("delete from mailed_codes where account_id = $1 and purpose = $2 and created_at >= $3")
        .bind(account.to_string())
        .bind(Purpose::UndoAddress.as_str())
        .bind(since)
        .execute(&mut **tx)
        .await
        .map(|_| ())
}

/// Locks the account that a code is of.
pub(super) async fn lock_account_of(tx: &mut Tx, _proof: &System, code: &SecretToken) -> Result<(), sqlx::Error> {
    sqlx::query(
        "select 1 from accounts where id = (select account_id from mailed_codes where secret_sha256 = $1) for update",
    )
    .bind(code.sha256().as_slice())
    .execute(&mut **tx)
    .await
    .map(|_| ())
}

/// Forgets codes and sign-ups whose time is over.
pub async fn delete_expired(pool: &PgPool, _proof: &System, now: DateTime<Utc>) -> Result<(), sqlx::Error> {
    for statement in [
        "delete from mailed_codes where expires_at <= $1",
        "delete from sign_ups where expires_at <= $1",
    ] {
        sqlx::query(statement).bind(now).execute(pool).await?;
    }
    Ok(())
}
