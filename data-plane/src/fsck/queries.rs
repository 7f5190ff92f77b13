//! SQL of the check.

use std::collections::HashMap;

use contract::ids::CommitId;
use sqlx::PgConnection;
use storage::Digest;
use uuid::Uuid;

use crate::commits::CommitRow;
use crate::commits::queries::select_commits;
use crate::failure::Answer;
use crate::permissions::System;
use crate::uploads::queries::PartPosition;

/// Commits of the plane behind `after`, oldest first, without those whose content was let go of with their repo.
pub async fn list_commits(conn: &mut PgConnection, _: &System, after: i64, limit: i64) -> Answer<Vec<CommitRow>> {
    let rows = sqlx::query_as(select_commits!(
        "commits c where c.seq > $1 and not (c.state = 'finished' and c.root is null) order by c.seq limit $2"
    ))
    .bind(after)
    .bind(limit)
    .fetch_all(conn)
    .await?;
    Ok(rows)
}

/// The origin sets of a commit's inputs.
pub async fn list_input_sets(conn: &mut PgConnection, _: &System, commit: CommitId) -> Answer<HashMap<CommitId, i64>> {
    let rows = sqlx::query_as::<_, (Uuid, i64)>(
        "select c.id, c.origin_set_id from commit_inputs i join commits c on c.id = i.input_id where i.commit_id = $1",
    )
    .bind(commit.uuid())
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(id, set)| (CommitId::from_uuid(id), set))
        .collect())
}

/// The origin set of a commit.
pub async fn find_set(conn: &mut PgConnection, _: &System, commit: CommitId) -> Answer<Option<i64>> {
    let set = sqlx::query_scalar("select origin_set_id from commits where id = $1")
        .bind(commit.uuid())
        .fetch_optional(conn)
        .await?;
    Ok(set)
}

/// A row that refers to packs, with what was read there.
pub enum Holder<'a> {
    /// A commit: its id, its tree.
    Commit(CommitId, &'a [u8]),
    /// What an open commit was given: the commit, the place, the changes.
    Fileset(Uuid, i64, &'a [u8]),
    /// What is kept of an upload: its place, the changes.
    Part(&'a PartPosition, &'a [u8]),
    /// What a datum gave: the pipeline, the key, the outputs.
    Result(Uuid, &'a [u8], &'a [u8]),
}

/// Whether a row still holds what was read there.
pub async fn is_as_read(conn: &mut PgConnection, _: &System, holder: &Holder<'_>) -> Answer<bool> {
    let query = match holder {
        Holder::Commit(id, root) => {
            sqlx::query_scalar("select exists (select from commits where id = $1 and root = $2)")
                .bind(id.uuid())
                .bind(*root)
        }
        Holder::Fileset(commit, seq, changes) => sqlx::query_scalar(
            "select exists (select from filesets where commit_id = $1 and seq = $2 and changes = $3)",
        )
        .bind(*commit)
        .bind(*seq)
        .bind(*changes),
        Holder::Part((upload, key, whole, from), changes) => sqlx::query_scalar(
            "select exists (select from upload_parts
                 where upload_id = $1 and key = $2 and whole = $3 and from_byte = $4 and changes = $5)",
        )
        .bind(*upload)
        .bind(key)
        .bind(*whole)
        .bind(*from)
        .bind(*changes),
        Holder::Result(pipeline, key, outputs) => sqlx::query_scalar(
            "select exists (select from datum_results where pipeline_id = $1 and key = $2 and outputs = $3)",
        )
        .bind(*pipeline)
        .bind(*key)
        .bind(*outputs),
    };
    Ok(query.fetch_one(conn).await?)
}

/// Whether this is a pack of a client, and not known yet to be what it said.
pub async fn is_arriving(conn: &mut PgConnection, _: &System, pack: Digest) -> Answer<bool> {
    let arriving = sqlx::query_scalar("select exists (select from upload_packs where pack = $1 and state <> 'kept')")
        .bind(&pack.as_bytes()[..])
        .fetch_one(conn)
        .await?;
    Ok(arriving)
}
