//! SQL of deletions.

use chrono::{DateTime, Utc};
use contract::api::{DeletionReceipt, ErasedStore};
use contract::ids::OrganizationId;
use contract::names::OrganizationName;
use sqlx::PgPool;

use crate::authz::{Actor, Allowed, DeleteOrganization, RestoreOrganization, System};
use crate::database::{Text, Tx, unsigned};
use crate::paging::Window;

/// Ends the organization: nobody sees it any more, its plane stops; those who own it now may have it back until then.
pub(crate) async fn begin_deletion(
    tx: &mut Tx,
    allowed: &Allowed<DeleteOrganization>,
    now: DateTime<Utc>,
    kept_until: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let id = allowed.organization().to_string();
    sqlx::query("update organizations set state = 'deleting', deleted_at = $2, kept_until = $3 where id = $1")
        .bind(&id)
        .bind(now)
        .bind(kept_until)
        .execute(&mut **tx)
        .await?;
    sqlx::query(
        "insert into former_owners (organization_id, account_id)
         select organization_id, account_id from members where organization_id = $1 and role = 'owner'
         on conflict do nothing",
    )
    .bind(&id)
    .execute(&mut **tx)
    .await?;
    let wanted = if kept_until <= now { "deleted" } else { "asleep" };
    want(tx, &id, wanted).await
}

async fn want(tx: &mut Tx, organization: &str, wanted: &str) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update planes set wanted = $2, generation = generation + 1, next_try_at = null where organization_id = $1",
    )
    .bind(organization)
    .bind(wanted)
    .execute(&mut **tx)
    .await
    .map(|_| ())
}

/// Gives it back. `false` when it is being erased.
pub(super) async fn restore(
    tx: &mut Tx,
    allowed: &Allowed<RestoreOrganization>,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let id = allowed.organization().to_string();
    let done = sqlx::query(
        "update organizations o set state = 'active', deleted_at = null, kept_until = null
         where o.id = $1 and o.state = 'deleting' and o.kept_until > $2
           and exists (select from planes p where p.organization_id = o.id and p.wanted <> 'deleted')",
    )
    .bind(&id)
    .bind(now)
    .execute(&mut **tx)
    .await?;
    if done.rows_affected() == 0 {
        return Ok(false);
    }
    sqlx::query("delete from former_owners where organization_id = $1")
        .bind(&id)
        .execute(&mut **tx)
        .await?;
    want(tx, &id, "asleep").await?;
    Ok(true)
}

/// Ends the time in which it is kept.
pub(super) async fn erase_now(
    tx: &mut Tx,
    allowed: &Allowed<RestoreOrganization>,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let id = allowed.organization().to_string();
    sqlx::query("update organizations set kept_until = least(kept_until, $2) where id = $1")
        .bind(&id)
        .bind(now)
        .execute(&mut **tx)
        .await?;
    want(tx, &id, "deleted").await
}

/// Wishes that the plane of an organization be taken apart whose time is over. It waits for who is just having it back.
pub(crate) async fn begin_erasure_if_due(
    pool: &PgPool,
    _proof: &System,
    organization: OrganizationId,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "with due as (
             select id from organizations where id = $1 and state = 'deleting' and coalesce(kept_until, deleted_at) <= $2 for update
         )
         update planes p set wanted = 'deleted', generation = generation + 1, next_try_at = null
         from due where p.organization_id = due.id and p.wanted <> 'deleted'",
    )
    .bind(organization.to_string())
    .bind(now)
    .execute(pool)
    .await
    .map(|_| ())
}

/// Removes the rows of an organization whose stores are gone, and writes down which stores those were.
pub(super) async fn delete_rows(
    tx: &mut Tx,
    _proof: &System,
    organization: OrganizationId,
    stores: &[(&str, String)],
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let id = organization.to_string();
    for statement in [
        "delete from access_requests where organization_id = $1",
        "delete from releases where organization_id = $1",
        "delete from grants where organization_id = $1",
        "delete from domains where organization_id = $1",
        "delete from teams where organization_id = $1",
        "delete from api_tokens where organization_id = $1",
        "delete from service_accounts where organization_id = $1",
        "delete from invitations where organization_id = $1",
        "delete from members where organization_id = $1",
        "delete from service_entries where organization_id = $1",
        "delete from plane_conditions where organization_id = $1",
        "delete from plane_events where organization_id = $1",
        "update organizations set state = 'deleted' where id = $1",
        "update planes set state = 'deleted', url = null, agent_sha256 = null, seen_generation = generation,
             database_password_encrypted = '\\x', data_key_encrypted = null where organization_id = $1",
    ] {
        sqlx::query(statement).bind(&id).execute(&mut **tx).await?;
    }
    for (store, detail) in stores {
        sqlx::query(
            "insert into deletion_receipts (organization_id, store, detail, deleted_at) values ($1, $2, $3, $4)
             on conflict do nothing",
        )
        .bind(&id)
        .bind(store)
        .bind(detail)
        .bind(now)
        .execute(&mut **tx)
        .await?;
    }
    Ok(())
}

pub(super) async fn insert_document(
    tx: &mut Tx,
    _proof: &System,
    organization: OrganizationId,
    document: &str,
    digest: &str,
    signed: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into organization_receipts (organization_id, document, digest, signed) values ($1, $2, $3, $4)
         on conflict do nothing",
    )
    .bind(organization.to_string())
    .bind(document)
    .bind(digest)
    .bind(signed)
    .execute(&mut **tx)
    .await
    .map(|_| ())
}

#[derive(sqlx::FromRow)]
struct Row {
    id: Text<OrganizationId>,
    name: Text<OrganizationName>,
    erased: bool,
    erasing: bool,
    deleted_at: DateTime<Utc>,
    kept_until: DateTime<Utc>,
    audit_seq: i64,
    audit_hash: Vec<u8>,
}

const SELECT: &str = "select o.id, o.name, o.state = 'deleted' as erased, coalesce(p.wanted = 'deleted', true) as erasing,
       coalesce(o.deleted_at, o.created_at) as deleted_at, coalesce(o.kept_until, o.deleted_at, o.created_at) as kept_until,
       o.audit_seq, o.audit_hash
     from organizations o left join planes p on p.organization_id = o.id
     where o.state in ('deleting', 'deleted')";

fn receipt(row: Row, now: DateTime<Utc>) -> DeletionReceipt {
    DeletionReceipt {
        organization: row.id.0,
        name: row.name.0,
        state: super::state(row.erased, row.erasing, row.kept_until, now).to_owned(),
        deleted_at: row.deleted_at,
        kept_until: row.kept_until,
        stores: Vec::new(),
        audit_seq: unsigned(row.audit_seq),
        audit_hash: hex::encode(row.audit_hash),
    }
}

/// What the receipt says, as the transaction sees it.
pub(super) async fn get_receipt(
    tx: &mut Tx,
    _proof: &System,
    organization: OrganizationId,
    now: DateTime<Utc>,
) -> Result<DeletionReceipt, sqlx::Error> {
    let row: Row = sqlx::query_as(sqlx::AssertSqlSafe(format!("{SELECT} and o.id = $1")))
        .bind(organization.to_string())
        .fetch_one(&mut **tx)
        .await?;
    let stores: Vec<(String, String, DateTime<Utc>)> = sqlx::query_as(
        "select store, detail, deleted_at from deletion_receipts where organization_id = $1 order by store",
    )
    .bind(organization.to_string())
    .fetch_all(&mut **tx)
    .await?;
    let mut receipt = receipt(row, now);
    receipt.stores = stores
        .into_iter()
        .map(|(store, detail, erased_at)| ErasedStore {
            store,
            detail,
            erased_at,
        })
        .collect();
    Ok(receipt)
}

/// The deleted organizations that the caller owned.
pub(super) async fn list_formerly_owned(
    tx: &mut Tx,
    owner: &Actor,
    window: &Window,
    now: DateTime<Utc>,
) -> Result<Vec<DeletionReceipt>, sqlx::Error> {
    let statement = format!(
        "{SELECT} and exists (select from former_owners f where f.organization_id = o.id and f.account_id = $1)
         and o.id > $2 order by o.id limit $3"
    );
    let rows: Vec<Row> = sqlx::query_as(sqlx::AssertSqlSafe(statement))
        .bind(owner.principal().to_string())
        .bind(&window.after)
        .bind(window.fetch)
        .fetch_all(&mut **tx)
        .await?;
    Ok(rows.into_iter().map(|row| receipt(row, now)).collect())
}

/// The newest deleted organization of that id or name that the caller owned.
pub(super) async fn find_formerly_owned(
    tx: &mut Tx,
    owner: &Actor,
    id_or_name: &str,
    now: DateTime<Utc>,
) -> Result<Option<DeletionReceipt>, sqlx::Error> {
    let statement = format!(
        "{SELECT} and exists (select from former_owners f where f.organization_id = o.id and f.account_id = $1)
         and (o.id = $2 or lower(o.name) = lower($2)) order by o.deleted_at desc limit 1"
    );
    let row: Option<Row> = sqlx::query_as(sqlx::AssertSqlSafe(statement))
        .bind(owner.principal().to_string())
        .bind(id_or_name)
        .fetch_optional(&mut **tx)
        .await?;
    Ok(row.map(|row| receipt(row, now)))
}

/// The receipt as it was signed: document, digest, signature.
pub(super) async fn find_document(
    tx: &mut Tx,
    _owner: &Actor,
    receipt: &DeletionReceipt,
) -> Result<Option<(String, String, String)>, sqlx::Error> {
    sqlx::query_as("select document, digest, signed from organization_receipts where organization_id = $1")
        .bind(receipt.organization.to_string())
        .fetch_optional(&mut **tx)
        .await
}
