//! SQL of readings.

use chrono::{DateTime, Utc};
use contract::ids::{CommitId, DomainId};
use contract::policy::Principal;
use sqlx::PgConnection;
use uuid::Uuid;

use super::Reading;
use crate::failure::{Answer, Failure};
use crate::permissions::{Allowed, System};

/// Writes who read what; who read it before did so again.
///
/// # Errors
/// When the database is away.
pub async fn upsert(conn: &mut PgConnection, _: &System, readings: &[Reading]) -> Answer<()> {
    let commits: Vec<Uuid> = readings.iter().map(|r| r.commit.uuid()).collect();
    let readers: Vec<String> = readings.iter().map(|r| r.reader.to_string()).collect();
    let names: Vec<&str> = readings.iter().map(|r| r.name.as_str()).collect();
    let times: Vec<DateTime<Utc>> = readings.iter().map(|r| r.at).collect();
    sqlx::query(
        "insert into readings (commit_id, principal, name, first_at, last_at)
         select commit_id, principal, max(name), min(at), max(at)
           from unnest($1::uuid[], $2::text[], $3::text[], $4::timestamptz[]) as r (commit_id, principal, name, at)
          group by commit_id, principal order by commit_id, principal
         on conflict (commit_id, principal) do update
            set last_at = greatest(readings.last_at, excluded.last_at), name = excluded.name",
    )
    .bind(commits)
    .bind(readers)
    .bind(names)
    .bind(times)
    .execute(conn)
    .await?;
    Ok(())
}

/// What somebody read of the asked origin sets: one commit, or all that the asker may not know of together.
pub struct Found {
    /// What was read, and in which repo. `None`: something hidden.
    pub commit: Option<(CommitId, DomainId)>,
    /// Who.
    pub reader: Principal,
    /// What he was called.
    pub name: String,
    /// When first.
    pub first_at: DateTime<Utc>,
    /// When last, to the hour.
    pub last_at: DateTime<Utc>,
}

impl Found {
    /// Its place in the list.
    pub fn position(&self) -> (String, Uuid) {
        let commit = self.commit.map_or(Uuid::nil(), |(commit, _)| commit.uuid());
        (self.reader.to_string(), commit)
    }
}

/// Who read commits of these origin sets since then: by reader and commit, beginning behind `after`. What lies in other repos than the
/// `shown` ones is one row for each reader, so that not even its number is told.
///
/// # Errors
/// When the database is away.
pub async fn list(
    conn: &mut PgConnection,
    _: &Allowed,
    (sets, shown, since): (&[i64], &[Uuid], DateTime<Utc>),
    after: Option<(String, Uuid)>,
    limit: i64,
) -> Answer<Vec<Found>> {
    let (reader, commit) = match after {
        Some((reader, commit)) => (reader, Some(commit)),
        None => (String::new(), None),
    };
    type Row = (Uuid, Option<Uuid>, String, String, DateTime<Utc>, DateTime<Utc>);
    let rows: Vec<Row> = sqlx::query_as(
        "with read as (
             select r.principal, r.name, r.first_at, r.last_at,
                    case when c.repo_id = any($2) then r.commit_id else '00000000-0000-0000-0000-000000000000' end as commit_id,
                    case when c.repo_id = any($2) then c.repo_id end as repo_id
               from readings r join commits c on c.id = r.commit_id
              where c.origin_set_id = any($1) and r.last_at >= $3 and r.principal >= $4)
         select commit_id, repo_id, principal, max(name), min(first_at), max(last_at) from read
          where principal > $4 or $5::uuid is null or commit_id > $5
          group by principal, commit_id, repo_id order by principal, commit_id limit $6",
    )
    .bind(sets)
    .bind(shown)
    .bind(since)
    .bind(reader)
    .bind(commit)
    .bind(limit)
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|(commit, repo, reader, name, first_at, last_at)| {
            Ok(Found {
                commit: repo.map(|repo| (CommitId::from_uuid(commit), DomainId::from_uuid(repo))),
                reader: reader.parse().map_err(Failure::internal)?,
                name,
                first_at,
                last_at,
            })
        })
        .collect()
}

/// The ids of all origin sets.
///
/// # Errors
/// When the database is away.
pub async fn origin_sets(conn: &mut PgConnection, _: &System) -> Answer<Vec<i64>> {
    Ok(sqlx::query_scalar("select id from origin_sets order by id")
        .fetch_all(conn)
        .await?)
}

/// How many finished commits have each origin set.
///
/// # Errors
/// When the database is away.
pub async fn count_by_origins(conn: &mut PgConnection, _: &System) -> Answer<Vec<(i64, i64)>> {
    let rows = sqlx::query_as(
        "select origin_set_id, count(*) from commits where state = 'finished' group by origin_set_id order by origin_set_id",
    )
    .fetch_all(conn)
    .await?;
    Ok(rows)
}
