//! SQL of the collection of garbage.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use contract::api::CollectionReport;
use sqlx::PgConnection;
use sqlx::types::Json;
use storage::Digest;
use uuid::Uuid;

use crate::failure::Answer;
use crate::permissions::System;

const AT_ONCE: i64 = 500;
/// A result may list half a million outputs, a row of changes hold small files.
const LARGE_AT_ONCE: i64 = 8;

/// Lets go of the contents of commits of deleted repos, unless an unfinished job reads them, and of the results of
/// pipelines whose repo is deleted: one that was deleted alone can be applied again and goes on from them. Rows, digests
/// and provenance stay.
pub async fn forget_deleted(conn: &mut PgConnection, _: &System) -> Answer<()> {
    sqlx::query(
        "update commits c set root = null from repos r
          where r.id = c.repo_id and r.deleted_at is not null and c.root is not null
            and not exists (select 1 from job_inputs i join jobs j on j.id = i.job_id
                             where i.commit_id = c.id and j.finished_at is null)",
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query(
        "delete from datum_results d using repos r
          where r.id = d.pipeline_id and r.deleted_at is not null
            and not exists (select 1 from jobs j where j.pipeline_id = r.id and j.finished_at is null)",
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Lets all that follows in the transaction see one moment.
pub async fn freeze(conn: &mut PgConnection, _: &System) -> Answer<()> {
    sqlx::query("set transaction isolation level repeatable read, read only")
        .execute(conn)
        .await?;
    Ok(())
}

/// The packs that receipts of purges wait for.
pub async fn list_purged(conn: &mut PgConnection, _: &System) -> Answer<HashSet<Digest>> {
    let packs: Vec<Vec<u8>> = sqlx::query_scalar("select distinct unnest(packs) from purges where erased_at is null")
        .fetch_all(conn)
        .await?;
    let ids = packs.iter().filter_map(|pack| pack.as_slice().try_into().ok());
    Ok(ids.map(Digest::from_bytes).collect())
}

/// A page of the trees of commits: place, `storage::TreeRef`.
pub async fn list_roots(conn: &mut PgConnection, _: &System, after: i64) -> Answer<Vec<(i64, Vec<u8>)>> {
    let rows =
        sqlx::query_as("select seq, root from commits where seq > $1 and root is not null order by seq limit $2")
            .bind(after)
            .bind(AT_ONCE)
            .fetch_all(conn)
            .await?;
    Ok(rows)
}

/// Bytes of the files of all commits that still have their content.
pub async fn sum_commits(conn: &mut PgConnection, _: &System) -> Answer<u64> {
    let bytes: i64 =
        sqlx::query_scalar("select coalesce(sum(size_bytes), 0)::bigint from commits where root is not null")
            .fetch_one(conn)
            .await?;
    Ok(bytes.unsigned_abs())
}

/// A page of the changes of open commits: commit, place, changes.
pub async fn list_filesets(
    conn: &mut PgConnection,
    _: &System,
    after: Option<(Uuid, i64)>,
) -> Answer<Vec<(Uuid, i64, Vec<u8>)>> {
    let (commit, seq) = after.unzip();
    let rows = sqlx::query_as(
        "select commit_id, seq, changes from filesets
          where $1::uuid is null or (commit_id, seq) > ($1, $2) order by commit_id, seq limit $3",
    )
    .bind(commit)
    .bind(seq)
    .bind(LARGE_AT_ONCE)
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

/// A page of what datums gave: pipeline, key, entries.
pub async fn list_results(
    conn: &mut PgConnection,
    _: &System,
    after: Option<&(Uuid, Vec<u8>)>,
) -> Answer<Vec<(Uuid, Vec<u8>, Vec<u8>)>> {
    let rows = sqlx::query_as(
        "select pipeline_id, key, outputs from datum_results
          where $1::uuid is null or (pipeline_id, key) > ($1, $2) order by pipeline_id, key limit $3",
    )
    .bind(after.map(|(pipeline, _)| *pipeline))
    .bind(after.map(|(_, key)| key))
    .bind(LARGE_AT_ONCE)
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

/// All condemned packs, and since when.
pub async fn list_condemned(conn: &mut PgConnection, _: &System) -> Answer<HashMap<Digest, DateTime<Utc>>> {
    let rows: Vec<(Vec<u8>, DateTime<Utc>)> = sqlx::query_as("select id, condemned_at from condemned_packs")
        .fetch_all(conn)
        .await?;
    Ok(rows
        .into_iter()
        .filter_map(|(id, at)| Some((Digest::from_bytes(id.try_into().ok()?), at)))
        .collect())
}

/// Notes that a pack was found unneeded.
pub async fn insert_condemned(conn: &mut PgConnection, _: &System, pack: Digest, at: DateTime<Utc>) -> Answer<()> {
    sqlx::query("insert into condemned_packs (id, condemned_at) values ($1, $2) on conflict do nothing")
        .bind(&pack.as_bytes()[..])
        .bind(at)
        .execute(conn)
        .await?;
    Ok(())
}

/// Drops that note.
pub async fn delete_condemned(conn: &mut PgConnection, _: &System, pack: Digest) -> Answer<()> {
    sqlx::query("delete from condemned_packs where id = $1")
        .bind(&pack.as_bytes()[..])
        .execute(conn)
        .await?;
    Ok(())
}

/// When the last collection ended.
pub async fn last_collection(conn: &mut PgConnection, _: &System) -> Answer<Option<DateTime<Utc>>> {
    let at = sqlx::query_scalar("select finished_at from collections order by seq desc limit 1")
        .fetch_optional(conn)
        .await?;
    Ok(at)
}

/// Keeps what a collection found.
pub async fn insert_collection(
    conn: &mut PgConnection,
    _: &System,
    at: DateTime<Utc>,
    report: &CollectionReport,
) -> Answer<()> {
    sqlx::query("insert into collections (finished_at, report) values ($1, $2)")
        .bind(at)
        .bind(Json(report))
        .execute(conn)
        .await?;
    Ok(())
}
