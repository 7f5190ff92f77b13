//! SQL of notices.

use chrono::{DateTime, Utc};
use contract::api::Notice;
use contract::ids::{AccountId, NoticeId};
use contract::names::OrganizationName;

use super::News;
use crate::authz::{Action, Actor, Allowed};
use crate::database::{Text, Tx};
use crate::paging::Window;

/// Whether the person `n.account_id` may discover every domain of `n.about` in `n.organization_id`: by a grant of any role, of
/// his teams too, or because he manages the organization.
const MAY_DISCOVER: &str = "(exists (select from members m where m.organization_id = n.organization_id
        and m.account_id = n.account_id and m.role in ('owner', 'admin'))
    or not exists (select from unnest(n.about) as named (id) where not exists (
        select from domains d join grants g on g.organization_id = d.organization_id
            and g.resource in (d.id, 'project:' || d.project, 'org')
        where d.organization_id = n.organization_id and d.id = named.id
          and (g.grantee = n.account_id or g.grantee in (
              select tm.team_id from team_members tm join teams t on t.id = tm.team_id
              where tm.principal = n.account_id and t.organization_id = n.organization_id)))))";

async fn accounts(rows: Result<Vec<(Text<AccountId>,)>, sqlx::Error>) -> Result<Vec<AccountId>, sqlx::Error> {
    Ok(rows?.into_iter().map(|(id,)| id.0).collect())
}

/// The members behind the stored form of a grant's subject.
pub(super) async fn list_people_behind<A: Action>(
    tx: &mut Tx,
    allowed: &Allowed<A>,
    grantee: &str,
) -> Result<Vec<AccountId>, sqlx::Error> {
    let rows = sqlx::query_as(
        "select m.account_id from members m where m.organization_id = $1 and (m.account_id = $2 or m.account_id in (
             select tm.principal from team_members tm join teams t on t.id = tm.team_id
             where t.organization_id = $1 and t.id = $2))",
    )
    .bind(allowed.organization().to_string())
    .bind(grantee)
    .fetch_all(&mut **tx)
    .await;
    accounts(rows).await
}

/// The members who hold one of the roles on one of the resources: on itself, on something in it, or on what it is in.
pub(super) async fn list_holders<A: Action>(
    tx: &mut Tx,
    allowed: &Allowed<A>,
    roles: &[String],
    resources: &[String],
) -> Result<Vec<AccountId>, sqlx::Error> {
    let rows = sqlx::query_as(
        "with reached as (
             select d.id, d.project from domains d where d.organization_id = $1
               and (d.id = any($3) or 'project:' || d.project = any($3) or 'org' = any($3))),
         holding as (
             select distinct g.grantee from grants g where g.organization_id = $1 and g.role = any($2)
               and (g.resource = any($3) or exists (
                   select from reached r where g.resource in (r.id, 'project:' || r.project, 'org'))))
         select m.account_id from members m where m.organization_id = $1
           and (m.account_id in (select grantee from holding) or m.account_id in (
               select tm.principal from team_members tm join teams t on t.id = tm.team_id
               where t.organization_id = $1 and t.id in (select grantee from holding)))",
    )
    .bind(allowed.organization().to_string())
    .bind(roles)
    .bind(resources)
    .fetch_all(&mut **tx)
    .await;
    accounts(rows).await
}

pub(super) async fn list_managers<A: Action>(tx: &mut Tx, allowed: &Allowed<A>) -> Result<Vec<AccountId>, sqlx::Error> {
    let rows =
        sqlx::query_as("select account_id from members where organization_id = $1 and role in ('owner', 'admin')")
            .bind(allowed.organization().to_string())
            .fetch_all(&mut **tx)
            .await;
    accounts(rows).await
}

/// The ids of the organization's domains of these names (`project/repo`).
pub(super) async fn list_domains_named<A: Action>(
    tx: &mut Tx,
    allowed: &Allowed<A>,
    names: &[String],
) -> Result<Vec<(String, String)>, sqlx::Error> {
    sqlx::query_as(
        "select d.id, d.project || '/' || d.name from domains d
         where d.organization_id = $1 and d.deleted_at is null and d.project || '/' || d.name = any($2) order by 2",
    )
    .bind(allowed.organization().to_string())
    .bind(names)
    .fetch_all(&mut **tx)
    .await
}

/// Writes a row for each reader, with the words that he may hear.
pub(super) async fn insert_notices<A: Action>(
    tx: &mut Tx,
    allowed: &Allowed<A>,
    readers: &[AccountId],
    ids: &[NoticeId],
    news: &News,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let statement = format!(
        "with n as (
             select r.id, $1::text as organization_id, r.account_id, $4::text[] as about
             from unnest($2::text[], $3::text[]) as r (id, account_id)),
         judged as (select n.*, {MAY_DISCOVER} as named from n)
         insert into notices (id, organization_id, account_id, kind, text, about, at)
         select id, organization_id, account_id, $5, case when named then $6 else $7 end,
             case when named then about else '{{}}' end, $8
         from judged where named or $7::text is not null"
    );
    sqlx::query(sqlx::AssertSqlSafe(statement))
        .bind(allowed.organization().to_string())
        .bind(ids.iter().map(ToString::to_string).collect::<Vec<_>>())
        .bind(readers.iter().map(ToString::to_string).collect::<Vec<_>>())
        .bind(&news.about)
        .bind(news.kind)
        .bind(&news.text)
        .bind(&news.without_names)
        .bind(now)
        .execute(&mut **tx)
        .await
        .map(|_| ())
}

/// The caller's own notices, newest first: of organizations that he belongs to, as far as he may know of what they name, and
/// that he was removed from one.
pub(super) async fn list_own(
    tx: &mut Tx,
    reader: &Actor,
    unread: bool,
    window: &Window,
) -> Result<Vec<Notice>, sqlx::Error> {
    type Row = (
        Text<NoticeId>,
        Text<OrganizationName>,
        String,
        String,
        DateTime<Utc>,
        Option<DateTime<Utc>>,
    );
    let statement = format!(
        "select n.id, o.name, n.kind, n.text, n.at, n.read_at from notices n join organizations o on o.id = n.organization_id
         where n.account_id = $1 and ($2::text is null or n.organization_id = $2) and (not $3 or n.read_at is null)
           and ($4 = '' or n.id < $4)
           and (n.kind = 'member.remove' or o.state in ('active', 'suspended') and exists (
               select from members m where m.organization_id = n.organization_id and m.account_id = n.account_id)
               and {MAY_DISCOVER})
         order by n.id desc limit $5"
    );
    let rows: Vec<Row> = sqlx::query_as(sqlx::AssertSqlSafe(statement))
        .bind(reader.principal().to_string())
        .bind(reader.organization().map(|o| o.to_string()))
        .bind(unread)
        .bind(&window.after)
        .bind(window.fetch)
        .fetch_all(&mut **tx)
        .await?;
    Ok(rows
        .into_iter()
        .map(|(id, organization, kind, text, at, read_at)| Notice {
            id: id.0,
            organization: organization.0,
            kind,
            text,
            at,
            read_at,
        })
        .collect())
}

/// Marks the caller's own notices up to that one as read.
pub(super) async fn mark_read(
    tx: &mut Tx,
    reader: &Actor,
    up_to: NoticeId,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update notices set read_at = $4 where account_id = $1 and ($2::text is null or organization_id = $2)
         and id <= $3 and read_at is null",
    )
    .bind(reader.principal().to_string())
    .bind(reader.organization().map(|o| o.to_string()))
    .bind(up_to.to_string())
    .bind(now)
    .execute(&mut **tx)
    .await
    .map(|_| ())
}
