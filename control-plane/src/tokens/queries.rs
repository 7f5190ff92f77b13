//! SQL of API tokens.

use chrono::{DateTime, Utc};
use contract::api::ApiToken;
use contract::ci::CiIdentity;
use contract::ids::{OrganizationId, TokenId};
use contract::policy::Principal;
use contract::token::{SecretToken, TokenKind};
use sqlx::types::Json;

use super::kind_of;
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
        "insert into api_tokens (id, principal, organization_id, name, scopes, secret_sha256, created_at, created_by, expires_at, idle_days)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
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
    .bind(token.idle_days.and_then(|days| i32::try_from(days).ok()))
    .execute(&mut **tx)
    .await
    .map(|_| ())
}

/// Whose tokens the caller sees: his own, and those of service accounts in organizations that he manages, where the token that
/// he uses (`$3`) is good at that time (`$4`).
const VISIBLE: &str = "(t.principal = $1 or t.principal in (
    select s.id from service_accounts s join members m on m.organization_id = s.organization_id
    where m.account_id = $1 and m.role in ('owner', 'admin') and token_standing($3, m.organization_id, $4) = 'good'))
    and ($2::text is null or t.organization_id = $2)";

/// A token as it is stored.
#[derive(sqlx::FromRow)]
pub(super) struct Row {
    id: Text<TokenId>,
    name: String,
    principal: Text<Principal>,
    principal_name: Option<String>,
    organization_id: Option<Text<OrganizationId>>,
    scopes: Vec<String>,
    created_at: DateTime<Utc>,
    expires_at: DateTime<Utc>,
    last_used_at: Option<DateTime<Utc>>,
    revoked_at: Option<DateTime<Utc>>,
    ci: Option<Json<Box<CiIdentity>>>,
    idle_days: Option<i32>,
    replaced_by: Option<Text<TokenId>>,
    #[sqlx(default)]
    standing: Option<String>,
}

/// What a row is made of.
pub(super) const COLUMNS: &str =
    "t.id, t.name, t.principal, coalesce(a.email, s.name) as principal_name, t.organization_id, t.scopes,
     t.created_at, t.expires_at, t.last_used_at, t.revoked_at, t.ci,
     t.idle_days, t.replaced_by
     from api_tokens t left join accounts a on a.id = t.principal left join service_accounts s on s.id = t.principal";

impl Row {
    pub(super) fn shown(self) -> ApiToken {
        let kind = match &self.ci {
            Some(_) => TokenKind::Ci,
            None => kind_of(self.principal.0),
        };
        ApiToken {
            id: self.id.0,
            name: self.name,
            principal: self.principal.0,
            scopes: self.scopes,
            created_at: self.created_at,
            expires_at: self.expires_at,
            last_used_at: self.last_used_at,
            revoked_at: self.revoked_at,
            kind: kind.as_str().to_owned(),
            principal_name: self.principal_name.unwrap_or_default(),
            organization: self.organization_id.map(|o| o.0),
            idle_days: self.idle_days.and_then(|days| u32::try_from(days).ok()),
            replaced_by: self.replaced_by.map(|id| id.0),
            standing: self.standing,
            ci: self.ci.map(|ci| ci.0),
            secret: None,
        }
    }
}

pub(super) async fn list_visible(
    tx: &mut Tx,
    actor: &Actor,
    now: DateTime<Utc>,
    window: &Window,
) -> Result<Vec<ApiToken>, sqlx::Error> {
    let statement = format!("select {COLUMNS} where {VISIBLE} and t.id > $5 order by t.id limit $6");
    let rows: Vec<Row> = sqlx::query_as(sqlx::AssertSqlSafe(statement))
        .bind(actor.principal().to_string())
        .bind(actor.organization().map(|o| o.to_string()))
        .bind(actor.token().to_string())
        .bind(now)
        .bind(&window.after)
        .bind(window.fetch)
        .fetch_all(&mut **tx)
        .await?;
    Ok(rows.into_iter().map(Row::shown).collect())
}

/// One that the caller sees.
pub(super) async fn find_visible(
    tx: &mut Tx,
    actor: &Actor,
    id: TokenId,
    now: DateTime<Utc>,
) -> Result<Option<ApiToken>, sqlx::Error> {
    let statement = format!("select {COLUMNS} where {VISIBLE} and t.id = $5 for update of t");
    let row: Option<Row> = sqlx::query_as(sqlx::AssertSqlSafe(statement))
        .bind(actor.principal().to_string())
        .bind(actor.organization().map(|o| o.to_string()))
        .bind(actor.token().to_string())
        .bind(now)
        .bind(id.to_string())
        .fetch_optional(&mut **tx)
        .await?;
    Ok(row.map(Row::shown))
}

/// Puts a new token, which is there already, into the place of one that the caller sees and that is locked. With `age` the new one
/// counts as old as that one.
pub(super) async fn replace(
    tx: &mut Tx,
    _actor: &Actor,
    (old, new): (TokenId, TokenId),
    old_ends: DateTime<Utc>,
    age: bool,
) -> Result<(), sqlx::Error> {
    sqlx::query("update api_tokens set replaced_by = $2, expires_at = least(expires_at, $3) where id = $1")
        .bind(old.to_string())
        .bind(new.to_string())
        .bind(old_ends)
        .execute(&mut **tx)
        .await?;
    if age {
        sqlx::query(
            "update api_tokens n set counted_from = coalesce(o.counted_from, o.created_at)
             from api_tokens o where o.id = $1 and n.id = $2",
        )
        .bind(old.to_string())
        .bind(new.to_string())
        .execute(&mut **tx)
        .await?;
    }
    sqlx::query(
        "insert into token_decisions (organization_id, token_id, decision, decided_at, decided_by)
         select organization_id, $2, decision, decided_at, decided_by from token_decisions where token_id = $1",
    )
    .bind(old.to_string())
    .bind(new.to_string())
    .execute(&mut **tx)
    .await
    .map(|_| ())
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
        "update api_tokens t set revoked_at = $4 where {VISIBLE} and t.id = $5 and t.revoked_at is null
         returning t.principal, t.organization_id"
    );
    let row: Option<(Text<Principal>, Option<Text<OrganizationId>>)> = sqlx::query_as(sqlx::AssertSqlSafe(statement))
        .bind(actor.principal().to_string())
        .bind(actor.organization().map(|o| o.to_string()))
        .bind(actor.token().to_string())
        .bind(now)
        .bind(id.to_string())
        .fetch_optional(&mut **tx)
        .await?;
    Ok(row.map(|(principal, organization)| (principal.0, organization.map(|o| o.0))))
}
