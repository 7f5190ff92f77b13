//! SQL of how pipelines stand.

use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use crate::failure::Answer;
use crate::permissions::System;

/// What the jobs of a pipeline say of it.
#[derive(Debug, FromRow)]
pub struct StandingRow {
    /// The pipeline.
    pub id: Uuid,
    /// Its newest version.
    pub version: i32,
    /// The version of the newest job whose datums were worked out, or that is over.
    pub worked: Option<i32>,
    /// What the first of its jobs that are not over does; those that serve have no end, so nothing waits for it.
    pub open_state: Option<String>,
    /// The version that it runs.
    pub open_version: Option<i32>,
    /// Inputs whose branch has no commit.
    pub empty: Vec<String>,
}

/// Of these pipelines.
pub async fn list(conn: &mut PgConnection, _: &System, pipelines: &[Uuid]) -> Answer<Vec<StandingRow>> {
    let rows = sqlx::query_as(
        "select p.id, p.version, o.state as open_state, o.version as open_version,
                (select j.version from jobs j where j.pipeline_id = p.id and j.reproduces is null
                    and (j.finished_at is not null or j.state not in ('created', 'starting'))
                  order by j.seq desc limit 1) as worked,
                array(select i.name from pipeline_inputs i
                        left join branches b on b.repo_id = i.repo_id and b.name = i.branch
                       where i.pipeline_id = p.id and b.head_id is null order by i.position) as empty
           from pipelines p left join lateral (
                select state, version from jobs
                 where pipeline_id = p.id and finished_at is null and reproduces is null
                    and not exists (select 1 from services s where s.job_id = jobs.id)
                  order by seq limit 1) o on true
          where p.id = any($1)",
    )
    .bind(pipelines)
    .fetch_all(conn)
    .await?;
    Ok(rows)
}
