//! SQL of lineage.

use contract::ids::{CommitId, DomainId};
use provenance::origins::OriginSet;
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use crate::commits::CommitRow;
use crate::commits::log::uuids;
use crate::commits::queries::select_commits;
use crate::failure::Answer;
use crate::permissions::System;

type Edges = Vec<(CommitId, CommitId)>;

fn edges(rows: Vec<(Uuid, Uuid)>) -> Edges {
    let edge = |(made, source)| (CommitId::from_uuid(made), CommitId::from_uuid(source));
    rows.into_iter().map(edge).collect()
}

/// The bytes of an origin set that holds its own domain and nothing else: behind a commit that has such a one, no line
/// of parents holds anything that was copied.
fn own_bytes() -> i32 {
    let own = OriginSet::own(DomainId::from_uuid(Uuid::nil())).encode().len();
    i32::try_from(own).unwrap_or(0)
}

/// The sources of these commits: their direct inputs, and those of the commits before them on their branch where people
/// or spouts made them. Pairs of (what was made, what it was made from).
pub async fn list_sources(conn: &mut PgConnection, _: &System, commits: &[CommitId]) -> Answer<Edges> {
    let rows = sqlx::query_as(
        "with recursive line (made, id) as (
            select id, id from commits where id = any($1)
            union all
            select line.made, p.id from line join commits c on c.id = line.id join commits p on p.id = c.parent_id
              join origin_sets o on o.id = p.origin_set_id
             where (c.pipeline_id is null or c.unattested_id is not null) and not c.replaces
               and octet_length(o.entries) > $2
         ) select distinct line.made, i.input_id from line join commit_inputs i on i.commit_id = line.id",
    )
    .bind(uuids(commits))
    .bind(own_bytes())
    .fetch_all(conn)
    .await?;
    Ok(edges(rows))
}

/// The commits before these on their branches that are finished, or were until they were given up, where people made them, at most so many of each, newest first.
/// Pairs of (commit, one before it).
pub async fn list_earlier(conn: &mut PgConnection, _: &System, commits: &[CommitId], most: i32) -> Answer<Edges> {
    if commits.is_empty() {
        return Ok(Vec::new());
    }
    let rows = sqlx::query_as(
        "with recursive line (commit, id, n) as (
            select id, parent_id, 1 from commits where id = any($1) and (pipeline_id is null or unattested_id is not null)
               and not replaces and parent_id is not null
            union all
            select line.commit, c.parent_id, n + 1 from line join commits c on c.id = line.id
             where c.parent_id is not null and not c.replaces and n < $2
         ) select line.commit, line.id from line join commits c on c.id = line.id
            where c.digest is not null order by line.commit, n",
    )
    .bind(uuids(commits))
    .bind(most)
    .fetch_all(conn)
    .await?;
    Ok(edges(rows))
}

/// What was made from these commits: the same edges, seen from the other end. What was made only to be compared is no part
/// of it.
pub async fn list_results(conn: &mut PgConnection, _: &System, commits: &[CommitId]) -> Answer<Edges> {
    let rows = sqlx::query_as(
        "with recursive line (made, source) as (
            select commit_id, input_id from commit_inputs where input_id = any($1)
            union
            select c.id, line.source from line join commits c on c.parent_id = line.made
             where (c.pipeline_id is null or c.unattested_id is not null) and not c.replaces
         ) select distinct made, source from line
            where not exists (select from jobs j where j.output_commit_id = line.made and j.reproduces is not null)",
    )
    .bind(uuids(commits))
    .fetch_all(conn)
    .await?;
    Ok(edges(rows))
}

/// These commits.
pub async fn list_commits(conn: &mut PgConnection, _: &System, commits: &[CommitId]) -> Answer<Vec<CommitRow>> {
    if commits.is_empty() {
        return Ok(Vec::new());
    }
    let rows = sqlx::query_as(select_commits!("commits c where c.id = any($1) order by c.seq desc"))
        .bind(uuids(commits))
        .fetch_all(conn)
        .await?;
    Ok(rows)
}

/// The origin set of each of these commits.
pub async fn list_sets(conn: &mut PgConnection, _: &System, commits: &[CommitId]) -> Answer<Vec<(CommitId, i64)>> {
    let rows = sqlx::query_as::<_, (Uuid, i64)>("select id, origin_set_id from commits where id = any($1)")
        .bind(uuids(commits))
        .fetch_all(conn)
        .await?;
    Ok(rows
        .into_iter()
        .map(|(id, set)| (CommitId::from_uuid(id), set))
        .collect())
}

/// What a release of each of these commits has to name, hex; none of those that no pipeline made.
pub async fn list_release_digests(
    conn: &mut PgConnection,
    _: &System,
    commits: &[CommitId],
) -> Answer<Vec<(CommitId, String)>> {
    let rows = sqlx::query_as::<_, (Uuid, Vec<u8>)>(
        "select c.id, coalesce(c.release_digest, v.spec_digest) from commits c
           join pipeline_versions v on v.pipeline_id = c.pipeline_id and v.version = c.pipeline_version
          where c.id = any($1)",
    )
    .bind(uuids(commits))
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(id, digest)| (CommitId::from_uuid(id), hex::encode(digest)))
        .collect())
}

/// A version of a pipeline.
#[derive(Debug, FromRow)]
pub struct VersionRow {
    /// The pipeline.
    pub pipeline_id: Uuid,
    /// Which version.
    pub version: i32,
    /// Its spec as it was applied.
    pub spec: Json<serde_json::Value>,
    /// The spec's digest.
    pub spec_digest: Vec<u8>,
    /// The image's digest.
    pub image_digest: Option<String>,
}

/// These versions of pipelines.
pub async fn list_versions(
    conn: &mut PgConnection,
    _: &System,
    versions: &[(DomainId, i32)],
) -> Answer<Vec<VersionRow>> {
    let (pipelines, numbers): (Vec<Uuid>, Vec<i32>) = versions.iter().map(|(id, n)| (id.uuid(), *n)).unzip();
    let rows = sqlx::query_as(
        "select v.pipeline_id, v.version, v.spec, v.spec_digest, v.image_digest from pipeline_versions v
           join unnest($1::uuid[], $2::integer[]) w (id, version) on v.pipeline_id = w.id and v.version = w.version
          order by v.pipeline_id, v.version",
    )
    .bind(pipelines)
    .bind(numbers)
    .fetch_all(conn)
    .await?;
    Ok(rows)
}
