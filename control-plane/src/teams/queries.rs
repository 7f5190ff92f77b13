//! SQL of teams.

use chrono::{DateTime, Utc};
use contract::ids::TeamId;
use contract::names::TeamName;
use contract::policy::Principal;

use super::TeamView;
use crate::authz::{Allowed, ManageTeams, ViewOrganization};
use crate::database::{Text, Tx};
use crate::paging::Window;

/// Adds a team. `false` when the name is taken.
pub(super) async fn insert_team(
    tx: &mut Tx,
    allowed: &Allowed<ManageTeams>,
    team: &TeamView,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "insert into teams (id, organization_id, name, created_at) values ($1, $2, $3, $4)
         on conflict (organization_id, lower(name)) do nothing",
    )
    .bind(team.id.to_string())
    .bind(allowed.organization().to_string())
    .bind(team.name.as_str())
    .bind(team.created_at)
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

pub(super) async fn list_teams(
    tx: &mut Tx,
    allowed: &Allowed<ViewOrganization>,
    window: &Window,
) -> Result<Vec<TeamView>, sqlx::Error> {
    type Row = (Text<TeamId>, Text<TeamName>, DateTime<Utc>, Vec<String>);
    let rows: Vec<Row> = sqlx::query_as(
        "select t.id, t.name, t.created_at,
             coalesce(array_agg(case when m.principal like 'sa\\_%' then 'sa:' || m.name else m.name end order by m.name)
                 filter (where m.name is not null), '{}')
         from teams t
         left join team_members tm on tm.team_id = t.id
         left join memberships m on m.organization_id = t.organization_id and m.principal = tm.principal
         where t.organization_id = $1 and t.id > $2 group by t.id order by t.id limit $3",
    )
    .bind(allowed.organization().to_string())
    .bind(&window.after)
    .bind(window.fetch)
    .fetch_all(&mut **tx)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(id, name, created_at, members)| TeamView {
            id: id.0,
            name: name.0,
            members,
            created_at,
        })
        .collect())
}

/// A team by name or id.
pub(super) async fn find_team(
    tx: &mut Tx,
    allowed: &Allowed<ManageTeams>,
    name_or_id: &str,
) -> Result<Option<(TeamId, TeamName)>, sqlx::Error> {
    let row: Option<(Text<TeamId>, Text<TeamName>)> = sqlx::query_as(
        "select id, name from teams where organization_id = $1 and (id = $2 or lower(name) = lower($2))",
    )
    .bind(allowed.organization().to_string())
    .bind(name_or_id)
    .fetch_optional(&mut **tx)
    .await?;
    Ok(row.map(|(id, name)| (id.0, name.0)))
}

/// Removes a team with its grants.
pub(super) async fn delete_team(tx: &mut Tx, allowed: &Allowed<ManageTeams>, team: TeamId) -> Result<(), sqlx::Error> {
    for statement in [
        "delete from grants where organization_id = $1 and grantee = $2",
        "delete from teams where organization_id = $1 and id = $2",
    ] {
        sqlx::query(statement)
            .bind(allowed.organization().to_string())
            .bind(team.to_string())
            .execute(&mut **tx)
            .await?;
    }
    Ok(())
}

/// Adds a principal of the organization. `false` when he was in it before.
pub(super) async fn insert_member(
    tx: &mut Tx,
    allowed: &Allowed<ManageTeams>,
    team: TeamId,
    principal: Principal,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "insert into team_members (team_id, principal)
         select t.id, $3 from teams t where t.id = $2 and t.organization_id = $1 on conflict do nothing",
    )
    .bind(allowed.organization().to_string())
    .bind(team.to_string())
    .bind(principal.to_string())
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Takes a principal out. `false` when he was not in it.
pub(super) async fn delete_member(
    tx: &mut Tx,
    allowed: &Allowed<ManageTeams>,
    team: TeamId,
    principal: Principal,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "delete from team_members using teams t
         where t.id = team_id and t.organization_id = $1 and team_id = $2 and principal = $3",
    )
    .bind(allowed.organization().to_string())
    .bind(team.to_string())
    .bind(principal.to_string())
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() == 1)
}
