//! SQL of sponsors.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use contract::api::Actor;
use contract::ids::{CommitId, DomainId, TeamId};
use contract::names::BranchName;
use contract::policy::Principal;
use provenance::access::{Ground, Grounds};
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use crate::commits;
use crate::failure::Answer;
use crate::permissions::System;

/// Whether a pipeline may go on is asked of these.
#[derive(Debug, Clone, FromRow)]
pub struct SponsoredRow {
    /// The pipeline.
    pub id: Uuid,
    /// Its state.
    pub state: String,
    /// Why.
    pub reason: Option<String>,
    /// Who applied its newest version.
    pub actor: Json<Actor>,
    /// The repos that it reads.
    pub inputs: Vec<Uuid>,
    /// The origin sets of what its inputs point at.
    pub heads: Vec<i64>,
    /// The repos of inputs that point at nothing.
    pub empty: Vec<Uuid>,
}

/// The pipelines that are not deleted, or of them those.
pub async fn list(conn: &mut PgConnection, _: &System, only: Option<&[Uuid]>) -> Answer<Vec<SponsoredRow>> {
    let rows = sqlx::query_as(
        "select p.id, p.state, p.reason, v.actor, array(select distinct repo_id from pipeline_inputs where pipeline_id = p.id) as inputs,
                array(select distinct c.origin_set_id from pipeline_inputs i
                        join branches b on b.repo_id = i.repo_id and b.name = i.branch
                        join commits c on c.id = b.head_id where i.pipeline_id = p.id) as heads,
                array(select distinct i.repo_id from pipeline_inputs i
                        left join branches b on b.repo_id = i.repo_id and b.name = i.branch
                       where i.pipeline_id = p.id and b.head_id is null) as empty
           from pipelines p join pipeline_versions v on v.pipeline_id = p.id and v.version = p.version
          where p.deleted_at is null and ($1::uuid[] is null or p.id = any($1)) order by p.id",
    )
    .bind(only)
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

/// A job that is not over: of which pipeline, who applied its version, what it reads.
#[derive(Debug, Clone, FromRow)]
pub struct UnfinishedRow {
    /// The job.
    pub id: Uuid,
    /// Its pipeline.
    pub pipeline_id: Uuid,
    /// Who applied its version.
    pub actor: Json<Actor>,
    /// The origin sets of its inputs.
    pub reads: Vec<i64>,
}

/// The jobs that are not over.
pub async fn list_unfinished(conn: &mut PgConnection, _: &System) -> Answer<Vec<UnfinishedRow>> {
    let rows = sqlx::query_as(
        "select j.id, j.pipeline_id, v.actor, array(select distinct c.origin_set_id from job_inputs i
                   join commits c on c.id = i.commit_id where i.job_id = j.id) as reads
           from jobs j join pipeline_versions v on v.pipeline_id = j.pipeline_id and v.version = j.version
          where j.finished_at is null order by j.seq",
    )
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

/// What is kept of the sponsors of these pipelines.
pub async fn grounds(
    conn: &mut PgConnection,
    _: &System,
    pipelines: &[Uuid],
) -> Answer<HashMap<(Uuid, Principal), Grounds>> {
    let rows: Vec<(Uuid, String, Uuid, bool, Vec<Uuid>)> = sqlx::query_as(
        "select pipeline_id, sponsor, domain_id, own, teams from pipeline_grounds where pipeline_id = any($1)",
    )
    .bind(pipelines)
    .fetch_all(conn)
    .await?;
    let mut kept: HashMap<(Uuid, Principal), Grounds> = HashMap::new();
    for (pipeline, sponsor, domain, own, teams) in rows {
        let ground = Ground {
            own,
            teams: teams.into_iter().map(TeamId::from_uuid).collect(),
        };
        let of = kept.entry((pipeline, sponsor.parse()?)).or_default();
        of.insert(DomainId::from_uuid(domain), ground);
    }
    Ok(kept)
}

/// Keeps what a sponsor was found to hold.
pub async fn keep(
    conn: &mut PgConnection,
    _: &System,
    (pipeline, sponsor): (Uuid, Principal),
    domain: DomainId,
    ground: &Ground,
) -> Answer<()> {
    sqlx::query(
        "insert into pipeline_grounds (pipeline_id, sponsor, domain_id, own, teams) values ($1, $2, $3, $4, $5)
         on conflict (pipeline_id, sponsor, domain_id) do update set own = excluded.own, teams = excluded.teams",
    )
    .bind(pipeline)
    .bind(sponsor.to_string())
    .bind(domain.uuid())
    .bind(ground.own)
    .bind(ground.teams.iter().map(|id| id.uuid()).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(())
}

/// Lets a suspended pipeline run; answers whether it was one.
pub async fn resume(conn: &mut PgConnection, _: &System, pipeline: Uuid) -> Answer<bool> {
    let done = sqlx::query(
        "update pipelines set state = 'running', reason = null, reason_job_id = null
          where id = $1 and state = 'suspended' and deleted_at is null",
    )
    .bind(pipeline)
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Locks these jobs and what they serve, in the order of everybody who locks several.
pub async fn lock_jobs(conn: &mut PgConnection, _: &System, jobs: &[Uuid]) -> Answer<()> {
    for sql in [
        "select job_id from services where job_id = any($1) order by job_id for update",
        "select id from jobs where id = any($1) order by id for update",
    ] {
        sqlx::query(sql).bind(jobs).execute(&mut *conn).await?;
    }
    Ok(())
}

/// Where suspended pipelines put what they made.
pub async fn outputs_of_suspended(conn: &mut PgConnection, _: &System) -> Answer<Vec<(DomainId, BranchName)>> {
    let rows: Vec<(Uuid, String)> = sqlx::query_as(
        "select id, output_branch from pipelines where state = 'suspended' and deleted_at is null order by id",
    )
    .fetch_all(conn)
    .await?;
    let outputs = rows.into_iter();
    outputs
        .map(|(id, branch)| Ok((DomainId::from_uuid(id), branch.parse()?)))
        .collect()
}

/// Points the output branches of these pipelines at the newest finished commits that they have, where they point at an
/// errored one: what was not finished is dropped whole.
pub async fn move_back(conn: &mut PgConnection, system: &System, pipelines: &[Uuid], at: DateTime<Utc>) -> Answer<()> {
    let moved: Vec<(Uuid, String, Option<Uuid>)> = sqlx::query_as(
        "with recursive chain (repo_id, name, id, parent_id, state, depth) as (
            select b.repo_id, b.name, c.id, c.parent_id, c.state, 0
              from branches b join commits c on c.id = b.head_id join pipelines p on p.id = b.repo_id
             where p.id = any($1) and b.name = p.output_branch and c.state = 'errored'
            union all
            select chain.repo_id, chain.name, p.id, p.parent_id, p.state, depth + 1
              from chain join commits p on p.id = chain.parent_id where chain.state <> 'finished'
         ), found as (
            select distinct on (repo_id, name) repo_id, name, case when state = 'finished' then id end as id
              from chain order by repo_id, name, depth desc
         )
         update branches b set head_id = found.id from found
          where b.repo_id = found.repo_id and b.name = found.name returning b.repo_id, b.name, b.head_id",
    )
    .bind(pipelines)
    .fetch_all(&mut *conn)
    .await?;
    for (repo, branch, head) in moved {
        let (repo, branch): (_, BranchName) = (DomainId::from_uuid(repo), branch.parse()?);
        commits::queries::insert_move(conn, system, repo, &branch, head.map(CommitId::from_uuid), at).await?;
    }
    Ok(())
}
