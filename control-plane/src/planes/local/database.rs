//! Databases and roles of tenants. Names follow from the organization's id and are letters, digits and `_` only, so
//! statements that PostgreSQL takes no parameters for can be put together safely.

use anyhow::Context;
use contract::ids::OrganizationId;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Executor, PgPool};

use super::scram;

/// The name of a tenant's database and of its role.
pub(super) fn name(organization: OrganizationId) -> String {
    format!("howdah_{}", organization.uuid().simple())
}

/// The URL of a tenant's database, as the tenant's role, on the server of the service's own.
pub(super) fn url(service: &PgConnectOptions, name: &str, password: &str) -> String {
    service
        .clone()
        .database(name)
        .username(name)
        .password(password)
        .to_url_lossy()
        .to_string()
}

pub(super) async fn exists(pool: &PgPool, name: &str) -> anyhow::Result<bool> {
    let (database, role): (bool, bool) = sqlx::query_as(
        "select exists (select 1 from pg_database where datname = $1), exists (select 1 from pg_roles where rolname = $1)",
    )
    .bind(name)
    .fetch_one(pool)
    .await
    .context("PostgreSQL cannot be asked for the plane's database")?;
    Ok(database && role)
}

async fn run(pool: &PgPool, statement: String) -> Result<(), sqlx::Error> {
    pool.execute(sqlx::raw_sql(AssertSqlSafe(statement))).await.map(|_| ())
}

/// Whether PostgreSQL says that it exists already: another process was faster.
fn is_duplicate(error: &sqlx::Error) -> bool {
    // duplicate_object, duplicate_database, and the unique index of the catalog under a race.
    matches!(error, sqlx::Error::Database(e) if matches!(e.code().as_deref(), Some("42710" | "42P04" | "23505")))
}

pub(super) async fn create(pool: &PgPool, name: &str, password: &str) -> anyhow::Result<()> {
    let plain = password.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    anyhow::ensure!(plain, "the password of `{name}` has a character that needs quoting");
    let made = run(
        pool,
        format!("create role {name} login nosuperuser nocreatedb nocreaterole"),
    )
    .await;
    made.or_else(|e| if is_duplicate(&e) { Ok(()) } else { Err(e) })
        .with_context(|| format!("the role `{name}` cannot be made"))?;
    let verifier = scram::verifier(name, password);
    run(pool, format!("alter role {name} with login password '{verifier}'"))
        .await
        .map_err(|_| anyhow::anyhow!("the password of the role `{name}` cannot be set"))?;
    // To give a database to a role, the giver must belong to it, unless a superuser.
    run(pool, format!("grant {name} to current_user"))
        .await
        .with_context(|| format!("the role `{name}` cannot be used"))?;
    let made = run(
        pool,
        format!("create database {name} owner {name} template template0 encoding 'UTF8'"),
    )
    .await;
    made.or_else(|e| if is_duplicate(&e) { Ok(()) } else { Err(e) })
        .with_context(|| format!("the database `{name}` cannot be made"))?;
    run(pool, format!("revoke all on database {name} from public"))
        .await
        .with_context(|| format!("the database `{name}` cannot be closed to others"))
}

pub(super) async fn remove(pool: &PgPool, name: &str) -> anyhow::Result<()> {
    run(pool, format!("drop database if exists {name} with (force)"))
        .await
        .with_context(|| format!("the database `{name}` cannot be dropped"))?;
    run(pool, format!("drop role if exists {name}"))
        .await
        .with_context(|| format!("the role `{name}` cannot be dropped"))
}
