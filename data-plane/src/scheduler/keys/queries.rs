//! SQL of the indexes of keys.
//!
//! Rows are looked up one key at a time, by a lateral select that `offset 0` keeps from becoming a join: where statistics are
//! older than an index, the planner takes any other way for cheaper that reads all of the index's rows.

use contract::ids::{CommitId, DomainId, JobId};
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use super::Row;
use crate::failure::Answer;
use crate::permissions::System;

/// An index.
#[derive(FromRow)]
pub struct IndexRow {
    /// Its id.
    pub id: i64,
    /// Digest of glob and templates.
    pub shape: Vec<u8>,
    /// Digest of the tree that it is of.
    pub tree_digest: Vec<u8>,
    /// That tree, if it is kept.
    pub root: Option<Vec<u8>>,
}

/// Locks a job that is being planned; answers whether it still is.
pub async fn lock_starting(conn: &mut PgConnection, _: &System, job: JobId) -> Answer<bool> {
    let found: Option<i32> =
        sqlx::query_scalar("select 1 from jobs where id = $1 and state = 'starting' for no key update")
            .bind(job.uuid())
            .fetch_optional(conn)
            .await?;
    Ok(found.is_some())
}

/// The index of a leaf.
pub async fn find_index(
    conn: &mut PgConnection,
    _: &System,
    pipeline: Uuid,
    position: i32,
) -> Answer<Option<IndexRow>> {
    let row = sqlx::query_as(
        "select i.id, i.shape, i.tree_digest, c.root from leaf_indexes i
           left join job_inputs j on j.job_id = i.job_id and j.position = i.position
           left join commits c on c.id = j.commit_id
          where i.pipeline_id = $1 and i.position = $2 and i.whole",
    )
    .bind(pipeline)
    .bind(position)
    .fetch_optional(conn)
    .await?;
    Ok(row)
}

/// Where an index belongs.
#[derive(Clone, Copy)]
pub struct NewIndex<'a> {
    /// The pipeline.
    pub pipeline: Uuid,
    /// The leaf.
    pub position: i32,
    /// Digest of glob and templates.
    pub shape: &'a [u8; 32],
    /// The job that is planned.
    pub job: JobId,
    /// Digest of the tree that the leaf reads in it.
    pub tree: &'a [u8; 32],
}

/// Begins an index in place of all that are there of that leaf, which are gone then.
pub async fn insert_index(conn: &mut PgConnection, _: &System, new: NewIndex<'_>) -> Answer<i64> {
    sqlx::query(
        "update leaf_indexes set gone = true, whole = false where pipeline_id = $1 and position = $2 and not gone",
    )
    .bind(new.pipeline)
    .bind(new.position)
    .execute(&mut *conn)
    .await?;
    let id = sqlx::query_scalar(
        "insert into leaf_indexes (pipeline_id, position, shape, job_id, tree_digest) values ($1, $2, $3, $4, $5)
         returning id",
    )
    .bind(new.pipeline)
    .bind(new.position)
    .bind(&new.shape[..])
    .bind(new.job.uuid())
    .bind(&new.tree[..])
    .fetch_one(conn)
    .await?;
    Ok(id)
}

/// Says what an index is of now, all rows being written; answers whether it is not gone.
pub async fn update_index(conn: &mut PgConnection, _: &System, id: i64, job: JobId, tree: &[u8; 32]) -> Answer<bool> {
    let done =
        sqlx::query("update leaf_indexes set whole = true, job_id = $2, tree_digest = $3 where id = $1 and not gone")
            .bind(id)
            .bind(job.uuid())
            .bind(&tree[..])
            .execute(conn)
            .await?;
    Ok(done.rows_affected() == 1)
}

/// Adds rows; those that are there stay. One that is gone gets none.
pub async fn insert_keys(conn: &mut PgConnection, _: &System, index: i64, rows: &[Row]) -> Answer<()> {
    sqlx::query(
        "insert into leaf_keys (index_id, key, place, path, directory)
         select i.id, r.key, r.place, r.path, r.directory
           from unnest($2::bytea[], $3::bytea[], $4::text[], $5::boolean[]) r (key, place, path, directory)
           join leaf_indexes i on i.id = $1 and not i.gone
         on conflict do nothing",
    )
    .bind(index)
    .bind(rows.iter().map(|r| &r.key[..]).collect::<Vec<_>>())
    .bind(rows.iter().map(|r| &r.place[..]).collect::<Vec<_>>())
    .bind(rows.iter().map(|r| r.path.as_str()).collect::<Vec<_>>())
    .bind(rows.iter().map(|r| r.directory).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(())
}

/// Removes rows.
pub async fn delete_keys(conn: &mut PgConnection, _: &System, index: i64, rows: &[Row]) -> Answer<()> {
    sqlx::query(
        "delete from leaf_keys where ctid = any (array(
             select k.row from unnest($2::bytea[], $3::bytea[]) r (key, place)
              cross join lateral (select k.ctid as row from leaf_keys k
                                   where k.index_id = $1 and k.key = r.key and k.place = r.place offset 0) k))",
    )
    .bind(index)
    .bind(rows.iter().map(|r| &r.key[..]).collect::<Vec<_>>())
    .bind(rows.iter().map(|r| &r.place[..]).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(())
}

/// The matches of these keys: path, whether it is a directory.
pub async fn list_keyed(
    conn: &mut PgConnection,
    _: &System,
    index: i64,
    keys: &[[u8; 16]],
) -> Answer<Vec<(String, bool)>> {
    let rows = sqlx::query_as(
        "select k.path, k.directory from unnest($2::bytea[]) w (key)
          cross join lateral (select path, directory from leaf_keys where index_id = $1 and key = w.key offset 0) k",
    )
    .bind(index)
    .bind(keys.iter().map(|k| &k[..]).collect::<Vec<_>>())
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

/// The indexes of commits whose content goes are gone.
pub async fn forget_commits(conn: &mut PgConnection, _: &System, commits: &[CommitId]) -> Answer<()> {
    sqlx::query(
        "update leaf_indexes i set gone = true, whole = false from job_inputs j
          where not i.gone and j.job_id = i.job_id and j.position = i.position and j.commit_id = any($1)",
    )
    .bind(commits.iter().map(|c| c.uuid()).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(())
}

/// All indexes of pipelines are gone.
pub async fn forget_pipelines(conn: &mut PgConnection, _: &System, pipelines: &[DomainId]) -> Answer<()> {
    sqlx::query("update leaf_indexes set gone = true, whole = false where pipeline_id = any($1) and not gone")
        .bind(pipelines.iter().map(|p| p.uuid()).collect::<Vec<_>>())
        .execute(conn)
        .await?;
    Ok(())
}

/// The indexes of leaves that have no keys any more, all but these, are gone.
pub async fn forget_others(conn: &mut PgConnection, _: &System, pipeline: Uuid, keyed: &[i32]) -> Answer<()> {
    sqlx::query(
        "update leaf_indexes set gone = true, whole = false
          where pipeline_id = $1 and whole and not position = any($2)",
    )
    .bind(pipeline)
    .bind(keyed)
    .execute(conn)
    .await?;
    Ok(())
}

/// Indexes that nobody can use any more are gone: of content that is, of deleted pipelines, and half-written ones of jobs
/// that are over.
pub async fn forget_unusable(conn: &mut PgConnection, _: &System) -> Answer<()> {
    sqlx::query(
        "update leaf_indexes i set gone = true, whole = false
          where not i.gone and (
                exists (select 1 from job_inputs j join commits c on c.id = j.commit_id
                         where j.job_id = i.job_id and j.position = i.position and c.root is null)
             or exists (select 1 from repos r where r.id = i.pipeline_id and r.deleted_at is not null)
             or not i.whole and exists (select 1 from jobs j where j.id = i.job_id and j.finished_at is not null))",
    )
    .execute(conn)
    .await?;
    Ok(())
}
