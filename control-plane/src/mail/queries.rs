//! SQL of mails.

use chrono::{DateTime, Utc};
use contract::ids::MailId;
use sqlx::PgPool;

use super::operator::Operator;
use crate::authz::System;
use crate::database::{Text, Tx};

/// What the outbox shows at most.
const SHOWN_MAX: i64 = 200;

/// A mail that is written.
pub(super) struct NewMail<'a> {
    pub id: MailId,
    pub kind: &'static str,
    pub recipient: &'a str,
    pub subject: &'a str,
    pub sealed_text: &'a [u8],
    pub now: DateTime<Utc>,
}

pub(super) async fn insert_mail(tx: &mut Tx, _proof: &System, mail: &NewMail<'_>) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into mails (id, kind, recipient, subject, sealed_text, created_at, next_try_at)
         values ($1, $2, $3, $4, $5, $6, $6)",
    )
    .bind(mail.id.to_string())
    .bind(mail.kind)
    .bind(mail.recipient)
    .bind(mail.subject)
    .bind(mail.sealed_text)
    .bind(mail.now)
    .execute(&mut **tx)
    .await
    .map(|_| ())
}

/// A mail that is to be sent now.
pub(super) struct Due {
    pub id: MailId,
    pub recipient: String,
    pub subject: String,
    pub sealed_text: Vec<u8>,
    pub created_at: DateTime<Utc>,
    /// This try included.
    pub tries: u32,
}

/// Takes the mail that has waited longest, of those that were not written before `after`: what older ones hold is over. Nobody else takes it before `until`: then whoever took it has died.
pub(super) async fn take_due(
    pool: &PgPool,
    _proof: &System,
    now: DateTime<Utc>,
    until: DateTime<Utc>,
    after: DateTime<Utc>,
) -> Result<Option<Due>, sqlx::Error> {
    type Row = (Text<MailId>, String, String, Vec<u8>, DateTime<Utc>, i32);
    let row: Option<Row> = sqlx::query_as(
        "update mails set tries = tries + 1, next_try_at = $2
         where id = (select id from mails where next_try_at <= $1 and created_at > $3 and sealed_text is not null
                     order by next_try_at limit 1 for update skip locked)
         returning id, recipient, subject, sealed_text, created_at, tries",
    )
    .bind(now)
    .bind(until)
    .bind(after)
    .fetch_optional(pool)
    .await?;
    Ok(row.map(|row| Due {
        id: row.0.0,
        recipient: row.1,
        subject: row.2,
        sealed_text: row.3,
        created_at: row.4,
        tries: u32::try_from(row.5).unwrap_or(u32::MAX),
    }))
}

/// The server has it: its text is erased.
pub(super) async fn mark_sent(
    pool: &PgPool,
    _proof: &System,
    id: MailId,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query("update mails set sent_at = $2, next_try_at = null, sealed_text = null, error = null where id = $1")
        .bind(id.to_string())
        .bind(now)
        .execute(pool)
        .await
        .map(|_| ())
}

/// The server does not have it: when it is tried again, `None` for never.
pub(super) async fn mark_failed(
    pool: &PgPool,
    _proof: &System,
    id: MailId,
    error: &str,
    again: Option<DateTime<Utc>>,
) -> Result<(), sqlx::Error> {
    sqlx::query("update mails set error = $2, next_try_at = $3 where id = $1")
        .bind(id.to_string())
        .bind(error)
        .bind(again)
        .execute(pool)
        .await
        .map(|_| ())
}

pub(super) async fn delete_old(pool: &PgPool, _proof: &System, before: DateTime<Utc>) -> Result<(), sqlx::Error> {
    sqlx::query("delete from mails where created_at < $1")
        .bind(before)
        .execute(pool)
        .await
        .map(|_| ())
}

/// A mail as the outbox has it.
#[derive(sqlx::FromRow)]
pub(super) struct Stored {
    pub id: Text<MailId>,
    pub kind: String,
    pub recipient: String,
    pub subject: String,
    pub sealed_text: Option<Vec<u8>>,
    pub created_at: DateTime<Utc>,
    pub tries: i32,
    pub next_try_at: Option<DateTime<Utc>>,
    pub sent_at: Option<DateTime<Utc>>,
    pub error: Option<String>,
}

/// The newest mails.
pub(super) async fn list_mails(tx: &mut Tx, _proof: &Operator) -> Result<Vec<Stored>, sqlx::Error> {
    sqlx::query_as("select * from mails order by seq desc limit $1")
        .bind(SHOWN_MAX)
        .fetch_all(&mut **tx)
        .await
}

pub(super) async fn find_mail(tx: &mut Tx, _proof: &Operator, id: MailId) -> Result<Option<Stored>, sqlx::Error> {
    sqlx::query_as("select * from mails where id = $1")
        .bind(id.to_string())
        .fetch_optional(&mut **tx)
        .await
}
