//! SQL of how tokens stand in an organization. `token_standing` of the schema decides; here it is asked.

use chrono::{DateTime, Utc};
use contract::api::{ApiToken, TokenPolicy};
use contract::ids::TokenId;

use super::queries::{COLUMNS, Row};
use crate::authz::{Action, Allowed, ManageTokens};
use crate::database::Tx;
use crate::paging::Window;

/// What admins say of a token.
#[derive(Debug, Clone, Copy)]
pub(super) enum Decision {
    Approved,
    Blocked,
}

pub(super) async fn get_policy<A: Action>(tx: &mut Tx, allowed: &Allowed<A>) -> Result<TokenPolicy, sqlx::Error> {
    let row: Option<(Option<i32>, Option<i32>, bool)> =
        sqlx::query_as("select longest_days, idle_days, approval from token_policies where organization_id = $1")
            .bind(allowed.organization().to_string())
            .fetch_optional(&mut **tx)
            .await?;
    let days = |days: Option<i32>| days.and_then(|days| u32::try_from(days).ok());
    Ok(
        row.map_or_else(TokenPolicy::default, |(longest, idle, approval)| TokenPolicy {
            longest_days: days(longest),
            idle_days: days(idle),
            approval,
        }),
    )
}

pub(super) async fn set_policy(
    tx: &mut Tx,
    allowed: &Allowed<ManageTokens>,
    policy: &TokenPolicy,
) -> Result<(), sqlx::Error> {
    let days = |days: Option<u32>| days.and_then(|days| i32::try_from(days).ok());
    sqlx::query(
        "insert into token_policies (organization_id, longest_days, idle_days, approval) values ($1, $2, $3, $4)
         on conflict (organization_id) do update set longest_days = excluded.longest_days, idle_days = excluded.idle_days,
             approval = excluded.approval",
    )
    .bind(allowed.organization().to_string())
    .bind(days(policy.longest_days))
    .bind(days(policy.idle_days))
    .bind(policy.approval)
    .execute(&mut **tx)
    .await
    .map(|_| ())
}

/// Tokens that are bound to the organization, and those of its members that are bound to none.
const WORKING: &str = "t.revoked_at is null and t.expires_at > $2 and (t.organization_id = $1
    or t.organization_id is null and t.principal in (select m.account_id from members m where m.organization_id = $1))";

pub(super) async fn list_working<A: Action>(
    tx: &mut Tx,
    allowed: &Allowed<A>,
    now: DateTime<Utc>,
    window: &Window,
) -> Result<Vec<ApiToken>, sqlx::Error> {
    let statement = format!(
        "select token_standing(t.id, $1, $2) as standing, {COLUMNS} where {WORKING} and t.id > $3 order by t.id limit $4"
    );
    let rows: Vec<Row> = sqlx::query_as(sqlx::AssertSqlSafe(statement))
        .bind(allowed.organization().to_string())
        .bind(now)
        .bind(&window.after)
        .bind(window.fetch)
        .fetch_all(&mut **tx)
        .await?;
    Ok(rows.into_iter().map(Row::shown).collect())
}

pub(super) async fn find_working(
    tx: &mut Tx,
    allowed: &Allowed<ManageTokens>,
    id: TokenId,
    now: DateTime<Utc>,
) -> Result<Option<ApiToken>, sqlx::Error> {
    let statement = format!("select token_standing(t.id, $1, $2) as standing, {COLUMNS} where {WORKING} and t.id = $3");
    let row: Option<Row> = sqlx::query_as(sqlx::AssertSqlSafe(statement))
        .bind(allowed.organization().to_string())
        .bind(now)
        .bind(id.to_string())
        .fetch_optional(&mut **tx)
        .await?;
    Ok(row.map(Row::shown))
}

pub(super) async fn revoke(
    tx: &mut Tx,
    allowed: &Allowed<ManageTokens>,
    id: TokenId,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query("update api_tokens set revoked_at = $3 where id = $2 and organization_id = $1 and revoked_at is null")
        .bind(allowed.organization().to_string())
        .bind(id.to_string())
        .bind(now)
        .execute(&mut **tx)
        .await
        .map(|_| ())
}

pub(super) async fn decide(
    tx: &mut Tx,
    allowed: &Allowed<ManageTokens>,
    id: TokenId,
    decision: Decision,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let word = match decision {
        Decision::Approved => "approved",
        Decision::Blocked => "blocked",
    };
    sqlx::query(
        "insert into token_decisions (organization_id, token_id, decision, decided_at, decided_by)
         values ($1, $2, $3, $4, $5)
         on conflict (organization_id, token_id) do update set decision = excluded.decision,
             decided_at = excluded.decided_at, decided_by = excluded.decided_by",
    )
    .bind(allowed.organization().to_string())
    .bind(id.to_string())
    .bind(word)
    .bind(now)
    .bind(allowed.actor().principal().to_string())
    .execute(&mut **tx)
    .await
    .map(|_| ())
}
