//! SQL of the check.

use std::collections::HashMap;

use contract::ids::CommitId;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::commits::CommitRow;
use crate::commits::queries::select_commits;
use crate::failure::Answer;
use crate::permissions::System;

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
