//! SQL of dry runs.

use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use crate::failure::Answer;
use crate::permissions::System;

/// What datums took, milliseconds.
#[derive(Debug, FromRow)]
pub struct Took {
    /// How many are looked at.
    pub datums: i64,
    /// From their inputs to their outputs, on average.
    pub mean_ms: Option<f64>,
    /// The same of the middle one.
    pub median_ms: Option<f64>,
    /// Processor time, on average.
    pub mean_cpu_ms: Option<f64>,
}

/// Of the last jobs of a pipeline that ran some, those whose outputs have one of these origin sets.
pub async fn took(conn: &mut PgConnection, _: &System, pipeline: Uuid, sets: &[i64]) -> Answer<Took> {
    let row = sqlx::query_as(
        "select count(*) as datums, avg(d.ms)::float8 as mean_ms, avg(d.cpu_ms)::float8 as mean_cpu_ms,
                percentile_cont(0.5) within group (order by d.ms) as median_ms
           from (select j.id from jobs j join commits c on c.id = j.output_commit_id and c.origin_set_id = any($2)
                  where j.pipeline_id = $1 and j.datums_succeeded > 0 order by j.seq desc limit 10) j
          cross join lateral (
                 select (download_ms + process_ms + upload_ms)::float8 as ms, cpu_ms from datums
                  where job_id = j.id and state = 'succeeded' order by position limit 1000) d",
    )
    .bind(pipeline)
    .bind(sets)
    .fetch_one(conn)
    .await?;
    Ok(row)
}
