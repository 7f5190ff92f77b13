//! SQL of API tokens.

use chrono::{DateTime, Utc};
use contract::api::ApiToken;
use contract::ids::{OrganizationId, TokenId};
use contract::policy::Principal;
use contract::token::SecretToken;

use crate::authz::Actor;
use crate::database::{Text, Tx};
use crate::paging::Window;

/// Adds a token. The caller is its principal, or manages the service account that is: the route has checked that.
pub(super) async fn insert_token(
    tx: &mut Tx,
    maker: &Actor,
    token: &ApiToken,
    organization: Option<OrganizationId>,
    secret: &SecretToken,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into api_tokens (id, principal, organization_id, name, scopes, secret_sha256, created_at, created_by, expires_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(token.id.to_string())
    .bind(token.principal.to_string())
    .bind(organization.map(|o| o.to_string()))
    .bind(&token.name)
    .bind(&token.scopes)
    .bind(secret.sha256().as_slice())
    .bind(token.created_at)
    .bind(maker.principal().to_string())
    .bind(token.expires_at)
    .execute(&mut **tx)
    .await
    .map(|_| ())
}

/// Whose tokens the caller sees: his own, and those of service accounts in organizations that he manages.
const VISIBLE: &str = "(t.principal = $1 or t.principal in (
    select s.id from service_accounts s join members m on m.organization_id = s.organization_id
    where m.account_id = $1 and m.role in ('owner', 'admin')))
    and ($2::text is null or t.organization_id = $2)";

pub(super) async fn list_visible(tx: &mut Tx, actor: &Actor, window: &Window) -> Result<Vec<ApiToken>, sqlx::Error> {
    type Row = (
        Text<TokenId>,
        String,
        Text<Principal>,
        Vec<String>,
        DateTime<Utc>,
        DateTime<Utc>,
        Option<DateTime<Utc>>,
        Option<DateTime<Utc>>,
    );
    let statement = format!(
        "select t.id, t.name, t.principal, t.scopes, t.created_at, t.expires_at, t.last_used_at, t.revoked_at
         from api_tokens t where {VISIBLE} and t.id > $3 order by t.id limit $4"
    );
    let rows: Vec<Row> = sqlx::query_as(sqlx::AssertSqlSafe(statement))
        .bind(actor.principal().to_string())
        .bind(actor.organization().map(|o| o.to_string()))
        .bind(&window.after)
        .bind(window.fetch)
        .fetch_all(&mut **tx)
        .await?;
    Ok(rows
        .into_iter()
        .map(|row| ApiToken {
            id: row.0.0,
            name: row.1,
            principal: row.2.0,
            scopes: row.3,
            created_at: row.4,
            expires_at: row.5,
            last_used_at: row.6,
            revoked_at: row.7,
            secret: None,
        })
        .collect())
}

/// A token that was revoked: whose, and in which organization.
pub(super) type Revoked = (Principal, Option<OrganizationId>);

/// Revokes a token that the caller sees. `None` when there is none of that id, or it was revoked before.
pub(super) async fn revoke_visible(
    tx: &mut Tx,
    actor: &Actor,
    id: TokenId,
    now: DateTime<Utc>,
) -> Result<Option<Revoked>, sqlx::Error> {
    let statement = format!(
        "update api_tokens t set revoked_at = $4 where {VISIBLE} and t.id = $3 and t.revoked_at is null
         returning t.principal, t.organization_id"
    );
    let row: Option<(Text<Principal>, Option<Text<OrganizationId>>)> = sqlx::query_as(sqlx::AssertSqlSafe(statement))
        .bind(actor.principal().to_string())
        .bind(actor.organization().map(|o| o.to_string()))
        .bind(id.to_string())
        .bind(now)
        .fetch_optional(&mut **tx)
        .await?;
    Ok(row.map(|(principal, organization)| (principal.0, organization.map(|o| o.0))))
}
