//! SQL of the statistics. Only finished commits that still have their content count.

use contract::ids::DomainId;
use sqlx::{FromRow, PgConnection};

use crate::failure::Answer;
use crate::permissions::System;

const AT_ONCE: i64 = 500;

/// What some commits hold together, as if each were stored by itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sums {
    /// How many commits.
    pub commits: u64,
    /// How many files.
    pub files: u64,
    /// Bytes of the files.
    pub bytes: u64,
}

impl FromRow<'_, sqlx::postgres::PgRow> for Sums {
    fn from_row(row: &sqlx::postgres::PgRow) -> Result<Self, sqlx::Error> {
        use sqlx::Row;
        let number = |column| -> Result<u64, sqlx::Error> { Ok(row.try_get::<i64, _>(column)?.unsigned_abs()) };
        Ok(Self {
            commits: number("commits")?,
            files: number("files")?,
            bytes: number("bytes")?,
        })
    }
}

/// A page of trees.
pub struct Roots {
    /// `storage::TreeRef`s.
    pub roots: Vec<Vec<u8>>,
    /// The place of the last one.
    pub last: i64,
}

fn page(rows: Vec<(i64, Vec<u8>)>) -> Option<Roots> {
    let last = rows.last()?.0;
    let roots = rows.into_iter().map(|(_, root)| root).collect();
    Some(Roots { roots, last })
}

/// What the newest finished commits of a repo's branches hold; one that several branches point to counts once.
pub async fn sum_heads(conn: &mut PgConnection, _: &System, repo: DomainId) -> Answer<Sums> {
    let sums = sqlx::query_as(
        "with recursive chain (id, parent_id, state) as (
             select c.id, c.parent_id, c.state from branches b join commits c on c.id = b.head_id where b.repo_id = $1
             union
             select c.id, c.parent_id, c.state from chain join commits c on c.id = chain.parent_id
              where chain.state <> 'finished'
         )
         select count(*) as commits, coalesce(sum(c.files), 0)::bigint as files,
                coalesce(sum(c.size_bytes), 0)::bigint as bytes
           from commits c where c.root is not null and c.id in (select id from chain where state = 'finished')",
    )
    .bind(repo.uuid())
    .fetch_one(conn)
    .await?;
    Ok(sums)
}

/// What all commits of a repo hold.
pub async fn sum_commits(conn: &mut PgConnection, _: &System, repo: DomainId) -> Answer<Sums> {
    let sums = sqlx::query_as(
        "select count(*) as commits, coalesce(sum(files), 0)::bigint as files,
                coalesce(sum(size_bytes), 0)::bigint as bytes
           from commits where repo_id = $1 and root is not null",
    )
    .bind(repo.uuid())
    .fetch_one(conn)
    .await?;
    Ok(sums)
}

/// The origin sets of a repo's commits.
pub async fn list_sets(conn: &mut PgConnection, _: &System, repo: DomainId) -> Answer<Vec<i64>> {
    let sets = sqlx::query_scalar("select distinct origin_set_id from commits where repo_id = $1 and root is not null")
        .bind(repo.uuid())
        .fetch_all(conn)
        .await?;
    Ok(sets)
}

/// The origin sets of the commits of all other repos that are not deleted.
pub async fn list_other_sets(conn: &mut PgConnection, _: &System, repo: DomainId) -> Answer<Vec<i64>> {
    let sets = sqlx::query_scalar(
        "select distinct c.origin_set_id from commits c join repos r on r.id = c.repo_id
          where c.repo_id <> $1 and c.root is not null and r.deleted_at is null",
    )
    .bind(repo.uuid())
    .fetch_all(conn)
    .await?;
    Ok(sets)
}

/// A page of the trees of a repo's commits.
pub async fn list_roots(conn: &mut PgConnection, _: &System, repo: DomainId, after: i64) -> Answer<Option<Roots>> {
    let rows = sqlx::query_as(
        "select seq, root from commits where repo_id = $1 and seq > $2 and root is not null order by seq limit $3",
    )
    .bind(repo.uuid())
    .bind(after)
    .bind(AT_ONCE)
    .fetch_all(conn)
    .await?;
    Ok(page(rows))
}

/// A page of the trees of the commits of other repos that have one of these origin sets.
pub async fn list_other_roots(
    conn: &mut PgConnection,
    _: &System,
    repo: DomainId,
    sets: &[i64],
    after: i64,
) -> Answer<Option<Roots>> {
    let rows = sqlx::query_as(
        "select c.seq, c.root from commits c join repos r on r.id = c.repo_id
          where c.repo_id <> $1 and c.origin_set_id = any($2) and c.seq > $3 and c.root is not null
            and r.deleted_at is null order by c.seq limit $4",
    )
    .bind(repo.uuid())
    .bind(sets)
    .bind(after)
    .bind(AT_ONCE)
    .fetch_all(conn)
    .await?;
    Ok(page(rows))
}
