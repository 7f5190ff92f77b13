//! SQL of planes for whoever operates the installation.

use contract::api::{PlaneCondition, PlaneSummary};
use contract::ids::OrganizationId;
use contract::names::OrganizationName;
use sqlx::PgPool;

use crate::authz::System;
use crate::database::{Text, Tx, unsigned};

const SUMMARY: &str = "select p.organization_id, o.name, p.state, p.wanted, p.generation, p.seen_generation, p.schema_version,
           (select coalesce(json_agg(json_build_object('kind', c.kind, 'reason', c.reason, 'since', c.since) order by c.since), '[]')
            from plane_conditions c where c.organization_id = p.organization_id) as conditions
     from planes p join organizations o on o.id = p.organization_id";

#[derive(sqlx::FromRow)]
struct SummaryRow {
    organization_id: Text<OrganizationId>,
    name: Text<OrganizationName>,
    state: String,
    wanted: String,
    generation: i64,
    seen_generation: i64,
    schema_version: Option<String>,
    conditions: sqlx::types::Json<Vec<PlaneCondition>>,
}

impl From<SummaryRow> for PlaneSummary {
    fn from(row: SummaryRow) -> Self {
        Self {
            organization: row.organization_id.0,
            name: row.name.0,
            state: row.state,
            wanted: row.wanted,
            generation: unsigned(row.generation),
            seen_generation: unsigned(row.seen_generation),
            schema_version: row.schema_version,
            conditions: row.conditions.0,
        }
    }
}

/// Planes behind that one, by their organizations' ids, for whoever operates the installation.
pub(super) async fn list_planes(
    pool: &PgPool,
    _proof: &System,
    after: Option<OrganizationId>,
    unsettled: bool,
    limit: u32,
) -> Result<Vec<PlaneSummary>, sqlx::Error> {
    let statement = format!(
        "{SUMMARY} where p.organization_id > $1 and (not $2 or p.state = 'degraded' or p.seen_generation <> p.generation)
         order by p.organization_id limit $3"
    );
    let rows: Vec<SummaryRow> = sqlx::query_as(sqlx::AssertSqlSafe(statement))
        .bind(after.map(|id| id.to_string()).unwrap_or_default())
        .bind(unsettled)
        .bind(i64::from(limit))
        .fetch_all(pool)
        .await?;
    Ok(rows.into_iter().map(PlaneSummary::from).collect())
}

/// A plane as whoever operates the installation sees it.
pub(super) async fn find_summary(
    pool: &PgPool,
    _proof: &System,
    organization: OrganizationId,
) -> Result<Option<PlaneSummary>, sqlx::Error> {
    let row: Option<SummaryRow> =
        sqlx::query_as(sqlx::AssertSqlSafe(format!("{SUMMARY} where p.organization_id = $1")))
            .bind(organization.to_string())
            .fetch_optional(pool)
            .await?;
    Ok(row.map(PlaneSummary::from))
}

/// Suspends an organization with its plane, or ends that. `false`: it is so already, or there is no such organization.
pub(super) async fn suspend(
    tx: &mut Tx,
    _proof: &System,
    organization: OrganizationId,
    suspended: bool,
) -> Result<bool, sqlx::Error> {
    let (before, after, wanted) = match suspended {
        true => ("active", "suspended", "suspended"),
        false => ("suspended", "active", "asleep"),
    };
    let done = sqlx::query("update organizations set state = $3 where id = $1 and state = $2")
        .bind(organization.to_string())
        .bind(before)
        .bind(after)
        .execute(&mut **tx)
        .await?;
    if done.rows_affected() == 0 {
        return Ok(false);
    }
    sqlx::query(
        "update planes set wanted = $2, generation = generation + 1, next_try_at = null
         where organization_id = $1 and wanted <> 'deleted'",
    )
    .bind(organization.to_string())
    .bind(wanted)
    .execute(&mut **tx)
    .await?;
    Ok(true)
}
