//! Databases for tests. All tests of a checkout share one private cluster, started by the first and stopped after the last;
//! each test gets a database of its own in it. Tests that kill the server get a server of their own (`dedicated`).
//! `TESTKIT_DATABASE_URL` names a server to use instead.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::ChildStdin;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use private_postgres::{Cluster, Options};
use sqlx::migrate::Migrator;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, PgPool};

use crate::processes::kill9;
use crate::reaper;

/// A database of its own. Dropping it drops the database, with whatever connections it still has.
#[derive(Debug)]
pub struct TestDatabase {
    /// Where to connect, as a superuser.
    pub url: String,
    server: String,
    name: String,
}

impl TestDatabase {
    /// A few connections to it.
    ///
    /// # Panics
    /// When it cannot be reached.
    pub async fn pool(&self) -> PgPool {
        PgPool::connect(&self.url)
            .await
            .unwrap_or_else(|e| panic!("the test's database cannot be reached: {e}"))
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let (server, name) = (self.server.clone(), self.name.clone());
        // A thread with a runtime of its own: this may run inside a runtime, which must not be blocked on itself.
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(execute(
                &server,
                &format!("drop database if exists {name} with (force)"),
            ))
        });
        let _ = dropping.join();
    }
}

/// An empty database of the shared server.
///
/// # Panics
/// When PostgreSQL is not there; the message says what to do.
pub async fn fresh_database() -> TestDatabase {
    let server = server_url().await;
    copy_of(server, "template0").await
}

/// A database of the shared server with these migrations applied: they run once, then every test gets a copy.
///
/// # Panics
/// When PostgreSQL is not there or a migration fails.
pub async fn migrated_database(migrations: &Migrator) -> TestDatabase {
    let server = server_url().await;
    let template = template_name(migrations);
    let mut connection = connect(&server).await;
    // One test makes the template, all others wait for it.
    execute_on(&mut connection, "select pg_advisory_lock(7433)").await;
    let exists: bool = sqlx::query_scalar("select exists (select from pg_database where datname = $1)")
        .bind(&template)
        .fetch_one(&mut connection)
        .await
        .unwrap_or_else(|e| panic!("{e}"));
    if !exists {
        let making = format!("{template}_new");
        execute_on(
            &mut connection,
            &format!("drop database if exists {making} with (force)"),
        )
        .await;
        execute_on(&mut connection, &format!("create database {making} template template0")).await;
        let mut inside = connect(&with_database(&server, &making)).await;
        migrations
            .run(&mut inside)
            .await
            .unwrap_or_else(|e| panic!("a migration failed: {e}"));
        let _ = inside.close().await;
        execute_on(
            &mut connection,
            &format!("alter database {making} rename to {template}"),
        )
        .await;
    }
    let _ = connection.close().await;
    copy_of(server, &template).await
}

/// The URL of the shared server's maintenance database, as a superuser: for what makes databases and roles itself.
///
/// # Panics
/// When PostgreSQL is not there; the message says what to do.
pub async fn server_url() -> String {
    if let Ok(url) = std::env::var("TESTKIT_DATABASE_URL") {
        return url;
    }
    tokio::task::spawn_blocking(|| shared().url.clone())
        .await
        .unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()))
}

/// A server of its own, for tests that kill it.
#[derive(Debug)]
pub struct Dedicated {
    /// Where to connect, as a superuser. Stays the same over restarts.
    pub url: String,
    cluster: Mutex<Cluster>,
    // Dropped after `drop` below has stopped the server.
    _watch: ChildStdin,
    _directory: tempfile::TempDir,
}

/// Starts a server of its own.
///
/// # Panics
/// When PostgreSQL is not there; the message says what to do.
pub async fn dedicated() -> Dedicated {
    let make = || {
        let directory = crate::temporary_directory();
        let cluster = started(&directory.path().join("postgres"));
        Dedicated {
            url: cluster.url().expose().to_owned(),
            _watch: reaper::watch(&cluster.data(), None),
            cluster: Mutex::new(cluster),
            _directory: directory,
        }
    };
    tokio::task::spawn_blocking(make)
        .await
        .unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()))
}

impl Dedicated {
    /// Kills the server with SIGKILL and waits until it is gone. What was committed survives this: only a crash of the
    /// machine would lose it.
    ///
    /// # Panics
    /// When it does not go.
    pub fn kill9(&self) {
        let pid = self.cluster().process_id();
        if let Some(pid) = pid.and_then(|pid| u32::try_from(pid).ok()) {
            kill9(pid);
        }
    }

    /// Starts it again.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(&self) {
        self.cluster().start().unwrap_or_else(|e| panic!("{e}"));
    }

    /// The server's process, if it runs.
    pub fn process_id(&self) -> Option<u32> {
        self.cluster().process_id().and_then(|pid| u32::try_from(pid).ok())
    }

    fn cluster(&self) -> std::sync::MutexGuard<'_, Cluster> {
        self.cluster.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Dedicated {
    fn drop(&mut self) {
        let _ = self.cluster().stop();
    }
}

struct Shared {
    url: String,
    _users: File,
    _watch: ChildStdin,
}

fn shared() -> &'static Shared {
    static SHARED: OnceLock<Shared> = OnceLock::new();
    SHARED.get_or_init(|| {
        let directory = shared_directory();
        let start = open_lock(&directory.join("start.lock"));
        start.lock().unwrap_or_else(|e| panic!("{e}"));
        let users = open_lock(&directory.join("users.lock"));
        // Nobody else uses it now: what tests left behind that were killed can go.
        let first = users.try_lock().is_ok();
        let cluster = started(&directory.join("postgres"));
        let url = cluster.url().expose().to_owned();
        if first {
            remove_leftovers(&url);
        }
        users.lock_shared().unwrap_or_else(|e| panic!("{e}"));
        let locks = (directory.join("start.lock"), directory.join("users.lock"));
        Shared {
            url,
            _users: users,
            _watch: reaper::watch(&cluster.data(), Some((&locks.0, &locks.1))),
        }
    })
}

fn started(directory: &Path) -> Cluster {
    Cluster::ensure_started(directory, &Options::TEST).unwrap_or_else(|e| panic!("the tests need PostgreSQL: {e}"))
}

/// One per checkout and user. The name is short because a socket lives in it.
fn shared_directory() -> PathBuf {
    let checkout = env!("CARGO_MANIFEST_DIR").bytes();
    let hash = checkout.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let uid = nix::unistd::Uid::effective().as_raw();
    let directory = std::env::temp_dir().join(format!("howdah-tests-{uid}-{hash:016x}"));
    DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(&directory)
        .unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
    let found = directory.symlink_metadata().unwrap_or_else(|e| panic!("{e}"));
    assert!(
        found.is_dir() && found.uid() == uid,
        "{} belongs to somebody else; remove it or set TMPDIR",
        directory.display()
    );
    directory
}

fn open_lock(path: &Path) -> File {
    OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Databases and roles that killed tests left, and templates of older migrations.
fn remove_leftovers(url: &str) {
    let url = url.to_owned();
    let removing = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap_or_else(|e| panic!("{e}"));
        runtime.block_on(async {
            let mut connection = connect(&url).await;
            let databases: Vec<String> = sqlx::query_scalar(
                "select datname::text from pg_database where not datistemplate and datname <> 'postgres'",
            )
            .fetch_all(&mut connection)
            .await
            .unwrap_or_else(|e| panic!("{e}"));
            for name in databases {
                execute_on(
                    &mut connection,
                    &format!("drop database if exists \"{name}\" with (force)"),
                )
                .await;
            }
            let roles: Vec<String> = sqlx::query_scalar(
                "select rolname::text from pg_roles where rolname not like 'pg\\_%' and rolname <> current_user",
            )
            .fetch_all(&mut connection)
            .await
            .unwrap_or_else(|e| panic!("{e}"));
            for name in roles {
                let _ = connection
                    .execute(AssertSqlSafe(format!("drop role if exists \"{name}\"")))
                    .await;
            }
            let _ = connection.close().await;
        });
    });
    removing
        .join()
        .unwrap_or_else(|_| panic!("what earlier tests left behind could not be removed"));
}

async fn copy_of(server: String, template: &str) -> TestDatabase {
    let name = format!("test_{}", uuid::Uuid::now_v7().simple());
    execute(&server, &format!("create database {name} template {template}"))
        .await
        .unwrap_or_else(|e| panic!("no database for the test: {e}"));
    TestDatabase {
        url: with_database(&server, &name),
        server,
        name,
    }
}

fn template_name(migrations: &Migrator) -> String {
    let hash = migrations
        .iter()
        .flat_map(|m| m.checksum.iter())
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
    format!("template_{hash:016x}")
}

/// The URL with another database: its path is replaced.
fn with_database(url: &str, database: &str) -> String {
    let (before, query) = url.split_once('?').map_or((url, None), |(a, b)| (a, Some(b)));
    let after_scheme = before.find("://").map_or(0, |at| at + 3);
    let end = before[after_scheme..]
        .find('/')
        .map_or(before.len(), |at| after_scheme + at);
    let query = query.map_or_else(String::new, |q| format!("?{q}"));
    format!("{}/{database}{query}", &before[..end])
}

async fn connect(url: &str) -> PgConnection {
    let connecting = tokio::time::timeout(Duration::from_secs(30), PgConnection::connect(url));
    match connecting.await {
        Ok(Ok(connection)) => connection,
        Ok(Err(e)) => panic!("the test server cannot be reached: {e}"),
        Err(_) => panic!("the test server did not answer within 30 s"),
    }
}

async fn execute(url: &str, statement: &str) -> anyhow::Result<()> {
    let mut connection = PgConnection::connect(url).await?;
    connection.execute(AssertSqlSafe(statement.to_owned())).await?;
    connection.close().await?;
    Ok(())
}

async fn execute_on(connection: &mut PgConnection, statement: &str) {
    connection
        .execute(AssertSqlSafe(statement.to_owned()))
        .await
        .unwrap_or_else(|e| panic!("`{statement}` failed: {e}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_of_a_url_is_replaced() {
        assert_eq!(
            with_database("postgres://u:p@h:1/a?host=/s", "b"),
            "postgres://u:p@h:1/b?host=/s"
        );
        assert_eq!(with_database("postgres://u@h", "b"), "postgres://u@h/b");
    }
}
