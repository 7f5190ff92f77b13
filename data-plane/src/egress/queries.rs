//! SQL of what pipelines have sent, and where.

use std::collections::HashMap;

use chrono::{DateTime, Duration, Utc};
use contract::ids::JobId;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::failure::Answer;
use crate::permissions::System;

/// The place that a pipeline sends to, which is made if it is not there: its id, and the digest of what is complete there.
pub async fn place(conn: &mut PgConnection, _: &System, pipeline: Uuid, place: &str) -> Answer<(i64, Option<Vec<u8>>)> {
    let row = sqlx::query_as(
        "insert into egresses (pipeline_id, place) values ($1, $2)
         on conflict (pipeline_id, place) do update set place = excluded.place returning id, complete",
    )
    .bind(pipeline)
    .bind(place)
    .fetch_one(conn)
    .await?;
    Ok(row)
}

/// Says what is complete at a place, or that it may be anything.
pub async fn update_complete(conn: &mut PgConnection, _: &System, id: i64, digest: Option<&[u8]>) -> Answer<()> {
    sqlx::query("update egresses set complete = $2 where id = $1")
        .bind(id)
        .bind(digest)
        .execute(conn)
        .await?;
    Ok(())
}

/// Says that nothing is known of what is there, so that everything is sent again.
pub async fn doubt(conn: &mut PgConnection, _: &System, id: i64) -> Answer<()> {
    sqlx::query("update egress_objects set digest = null where egress_id = $1")
        .bind(id)
        .execute(conn)
        .await?;
    Ok(())
}

/// Of these paths, those that are known to be there, with what they hold.
pub async fn there(conn: &mut PgConnection, _: &System, id: i64, paths: &[&str]) -> Answer<HashMap<String, Vec<u8>>> {
    let rows = sqlx::query_as(
        "select path, digest from egress_objects where egress_id = $1 and path = any($2) and digest is not null",
    )
    .bind(id)
    .bind(paths)
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().collect())
}

/// Writes down that these paths are about to be written there: they may hold anything from now on.
pub async fn begin(conn: &mut PgConnection, _: &System, id: i64, paths: &[&str]) -> Answer<()> {
    sqlx::query(
        "insert into egress_objects (egress_id, path) select $1, path from unnest($2::text[]) p (path)
         on conflict (egress_id, path) do update set digest = null",
    )
    .bind(id)
    .bind(paths)
    .execute(conn)
    .await?;
    Ok(())
}

/// Writes down what these paths hold now.
pub async fn done(conn: &mut PgConnection, _: &System, id: i64, sent: &[(&str, &[u8])]) -> Answer<()> {
    sqlx::query(
        "update egress_objects o set digest = s.digest from unnest($2::text[], $3::bytea[]) s (path, digest)
          where o.egress_id = $1 and o.path = s.path",
    )
    .bind(id)
    .bind(sent.iter().map(|(path, _)| *path).collect::<Vec<_>>())
    .bind(sent.iter().map(|(_, digest)| *digest).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(())
}

/// What was ever put there, behind a path, in the order of their bytes.
pub async fn list(conn: &mut PgConnection, _: &System, id: i64, after: &str, limit: i64) -> Answer<Vec<String>> {
    let rows =
        sqlx::query_scalar("select path from egress_objects where egress_id = $1 and path > $2 order by path limit $3")
            .bind(id)
            .bind(after)
            .bind(limit)
            .fetch_all(conn)
            .await?;
    Ok(rows)
}

/// Forgets paths that are not there any more.
pub async fn forget(conn: &mut PgConnection, _: &System, id: i64, paths: &[&str]) -> Answer<()> {
    sqlx::query("delete from egress_objects where egress_id = $1 and path = any($2)")
        .bind(id)
        .bind(paths)
        .execute(conn)
        .await?;
    Ok(())
}

/// Whether a job is sending its output, and for how much longer it may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It is.
    Sending,
    /// It is not any more.
    Over,
    /// It took longer than this limit.
    Overdue(Duration),
}

/// How a job stands.
pub async fn standing(conn: &mut PgConnection, _: &System, job: JobId, now: DateTime<Utc>) -> Answer<Standing> {
    let row = sqlx::query_as::<_, (Option<DateTime<Utc>>, Option<i64>)>(
        "select j.started_at, v.job_timeout_ms from jobs j
           join pipeline_versions v on v.pipeline_id = j.pipeline_id and v.version = j.version
          where j.id = $1 and j.state = 'egressing'",
    )
    .bind(job.uuid())
    .fetch_optional(conn)
    .await?;
    let Some((started, limit)) = row else {
        return Ok(Standing::Over);
    };
    let limit = limit.map(Duration::milliseconds);
    let overdue = started.zip(limit).filter(|(started, limit)| now - *started > *limit);
    Ok(overdue.map_or(Standing::Sending, |(_, limit)| Standing::Overdue(limit)))
}

/// Tells readers of a job what its egress waits for; `None`: for nothing.
pub async fn update_reason(conn: &mut PgConnection, _: &System, job: JobId, reason: Option<&str>) -> Answer<()> {
    sqlx::query("update jobs set reason = $2 where id = $1 and state = 'egressing'")
        .bind(job.uuid())
        .bind(reason)
        .execute(conn)
        .await?;
    Ok(())
}
