//! SQL of sessions.

use chrono::{DateTime, Utc};
use contract::api::Organization;
use contract::ids::{AccountId, OrganizationId, TokenId};
use contract::names::OrganizationName;
use contract::policy::OrganizationRole;
use contract::token::SecretToken;

use super::SessionView;
use crate::authz::{Actor, System};
use crate::database::{Text, Tx};
use crate::paging::Window;

pub(super) async fn insert_session(
    tx: &mut Tx,
    _proof: &System,
    id: TokenId,
    account: AccountId,
    secret: &SecretToken,
    now: DateTime<Utc>,
    expires_at: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into sessions (id, account_id, secret_sha256, created_at, expires_at) values ($1, $2, $3, $4, $5)",
    )
    .bind(id.to_string())
    .bind(account.to_string())
    .bind(secret.sha256().as_slice())
    .bind(now)
    .bind(expires_at)
    .execute(&mut **tx)
    .await
    .map(|_| ())
}

/// The organizations of an account that just proved itself with its password.
pub(super) async fn list_organizations_of(
    tx: &mut Tx,
    _proof: &System,
    account: AccountId,
) -> Result<Vec<Organization>, sqlx::Error> {
    type Row = (
        Text<OrganizationId>,
        Text<OrganizationName>,
        Text<OrganizationRole>,
        DateTime<Utc>,
    );
    let rows: Vec<Row> = sqlx::query_as(
        "select o.id, o.name, m.role, o.created_at from organizations o join members m on m.organization_id = o.id
         where m.account_id = $1 and o.state in ('active', 'suspended') order by o.id",
    )
    .bind(account.to_string())
    .fetch_all(&mut **tx)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(id, name, role, created_at)| Organization {
            id: id.0,
            name: name.0,
            role: role.0,
            created_at,
        })
        .collect())
}

/// The caller's own sessions that are still good.
pub(super) async fn list_own(
    tx: &mut Tx,
    actor: &Actor,
    now: DateTime<Utc>,
    window: &Window,
) -> Result<Vec<SessionView>, sqlx::Error> {
    type Row = (Text<TokenId>, DateTime<Utc>, DateTime<Utc>, Option<DateTime<Utc>>);
    let rows: Vec<Row> = sqlx::query_as(
        "select id, created_at, expires_at, last_used_at from sessions
         where account_id = $1 and revoked_at is null and expires_at > $2 and id > $3 order by id limit $4",
    )
    .bind(actor.principal().to_string())
    .bind(now)
    .bind(&window.after)
    .bind(window.fetch)
    .fetch_all(&mut **tx)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(id, created_at, expires_at, last_used_at)| SessionView {
            current: id.0 == actor.token(),
            id: id.0,
            created_at,
            expires_at,
            last_used_at,
        })
        .collect())
}

/// Revokes one of the caller's own sessions. `false` when there is none of that id, or it was revoked before.
pub(super) async fn revoke_own(
    tx: &mut Tx,
    actor: &Actor,
    id: TokenId,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let done =
        sqlx::query("update sessions set revoked_at = $3 where id = $1 and account_id = $2 and revoked_at is null")
            .bind(id.to_string())
            .bind(actor.principal().to_string())
            .bind(now)
            .execute(&mut **tx)
            .await?;
    Ok(done.rows_affected() == 1)
}
