//! SQL of statistics.

use chrono::{DateTime, Utc};
use contract::ids::JobId;
use sqlx::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use crate::failure::Answer;
use crate::permissions::System;

/// When the last of the inputs of each of these jobs was finished; none while one is not.
pub async fn list_ready(
    conn: &mut PgConnection,
    _: &System,
    jobs: &[Uuid],
) -> Answer<Vec<(Uuid, Option<DateTime<Utc>>)>> {
    let rows = sqlx::query_as(
        "select i.job_id, case when bool_and(c.finished_at is not null) then max(c.finished_at) end
           from job_inputs i join commits c on c.id = i.commit_id where i.job_id = any($1) group by i.job_id",
    )
    .bind(jobs)
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

/// The spec of a job's version, and its pipeline's project.
pub async fn find_spec(conn: &mut PgConnection, _: &System, job: JobId) -> Answer<Option<(serde_json::Value, String)>> {
    let row: Option<(Json<serde_json::Value>, String)> = sqlx::query_as(
        "select v.spec, p.name from jobs j
           join pipeline_versions v on v.pipeline_id = j.pipeline_id and v.version = j.version
           join repos r on r.id = j.pipeline_id join projects p on p.id = r.project_id where j.id = $1",
    )
    .bind(job.uuid())
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|(spec, project)| (spec.0, project)))
}

/// Which of these jobs read the outputs of which others of them: reader, read.
pub async fn list_edges(conn: &mut PgConnection, _: &System, jobs: &[Uuid]) -> Answer<Vec<(Uuid, Uuid)>> {
    let rows = sqlx::query_as(
        "select distinct i.job_id, u.id from job_inputs i join jobs u on u.output_commit_id = i.commit_id
          where i.job_id = any($1) and u.id = any($1)",
    )
    .bind(jobs)
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

/// The job before each of these in its pipeline, which it waits for unless it is a reproduction: job, the one before, when that ended, its output's origin set.
pub async fn list_before(
    conn: &mut PgConnection,
    _: &System,
    jobs: &[Uuid],
) -> Answer<Vec<(Uuid, Uuid, Option<DateTime<Utc>>, i64)>> {
    let rows = sqlx::query_as(
        "select j.id, b.id, b.finished_at, c.origin_set_id from jobs j cross join lateral (
             select id, finished_at, output_commit_id from jobs
              where pipeline_id = j.pipeline_id and reproduces is null and seq < j.seq order by seq desc limit 1) b
           join commits c on c.id = b.output_commit_id where j.id = any($1) and j.reproduces is null",
    )
    .bind(jobs)
    .fetch_all(conn)
    .await?;
    Ok(rows)
}
