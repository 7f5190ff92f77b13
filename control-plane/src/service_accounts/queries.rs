//! SQL of service accounts.

use chrono::{DateTime, Utc};
use contract::ids::ServiceAccountId;
use contract::names::ServiceAccountName;

use super::ServiceAccountView;
use crate::authz::{Action, Allowed, ManageServiceAccounts, ViewOrganization};
use crate::database::{Text, Tx};
use crate::paging::Window;

/// Adds one. `false` when the name is taken.
pub(super) async fn insert_service_account(
    tx: &mut Tx,
    allowed: &Allowed<ManageServiceAccounts>,
    new: &ServiceAccountView,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "insert into service_accounts (id, organization_id, name, created_at, created_by) values ($1, $2, $3, $4, $5)
         on conflict (organization_id, lower(name)) where deleted_at is null do nothing",
    )
    .bind(new.id.to_string())
    .bind(allowed.organization().to_string())
    .bind(new.name.as_str())
    .bind(new.created_at)
    .bind(allowed.actor().principal().to_string())
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

type Row = (Text<ServiceAccountId>, Text<ServiceAccountName>, DateTime<Utc>);

fn view((id, name, created_at): Row) -> ServiceAccountView {
    ServiceAccountView {
        id: id.0,
        name: name.0,
        created_at,
    }
}

pub(super) async fn list_service_accounts(
    tx: &mut Tx,
    allowed: &Allowed<ViewOrganization>,
    window: &Window,
) -> Result<Vec<ServiceAccountView>, sqlx::Error> {
    let rows: Vec<Row> = sqlx::query_as(
        "select id, name, created_at from service_accounts
         where organization_id = $1 and deleted_at is null and id > $2 order by id limit $3",
    )
    .bind(allowed.organization().to_string())
    .bind(&window.after)
    .bind(window.fetch)
    .fetch_all(&mut **tx)
    .await?;
    Ok(rows.into_iter().map(view).collect())
}

/// One by name or id.
pub async fn find_service_account<A: Action>(
    tx: &mut Tx,
    allowed: &Allowed<A>,
    name_or_id: &str,
) -> Result<Option<ServiceAccountView>, sqlx::Error> {
    let row: Option<Row> = sqlx::query_as(
        "select id, name, created_at from service_accounts
         where organization_id = $1 and deleted_at is null and (id = $2 or lower(name) = lower($2))",
    )
    .bind(allowed.organization().to_string())
    .bind(name_or_id)
    .fetch_optional(&mut **tx)
    .await?;
    Ok(row.map(view))
}

pub(super) async fn delete_service_account(
    tx: &mut Tx,
    allowed: &Allowed<ManageServiceAccounts>,
    id: ServiceAccountId,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query("update service_accounts set deleted_at = $3 where organization_id = $1 and id = $2")
        .bind(allowed.organization().to_string())
        .bind(id.to_string())
        .bind(now)
        .execute(&mut **tx)
        .await?;
    // Nothing is let in as it any more, and the names of its trusts are free again.
    sqlx::query("update ci_trusts set deleted_at = $2 where service_account_id = $1 and deleted_at is null")
        .bind(id.to_string())
        .bind(now)
        .execute(&mut **tx)
        .await
        .map(|_| ())
}
