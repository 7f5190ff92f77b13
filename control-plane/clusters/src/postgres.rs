//! Databases and roles of tenants. Names follow from the organization's id and are letters, digits and `_` only, so
//! statements that PostgreSQL takes no parameters for can be put together safely. A comment says whose installation made them.

use anyhow::Context;
use async_trait::async_trait;
use contract::ids::OrganizationId;
use provisioner::kubernetes::ports::Databases;
use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions, Executor, PgPool};

use crate::scram;

/// The name of a tenant's database and of its role.
pub fn name(organization: OrganizationId) -> String {
    format!("howdah_{}", organization.uuid().simple())
}

/// The URL of a tenant's database, as the tenant's role, on the server of the service's own.
pub fn url(service: &PgConnectOptions, name: &str, password: &str) -> String {
    service
        .clone()
        .database(name)
        .username(name)
        .password(password)
        .to_url_lossy()
        .to_string()
}

/// Whether role and database are there.
///
/// # Errors
/// When PostgreSQL is away.
pub async fn exists(pool: &PgPool, name: &str) -> anyhow::Result<bool> {
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

/// Makes role and database, whatever of them is there.
///
/// # Errors
/// When PostgreSQL is away or its role may not do that.
pub async fn create(pool: &PgPool, name: &str, password: &str) -> anyhow::Result<()> {
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

/// Removes database and role, under whoever is connected.
///
/// # Errors
/// When PostgreSQL is away or its role may not do that.
pub async fn remove(pool: &PgPool, name: &str) -> anyhow::Result<()> {
    run(pool, format!("drop database if exists {name} with (force)"))
        .await
        .with_context(|| format!("the database `{name}` cannot be dropped"))?;
    run(pool, format!("drop role if exists {name}"))
        .await
        .with_context(|| format!("the role `{name}` cannot be dropped"))
}

/// PostgreSQL of the tenants of a cluster.
pub struct TenantDatabases {
    pool: PgPool,
    place: PgConnectOptions,
    installation: String,
}

impl TenantDatabases {
    /// Over the administrator's pool; planes reach the same server at `host` and `port`.
    ///
    /// # Errors
    /// When `ssl_mode` is none.
    pub fn new(pool: PgPool, host: &str, port: u16, ssl_mode: &str, installation: String) -> anyhow::Result<Self> {
        let ssl_mode: PgSslMode = ssl_mode
            .parse()
            .with_context(|| format!("`{ssl_mode}` says not how planes connect to PostgreSQL"))?;
        let place = PgConnectOptions::new_without_pgpass()
            .host(host)
            .port(port)
            .ssl_mode(ssl_mode);
        Ok(Self {
            pool,
            place,
            installation,
        })
    }

    fn tag(&self) -> String {
        format!("howdah:{}:", self.installation)
    }
}

#[async_trait]
impl Databases for TenantDatabases {
    async fn exists(&self, organization: OrganizationId) -> anyhow::Result<bool> {
        exists(&self.pool, &name(organization)).await
    }

    async fn create(&self, organization: OrganizationId, password: &SecretString) -> anyhow::Result<()> {
        let name = name(organization);
        create(&self.pool, &name, password.expose_secret()).await?;
        let tag = format!("{}{organization}", self.tag());
        let plain = tag.bytes().all(|b| b.is_ascii_alphanumeric() || b"_:-".contains(&b));
        anyhow::ensure!(plain, "the tag `{tag}` has a character that needs quoting");
        run(&self.pool, format!("comment on database {name} is '{tag}'"))
            .await
            .with_context(|| format!("the database `{name}` cannot be tagged"))
    }

    async fn remove(&self, organization: OrganizationId) -> anyhow::Result<()> {
        remove(&self.pool, &name(organization)).await
    }

    async fn list(&self) -> anyhow::Result<Vec<OrganizationId>> {
        let tag = self.tag();
        let rows: Vec<(String,)> = sqlx::query_as(
            "select shobj_description(oid, 'pg_database') from pg_database
             where starts_with(shobj_description(oid, 'pg_database'), $1)",
        )
        .bind(&tag)
        .fetch_all(&self.pool)
        .await
        .context("PostgreSQL cannot be asked for the planes' databases")?;
        Ok(rows
            .iter()
            .filter_map(|(text,)| text.strip_prefix(&tag)?.parse().ok())
            .collect())
    }

    fn url(&self, organization: OrganizationId, password: &SecretString) -> SecretString {
        SecretString::from(url(&self.place, &name(organization), password.expose_secret()))
    }
}
