//! SQL of grants.

use chrono::{DateTime, Utc};
use contract::api::GrantView;
use contract::ids::GrantId;
use contract::policy::Role;

use super::StoredGrant;
use crate::authz::{Action, Allowed, ChangePolicy, ViewPolicy};
use crate::database::{Text, Tx, signed, unsigned};
use crate::paging::Window;

type Row = (
    Text<GrantId>,
    String,
    Text<Role>,
    String,
    DateTime<Utc>,
    i64,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
);

/// Grants with the names of subjects and domains. `$1` is the organization; conditions follow.
const SELECT: &str = "select g.id, g.grantee, g.role, g.resource, g.created_at, g.epoch,
       m.name as member, t.name as team, d.project, d.name as domain
     from grants g
     left join memberships m on m.organization_id = g.organization_id and m.principal = g.grantee
     left join teams t on t.id = g.grantee and t.organization_id = g.organization_id
     left join domains d on d.organization_id = g.organization_id and d.id = g.resource
     where g.organization_id = $1";

fn stored((id, grantee, role, resource, created_at, epoch, member, team, project, domain): Row) -> StoredGrant {
    let subject = match (member, team) {
        (_, Some(team)) => format!("team:{team}"),
        (Some(name), None) if grantee.starts_with("sa_") => format!("sa:{name}"),
        (Some(name), None) => format!("user:{name}"),
        (None, None) => grantee.clone(),
    };
    let shown = match (project, domain) {
        (Some(project), Some(domain)) => format!("{project}/{domain}"),
        _ => resource.clone(),
    };
    StoredGrant {
        id: id.0,
        view: GrantView {
            id: id.0.to_string(),
            subject,
            role: role.0.as_str().to_owned(),
            resource: shown,
            created_at,
            epoch: unsigned(epoch),
        },
        resource,
        grantee,
    }
}

/// A grant before it is stored.
pub(super) struct NewRow<'a> {
    pub id: GrantId,
    pub grantee: &'a str,
    pub role: Role,
    pub resource: &'a str,
    pub epoch: u64,
    pub now: DateTime<Utc>,
}

/// Adds a grant. `false` when it is there already.
pub(super) async fn insert_grant(
    tx: &mut Tx,
    allowed: &Allowed<ChangePolicy>,
    new: &NewRow<'_>,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "insert into grants (id, organization_id, grantee, role, resource, created_at, created_by, epoch)
         values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict on constraint grants_once do nothing",
    )
    .bind(new.id.to_string())
    .bind(allowed.organization().to_string())
    .bind(new.grantee)
    .bind(new.role.as_str())
    .bind(new.resource)
    .bind(new.now)
    .bind(allowed.actor().principal().to_string())
    .bind(signed(new.epoch))
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// The grant of that subject, role and resource.
pub(super) async fn find_same(
    tx: &mut Tx,
    allowed: &Allowed<ChangePolicy>,
    grantee: &str,
    role: Role,
    resource: &str,
) -> Result<Option<StoredGrant>, sqlx::Error> {
    let statement = format!("{SELECT} and g.grantee = $2 and g.role = $3 and g.resource = $4");
    let row: Option<Row> = sqlx::query_as(sqlx::AssertSqlSafe(statement))
        .bind(allowed.organization().to_string())
        .bind(grantee)
        .bind(role.as_str())
        .bind(resource)
        .fetch_optional(&mut **tx)
        .await?;
    Ok(row.map(stored))
}

pub(super) async fn find_grant(
    tx: &mut Tx,
    allowed: &Allowed<ChangePolicy>,
    id: &str,
) -> Result<Option<StoredGrant>, sqlx::Error> {
    let row: Option<Row> = sqlx::query_as(sqlx::AssertSqlSafe(format!("{SELECT} and g.id = $2")))
        .bind(allowed.organization().to_string())
        .bind(id)
        .fetch_optional(&mut **tx)
        .await?;
    Ok(row.map(stored))
}

pub(super) async fn delete_grant(
    tx: &mut Tx,
    allowed: &Allowed<ChangePolicy>,
    grant: &StoredGrant,
) -> Result<(), sqlx::Error> {
    sqlx::query("delete from grants where organization_id = $1 and id = $2")
        .bind(allowed.organization().to_string())
        .bind(grant.id.to_string())
        .execute(&mut **tx)
        .await
        .map(|_| ())
}

/// Resources (stored forms) on which the caller holds `admin`: domains, projects with all their domains, `org`.
pub async fn list_administered<A: Action>(tx: &mut Tx, allowed: &Allowed<A>) -> Result<Vec<String>, sqlx::Error> {
    let rows: Vec<(String,)> = sqlx::query_as(
        "with held as (
             select distinct g.resource from grants g
             where g.organization_id = $1 and g.role = 'owner' and (g.grantee = $2 or g.grantee in (
                 select tm.team_id from team_members tm join teams t on t.id = tm.team_id
                 where tm.principal = $2 and t.organization_id = $1)))
         select resource from held
         union
         select d.id from domains d join held h on h.resource = 'project:' || d.project or h.resource = 'org'
         where d.organization_id = $1",
    )
    .bind(allowed.organization().to_string())
    .bind(allowed.actor().principal().to_string())
    .fetch_all(&mut **tx)
    .await?;
    Ok(rows.into_iter().map(|(resource,)| resource).collect())
}

/// Resources (stored forms) on which a grantee holds anything.
pub(crate) async fn list_resources_of<A: Action>(
    tx: &mut Tx,
    allowed: &Allowed<A>,
    grantee: &str,
) -> Result<Vec<String>, sqlx::Error> {
    let rows: Vec<(String,)> =
        sqlx::query_as("select distinct resource from grants where organization_id = $1 and grantee = $2")
            .bind(allowed.organization().to_string())
            .bind(grantee)
            .fetch_all(&mut **tx)
            .await?;
    Ok(rows.into_iter().map(|(resource,)| resource).collect())
}

/// The grants that the caller may see: all for who manages, else his own, his teams', and those on what he administers.
pub(super) async fn list_grants(
    tx: &mut Tx,
    allowed: &Allowed<ViewPolicy>,
    administered: &[String],
    resource: Option<&str>,
    window: &Window,
) -> Result<Vec<StoredGrant>, sqlx::Error> {
    let all = allowed.role().manages() || administered.iter().any(|r| r == "org");
    let statement = format!(
        "{SELECT} and ($2 or g.resource = any($3) or g.grantee = $4 or g.grantee in (
             select tm.team_id from team_members tm where tm.principal = $4))
         and ($5::text is null or g.resource = $5) and g.id > $6 order by g.id limit $7"
    );
    let rows: Vec<Row> = sqlx::query_as(sqlx::AssertSqlSafe(statement))
        .bind(allowed.organization().to_string())
        .bind(all)
        .bind(administered)
        .bind(allowed.actor().principal().to_string())
        .bind(resource)
        .bind(&window.after)
        .bind(window.fetch)
        .fetch_all(&mut **tx)
        .await?;
    Ok(rows.into_iter().map(stored).collect())
}
