//! Egress into a PostgreSQL database. The output's first directories are tables; what lies below one are its rows. All
//! tables that changed are loaded in one transaction, in which their rows are deleted before, so readers there see the old
//! ones or the new ones, and an egress that is done again doubles nothing. The tables belong to the pipeline.

use std::str::FromStr;
use std::time::Duration;

use futures::TryStreamExt;
use provenance::spec::{DatabaseTarget, RowFormat};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection};
use storage::{EntryKind, FilePath};

use super::rows::{self, Rows};
use super::{SELF, Sending, Trouble, queries};
use crate::failure::{Answer, Failure, is_away};
use crate::imports::Importer;

/// So many tables at most.
const TABLES: usize = 1000;
/// What PostgreSQL admits for a name, and as much for that of a schema before it.
const NAME_BYTES: usize = 63 * 2 + 1;
/// So long it waits for what others do with a table.
const LOCK_SECONDS: u32 = 60;
/// How long a statement may go without its answer.
const STATEMENT_MOST: Duration = Duration::from_secs(3600);

/// Whether the database may be reached at all.
pub(super) fn check(importer: &Importer, target: &DatabaseTarget) -> Answer<()> {
    if importer.reachable().names(&target.host) {
        return Ok(());
    }
    let detail = format!(
        "the database at `{}` may not be reached: who operates the service has to allow the host, for example by HOWDAH_IMPORT_ALLOW of `howdah up`",
        target.host
    );
    Err(Failure::invalid(detail))
}

/// A table of the output.
struct Table {
    /// The directory.
    name: String,
    /// What is in it, and how it is read.
    digest: [u8; 32],
}

/// Loads what changed.
pub(super) async fn send(sending: &Sending<'_>, target: &DatabaseTarget) -> Result<(), Trouble> {
    check(&sending.plane.importer, target)?;
    let tables = tables(sending, target).await?;
    let mut conn = sending.plane.pool.acquire().await.map_err(Failure::from)?;
    let names: Vec<&str> = tables.iter().map(|table| table.name.as_str()).collect();
    let there = queries::there(&mut conn, &SELF, sending.place, &names).await?;
    let changed: Vec<&Table> = tables
        .iter()
        .filter(|table| there.get(&table.name).is_none_or(|known| known[..] != table.digest))
        .collect();
    let before = queries::list(&mut conn, &SELF, sending.place, "", TABLES as i64 * 2).await?;
    let gone: Vec<&str> = before
        .iter()
        .map(String::as_str)
        .filter(|name| !names.contains(name))
        .collect();
    let names: Vec<&str> = changed.iter().map(|table| table.name.as_str()).collect();
    queries::begin(&mut conn, &SELF, sending.place, &names).await?;
    drop(conn);
    if !changed.is_empty() || !gone.is_empty() {
        load(sending, target, &changed, &gone).await?;
    }
    let mut conn = sending.plane.pool.acquire().await.map_err(Failure::from)?;
    let done: Vec<(&str, &[u8])> = changed
        .iter()
        .map(|table| (table.name.as_str(), &table.digest[..]))
        .collect();
    queries::done(&mut conn, &SELF, sending.place, &done).await?;
    queries::forget(&mut conn, &SELF, sending.place, &gone).await?;
    Ok(())
}

async fn tables(sending: &Sending<'_>, target: &DatabaseTarget) -> Result<Vec<Table>, Trouble> {
    let storage = &sending.plane.storage;
    let found = storage.list_directory(sending.tree, None, None, TABLES + 1).await?;
    if found.len() > TABLES {
        return Err(Trouble::Final(format!(
            "the output has more than {TABLES} directories, each of which is a table"
        )));
    }
    let mut tables = Vec::new();
    for entry in found {
        let path = entry.path;
        if entry.kind != EntryKind::Directory {
            return Err(Trouble::Final(format!(
                "`/{path}` does not lie below a directory named like a table; have the code write `/TABLE/{path}`"
            )));
        }
        if path.as_str().len() > NAME_BYTES {
            return Err(Trouble::Final(format!(
                "`/{path}` can be no table's name: it is too long"
            )));
        }
        let summary = storage.subtree_digest(sending.tree, Some(&path)).await?;
        let content = summary.ok_or_else(|| Failure::internal("a directory of an output is not there"))?;
        let read = format!("{:?} {:?}", target.format, target.columns);
        tables.push(Table {
            digest: *blake3::keyed_hash(content.digest.as_bytes(), read.as_bytes()).as_bytes(),
            name: path.as_str().to_owned(),
        });
    }
    Ok(tables)
}

async fn connect(sending: &Sending<'_>, target: &DatabaseTarget) -> Result<PgConnection, Trouble> {
    let mut keys = sending.keys().await?;
    let mut options = PgConnectOptions::new_without_pgpass()
        .host(&target.host)
        .port(target.port)
        .username(&target.user)
        .database(&target.database)
        .application_name("howdah egress")
        .ssl_mode(PgSslMode::from_str(target.ssl_mode.unwrap_or("prefer")).map_err(Failure::internal)?)
        .options([("lock_timeout", format!("{LOCK_SECONDS}s"))])
        // A statement holds no row, but names of columns that are not for everybody's log.
        .disable_statement_logging();
    options = match sending.egress.secret.as_ref().and_then(|secret| secret.key.as_ref()) {
        None => options.password(""),
        Some(key) => match keys.remove(key) {
            Some(password) => options.password(&password),
            None => {
                return Err(Trouble::Final(format!(
                    "its secret has no key `{key}`: set it by `howdah secret set`"
                )));
            }
        },
    };
    let limit = sending.plane.importer.idle();
    match tokio::time::timeout(limit, PgConnection::connect_with(&options)).await {
        Ok(connected) => connected.map_err(|error| trouble(&error)),
        Err(_) => Err(Trouble::Passing(format!("no answer came for {} s", limit.as_secs()))),
    }
}

/// The answer to a statement, if it comes while anybody can wait: a connection may be gone without a word.
async fn in_time<T>(answer: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    let late = |_| sqlx::Error::Io(std::io::Error::from(std::io::ErrorKind::TimedOut));
    tokio::time::timeout(STATEMENT_MOST, answer).await.map_err(late)?
}

async fn load(
    sending: &Sending<'_>,
    target: &DatabaseTarget,
    changed: &[&Table],
    gone: &[&str],
) -> Result<(), Trouble> {
    let mut conn = connect(sending, target).await?;
    let sql = |error: sqlx::Error| trouble(&error);
    // A connection that is dropped takes its transaction with it.
    let mut tx = conn.begin().await.map_err(sql)?;
    let mut old = Vec::new();
    for name in gone {
        let is_there = sqlx::query_scalar::<_, bool>("select to_regclass($1) is not null")
            .bind(quoted(name))
            .fetch_one(&mut *tx)
            .await
            .map_err(sql)?;
        if is_there {
            old.push(*name);
        }
    }
    let mut names: Vec<&str> = changed.iter().map(|table| table.name.as_str()).chain(old).collect();
    names.sort_unstable();
    for name in names {
        // Two that load at once would each leave the other's rows.
        for statement in [
            format!("lock table {} in share row exclusive mode", quoted(name)),
            format!("delete from {}", quoted(name)),
        ] {
            let done = in_time(sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *tx)).await;
            done.map_err(|error| of_table(name, &error))?;
        }
    }
    for table in changed {
        load_table(sending, target, &mut tx, &table.name).await?;
    }
    in_time(tx.commit()).await.map_err(sql)?;
    let _ = conn.close().await;
    Ok(())
}

async fn load_table(
    sending: &Sending<'_>,
    target: &DatabaseTarget,
    conn: &mut PgConnection,
    name: &str,
) -> Result<(), Trouble> {
    let mut columns = target.columns.clone();
    if columns.is_empty() {
        columns = sqlx::query_scalar(
            "select attname::text from pg_attribute where attrelid = to_regclass($1) and attnum > 0 and not attisdropped
                and attgenerated = '' and attidentity <> 'a' order by attnum",
        )
        .bind(quoted(name))
        .fetch_all(&mut *conn)
        .await
        .map_err(|error| of_table(name, &error))?;
    }
    let storage = &sending.plane.storage;
    let directory = FilePath::parse(name).map_err(Failure::internal)?;
    let mut files = storage.list(sending.tree, Some(&directory), None);
    while let Some((path, file)) = files.try_next().await? {
        let bytes = storage.read(&file, 0..file.size);
        let wrong = |why: String| Trouble::Final(format!("`/{path}` {why}"));
        let (columns, mut rows) = match target.format {
            RowFormat::Json => (columns.clone(), Rows::json(bytes, &columns)),
            RowFormat::Csv if target.columns.is_empty() => (columns.clone(), Rows::as_is(bytes)),
            RowFormat::Csv => Rows::headed(bytes, &columns).await?.map_err(wrong)?,
        };
        let names: Vec<String> = columns.iter().map(|column| identifier(column)).collect();
        let statement = format!("copy {} ({}) from stdin (format csv)", quoted(name), names.join(", "));
        let in_file = |error: sqlx::Error| match trouble(&error) {
            Trouble::Final(why) => Trouble::Final(format!("`/{path}`: {why}")),
            other => other,
        };
        let mut copy = conn.copy_in_raw(&statement).await.map_err(in_file)?;
        loop {
            match rows.next().await {
                Ok(Some(bytes)) => {
                    // What is wrong with the rows is told at the end.
                    copy.send(bytes).await.map_err(in_file)?;
                }
                Ok(None) => break,
                Err(rows::Wrong::Ours(error)) => return Err(error.into()),
                Err(rows::Wrong::Row(why)) => return Err(wrong(why)),
            }
        }
        in_time(copy.finish()).await.map_err(in_file)?;
    }
    Ok(())
}

/// A table's name in a statement; with its schema before it, if there is a dot.
fn quoted(name: &str) -> String {
    match name.split_once('.') {
        Some((schema, table)) => format!("{}.{}", identifier(schema), identifier(table)),
        None => identifier(name),
    }
}

fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn of_table(name: &str, error: &sqlx::Error) -> Trouble {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    if code.as_deref().is_some_and(|code| matches!(code, "42P01" | "3F000")) {
        return Trouble::Final(format!(
            "there is no table {} for the directory `/{name}`: create it, or have the code write another directory",
            quoted(name)
        ));
    }
    trouble(error)
}

fn trouble(error: &sqlx::Error) -> Trouble {
    let code = error
        .as_database_error()
        .and_then(|database| database.code().map(|code| code.to_string()));
    // A lock that others hold.
    let locked = code.as_deref() == Some("55P03");
    if is_away(error) || locked {
        return Trouble::Passing(match error.as_database_error() {
            Some(database) => database.message().to_owned(),
            None => crate::imports::innermost(error),
        });
    }
    match (error.as_database_error(), code) {
        (Some(database), Some(code)) if code.starts_with("28") || code == "42501" || code == "3D000" => {
            Trouble::Final(format!(
                "the database says: {}; correct role, password or database",
                database.message()
            ))
        }
        (Some(database), _) => Trouble::Final(format!(
            "the database says: {}; correct the table or the rows",
            database.message()
        )),
        (None, _) => Trouble::Passing(crate::imports::innermost(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn a_table_is_named_by_its_directory_whatever_that_holds() {
        assert_eq!(quoted("users"), "\"users\"");
        assert_eq!(quoted("Sales.by \"day\""), "\"Sales\".\"by \"\"day\"\"\"");
    }
}
