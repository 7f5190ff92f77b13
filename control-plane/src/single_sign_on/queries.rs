//! SQL of identities, and of log-ins that were begun.

use chrono::{DateTime, Utc};
use contract::api::LinkedIdentity;
use contract::ids::AccountId;
use sqlx::PgPool;

use super::Identity;
use crate::authz::{Actor, Proven, System};
use crate::database::{Text, Tx};

/// A log-in that was begun at a provider.
pub(super) struct Begun {
    pub provider: String,
    pub nonce: String,
    pub sealed_verifier: Vec<u8>,
    /// To which account the identity is to be linked.
    pub account: Option<AccountId>,
}

pub(super) async fn insert_log_in(
    tx: &mut Tx,
    _proof: &System,
    state: &[u8],
    browser: &[u8],
    begun: &Begun,
    expires_at: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into provider_log_ins (state_sha256, browser_sha256, provider, nonce, sealed_verifier, account_id, expires_at)
         values ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(state)
    .bind(browser)
    .bind(&begun.provider)
    .bind(&begun.nonce)
    .bind(&begun.sealed_verifier)
    .bind(begun.account.map(|id| id.to_string()))
    .bind(expires_at)
    .execute(&mut **tx)
    .await
    .map(|_| ())
}

/// Takes what was begun by that browser; nobody else gets it then.
pub(super) async fn take_log_in(
    tx: &mut Tx,
    _proof: &System,
    state: &[u8],
    browser: &[u8],
    provider: &str,
    now: DateTime<Utc>,
) -> Result<Option<Begun>, sqlx::Error> {
    type Row = (String, String, Vec<u8>, Option<Text<AccountId>>);
    let row: Option<Row> = sqlx::query_as(
        "delete from provider_log_ins
         where state_sha256 = $1 and browser_sha256 = $2 and provider = $3 and expires_at > $4
         returning provider, nonce, sealed_verifier, account_id",
    )
    .bind(state)
    .bind(browser)
    .bind(provider)
    .bind(now)
    .fetch_optional(&mut **tx)
    .await?;
    Ok(row.map(|(provider, nonce, sealed_verifier, account)| Begun {
        provider,
        nonce,
        sealed_verifier,
        account: account.map(|id| id.0),
    }))
}

/// The account of an identity; notes its use.
pub(super) async fn find_account(
    tx: &mut Tx,
    _proof: &System,
    identity: &Identity,
    now: DateTime<Utc>,
) -> Result<Option<AccountId>, sqlx::Error> {
    let row: Option<(Text<AccountId>,)> = sqlx::query_as(
        "update identities set last_used_at = $3 where issuer = $1 and subject = $2 returning account_id",
    )
    .bind(&identity.issuer)
    .bind(&identity.subject)
    .bind(now)
    .fetch_optional(&mut **tx)
    .await?;
    Ok(row.map(|(id,)| id.0))
}

/// Lets an identity log in to an account. `false` when it is linked to one already.
pub(super) async fn insert_identity(
    tx: &mut Tx,
    _proof: &System,
    account: AccountId,
    issuer: &str,
    subject: &str,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "insert into identities (issuer, subject, account_id, created_at) values ($1, $2, $3, $4)
         on conflict (issuer, subject) do nothing",
    )
    .bind(issuer)
    .bind(subject)
    .bind(account.to_string())
    .bind(now)
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

pub(super) async fn list_own(tx: &mut Tx, actor: &Actor) -> Result<Vec<LinkedIdentity>, sqlx::Error> {
    let rows: Vec<(String, String, DateTime<Utc>)> = sqlx::query_as(
        "select issuer, subject, created_at from identities where account_id = $1 order by created_at, issuer, subject",
    )
    .bind(actor.principal().to_string())
    .fetch_all(&mut **tx)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(issuer, subject, created_at)| LinkedIdentity {
            issuer,
            subject,
            created_at,
        })
        .collect())
}

/// Lets an identity log in no more. `false` when it is not one of the account's.
pub(super) async fn delete_own(tx: &mut Tx, proven: &Proven, issuer: &str, subject: &str) -> Result<bool, sqlx::Error> {
    let done = sqlx::query("delete from identities where account_id = $1 and issuer = $2 and subject = $3")
        .bind(proven.account().to_string())
        .bind(issuer)
        .bind(subject)
        .execute(&mut **tx)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Removes all identities of an account.
pub async fn delete_all(tx: &mut Tx, _proof: &System, account: AccountId) -> Result<(), sqlx::Error> {
    sqlx::query("delete from identities where account_id = $1")
        .bind(account.to_string())
        .execute(&mut **tx)
        .await
        .map(|_| ())
}

pub(super) async fn insert_half(
    tx: &mut Tx,
    _proof: &System,
    browser: &[u8],
    account: AccountId,
    expires_at: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into half_log_ins (browser_sha256, account_id, expires_at) values ($1, $2, $3)
         on conflict (browser_sha256) do update set account_id = $2, expires_at = $3",
    )
    .bind(browser)
    .bind(account.to_string())
    .bind(expires_at)
    .execute(&mut **tx)
    .await
    .map(|_| ())
}

/// Whose log-in waits for its second factor in that browser; it waits no more if the transaction is committed.
pub(super) async fn take_half(
    tx: &mut Tx,
    _proof: &System,
    browser: &[u8],
    now: DateTime<Utc>,
) -> Result<Option<AccountId>, sqlx::Error> {
    let row: Option<(Text<AccountId>,)> =
        sqlx::query_as("delete from half_log_ins where browser_sha256 = $1 and expires_at > $2 returning account_id")
            .bind(browser)
            .bind(now)
            .fetch_optional(&mut **tx)
            .await?;
    Ok(row.map(|(id,)| id.0))
}

/// Forgets what was begun and not finished in time.
pub async fn delete_expired(pool: &PgPool, _proof: &System, now: DateTime<Utc>) -> Result<(), sqlx::Error> {
    for statement in [
        "delete from provider_log_ins where expires_at <= $1",
        "delete from half_log_ins where expires_at <= $1",
    ] {
        sqlx::query(statement).bind(now).execute(pool).await?;
    }
    Ok(())
}
