//! SQL of trusts.

use chrono::{DateTime, Utc};
use contract::api::{CiConditions, CiTrust};
use contract::ci::CiProvider;
use contract::ids::{CiTrustId, OrganizationId, ServiceAccountId};
use contract::names::{OrganizationName, ServiceAccountName};
use sqlx::types::Json;

use super::Trusted;
use crate::authz::{Action, Allowed, ManageServiceAccounts, System};
use crate::database::{Text, Tx};
use crate::paging::Window;

/// Adds one. `false` when the name is taken.
pub(super) async fn insert_trust(
    tx: &mut Tx,
    allowed: &Allowed<ManageServiceAccounts>,
    new: &CiTrust,
    service_account: ServiceAccountId,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "insert into ci_trusts (id, organization_id, name, issuer, audience, service_account_id, conditions, scopes,
             life_minutes, created_at, created_by)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
         on conflict (organization_id, lower(name)) where deleted_at is null do nothing",
    )
    .bind(new.id.to_string())
    .bind(allowed.organization().to_string())
    .bind(&new.name)
    .bind(&new.issuer)
    .bind(&new.audience)
    .bind(service_account.to_string())
    .bind(Json(&new.conditions))
    .bind(&new.scopes)
    .bind(i32::try_from(new.life_minutes).unwrap_or(1))
    .bind(new.created_at)
    .bind(allowed.actor().principal().to_string())
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

#[derive(sqlx::FromRow)]
struct Row {
    id: Text<CiTrustId>,
    organization_id: Text<OrganizationId>,
    name: String,
    issuer: String,
    audience: String,
    service_account_id: Text<ServiceAccountId>,
    service_account: Text<ServiceAccountName>,
    conditions: Json<CiConditions>,
    scopes: Vec<String>,
    life_minutes: i32,
    created_at: DateTime<Utc>,
}

impl Row {
    /// The provider is the issuer's, by what the operator says of it now.
    fn trusted(self, provider: CiProvider) -> Trusted {
        Trusted {
            organization: self.organization_id.0,
            service_account: self.service_account_id.0,
            trust: CiTrust {
                id: self.id.0,
                name: self.name,
                provider,
                issuer: self.issuer,
                audience: self.audience,
                service_account: self.service_account.0,
                conditions: self.conditions.0,
                scopes: self.scopes,
                life_minutes: u32::try_from(self.life_minutes).unwrap_or(1),
                created_at: self.created_at,
            },
        }
    }
}

const COLUMNS: &str =
    "t.id, t.organization_id, t.name, t.issuer, t.audience, t.service_account_id, s.name as service_account,
     t.conditions, t.scopes, t.life_minutes, t.created_at
     from ci_trusts t join service_accounts s on s.id = t.service_account_id and s.deleted_at is null";

pub(super) async fn list_trusts<A: Action>(
    tx: &mut Tx,
    allowed: &Allowed<A>,
    provider: impl Fn(&str) -> CiProvider,
    window: &Window,
) -> Result<Vec<CiTrust>, sqlx::Error> {
    let statement = format!(
        "select {COLUMNS} where t.organization_id = $1 and t.deleted_at is null and t.id > $2 order by t.id limit $3"
    );
    let rows: Vec<Row> = sqlx::query_as(sqlx::AssertSqlSafe(statement))
        .bind(allowed.organization().to_string())
        .bind(&window.after)
        .bind(window.fetch)
        .fetch_all(&mut **tx)
        .await?;
    let shown = rows.into_iter().map(|row| {
        let provider = provider(&row.issuer);
        row.trusted(provider).trust
    });
    Ok(shown.collect())
}

/// Deletes one by name or id. `None` when there is none. Answers its name.
pub(super) async fn delete_trust(
    tx: &mut Tx,
    allowed: &Allowed<ManageServiceAccounts>,
    name_or_id: &str,
    now: DateTime<Utc>,
) -> Result<Option<String>, sqlx::Error> {
    let row: Option<(String, String)> = sqlx::query_as(
        "update ci_trusts set deleted_at = $3
         where organization_id = $1 and deleted_at is null and (id = $2 or lower(name) = lower($2)) returning id, name",
    )
    .bind(allowed.organization().to_string())
    .bind(name_or_id)
    .bind(now)
    .fetch_optional(&mut **tx)
    .await?;
    let Some((id, name)) = row else { return Ok(None) };
    // What came of it ends with it.
    sqlx::query(
        "update api_tokens set revoked_at = $2 where ci_trust_id = $1 and revoked_at is null and expires_at > $2",
    )
    .bind(id)
    .bind(now)
    .execute(&mut **tx)
    .await?;
    Ok(Some(name))
}

/// The trusts in one issuer of an organization that is active. With `lock`, they are what they are until the transaction ends.
pub(crate) async fn list_trusts_in(
    tx: &mut Tx,
    _proof: &System,
    organization: &OrganizationName,
    (issuer, provider): (&str, CiProvider),
    lock: bool,
) -> Result<Vec<Trusted>, sqlx::Error> {
    if lock {
        sqlx::query("select 1 from organizations where lower(name) = lower($1) and state = 'active' for update")
            .bind(organization.as_str())
            .execute(&mut **tx)
            .await?;
    }
    let statement = format!(
        "select {COLUMNS} join organizations o on o.id = t.organization_id
         where lower(o.name) = lower($1) and o.state = 'active' and t.issuer = $2 and t.deleted_at is null order by t.id"
    );
    let rows: Vec<Row> = sqlx::query_as(sqlx::AssertSqlSafe(statement))
        .bind(organization.as_str())
        .bind(issuer)
        .fetch_all(&mut **tx)
        .await?;
    Ok(rows.into_iter().map(|row| row.trusted(provider)).collect())
}

/// The organization of that name, if it trusts any CI system.
pub(crate) async fn find_trusting(
    tx: &mut Tx,
    _proof: &System,
    organization: &OrganizationName,
) -> Result<Option<OrganizationId>, sqlx::Error> {
    let row: Option<(Text<OrganizationId>,)> = sqlx::query_as(
        "select o.id from organizations o where lower(o.name) = lower($1) and o.state = 'active'
         and exists (select 1 from ci_trusts t where t.organization_id = o.id and t.deleted_at is null)",
    )
    .bind(organization.as_str())
    .fetch_optional(&mut **tx)
    .await?;
    Ok(row.map(|(id,)| id.0))
}
