//! SQL of organizations.

use chrono::{DateTime, Utc};
use contract::api::Organization;
use contract::ids::{AccountId, OrganizationId};
use contract::names::OrganizationName;
use contract::policy::OrganizationRole;

use crate::authz::{Action, Actor, Allowed, ChangeSettings, System};
use crate::database::{Text, Tx};

/// Adds an organization with its first owner. `false` when the name is taken.
pub(super) async fn insert_organization(
    tx: &mut Tx,
    _proof: &System,
    organization: &Organization,
    owner: AccountId,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "insert into organizations (id, name, state, created_at) values ($1, $2, 'active', $3)
         on conflict (lower(name)) where state <> 'deleted' do nothing",
    )
    .bind(organization.id.to_string())
    .bind(organization.name.as_str())
    .bind(organization.created_at)
    .execute(&mut **tx)
    .await?;
    if done.rows_affected() == 0 {
        return Ok(false);
    }
    sqlx::query("insert into members (organization_id, account_id, role, joined_at) values ($1, $2, 'owner', $3)")
        .bind(organization.id.to_string())
        .bind(owner.to_string())
        .bind(organization.created_at)
        .execute(&mut **tx)
        .await?;
    Ok(true)
}

type Row = (
    Text<OrganizationId>,
    Text<OrganizationName>,
    Text<OrganizationRole>,
    DateTime<Utc>,
);

/// The organizations that the caller belongs to, and that his token is good for.
pub async fn list_own(tx: &mut Tx, actor: &Actor) -> Result<Vec<Organization>, sqlx::Error> {
    let rows: Vec<Row> = sqlx::query_as(
        "select o.id, o.name, m.role, o.created_at from organizations o join memberships m on m.organization_id = o.id
         where m.principal = $1 and o.state in ('active', 'suspended') and ($2::text is null or o.id = $2) order by o.id",
    )
    .bind(actor.principal().to_string())
    .bind(actor.organization().map(|o| o.to_string()))
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

/// How many people must approve each domain of a release.
pub(super) async fn get_release_approvals<A: Action>(tx: &mut Tx, allowed: &Allowed<A>) -> Result<u32, sqlx::Error> {
    let (approvals,): (i32,) = sqlx::query_as("select release_approvals from organizations where id = $1")
        .bind(allowed.organization().to_string())
        .fetch_one(&mut **tx)
        .await?;
    Ok(u32::try_from(approvals).unwrap_or(1))
}

pub(super) async fn update_release_approvals(
    tx: &mut Tx,
    allowed: &Allowed<ChangeSettings>,
    approvals: i32,
) -> Result<(), sqlx::Error> {
    sqlx::query("update organizations set release_approvals = $2 where id = $1")
        .bind(allowed.organization().to_string())
        .bind(approvals)
        .execute(&mut **tx)
        .await
        .map(|_| ())
}
