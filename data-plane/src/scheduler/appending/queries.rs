//! SQL of pieces of files that several datums write. As in the indexes of keys, rows are looked up one at a time, whatever
//! the statistics say.

use contract::ids::{CommitId, DomainId, JobId};
use sqlx::PgConnection;
use uuid::Uuid;

use super::Stored;
use crate::failure::Answer;
use crate::permissions::System;

/// The state that is of this job's output, if it is kept.
pub async fn find_state(conn: &mut PgConnection, _: &System, pipeline: Uuid, job: Uuid) -> Answer<Option<i64>> {
    let id = sqlx::query_scalar("select id from append_states where pipeline_id = $1 and job_id = $2 and whole")
        .bind(pipeline)
        .bind(job)
        .fetch_optional(conn)
        .await?;
    Ok(id)
}

/// What datums wrote to these paths, but for those of some keys.
pub async fn list_pieces(
    conn: &mut PgConnection,
    _: &System,
    state: i64,
    paths: &[[u8; 32]],
    but: &[&[u8]],
) -> Answer<Vec<(Vec<u8>, Vec<u8>, Vec<u8>)>> {
    let rows = sqlx::query_as(
        "select a.place, a.key, a.piece from unnest($2::bytea[]) w (path_digest)
          cross join lateral (select place, key, piece from appended
                               where state_id = $1 and path_digest = w.path_digest offset 0) a
          where not exists (select 1 from unnest($3::bytea[]) b (key) where b.key = a.key)",
    )
    .bind(state)
    .bind(paths.iter().map(|p| &p[..]).collect::<Vec<_>>())
    .bind(but)
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

/// Begins a state of a job; one that was begun before for it is gone.
pub async fn insert_state(conn: &mut PgConnection, _: &System, pipeline: Uuid, job: JobId) -> Answer<i64> {
    sqlx::query("update append_states set gone = true where job_id = $1 and not whole and not gone")
        .bind(job.uuid())
        .execute(&mut *conn)
        .await?;
    let id = sqlx::query_scalar("insert into append_states (pipeline_id, job_id) values ($1, $2) returning id")
        .bind(pipeline)
        .bind(job.uuid())
        .fetch_one(conn)
        .await?;
    Ok(id)
}

/// Makes a state that of a job that has succeeded, the only one of its pipeline; answers whether it was there.
pub async fn update_state(conn: &mut PgConnection, _: &System, pipeline: Uuid, state: i64, job: JobId) -> Answer<bool> {
    sqlx::query("update append_states set gone = true, whole = false where pipeline_id = $1 and id <> $2 and not gone")
        .bind(pipeline)
        .bind(state)
        .execute(&mut *conn)
        .await?;
    let done = sqlx::query("update append_states set whole = true, job_id = $2 where id = $1 and not gone")
        .bind(state)
        .bind(job.uuid())
        .execute(conn)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Adds pieces; a state that is gone gets none.
pub async fn insert_pieces(conn: &mut PgConnection, _: &System, state: i64, pieces: &[Stored]) -> Answer<()> {
    sqlx::query(
        "insert into appended (state_id, path_digest, key, place, piece)
         select s.id, r.path_digest, r.key, r.place, r.piece
           from unnest($2::bytea[], $3::bytea[], $4::bytea[], $5::bytea[]) r (path_digest, key, place, piece)
           join append_states s on s.id = $1 and not s.gone",
    )
    .bind(state)
    .bind(pieces.iter().map(|p| &p.path_digest[..]).collect::<Vec<_>>())
    .bind(pieces.iter().map(|p| p.key.as_slice()).collect::<Vec<_>>())
    .bind(pieces.iter().map(|p| p.place.as_slice()).collect::<Vec<_>>())
    .bind(pieces.iter().map(|p| p.piece.as_slice()).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(())
}

/// Removes the pieces of datums.
pub async fn delete_pieces(conn: &mut PgConnection, _: &System, state: i64, keys: &[&[u8]]) -> Answer<()> {
    sqlx::query(
        "delete from appended where ctid = any (array(
             select a.row from unnest($2::bytea[]) w (key)
              cross join lateral (select ctid as row from appended where state_id = $1 and key = w.key offset 0) a))",
    )
    .bind(state)
    .bind(keys)
    .execute(conn)
    .await?;
    Ok(())
}

/// What was written in jobs whose output goes is gone.
pub async fn forget_outputs(conn: &mut PgConnection, _: &System, commits: &[CommitId]) -> Answer<()> {
    sqlx::query(
        "update append_states s set gone = true, whole = false from jobs j
          where not s.gone and j.id = s.job_id and j.output_commit_id = any($1)",
    )
    .bind(commits.iter().map(|c| c.uuid()).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(())
}

/// What datums of pipelines wrote is gone.
pub async fn forget_pipelines(conn: &mut PgConnection, _: &System, pipelines: &[DomainId]) -> Answer<()> {
    sqlx::query("update append_states set gone = true, whole = false where pipeline_id = any($1) and not gone")
        .bind(pipelines.iter().map(|p| p.uuid()).collect::<Vec<_>>())
        .execute(conn)
        .await?;
    Ok(())
}

/// What nobody reads any more is gone: of deleted pipelines, and begun by jobs that did not succeed.
pub async fn forget_unusable(conn: &mut PgConnection, _: &System) -> Answer<()> {
    sqlx::query(
        "update append_states s set gone = true, whole = false
          where not s.gone and (
                exists (select 1 from repos r where r.id = s.pipeline_id and r.deleted_at is not null)
             or not s.whole and exists (select 1 from jobs j where j.id = s.job_id and j.finished_at is not null))",
    )
    .execute(conn)
    .await?;
    Ok(())
}
