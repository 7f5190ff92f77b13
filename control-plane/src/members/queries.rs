//! SQL of members.

use chrono::{DateTime, Utc};
use contract::api::MemberView;
use contract::ids::AccountId;
use contract::policy::{OrganizationRole, Principal};

use crate::audit::Acting;
use crate::authz::{Action, Allowed, ManageMembers, ViewOrganization};
use crate::database::{Text, Tx, unsigned};
use crate::paging::Window;

type Row = (Text<AccountId>, String, Text<OrganizationRole>, DateTime<Utc>);

fn view((id, name, role, joined_at): Row) -> MemberView {
    MemberView {
        id: Principal::Account(id.0),
        name,
        role: role.0,
        joined_at,
    }
}

pub(super) async fn list_members(
    tx: &mut Tx,
    allowed: &Allowed<ViewOrganization>,
    window: &Window,
) -> Result<Vec<MemberView>, sqlx::Error> {
    let rows: Vec<Row> = sqlx::query_as(
        "select a.id, a.email, m.role, m.joined_at from members m join accounts a on a.id = m.account_id
         where m.organization_id = $1 and a.id > $2 order by a.id limit $3",
    )
    .bind(allowed.organization().to_string())
    .bind(&window.after)
    .bind(window.fetch)
    .fetch_all(&mut **tx)
    .await?;
    Ok(rows.into_iter().map(view).collect())
}

/// A member by account id or address.
pub(crate) async fn find_member<A: Action>(
    tx: &mut Tx,
    allowed: &Allowed<A>,
    id_or_email: &str,
) -> Result<Option<MemberView>, sqlx::Error> {
    let row: Option<Row> = sqlx::query_as(
        "select a.id, a.email, m.role, m.joined_at from members m join accounts a on a.id = m.account_id
         where m.organization_id = $1 and (a.id = $2 or a.email_key = lower($2))",
    )
    .bind(allowed.organization().to_string())
    .bind(id_or_email)
    .fetch_optional(&mut **tx)
    .await?;
    Ok(row.map(view))
}

pub(crate) async fn count_owners<A: Action>(tx: &mut Tx, allowed: &Allowed<A>) -> Result<u64, sqlx::Error> {
    let (count,): (i64,) = sqlx::query_as("select count(*) from members where organization_id = $1 and role = 'owner'")
        .bind(allowed.organization().to_string())
        .fetch_one(&mut **tx)
        .await?;
    Ok(unsigned(count))
}

/// How many people belong to the organization.
pub(crate) async fn count_members<A: Action>(tx: &mut Tx, allowed: &Allowed<A>) -> Result<u64, sqlx::Error> {
    let (count,): (i64,) = sqlx::query_as("select count(*) from members where organization_id = $1")
        .bind(allowed.organization().to_string())
        .fetch_one(&mut **tx)
        .await?;
    Ok(unsigned(count))
}

pub(super) async fn update_role(
    tx: &mut Tx,
    allowed: &Allowed<ManageMembers>,
    member: &MemberView,
    role: OrganizationRole,
) -> Result<(), sqlx::Error> {
    sqlx::query("update members set role = $3 where organization_id = $1 and account_id = $2")
        .bind(allowed.organization().to_string())
        .bind(member.id.to_string())
        .bind(role.as_str())
        .execute(&mut **tx)
        .await
        .map(|_| ())
}

/// Removes a member with everything that he was given in the organization: teams, grants, tokens bound to it.
pub(crate) async fn delete_member<A: Action>(
    tx: &mut Tx,
    allowed: &Allowed<A>,
    member: &MemberView,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query("delete from members where organization_id = $1 and account_id = $2")
        .bind(allowed.organization().to_string())
        .bind(member.id.to_string())
        .execute(&mut **tx)
        .await?;
    strip_principal(tx, allowed, member.id, now).await
}

/// Takes from a principal what he was given in the organization.
pub(crate) async fn strip_principal(
    tx: &mut Tx,
    proof: &impl Acting,
    principal: Principal,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    for statement in [
        "delete from team_members where principal = $2 and team_id in (select id from teams where organization_id = $1)",
        "delete from grants where grantee = $2 and organization_id = $1",
    ] {
        sqlx::query(statement)
            .bind(proof.organization().to_string())
            .bind(principal.to_string())
            .execute(&mut **tx)
            .await?;
    }
    sqlx::query(
        "update api_tokens set revoked_at = $3 where principal = $2 and organization_id = $1 and revoked_at is null",
    )
    .bind(proof.organization().to_string())
    .bind(principal.to_string())
    .bind(now)
    .execute(&mut **tx)
    .await
    .map(|_| ())
}
