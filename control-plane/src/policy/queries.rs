//! SQL of epochs, of look-ups by name and of the caller's own rights. The snapshot's queries stand in `snapshot`.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use contract::ids::{DomainId, OrganizationId, ReleaseId, TeamId, TokenId};
use contract::names::{ProjectName, RepoName, TeamName};
use contract::policy::{
    Domain, Grant, Grantee, Member, OrganizationRole, OrganizationState, PolicySnapshot, Principal, Release, Resource,
    Role, Team,
};

use crate::audit::Acting;
use crate::authz::{Action, Allowed, AsPlane, System};
use crate::database::{Text, Tx, signed, unsigned};

/// Raises the epoch by one; also locks the organization's row.
pub async fn bump(tx: &mut Tx, proof: &impl Acting) -> Result<u64, sqlx::Error> {
    let (epoch,): (i64,) = sqlx::query_as("update organizations set epoch = epoch + 1 where id = $1 returning epoch")
        .bind(proof.organization().to_string())
        .fetch_one(&mut **tx)
        .await?;
    Ok(unsigned(epoch))
}

/// The epoch that the transaction sees.
pub async fn get_epoch(tx: &mut Tx, proof: &impl Acting) -> Result<u64, sqlx::Error> {
    let (epoch,): (i64,) = sqlx::query_as("select epoch from organizations where id = $1")
        .bind(proof.organization().to_string())
        .fetch_one(&mut **tx)
        .await?;
    Ok(unsigned(epoch))
}

/// Raises the epochs of all organizations that are not erased, in one order. Answers which.
pub async fn bump_all(tx: &mut Tx, _proof: &System) -> Result<Vec<OrganizationId>, sqlx::Error> {
    let rows: Vec<(Text<OrganizationId>,)> = sqlx::query_as(
        "with living as (select id from organizations where state <> 'deleted' order by id for update)
         update organizations o set epoch = epoch + 1 from living where o.id = living.id returning o.id",
    )
    .fetch_all(&mut **tx)
    .await?;
    Ok(rows.into_iter().map(|(id,)| id.0).collect())
}

pub(super) async fn bump_of(
    tx: &mut Tx,
    _proof: &System,
    principal: Principal,
) -> Result<Vec<(OrganizationId, u64)>, sqlx::Error> {
    // Locked in one order, so that two of these cannot wait for each other.
    let rows: Vec<(Text<OrganizationId>, i64)> = sqlx::query_as(
        "with own as (
             select o.id from organizations o
             where o.id in (select organization_id from memberships where principal = $1) order by o.id for update
         )
         update organizations o set epoch = epoch + 1 from own where o.id = own.id returning o.id, o.epoch",
    )
    .bind(principal.to_string())
    .fetch_all(&mut **tx)
    .await?;
    Ok(rows.into_iter().map(|(id, epoch)| (id.0, unsigned(epoch))).collect())
}

pub(super) async fn find_domain<A: Action>(
    tx: &mut Tx,
    allowed: &Allowed<A>,
    project: &ProjectName,
    name: &RepoName,
) -> Result<Option<DomainId>, sqlx::Error> {
    // A deleted repo's tombstone is found too, when nothing else has its name: its grants live on.
    let row: Option<(Text<DomainId>,)> = sqlx::query_as(
        "select id from domains where organization_id = $1 and project = $2 and name = $3
         order by deleted_at desc nulls first limit 1",
    )
    .bind(allowed.organization().to_string())
    .bind(project.as_str())
    .bind(name.as_str())
    .fetch_optional(&mut **tx)
    .await?;
    Ok(row.map(|(id,)| id.0))
}

/// The roles that the caller holds by grants on any of those resources.
pub(super) async fn list_own_roles<A: Action>(
    tx: &mut Tx,
    allowed: &Allowed<A>,
    resources: &[String],
) -> Result<Vec<Role>, sqlx::Error> {
    let rows: Vec<(Text<Role>,)> = sqlx::query_as(
        "select distinct g.role from grants g
         where g.organization_id = $1 and g.resource = any($3)
           and (g.grantee = $2 or g.grantee in (
               select tm.team_id from team_members tm join teams t on t.id = tm.team_id
               where tm.principal = $2 and t.organization_id = $1))",
    )
    .bind(allowed.organization().to_string())
    .bind(allowed.actor().principal().to_string())
    .bind(resources)
    .fetch_all(&mut **tx)
    .await?;
    Ok(rows.into_iter().map(|(role,)| role.0).collect())
}

/// A member or service account by `E`, `user:E`, `sa:S` or an id.
pub(super) async fn find_principal<A: Action>(
    tx: &mut Tx,
    allowed: &Allowed<A>,
    text: &str,
) -> Result<Option<Principal>, sqlx::Error> {
    let (people, name) = match text.split_once(':') {
        Some(("sa", name)) => (false, name),
        Some(("user", name)) => (true, name),
        _ => (true, text),
    };
    let row: Option<(Text<Principal>,)> = sqlx::query_as(
        "select principal from memberships where organization_id = $1
         and (principal = $2 or lower(name) = lower($2) and (principal like 'acc\\_%') = $3)",
    )
    .bind(allowed.organization().to_string())
    .bind(name)
    .bind(people)
    .fetch_optional(&mut **tx)
    .await?;
    Ok(row.map(|(principal,)| principal.0))
}

pub(super) async fn find_team<A: Action>(
    tx: &mut Tx,
    allowed: &Allowed<A>,
    name: &str,
) -> Result<Option<TeamId>, sqlx::Error> {
    let row: Option<(Text<TeamId>,)> =
        sqlx::query_as("select id from teams where organization_id = $1 and lower(name) = lower($2)")
            .bind(allowed.organization().to_string())
            .bind(name)
            .fetch_optional(&mut **tx)
            .await?;
    Ok(row.map(|(id,)| id.0))
}

/// Whether the caller is a member of that team.
pub(super) async fn is_in_team<A: Action>(tx: &mut Tx, allowed: &Allowed<A>, team: &str) -> Result<bool, sqlx::Error> {
    let (found,): (bool,) = sqlx::query_as(
        "select exists (select 1 from team_members tm join teams t on t.id = tm.team_id
             where t.organization_id = $1 and t.id = $2 and tm.principal = $3)",
    )
    .bind(allowed.organization().to_string())
    .bind(team)
    .bind(allowed.actor().principal().to_string())
    .fetch_one(&mut **tx)
    .await?;
    Ok(found)
}

/// Notes that the plane enforces an epoch.
pub(super) async fn acknowledge(tx: &mut Tx, plane: &AsPlane, epoch: u64) -> Result<(), sqlx::Error> {
    sqlx::query("update planes set acknowledged_epoch = $2 where organization_id = $1 and acknowledged_epoch < $2")
        .bind(plane.organization().to_string())
        .bind(signed(epoch))
        .execute(&mut **tx)
        .await
        .map(|_| ())
}

/// Everything that the organization's data plane decides access by, as the transaction sees it. The transaction must
/// read one state of the database throughout (`repeatable read`).
pub(super) async fn get_snapshot(
    tx: &mut Tx,
    plane: &AsPlane,
    revoked_since: DateTime<Utc>,
) -> Result<PolicySnapshot, sqlx::Error> {
    let id = plane.organization().to_string();
    let (epoch, state): (i64, String) = sqlx::query_as("select epoch, state from organizations where id = $1")
        .bind(&id)
        .fetch_one(&mut **tx)
        .await?;
    Ok(PolicySnapshot {
        organization: plane.organization(),
        state: match state.as_str() {
            "active" => OrganizationState::Active,
            "suspended" => OrganizationState::Suspended,
            _ => OrganizationState::Deleting,
        },
        epoch: unsigned(epoch),
        members: list_members(tx, &id).await?,
        teams: list_teams(tx, &id).await?,
        domains: list_domains(tx, &id).await?,
        grants: list_grants(tx, &id).await?,
        releases: list_releases(tx, &id).await?,
        revoked_tokens: list_revoked_tokens(tx, &id, revoked_since).await?,
    })
}

async fn list_members(tx: &mut Tx, id: &str) -> Result<Vec<Member>, sqlx::Error> {
    let rows: Vec<(Text<Principal>, String, Text<OrganizationRole>)> =
        sqlx::query_as("select principal, name, role from memberships where organization_id = $1 order by principal")
            .bind(id)
            .fetch_all(&mut **tx)
            .await?;
    Ok(rows
        .into_iter()
        .map(|(principal, name, role)| Member {
            principal: principal.0,
            name,
            role: role.0,
        })
        .collect())
}

async fn list_teams(tx: &mut Tx, id: &str) -> Result<Vec<Team>, sqlx::Error> {
    let rows: Vec<(Text<TeamId>, Text<TeamName>, Vec<String>)> = sqlx::query_as(
        "select t.id, t.name, coalesce(array_agg(tm.principal order by tm.principal) filter (where tm.principal is not null), '{}')
         from teams t left join team_members tm on tm.team_id = t.id
         where t.organization_id = $1 group by t.id order by t.id",
    )
    .bind(id)
    .fetch_all(&mut **tx)
    .await?;
    rows.into_iter()
        .map(|(id, name, members)| {
            Ok(Team {
                id: id.0,
                name: name.0.to_string(),
                members: members.iter().map(|m| parse(m)).collect::<Result<_, _>>()?,
            })
        })
        .collect()
}

fn parse<T: std::str::FromStr>(text: &str) -> Result<T, sqlx::Error>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    text.parse().map_err(|e| sqlx::Error::Decode(Box::new(e)))
}

async fn list_domains(tx: &mut Tx, id: &str) -> Result<Vec<Domain>, sqlx::Error> {
    type Row = (Text<DomainId>, Text<ProjectName>, Text<RepoName>, bool);
    let rows: Vec<Row> = sqlx::query_as(
        "select id, project, name, deleted_at is not null from domains where organization_id = $1 order by id",
    )
    .bind(id)
    .fetch_all(&mut **tx)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(id, project, name, deleted)| Domain {
            id: id.0,
            project: project.0,
            name: name.0,
            deleted,
        })
        .collect())
}

async fn list_grants(tx: &mut Tx, id: &str) -> Result<Vec<Grant>, sqlx::Error> {
    type Row = (Text<contract::ids::GrantId>, String, Text<Role>, String);
    let rows: Vec<Row> =
        sqlx::query_as("select id, grantee, role, resource from grants where organization_id = $1 order by id")
            .bind(id)
            .fetch_all(&mut **tx)
            .await?;
    rows.into_iter()
        .map(|(id, grantee, role, resource)| {
            let grantee = if grantee.starts_with(TeamId::PREFIX) {
                Grantee::Team(parse(&grantee)?)
            } else {
                match parse(&grantee)? {
                    Principal::Account(id) => Grantee::Account(id),
                    Principal::ServiceAccount(id) => Grantee::ServiceAccount(id),
                }
            };
            let resource = match resource.strip_prefix("project:") {
                Some(project) => Resource::Project(parse(project)?),
                None if resource == "org" => Resource::Organization,
                None => Resource::Domain(parse(&resource)?),
            };
            Ok(Grant {
                id: id.0,
                grantee,
                role: role.0,
                resource,
            })
        })
        .collect()
}

async fn list_releases(tx: &mut Tx, id: &str) -> Result<Vec<Release>, sqlx::Error> {
    type Row = (
        Text<ReleaseId>,
        Text<DomainId>,
        String,
        String,
        bool,
        DateTime<Utc>,
        DateTime<Utc>,
        Option<DateTime<Utc>>,
    );
    let rows: Vec<Row> = sqlx::query_as(
        "select id, pipeline, spec_digest, purpose, retroactive, activated_at, expires_at, revoked_at
         from releases where organization_id = $1 and activated_at is not null order by id",
    )
    .bind(id)
    .fetch_all(&mut **tx)
    .await?;
    type Part = (Text<ReleaseId>, Text<DomainId>, Vec<String>);
    let parts: Vec<Part> = sqlx::query_as(
        "select d.release_id, d.domain_id, array(select a.approved_by from release_approvals a
             where a.release_id = d.release_id and a.domain_id = d.domain_id order by a.approved_by)
         from release_domains d join releases r on r.id = d.release_id
         where r.organization_id = $1 and r.activated_at is not null order by d.domain_id",
    )
    .bind(id)
    .fetch_all(&mut **tx)
    .await?;
    let mut domains: BTreeMap<ReleaseId, (Vec<DomainId>, Vec<Principal>)> = BTreeMap::new();
    for (release, domain, approvers) in parts {
        let entry = domains.entry(release.0).or_default();
        entry.0.push(domain.0);
        for approver in approvers {
            let approver = parse(&approver)?;
            if !entry.1.contains(&approver) {
                entry.1.push(approver);
            }
        }
    }
    Ok(rows
        .into_iter()
        .map(
            |(id, pipeline, spec_digest, purpose, retroactive, created_at, expires_at, revoked_at)| {
                let (domains, approvers) = domains.remove(&id.0).unwrap_or_default();
                Release {
                    id: id.0,
                    domains,
                    pipeline: pipeline.0,
                    spec_digest,
                    purpose,
                    approvers,
                    retroactive,
                    created_at,
                    expires_at,
                    revoked_at,
                }
            },
        )
        .collect())
}

async fn list_revoked_tokens(tx: &mut Tx, id: &str, since: DateTime<Utc>) -> Result<Vec<TokenId>, sqlx::Error> {
    let rows: Vec<(Text<TokenId>,)> = sqlx::query_as(
        "select s.id from sessions s join members m on m.account_id = s.account_id
         where m.organization_id = $1 and s.revoked_at > $2
         union
         select t.id from api_tokens t
         where t.revoked_at > $2 and (t.organization_id = $1 or t.organization_id is null and t.principal in
             (select account_id from members where organization_id = $1))
         union
         select t.id from api_tokens t
         where t.revoked_at is null and t.last_used_at > $2 - interval '1 minute' and token_standing(t.id, $1, $3) <> 'good'
           and (t.organization_id = $1 or t.organization_id is null and t.principal in
             (select account_id from members where organization_id = $1))
         order by 1",
    )
    .bind(id)
    .bind(since)
    .bind(since + super::REVOKED_TOKENS_KEPT)
    .fetch_all(&mut **tx)
    .await?;
    Ok(rows.into_iter().map(|(id,)| id.0).collect())
}
