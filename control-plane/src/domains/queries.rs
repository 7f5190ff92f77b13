//! SQL of domains.

use chrono::{DateTime, Utc};
use contract::api::RegisterDomain;
use contract::ids::{DomainId, GrantId};
use contract::policy::Principal;

use crate::authz::AsPlane;
use crate::database::{Text, Tx, signed};

/// A domain of that id as it is stored.
pub(super) struct Registered {
    pub project: String,
    pub name: String,
    pub deleted: bool,
}

pub(super) async fn find_domain(tx: &mut Tx, plane: &AsPlane, id: DomainId) -> Result<Option<Registered>, sqlx::Error> {
    let row: Option<(String, String, bool)> = sqlx::query_as(
        "select project, name, deleted_at is not null from domains where organization_id = $1 and id = $2",
    )
    .bind(plane.organization().to_string())
    .bind(id.to_string())
    .fetch_optional(&mut **tx)
    .await?;
    Ok(row.map(|(project, name, deleted)| Registered { project, name, deleted }))
}

/// Whether the principal belongs to the organization.
pub(super) async fn is_member(tx: &mut Tx, plane: &AsPlane, principal: Principal) -> Result<bool, sqlx::Error> {
    let (found,): (bool,) =
        sqlx::query_as("select exists (select 1 from memberships where organization_id = $1 and principal = $2)")
            .bind(plane.organization().to_string())
            .bind(principal.to_string())
            .fetch_one(&mut **tx)
            .await?;
    Ok(found)
}

/// Turns a live domain of the same project and name into a tombstone: its repo was never made, or the plane forgot it.
pub(super) async fn bury_orphan(
    tx: &mut Tx,
    plane: &AsPlane,
    new: &RegisterDomain,
    now: DateTime<Utc>,
) -> Result<Option<DomainId>, sqlx::Error> {
    let row: Option<(Text<DomainId>,)> = sqlx::query_as(
        "update domains set deleted_at = $4
         where organization_id = $1 and project = $2 and name = $3 and deleted_at is null returning id",
    )
    .bind(plane.organization().to_string())
    .bind(new.project.as_str())
    .bind(new.name.as_str())
    .bind(now)
    .fetch_optional(&mut **tx)
    .await?;
    Ok(row.map(|(id,)| id.0))
}

/// Adds a domain and gives its first owner the role `owner` on it.
pub(super) async fn insert_domain(
    tx: &mut Tx,
    plane: &AsPlane,
    new: &RegisterDomain,
    grant: GrantId,
    epoch: u64,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into domains (organization_id, id, project, name, owner, created_at) values ($1, $2, $3, $4, $5, $6)",
    )
    .bind(plane.organization().to_string())
    .bind(new.id.to_string())
    .bind(new.project.as_str())
    .bind(new.name.as_str())
    .bind(new.owner.to_string())
    .bind(now)
    .execute(&mut **tx)
    .await?;
    sqlx::query(
        "insert into grants (id, organization_id, grantee, role, resource, created_at, created_by, epoch)
         values ($1, $2, $3, 'owner', $4, $5, $3, $6) on conflict on constraint grants_once do nothing",
    )
    .bind(grant.to_string())
    .bind(plane.organization().to_string())
    .bind(new.owner.to_string())
    .bind(new.id.to_string())
    .bind(now)
    .bind(signed(epoch))
    .execute(&mut **tx)
    .await
    .map(|_| ())
}

/// Makes a domain a tombstone. `None` when there is none of that id, `false` when it was one before.
pub(super) async fn bury(
    tx: &mut Tx,
    plane: &AsPlane,
    id: DomainId,
    now: DateTime<Utc>,
) -> Result<Option<bool>, sqlx::Error> {
    let row: Option<(bool,)> = sqlx::query_as(
        "update domains d set deleted_at = coalesce(d.deleted_at, $3) from domains before
         where d.organization_id = $1 and d.id = $2 and before.organization_id = $1 and before.id = $2
         returning before.deleted_at is null",
    )
    .bind(plane.organization().to_string())
    .bind(id.to_string())
    .bind(now)
    .fetch_optional(&mut **tx)
    .await?;
    Ok(row.map(|(buried,)| buried))
}
