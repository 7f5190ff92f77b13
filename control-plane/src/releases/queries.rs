//! SQL of releases.

use chrono::{DateTime, Utc};
use contract::api::ReleaseView;
use contract::ids::{DomainId, ReleaseId};
use contract::policy::{Permission, Role};

use crate::authz::{Action, Allowed, ChangePolicy};
use crate::database::{Text, Tx, signed, unsigned};
use crate::paging::Window;

/// A release with everything that decides about it.
pub(super) struct StoredRelease {
    pub id: ReleaseId,
    pub view: ReleaseView,
    pub created_by: String,
    pub pipeline: DomainId,
    pub pipeline_project: String,
    pub parts: Vec<Part>,
}

/// One domain of a release.
#[derive(Clone)]
pub(super) struct Part {
    pub domain: DomainId,
    pub project: String,
    pub name: String,
    /// Names of those who approved.
    pub approvers: Vec<String>,
    /// Whether the caller is one of them.
    pub by_caller: bool,
    /// Whether enough of them may approve it still.
    pub complete: bool,
}

/// A release before it is stored.
pub(super) struct NewRow<'a> {
    pub id: ReleaseId,
    pub pipeline: DomainId,
    pub spec_digest: &'a str,
    pub purpose: &'a str,
    pub retroactive: bool,
    pub expires_at: DateTime<Utc>,
    pub domains: &'a [DomainId],
    pub epoch: u64,
    pub now: DateTime<Utc>,
}

pub(super) async fn insert_release(
    tx: &mut Tx,
    allowed: &Allowed<ChangePolicy>,
    new: &NewRow<'_>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into releases (id, organization_id, pipeline, spec_digest, purpose, retroactive, created_at, created_by, expires_at, epoch)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
    )
    .bind(new.id.to_string())
    .bind(allowed.organization().to_string())
    .bind(new.pipeline.to_string())
    .bind(new.spec_digest)
    .bind(new.purpose)
    .bind(new.retroactive)
    .bind(new.now)
    .bind(allowed.actor().principal().to_string())
    .bind(new.expires_at)
    .bind(signed(new.epoch))
    .execute(&mut **tx)
    .await?;
    let domains: Vec<String> = new.domains.iter().map(ToString::to_string).collect();
    sqlx::query("insert into release_domains (release_id, domain_id) select $1, unnest($2::text[])")
        .bind(new.id.to_string())
        .bind(domains)
        .execute(&mut **tx)
        .await
        .map(|_| ())
}

/// Writes the caller's approval of a domain.
pub(super) async fn approve(
    tx: &mut Tx,
    allowed: &Allowed<ChangePolicy>,
    id: ReleaseId,
    domain: DomainId,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into release_approvals (release_id, domain_id, approved_by, approved_by_name, approved_at)
         select rd.release_id, rd.domain_id, $4, $5, $6
         from release_domains rd join releases r on r.id = rd.release_id
         where r.organization_id = $1 and rd.release_id = $2 and rd.domain_id = $3 on conflict do nothing",
    )
    .bind(allowed.organization().to_string())
    .bind(id.to_string())
    .bind(domain.to_string())
    .bind(allowed.actor().principal().to_string())
    .bind(allowed.actor().name())
    .bind(now)
    .execute(&mut **tx)
    .await
    .map(|_| ())
}

/// Whether as many as the organization demands have approved the domain `d` of the release `rd` and may approve it still;
/// `$1` is the organization. Where two are demanded they are people: a service account is nobody's second pair of eyes.
fn is_complete() -> String {
    let declassify = Role::ALL
        .into_iter()
        .filter(|role| role.permissions().contains(&Permission::Declassify));
    let roles: Vec<String> = declassify.map(|role| format!("'{}'", role.as_str())).collect();
    format!(
        "(select count(distinct a.approved_by) from release_approvals a
          join memberships m on m.organization_id = $1 and m.principal = a.approved_by
          where a.release_id = rd.release_id and a.domain_id = rd.domain_id
            and (o.release_approvals = 1 or a.approved_by like 'acc\\_%')
            and exists (select 1 from grants g where g.organization_id = $1 and g.role in ({})
                and g.resource in (d.id, 'project:' || d.project, 'org')
                and (g.grantee = a.approved_by or g.grantee in (
                    select tm.team_id from team_members tm join teams t on t.id = tm.team_id
                    where tm.principal = a.approved_by and t.organization_id = $1)))
         ) >= o.release_approvals",
        roles.join(", ")
    )
}

/// Makes a release active once every domain has its approvals, by the grants that this transaction sees.
pub(super) async fn activate_if_complete(
    tx: &mut Tx,
    allowed: &Allowed<ChangePolicy>,
    id: ReleaseId,
    epoch: u64,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let statement = format!(
        "update releases set activated_at = $3, epoch = $4 where organization_id = $1 and id = $2 and activated_at is null
         and not exists (
             select 1 from release_domains rd
             join domains d on d.organization_id = $1 and d.id = rd.domain_id
             join organizations o on o.id = $1
             where rd.release_id = $2 and not {})",
        is_complete()
    );
    let done = sqlx::query(sqlx::AssertSqlSafe(statement))
        .bind(allowed.organization().to_string())
        .bind(id.to_string())
        .bind(now)
        .bind(signed(epoch))
        .execute(&mut **tx)
        .await?;
    Ok(done.rows_affected() == 1)
}

pub(super) async fn revoke(
    tx: &mut Tx,
    allowed: &Allowed<ChangePolicy>,
    id: ReleaseId,
    epoch: u64,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "update releases set revoked_at = $3, revoked_by = $4, epoch = $5
         where organization_id = $1 and id = $2 and revoked_at is null",
    )
    .bind(allowed.organization().to_string())
    .bind(id.to_string())
    .bind(now)
    .bind(allowed.actor().principal().to_string())
    .bind(signed(epoch))
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

#[derive(sqlx::FromRow)]
struct Row {
    id: Text<ReleaseId>,
    pipeline: Text<DomainId>,
    pipeline_project: String,
    pipeline_name: String,
    spec_digest: String,
    purpose: String,
    retroactive: bool,
    created_at: DateTime<Utc>,
    created_by: String,
    activated_at: Option<DateTime<Utc>>,
    expires_at: DateTime<Utc>,
    revoked_at: Option<DateTime<Utc>>,
    epoch: i64,
}

const SELECT: &str = "select r.id, r.pipeline, p.project as pipeline_project, p.name as pipeline_name, r.spec_digest,
       r.purpose, r.retroactive, r.created_at, r.created_by, r.activated_at, r.expires_at, r.revoked_at, r.epoch
     from releases r join domains p on p.organization_id = r.organization_id and p.id = r.pipeline
     where r.organization_id = $1";

#[derive(sqlx::FromRow)]
struct PartRow {
    release_id: Text<ReleaseId>,
    domain: Text<DomainId>,
    project: String,
    name: String,
    approvers: Vec<String>,
    by_caller: bool,
    complete: bool,
}

async fn list_parts<A: Action>(
    tx: &mut Tx,
    allowed: &Allowed<A>,
    releases: &[String],
) -> Result<Vec<PartRow>, sqlx::Error> {
    let statement = format!(
        "select rd.release_id, d.id as domain, d.project, d.name,
             array(select a.approved_by_name from release_approvals a
                   where a.release_id = rd.release_id and a.domain_id = rd.domain_id order by 1) as approvers,
             exists (select 1 from release_approvals a where a.release_id = rd.release_id
                   and a.domain_id = rd.domain_id and a.approved_by = $3) as by_caller,
             r.activated_at is not null or {} as complete
         from release_domains rd
         join releases r on r.id = rd.release_id
         join domains d on d.organization_id = $1 and d.id = rd.domain_id
         join organizations o on o.id = $1
         where rd.release_id = any($2) order by d.project, d.name",
        is_complete()
    );
    sqlx::query_as(sqlx::AssertSqlSafe(statement))
        .bind(allowed.organization().to_string())
        .bind(releases)
        .bind(allowed.actor().principal().to_string())
        .fetch_all(&mut **tx)
        .await
}

fn stored(row: Row, parts: Vec<Part>, now: DateTime<Utc>) -> StoredRelease {
    let shown = |part: &Part| format!("{}/{}", part.project, part.name);
    let mut approvers: Vec<String> = parts.iter().flat_map(|p| p.approvers.clone()).collect();
    approvers.sort_unstable();
    approvers.dedup();
    StoredRelease {
        id: row.id.0,
        created_by: row.created_by,
        pipeline: row.pipeline.0,
        view: ReleaseView {
            id: row.id.0,
            domains: parts.iter().map(shown).collect(),
            pipeline: format!("{}/{}", row.pipeline_project, row.pipeline_name),
            spec_digest: row.spec_digest,
            purpose: row.purpose,
            state: super::state(row.activated_at, row.revoked_at, row.expires_at, now).to_owned(),
            approvers,
            awaiting: parts.iter().filter(|p| !p.complete).map(shown).collect(),
            retroactive: row.retroactive,
            created_at: row.created_at,
            expires_at: row.expires_at,
            epoch: unsigned(row.epoch),
        },
        pipeline_project: row.pipeline_project,
        parts,
    }
}

async fn with_parts<A: Action>(
    tx: &mut Tx,
    allowed: &Allowed<A>,
    rows: Vec<Row>,
    now: DateTime<Utc>,
) -> Result<Vec<StoredRelease>, sqlx::Error> {
    let ids: Vec<String> = rows.iter().map(|r| r.id.0.to_string()).collect();
    let all = list_parts(tx, allowed, &ids).await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let parts = all
                .iter()
                .filter(|part| part.release_id.0 == row.id.0)
                .map(|part| Part {
                    domain: part.domain.0,
                    project: part.project.clone(),
                    name: part.name.clone(),
                    approvers: part.approvers.clone(),
                    by_caller: part.by_caller,
                    complete: part.complete,
                })
                .collect();
            stored(row, parts, now)
        })
        .collect())
}

/// A release by id, whoever may see it: the route decides.
pub(super) async fn find_release<A: Action>(
    tx: &mut Tx,
    allowed: &Allowed<A>,
    id: ReleaseId,
    now: DateTime<Utc>,
) -> Result<Option<StoredRelease>, sqlx::Error> {
    let rows: Vec<Row> = sqlx::query_as(sqlx::AssertSqlSafe(format!("{SELECT} and r.id = $2")))
        .bind(allowed.organization().to_string())
        .bind(id.to_string())
        .fetch_all(&mut **tx)
        .await?;
    Ok(with_parts(tx, allowed, rows, now).await?.pop())
}

/// The releases that the caller may see: his own, all for who manages, else those all of whose domains and pipeline he may
/// discover (`discoverable`: stored forms of resources).
pub(super) async fn list_releases<A: Action>(
    tx: &mut Tx,
    allowed: &Allowed<A>,
    discoverable: &[String],
    window: &Window,
    now: DateTime<Utc>,
) -> Result<Vec<StoredRelease>, sqlx::Error> {
    let statement = format!(
        "{SELECT} and ($2 or r.created_by = $3 or r.pipeline = any($4) and not exists (
             select 1 from release_domains rd where rd.release_id = r.id and rd.domain_id <> all($4)))
         and r.id > $5 order by r.id limit $6"
    );
    let rows: Vec<Row> = sqlx::query_as(sqlx::AssertSqlSafe(statement))
        .bind(allowed.organization().to_string())
        .bind(allowed.role().manages())
        .bind(allowed.actor().principal().to_string())
        .bind(discoverable)
        .bind(&window.after)
        .bind(window.fetch)
        .fetch_all(&mut **tx)
        .await?;
    with_parts(tx, allowed, rows, now).await
}

/// The domains that the caller may discover, by grants of any role.
pub(crate) async fn list_discoverable<A: Action>(
    tx: &mut Tx,
    allowed: &Allowed<A>,
) -> Result<Vec<String>, sqlx::Error> {
    let rows: Vec<(String,)> = sqlx::query_as(
        "with held as (
             select distinct g.resource from grants g
             where g.organization_id = $1 and (g.grantee = $2 or g.grantee in (
                 select tm.team_id from team_members tm join teams t on t.id = tm.team_id
                 where tm.principal = $2 and t.organization_id = $1)))
         select d.id from domains d where d.organization_id = $1
           and exists (select 1 from held h where h.resource in (d.id, 'project:' || d.project, 'org'))",
    )
    .bind(allowed.organization().to_string())
    .bind(allowed.actor().principal().to_string())
    .fetch_all(&mut **tx)
    .await?;
    Ok(rows.into_iter().map(|(id,)| id).collect())
}
