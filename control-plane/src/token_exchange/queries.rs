//! SQL of the exchange.

use chrono::{DateTime, Utc};
use contract::api::ExchangedToken;
use contract::token::SecretToken;
use sqlx::PgPool;
use sqlx::types::Json;

use super::verify::Claims;
use crate::authz::System;
use crate::ci_trusts::Trusted;
use crate::database::Tx;

/// Tokens of runs are kept so long after their end, to be listed.
const ENDED_KEPT: chrono::Duration = chrono::Duration::days(30);

/// Notes that an OIDC token was used. `false` when it was before; of two at once, one waits for the other.
pub(super) async fn spend(tx: &mut Tx, _proof: &System, claims: &Claims) -> Result<bool, sqlx::Error> {
    let done = sqlx::query("insert into ci_spent (digest, keep_until) values ($1, $2) on conflict do nothing")
        .bind(claims.once().as_slice())
        .bind(claims.until())
        .execute(&mut **tx)
        .await?;
    Ok(done.rows_affected() == 1)
}

pub(super) async fn insert_token(
    tx: &mut Tx,
    _proof: &System,
    trusted: &Trusted,
    made: &ExchangedToken,
    secret: &SecretToken,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into api_tokens (id, principal, organization_id, name, scopes, secret_sha256, created_at, created_by,
             expires_at, ci, ci_trust_id)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
    )
    .bind(made.id.to_string())
    .bind(trusted.service_account.to_string())
    .bind(trusted.organization.to_string())
    .bind(&trusted.trust.name)
    .bind(&made.scopes)
    .bind(secret.sha256().as_slice())
    .bind(now)
    .bind(trusted.trust.id.to_string())
    .bind(made.expires_at)
    .bind(Json(&made.identity))
    .bind(trusted.trust.id.to_string())
    .execute(&mut **tx)
    .await
    .map(|_| ())
}

/// Forgets OIDC tokens that nothing would believe any more, and tokens of runs that ended long ago.
pub(super) async fn forget(pool: &PgPool, _proof: &System, now: DateTime<Utc>) -> Result<(), sqlx::Error> {
    sqlx::query("delete from ci_spent where keep_until < $1")
        .bind(now)
        .execute(pool)
        .await?;
    sqlx::query("delete from api_tokens where ci_trust_id is not null and expires_at < $1")
        .bind(now - ENDED_KEPT)
        .execute(pool)
        .await
        .map(|_| ())
}
