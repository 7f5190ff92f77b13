//! SQL of sessions.

use chrono::{DateTime, Utc};
use contract::api::{Organization, SessionView};
use contract::ids::{AccountId, OrganizationId, TokenId};
use contract::names::OrganizationName;
use contract::policy::OrganizationRole;
use contract::token::SecretToken;

use crate::authz::{Actor, System};
use crate::database::{Text, Tx};
use crate::paging::Window;
use crate::peer::Peer;

/// A session that is made.
pub(super) struct NewSession<'a> {
    pub id: TokenId,
    pub account: AccountId,
    pub secret: &'a SecretToken,
    pub peer: &'a Peer,
    pub now: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
}

pub(super) async fn insert_session(tx: &mut Tx, _proof: &System, session: &NewSession<'_>) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into sessions (id, account_id, secret_sha256, created_at, expires_at, proved_at, user_agent, address)
         values ($1, $2, $3, $4, $5, $4, $6, $7)",
    )
    .bind(session.id.to_string())
    .bind(session.account.to_string())
    .bind(session.secret.sha256().as_slice())
    .bind(session.now)
    .bind(session.expires_at)
    .bind(&session.peer.user_agent)
    .bind(session.peer.address.to_string())
    .execute(&mut **tx)
    .await
    .map(|_| ())
}

/// Notes that it was proved who holds the session in use.
pub(super) async fn update_proof(tx: &mut Tx, actor: &Actor, now: DateTime<Utc>) -> Result<(), sqlx::Error> {
    sqlx::query("update sessions set proved_at = $2 where id = $1")
        .bind(actor.token().to_string())
        .bind(now)
        .execute(&mut **tx)
        .await
        .map(|_| ())
}

/// Ends the sessions of an account, all but one if that is named, and what was approved to become one; answers how many. The caller bumps the policies.
pub async fn end_all(
    tx: &mut Tx,
    _proof: &System,
    account: AccountId,
    except: Option<TokenId>,
    now: DateTime<Utc>,
) -> Result<u64, sqlx::Error> {
    sqlx::query("delete from device_logins where account_id = $1")
        .bind(account.to_string())
        .execute(&mut **tx)
        .await?;
    let done = sqlx::query(
        "update sessions set revoked_at = $3
         where account_id = $1 and id is distinct from $2 and revoked_at is null and expires_at > $3",
    )
    .bind(account.to_string())
    .bind(except.map(|id| id.to_string()))
    .bind(now)
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected())
}

/// The organizations of an account that just proved itself with its password.
pub(crate) async fn list_organizations_of(
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
    type Row = (
        Text<TokenId>,
        DateTime<Utc>,
        DateTime<Utc>,
        Option<DateTime<Utc>>,
        DateTime<Utc>,
        String,
        String,
    );
    let rows: Vec<Row> = sqlx::query_as(
        "select id, created_at, expires_at, last_used_at, proved_at, user_agent, address from sessions
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
        .map(|row| SessionView {
            current: row.0.0 == actor.token(),
            id: row.0.0,
            created_at: row.1,
            expires_at: row.2,
            last_used_at: row.3,
            proved_at: row.4,
            user_agent: row.5,
            address: row.6,
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
