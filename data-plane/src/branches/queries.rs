//! SQL of branches.

use chrono::{DateTime, Utc};
use contract::ids::CommitId;
use contract::names::BranchName;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::commits::queries::insert_move;
use crate::failure::Answer;
use crate::permissions::{Allowed, System, Visible};

const SELF: System = System::because("called by a query that was given a proof");

/// A branch with its head and the origins of that.
pub struct BranchRow {
    /// Its name.
    pub name: BranchName,
    /// Its newest commit.
    pub head: Option<CommitId>,
    /// The origin set of that commit.
    pub origin_set: Option<i64>,
}

/// The branches of a repo that the caller may know of, in the order of their names.
pub async fn list_branches(
    conn: &mut PgConnection,
    repo: &Visible,
    after: Option<&str>,
    limit: i64,
) -> Answer<Vec<BranchRow>> {
    let rows = sqlx::query_as::<_, (String, Option<Uuid>, Option<i64>)>(
        "select b.name, b.head_id, c.origin_set_id from branches b left join commits c on c.id = b.head_id
         where b.repo_id = $1 and ($2::text is null or b.name > $2) order by b.name limit $3",
    )
    .bind(repo.id.uuid())
    .bind(after)
    .bind(limit)
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|(name, head, origin_set)| {
            Ok(BranchRow {
                name: name.parse()?,
                head: head.map(CommitId::from_uuid),
                origin_set,
            })
        })
        .collect()
}

/// Inserts a branch. Answers whether there was none of that name.
pub async fn insert_branch(
    conn: &mut PgConnection,
    allowed: &Allowed,
    name: &BranchName,
    head: Option<CommitId>,
    at: DateTime<Utc>,
) -> Answer<bool> {
    let done = sqlx::query(
        "insert into branches (repo_id, name, head_id, created_at) values ($1, $2, $3, $4) on conflict do nothing",
    )
    .bind(allowed.domain().uuid())
    .bind(name.as_str())
    .bind(head.map(CommitId::uuid))
    .bind(at)
    .execute(&mut *conn)
    .await?;
    let is_new = done.rows_affected() == 1;
    if is_new {
        insert_move(conn, &SELF, allowed.domain(), name, head, at).await?;
    }
    Ok(is_new)
}

/// Moves a branch.
pub async fn update_head(
    conn: &mut PgConnection,
    allowed: &Allowed,
    name: &BranchName,
    head: CommitId,
    at: DateTime<Utc>,
) -> Answer<()> {
    sqlx::query("update branches set head_id = $3 where repo_id = $1 and name = $2")
        .bind(allowed.domain().uuid())
        .bind(name.as_str())
        .bind(head.uuid())
        .execute(&mut *conn)
        .await?;
    insert_move(conn, &SELF, allowed.domain(), name, Some(head), at).await
}

/// Deletes a branch; its commits stay.
pub async fn delete_branch(
    conn: &mut PgConnection,
    allowed: &Allowed,
    name: &BranchName,
    at: DateTime<Utc>,
) -> Answer<()> {
    sqlx::query("delete from branches where repo_id = $1 and name = $2")
        .bind(allowed.domain().uuid())
        .bind(name.as_str())
        .execute(&mut *conn)
        .await?;
    insert_move(conn, &SELF, allowed.domain(), name, None, at).await
}
