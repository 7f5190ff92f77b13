//! SQL of planes.

use chrono::{DateTime, Utc};
use contract::api::{PlaneCondition, PlaneEvent};
use contract::config::Heartbeat;
use contract::ids::OrganizationId;
use contract::names::OrganizationName;
use contract::token::SecretToken;
use provisioner::cloud::PlaneIdentity;
use provisioner::ledger::{Failure, Record, State};
use provisioner::plan::Wanted;
use sqlx::PgPool;

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
        "insert into planes (organization_id, wanted, state, database_password_encrypted, data_key_encrypted, created_at, image)
         values ($1, 'running', 'requested', $2, $3, $4,
             (select image from plane_rollouts where state = 'done' order by id desc limit 1))",
    )
    .bind(organization.to_string())
    .bind(sealed_password)
    .bind(sealed_data_key)
    .bind(now)
    .execute(&mut **tx)
    .await
    .map(|_| ())
}

/// Where processes tell each other which plane to look at.
pub(super) const CHANNEL: &str = "howdah_planes";
/// So many events of a plane are kept.
const EVENTS_MAX: i64 = 100;

/// A plane's row as the reconciler needs it.
#[derive(Debug, Clone)]
pub struct PlaneRow {
    /// What the pass looks at, without its conditions.
    pub record: Record,
    /// Its image, where it is not the usual one.
    pub image: Option<String>,
    /// The digest of its credential.
    pub agent_sha256: Option<Vec<u8>>,
    /// The database password, encrypted.
    pub sealed_password: Vec<u8>,
    /// The key of its packs, encrypted; `None`: they are not.
    pub sealed_data_key: Option<Vec<u8>>,
}

#[derive(sqlx::FromRow)]
struct Row {
    number: i32,
    name: Text<OrganizationName>,
    wanted: Text<Wanted>,
    generation: i64,
    seen_generation: i64,
    state: Text<State>,
    schema_version: Option<String>,
    database_password_encrypted: Vec<u8>,
    idle_seconds: Option<i64>,
    heartbeat_at: Option<DateTime<Utc>>,
    failures: i32,
    next_try_at: Option<DateTime<Utc>>,
    data_key_encrypted: Option<Vec<u8>>,
    wake_at: Option<DateTime<Utc>>,
    image: Option<String>,
    agent_sha256: Option<Vec<u8>>,
}

pub(super) async fn find_plane(
    pool: &PgPool,
    _proof: &System,
    organization: OrganizationId,
) -> Result<Option<PlaneRow>, sqlx::Error> {
    let row: Option<Row> = sqlx::query_as(
        "select p.number, o.name, p.wanted, p.generation, p.seen_generation, p.state, p.schema_version,
                p.database_password_encrypted, p.idle_seconds, p.heartbeat_at, p.failures, p.next_try_at, p.data_key_encrypted,
                case when o.state = 'active' then p.wake_at end as wake_at, p.image, p.agent_sha256
         from planes p join organizations o on o.id = p.organization_id where p.organization_id = $1",
    )
    .bind(organization.to_string())
    .fetch_optional(pool)
    .await?;
    Ok(row.map(|row| PlaneRow {
        record: Record {
            identity: PlaneIdentity {
                organization,
                number: u32::try_from(row.number).unwrap_or(0),
            },
            name: row.name.0,
            wanted: row.wanted.0,
            generation: row.generation,
            seen_generation: row.seen_generation,
            state: row.state.0,
            schema_version: row.schema_version,
            idle_seconds: row.idle_seconds.map(unsigned),
            heartbeat_at: row.heartbeat_at,
            failures: u32::try_from(row.failures).unwrap_or(0),
            next_try_at: row.next_try_at,
            wake_at: row.wake_at,
            conditions: Vec::new(),
        },
        image: row.image,
        agent_sha256: row.agent_sha256,
        sealed_password: row.database_password_encrypted,
        sealed_data_key: row.data_key_encrypted,
    }))
}

/// The planes that are not as wanted, may fall asleep or have to be woken: what the reconciler's timer looks at. `all`: also those
/// that are as wanted, by what is known of them.
pub(super) async fn list_unsettled(
    pool: &PgPool,
    _proof: &System,
    now: DateTime<Utc>,
    idle_seconds: u64,
    all: bool,
) -> Result<Vec<OrganizationId>, sqlx::Error> {
    let rows: Vec<(Text<OrganizationId>,)> = sqlx::query_as(
        "select organization_id from planes
         where $3 and not (wanted = 'deleted' and state = 'deleted')
             or seen_generation <> generation and state <> 'deleted'
             or wanted = 'running' and (state <> 'ready' or idle_seconds >= $2)
             or wanted in ('asleep', 'suspended') and state <> wanted or wanted = 'deleted' and state <> 'deleted'
             or wanted = 'asleep' and wake_at <= $1
             or wanted <> 'deleted' and organization_id in (
                 select id from organizations where state = 'deleting' and coalesce(kept_until, deleted_at) <= $1)
         order by number",
    )
    .bind(now)
    .bind(signed(idle_seconds))
    .bind(all)
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(|(id,)| id.0).collect())
}

/// What became of the wish that a plane run.
pub(super) enum Wish {
    /// It is wished now.
    Taken,
    /// The plane is suspended.
    Suspended,
    /// There is none, or it is to be deleted.
    Unknown,
}

/// Wishes that the plane run.
pub(super) async fn want_running(
    pool: &PgPool,
    _proof: &System,
    organization: OrganizationId,
) -> Result<Wish, sqlx::Error> {
    // The generation grows even when the wish is the same, so that a decision to let it sleep made before is void.
    let done: Option<(Text<Wanted>,)> = sqlx::query_as(
        "update planes set wanted = case when wanted = 'suspended' then wanted else 'running' end,
             generation = generation + case when wanted = 'suspended' then 0 else 1 end
         where organization_id = $1 and wanted <> 'deleted'
           and organization_id in (select id from organizations where state in ('active', 'suspended'))
         returning wanted",
    )
    .bind(organization.to_string())
    .fetch_optional(pool)
    .await?;
    if done.is_some() {
        // The process that makes planes be as wanted may be another one.
        sqlx::query("select pg_notify($1, $2)")
            .bind(CHANNEL)
            .bind(organization.to_string())
            .execute(pool)
            .await?;
    }
    Ok(match done {
        Some((Text(Wanted::Suspended),)) => Wish::Suspended,
        Some(_) => Wish::Taken,
        None => Wish::Unknown,
    })
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
    record: &Record,
    state: State,
    url: Option<&str>,
) -> Result<(), sqlx::Error> {
    let mut tx = pool.begin().await?;
    let done = sqlx::query(
        "update planes set state = $3, url = $4, seen_generation = $2 where organization_id = $1 and generation = $2",
    )
    .bind(record.identity.organization.to_string())
    .bind(record.generation)
    .bind(state.as_str())
    .bind(url)
    .execute(&mut *tx)
    .await?;
    if done.rows_affected() == 1 {
        sqlx::query("delete from plane_conditions where organization_id = $1 and not lasting")
            .bind(record.identity.organization.to_string())
            .execute(&mut *tx)
            .await?;
    }
    tx.commit().await
}

/// Writes the state between.
pub(super) async fn update_state(
    pool: &PgPool,
    _proof: &System,
    record: &Record,
    state: State,
) -> Result<(), sqlx::Error> {
    sqlx::query("update planes set state = $2 where organization_id = $1 and state <> $2 and generation = $3")
        .bind(record.identity.organization.to_string())
        .bind(state.as_str())
        .bind(record.generation)
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
/// nothing about the next. `false`: the wish is another one now.
pub(super) async fn update_agent(
    pool: &PgPool,
    _proof: &System,
    record: &Record,
    agent: &SecretToken,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "update planes set agent_sha256 = $2, heartbeat_at = null, idle_seconds = null
         where organization_id = $1 and wanted = $3",
    )
    .bind(record.identity.organization.to_string())
    .bind(agent.sha256().as_slice())
    .bind(record.wanted.as_str())
    .execute(pool)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Writes what is in the way while something takes its time.
pub(super) async fn note_waiting(
    pool: &PgPool,
    _proof: &System,
    record: &Record,
    state: State,
    why: Option<&PlaneCondition>,
) -> Result<(), sqlx::Error> {
    let mut tx = pool.begin().await?;
    let organization = record.identity.organization.to_string();
    let done = sqlx::query("update planes set state = $2, url = null where organization_id = $1 and generation = $3")
        .bind(&organization)
        .bind(state.as_str())
        .bind(record.generation)
        .execute(&mut *tx)
        .await?;
    if done.rows_affected() == 1 {
        sqlx::query(
            "delete from plane_conditions where organization_id = $1 and not lasting and kind is distinct from $2",
        )
        .bind(&organization)
        .bind(why.map(|why| &why.kind))
        .execute(&mut *tx)
        .await?;
        if let Some(why) = why {
            upsert_condition(&mut tx, &organization, why, false).await?;
        }
    }
    tx.commit().await
}

/// A reason may change while what is in the way stays.
async fn upsert_condition(
    tx: &mut Tx,
    organization: &str,
    condition: &PlaneCondition,
    lasting: bool,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into plane_conditions (organization_id, kind, reason, since, lasting) values ($1, $2, $3, $4, $5)
         on conflict (organization_id, kind) do update set reason = excluded.reason",
    )
    .bind(organization)
    .bind(&condition.kind)
    .bind(&condition.reason)
    .bind(condition.since)
    .bind(lasting)
    .execute(&mut **tx)
    .await
    .map(|_| ())
}

/// Writes a failure, its reason and when to try again. Where the plane is reached stands, unless it is known not to serve: else others
/// would turn requests away from one that does while the cluster cannot be asked.
pub(super) async fn note_failure(
    pool: &PgPool,
    _proof: &System,
    record: &Record,
    failure: &Failure,
) -> Result<(), sqlx::Error> {
    let mut tx = pool.begin().await?;
    let organization = record.identity.organization.to_string();
    sqlx::query(
        "update planes set failures = failures + 1, next_try_at = $2, url = case when $3 then url end,
             state = case when wanted = 'deleted' then 'deleting' else 'degraded' end
         where organization_id = $1 and state <> 'deleted'",
    )
    .bind(&organization)
    .bind(failure.next_try_at)
    .bind(failure.may_serve)
    .execute(&mut *tx)
    .await?;
    upsert_condition(&mut tx, &organization, &failure.condition, false).await?;
    tx.commit().await
}

/// Writes what is not as one would wish although the plane works.
pub(super) async fn note_lasting(
    pool: &PgPool,
    _proof: &System,
    record: &Record,
    condition: &PlaneCondition,
) -> Result<(), sqlx::Error> {
    let mut tx = pool.begin().await?;
    upsert_condition(&mut tx, &record.identity.organization.to_string(), condition, true).await?;
    tx.commit().await
}

/// That is over.
pub(super) async fn end_lasting(
    pool: &PgPool,
    _proof: &System,
    record: &Record,
    kind: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query("delete from plane_conditions where organization_id = $1 and kind = $2 and lasting")
        .bind(record.identity.organization.to_string())
        .bind(kind)
        .execute(pool)
        .await
        .map(|_| ())
}

/// Tells what was done to planes without being asked for; the oldest of each is forgotten for it.
pub(super) async fn insert_events(
    tx: &mut Tx,
    _proof: &System,
    organizations: &[OrganizationId],
    kind: &str,
    detail: &str,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let ids: Vec<String> = organizations.iter().map(ToString::to_string).collect();
    sqlx::query("insert into plane_events (organization_id, kind, detail, at) select unnest($1), $2, $3, $4")
        .bind(&ids)
        .bind(kind)
        .bind(detail)
        .bind(now)
        .execute(&mut **tx)
        .await?;
    sqlx::query(
        "delete from plane_events e where e.organization_id = any($1) and e.seq <= (
             select seq from plane_events where organization_id = e.organization_id order by seq desc offset $2 limit 1)",
    )
    .bind(&ids)
    .bind(EVENTS_MAX)
    .execute(&mut **tx)
    .await
    .map(|_| ())
}

/// What was done to a plane without being asked for, newest first.
pub(super) async fn list_events(
    pool: &PgPool,
    _proof: &System,
    organization: OrganizationId,
) -> Result<Vec<PlaneEvent>, sqlx::Error> {
    let rows: Vec<(String, String, DateTime<Utc>)> =
        sqlx::query_as("select kind, detail, at from plane_events where organization_id = $1 order by seq desc")
            .bind(organization.to_string())
            .fetch_all(pool)
            .await?;
    Ok(rows
        .into_iter()
        .map(|(kind, detail, at)| PlaneEvent { kind, detail, at })
        .collect())
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

/// What has been in the way of a plane for longest, in words.
pub(super) async fn find_obstacle(
    pool: &PgPool,
    _proof: &System,
    organization: OrganizationId,
) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar(
        "select reason from plane_conditions where organization_id = $1 and not lasting order by since limit 1",
    )
    .bind(organization.to_string())
    .fetch_optional(pool)
    .await
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

/// State, address, schema version and generations as members see them.
pub(super) async fn get_status(
    pool: &PgPool,
    _proof: &System,
    organization: OrganizationId,
) -> Result<(String, Option<String>, Option<String>, i64, i64), sqlx::Error> {
    sqlx::query_as(
        "select state, url, schema_version, generation, seen_generation from planes where organization_id = $1",
    )
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

/// Where running planes are reached, as the process knows that makes them be as wanted.
pub(super) async fn list_routes(
    pool: &PgPool,
    _proof: &System,
) -> Result<Vec<(OrganizationId, OrganizationName, String)>, sqlx::Error> {
    let rows: Vec<(Text<OrganizationId>, Text<OrganizationName>, String)> = sqlx::query_as(
        "select p.organization_id, o.name, p.url from planes p join organizations o on o.id = p.organization_id
         where p.wanted = 'running' and p.url is not null",
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(|(id, name, url)| (id.0, name.0, url)).collect())
}

/// Of these organizations, those that have a plane which is not gone.
pub(super) async fn list_known(
    pool: &PgPool,
    _proof: &System,
    organizations: &[OrganizationId],
) -> Result<Vec<OrganizationId>, sqlx::Error> {
    let ids: Vec<String> = organizations.iter().map(ToString::to_string).collect();
    let rows: Vec<(Text<OrganizationId>,)> =
        sqlx::query_as("select organization_id from planes where organization_id = any($1) and state <> 'deleted'")
            .bind(ids)
            .fetch_all(pool)
            .await?;
    Ok(rows.into_iter().map(|(id,)| id.0).collect())
}

/// Names this installation among others.
pub(super) async fn get_installation(pool: &PgPool, _proof: &System) -> Result<String, sqlx::Error> {
    let (id,): (String,) = sqlx::query_as("select id from installation").fetch_one(pool).await?;
    Ok(id)
}
