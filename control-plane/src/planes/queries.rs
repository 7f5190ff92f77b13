//! SQL of planes.

use chrono::{DateTime, Utc};
use contract::api::PlaneCondition;
use contract::config::Heartbeat;
use contract::ids::OrganizationId;
use contract::names::OrganizationName;
use contract::token::SecretToken;
use sqlx::PgPool;

use super::cloud::PlaneIdentity;
use super::plan::Wanted;
use crate::authz::{AsPlane, System};
use crate::database::{Text, Tx, signed, unsigned};

pub(super) async fn insert_plane(
    tx: &mut Tx,
    _proof: &System,
    organization: OrganizationId,
    sealed_password: &[u8],
    sealed_data_key: &[u8],
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into planes (organization_id, wanted, state, database_password_encrypted, data_key_encrypted, created_at)
         values ($1, 'running', 'requested', $2, $3, $4)",
    )
    .bind(organization.to_string())
    .bind(sealed_password)
    .bind(sealed_data_key)
    .bind(now)
    .execute(&mut **tx)
    .await
    .map(|_| ())
}

/// A plane's row as the reconciler needs it.
#[derive(Debug, Clone)]
pub struct PlaneRow {
    /// Which one.
    pub identity: PlaneIdentity,
    /// The organization's name.
    pub name: OrganizationName,
    /// What ought to be.
    pub wanted: Wanted,
    /// Grows with each change of the wish; writes of an older one are refused.
    pub generation: i64,
    /// What was stored last.
    pub state: String,
    /// The version of the binary that brought the schema up to date.
    pub schema_version: Option<String>,
    /// The database password, encrypted.
    pub sealed_password: Vec<u8>,
    /// The key of its packs, encrypted; `None`: they are not.
    pub sealed_data_key: Option<Vec<u8>>,
    /// Since when the plane had nothing to do, by its newest heartbeat.
    pub idle_seconds: Option<u64>,
    /// When that came.
    pub heartbeat_at: Option<DateTime<Utc>>,
    /// Failures in a row.
    pub failures: u32,
    /// Nothing is tried before that time.
    pub next_try_at: Option<DateTime<Utc>>,
    /// When it has something to do by itself; never, while the organization is suspended.
    pub wake_at: Option<DateTime<Utc>>,
}

pub(super) async fn find_plane(
    pool: &PgPool,
    _proof: &System,
    organization: OrganizationId,
) -> Result<Option<PlaneRow>, sqlx::Error> {
    type Row = (
        i32,
        Text<OrganizationName>,
        Text<Wanted>,
        i64,
        String,
        Option<String>,
        Vec<u8>,
        Option<i64>,
        Option<DateTime<Utc>>,
        i32,
        Option<DateTime<Utc>>,
        Option<Vec<u8>>,
        Option<DateTime<Utc>>,
    );
    let row: Option<Row> = sqlx::query_as(
        "select p.number, o.name, p.wanted, p.generation, p.state, p.schema_version, p.database_password_encrypted,
                p.idle_seconds, p.heartbeat_at, p.failures, p.next_try_at, p.data_key_encrypted,
                case when o.state = 'active' then p.wake_at end
         from planes p join organizations o on o.id = p.organization_id where p.organization_id = $1",
    )
    .bind(organization.to_string())
    .fetch_optional(pool)
    .await?;
    Ok(row.map(|row| PlaneRow {
        identity: PlaneIdentity {
            organization,
            number: u32::try_from(row.0).unwrap_or(0),
        },
        name: row.1.0,
        wanted: row.2.0,
        generation: row.3,
        state: row.4,
        schema_version: row.5,
        sealed_password: row.6,
        idle_seconds: row.7.map(unsigned),
        heartbeat_at: row.8,
        failures: u32::try_from(row.9).unwrap_or(0),
        next_try_at: row.10,
        sealed_data_key: row.11,
        wake_at: row.12,
    }))
}

/// The planes that are not as wanted, may fall asleep or have to be woken: what the reconciler's timer looks at.
pub(super) async fn list_unsettled(
    pool: &PgPool,
    _proof: &System,
    now: DateTime<Utc>,
) -> Result<Vec<OrganizationId>, sqlx::Error> {
    let rows: Vec<(Text<OrganizationId>,)> = sqlx::query_as(
        "select organization_id from planes
         where wanted = 'running' or wanted = 'asleep' and state <> 'asleep' or wanted = 'deleted' and state <> 'deleted'
             or wanted = 'asleep' and wake_at <= $1
             or wanted <> 'deleted' and organization_id in (
                 select id from organizations where state = 'deleting' and coalesce(kept_until, deleted_at) <= $1)
         order by number",
    )
    .bind(now)
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(|(id,)| id.0).collect())
}

/// Wishes that the plane run. `false` when there is none, or it is to be deleted.
pub(super) async fn want_running(
    pool: &PgPool,
    _proof: &System,
    organization: OrganizationId,
) -> Result<bool, sqlx::Error> {
    // The generation grows even when the wish is the same, so that a decision to let it sleep made before is void.
    let done = sqlx::query(
        "update planes set wanted = 'running', generation = generation + 1
         where organization_id = $1 and wanted <> 'deleted'
           and organization_id in (select id from organizations where state in ('active', 'suspended'))",
    )
    .bind(organization.to_string())
    .execute(pool)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Wishes that it sleep, unless the wish has changed since that generation.
pub(super) async fn want_asleep(
    pool: &PgPool,
    _proof: &System,
    organization: OrganizationId,
    generation: i64,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "update planes set wanted = 'asleep', generation = generation + 1
         where organization_id = $1 and generation = $2 and wanted = 'running'",
    )
    .bind(organization.to_string())
    .bind(generation)
    .execute(pool)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Writes what was seen of that generation; conditions are over once it is as wanted.
pub(super) async fn settle(
    pool: &PgPool,
    _proof: &System,
    row: &PlaneRow,
    state: &str,
    url: Option<&str>,
) -> Result<(), sqlx::Error> {
    let mut tx = pool.begin().await?;
    sqlx::query(
        "update planes set state = $3, url = $4, seen_generation = $2 where organization_id = $1 and generation = $2",
    )
    .bind(row.identity.organization.to_string())
    .bind(row.generation)
    .bind(state)
    .bind(url)
    .execute(&mut *tx)
    .await?;
    sqlx::query("delete from plane_conditions where organization_id = $1")
        .bind(row.identity.organization.to_string())
        .execute(&mut *tx)
        .await?;
    tx.commit().await
}

/// Writes the state between.
pub(super) async fn update_state(
    pool: &PgPool,
    _proof: &System,
    organization: OrganizationId,
    state: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query("update planes set state = $2, url = null where organization_id = $1 and state <> $2")
        .bind(organization.to_string())
        .bind(state)
        .execute(pool)
        .await
        .map(|_| ())
}

/// Writes which version of the binary brought the schema up to date.
pub(super) async fn update_schema_version(
    pool: &PgPool,
    _proof: &System,
    organization: OrganizationId,
    version: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query("update planes set schema_version = $2 where organization_id = $1")
        .bind(organization.to_string())
        .bind(version)
        .execute(pool)
        .await
        .map(|_| ())
}

/// Writes the digest of the plane's new agent token; the one before is void. The heartbeat of the process before says
/// nothing about the next.
pub(super) async fn update_agent(
    pool: &PgPool,
    _proof: &System,
    organization: OrganizationId,
    agent: &SecretToken,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update planes set agent_sha256 = $2, heartbeat_at = null, idle_seconds = null where organization_id = $1",
    )
    .bind(organization.to_string())
    .bind(agent.sha256().as_slice())
    .execute(pool)
    .await
    .map(|_| ())
}

/// Writes a failure, its reason and when to try again.
pub(super) async fn note_failure(
    pool: &PgPool,
    _proof: &System,
    row: &PlaneRow,
    condition: &PlaneCondition,
    next_try_at: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let mut tx = pool.begin().await?;
    sqlx::query(
        "update planes set failures = failures + 1, next_try_at = $2, url = null,
             state = case when wanted = 'deleted' then 'deleting' else 'degraded' end
         where organization_id = $1",
    )
    .bind(row.identity.organization.to_string())
    .bind(next_try_at)
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "insert into plane_conditions (organization_id, kind, reason, since) values ($1, $2, $3, $4)
         on conflict (organization_id, kind) do update set reason = excluded.reason",
    )
    .bind(row.identity.organization.to_string())
    .bind(&condition.kind)
    .bind(&condition.reason)
    .bind(condition.since)
    .execute(&mut *tx)
    .await?;
    tx.commit().await
}

pub(super) async fn list_conditions(
    pool: &PgPool,
    _proof: &System,
    organization: OrganizationId,
) -> Result<Vec<PlaneCondition>, sqlx::Error> {
    let rows: Vec<(String, String, DateTime<Utc>)> =
        sqlx::query_as("select kind, reason, since from plane_conditions where organization_id = $1 order by since")
            .bind(organization.to_string())
            .fetch_all(pool)
            .await?;
    Ok(rows
        .into_iter()
        .map(|(kind, reason, since)| PlaneCondition { kind, reason, since })
        .collect())
}

/// Takes a heartbeat; a plane that sends one works, so its failures are over.
pub(super) async fn note_heartbeat(
    pool: &PgPool,
    plane: &AsPlane,
    heartbeat: &Heartbeat,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update planes set heartbeat_at = $2, idle_seconds = $3, wake_at = $4, failures = 0, next_try_at = null
         where organization_id = $1",
    )
    .bind(plane.organization().to_string())
    .bind(now)
    .bind(signed(heartbeat.idle_seconds))
    .bind(heartbeat.wake_at)
    .execute(pool)
    .await
    .map(|_| ())
}

/// State, address and schema version as members see them.
pub(super) async fn get_status(
    pool: &PgPool,
    _proof: &System,
    organization: OrganizationId,
) -> Result<(String, Option<String>, Option<String>), sqlx::Error> {
    sqlx::query_as("select state, url, schema_version from planes where organization_id = $1")
        .bind(organization.to_string())
        .fetch_one(pool)
        .await
}

/// The receipt of a deletion: store and what was removed.
pub async fn list_receipt(
    pool: &PgPool,
    _proof: &System,
    organization: OrganizationId,
) -> Result<Vec<(String, String)>, sqlx::Error> {
    sqlx::query_as("select store, detail from deletion_receipts where organization_id = $1 order by store")
        .bind(organization.to_string())
        .fetch_all(pool)
        .await
}

/// The name of an organization whose plane may be used.
pub async fn find_name(
    pool: &PgPool,
    _proof: &System,
    organization: OrganizationId,
) -> Result<Option<OrganizationName>, sqlx::Error> {
    let row: Option<(Text<OrganizationName>,)> =
        sqlx::query_as("select name from organizations where id = $1 and state in ('active', 'suspended')")
            .bind(organization.to_string())
            .fetch_optional(pool)
            .await?;
    Ok(row.map(|(name,)| name.0))
}
