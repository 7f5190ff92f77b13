//! SQL of uploads.

use std::ops::Range;

use chrono::{DateTime, Utc};
use contract::api::UploadPart;
use contract::ids::{CommitId, DomainId, UploadId};
use sqlx::PgConnection;
use storage::Digest;
use uuid::Uuid;

use super::UploadRow;
use crate::failure::Answer;
use crate::permissions::{Allowed, System};

/// A row of parts may list ten thousand files.
const PARTS_AT_ONCE: i64 = 8;

/// A part to be kept.
pub struct NewPart<'a> {
    /// The client's name for it.
    pub key: Digest,
    /// Whole files, not a piece of one.
    pub whole: bool,
    /// Where a piece lies in its file.
    pub range: Range<u64>,
    /// Encoded changes.
    pub changes: &'a [u8],
    /// Packs that were written for it.
    pub packs: &'a [Digest],
}

fn number(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Begins an upload.
pub async fn insert_upload(conn: &mut PgConnection, _: &Allowed, new: &UploadRow) -> Answer<()> {
    sqlx::query(
        "insert into uploads (id, repo_id, branch, owner, created_at, touched_at) values ($1, $2, $3, $4, $5, $5)",
    )
    .bind(new.id.uuid())
    .bind(new.repo.uuid())
    .bind(&new.branch)
    .bind(&new.owner)
    .bind(new.touched_at)
    .execute(conn)
    .await?;
    Ok(())
}

/// The upload of that id.
pub async fn find_upload(conn: &mut PgConnection, _: &System, id: UploadId) -> Answer<Option<UploadRow>> {
    type Columns = (Uuid, String, String, DateTime<Utc>, Option<Uuid>);
    let row: Option<Columns> =
        sqlx::query_as("select repo_id, branch, owner, touched_at, commit_id from uploads where id = $1")
            .bind(id.uuid())
            .fetch_optional(conn)
            .await?;
    Ok(row.map(|(repo, branch, owner, touched_at, commit)| UploadRow {
        id,
        repo: DomainId::from_uuid(repo),
        branch,
        owner,
        touched_at,
        commit: commit.map(CommitId::from_uuid),
    }))
}

/// Notes that more of an upload is arriving; false when it is over.
pub async fn touch_upload(conn: &mut PgConnection, _: &System, id: UploadId, at: DateTime<Utc>) -> Answer<bool> {
    let open = sqlx::query("update uploads set touched_at = $2 where id = $1 and commit_id is null")
        .bind(id.uuid())
        .bind(at)
        .execute(conn)
        .await?;
    Ok(open.rows_affected() > 0)
}

/// What is kept of an upload.
pub async fn list_parts(conn: &mut PgConnection, _: &System, id: UploadId) -> Answer<Vec<UploadPart>> {
    let rows: Vec<(Vec<u8>, bool, i64, i64)> = sqlx::query_as(
        "select key, whole, from_byte, to_byte from upload_parts where upload_id = $1 order by key, whole, from_byte",
    )
    .bind(id.uuid())
    .fetch_all(conn)
    .await?;
    let part = |(key, whole, from, to): (Vec<u8>, bool, i64, i64)| UploadPart {
        key: hex::encode(key),
        whole,
        from: from.unsigned_abs(),
        to: to.unsigned_abs(),
    };
    Ok(rows.into_iter().map(part).collect())
}

/// The changes of whole files.
pub async fn find_whole(conn: &mut PgConnection, _: &System, id: UploadId, key: Digest) -> Answer<Option<Vec<u8>>> {
    let changes = sqlx::query_scalar("select changes from upload_parts where upload_id = $1 and key = $2 and whole")
        .bind(id.uuid())
        .bind(&key.as_bytes()[..])
        .fetch_optional(conn)
        .await?;
    Ok(changes)
}

/// The pieces of a file in order: where each begins and ends.
pub async fn list_pieces(conn: &mut PgConnection, _: &System, id: UploadId, key: Digest) -> Answer<Vec<Range<u64>>> {
    let rows: Vec<(i64, i64)> = sqlx::query_as(
        "select from_byte, to_byte from upload_parts
          where upload_id = $1 and key = $2 and not whole order by from_byte",
    )
    .bind(id.uuid())
    .bind(&key.as_bytes()[..])
    .fetch_all(conn)
    .await?;
    let range = |(from, to): (i64, i64)| from.unsigned_abs()..to.unsigned_abs();
    Ok(rows.into_iter().map(range).collect())
}

/// The changes of the piece of a file that begins there.
pub async fn find_piece(
    conn: &mut PgConnection,
    _: &System,
    id: UploadId,
    key: Digest,
    from: u64,
) -> Answer<Option<Vec<u8>>> {
    let changes = sqlx::query_scalar(
        "select changes from upload_parts where upload_id = $1 and key = $2 and not whole and from_byte = $3",
    )
    .bind(id.uuid())
    .bind(&key.as_bytes()[..])
    .bind(number(from))
    .fetch_optional(conn)
    .await?;
    Ok(changes)
}

/// What became of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Insertion {
    /// It is kept.
    Kept,
    /// One that begins there is kept already, and stays.
    Already,
    /// The upload is over.
    Over,
}

/// Keeps a part. One that is kept already stays as it is.
pub async fn insert_part(
    conn: &mut PgConnection,
    proof: &System,
    id: UploadId,
    part: &NewPart<'_>,
    at: DateTime<Utc>,
) -> Answer<Insertion> {
    if !touch_upload(conn, proof, id, at).await? {
        return Ok(Insertion::Over);
    }
    let packs: Vec<u8> = part.packs.iter().flat_map(|pack| *pack.as_bytes()).collect();
    let inserted = sqlx::query(
        "insert into upload_parts (upload_id, key, whole, from_byte, to_byte, changes, packs)
         values ($1, $2, $3, $4, $5, $6, $7) on conflict do nothing",
    )
    .bind(id.uuid())
    .bind(&part.key.as_bytes()[..])
    .bind(part.whole)
    .bind(number(part.range.start))
    .bind(number(part.range.end))
    .bind(part.changes)
    .bind(packs)
    .execute(conn)
    .await?;
    Ok(match inserted.rows_affected() {
        0 => Insertion::Already,
        _ => Insertion::Kept,
    })
}

/// Notes what an upload has become and lets go of its parts; false when it is over already.
pub async fn complete(conn: &mut PgConnection, _: &System, id: UploadId, commit: CommitId) -> Answer<bool> {
    let open = sqlx::query("update uploads set commit_id = $2 where id = $1 and commit_id is null")
        .bind(id.uuid())
        .bind(commit.uuid())
        .execute(&mut *conn)
        .await?;
    if open.rows_affected() == 0 {
        return Ok(false);
    }
    for letting_go in [
        "delete from upload_parts where upload_id = $1",
        "delete from upload_packs where upload_id = $1",
    ] {
        sqlx::query(letting_go).bind(id.uuid()).execute(&mut *conn).await?;
    }
    Ok(true)
}

/// Removes an upload; answers the packs that nothing needs any more.
pub async fn delete_upload(conn: &mut PgConnection, _: &System, id: UploadId) -> Answer<Vec<Digest>> {
    // Whoever keeps another part of it waits here, and then finds it gone.
    sqlx::query("select from uploads where id = $1 for update")
        .bind(id.uuid())
        .execute(&mut *conn)
        .await?;
    let rows: Vec<Vec<u8>> = sqlx::query_scalar(
        "select packs from upload_parts where upload_id = $1
         union all select pack from upload_packs where upload_id = $1 and state = 'taking'",
    )
    .bind(id.uuid())
    .fetch_all(&mut *conn)
    .await?;
    sqlx::query("delete from uploads where id = $1")
        .bind(id.uuid())
        .execute(conn)
        .await?;
    let names = rows.iter().flat_map(|names| names.as_chunks::<32>().0);
    Ok(names.map(|name| Digest::from_bytes(*name)).collect())
}

/// Forgets uploads that were begun before then and are over: their parts went with the commit.
pub async fn delete_completed(conn: &mut PgConnection, _: &System, before: DateTime<Utc>) -> Answer<()> {
    sqlx::query("delete from uploads where touched_at < $1 and commit_id is not null")
        .bind(before)
        .execute(conn)
        .await?;
    Ok(())
}

/// Uploads of which nothing arrived since then.
pub async fn list_abandoned(conn: &mut PgConnection, _: &System, before: DateTime<Utc>) -> Answer<Vec<UploadId>> {
    let ids: Vec<Uuid> = sqlx::query_scalar("select id from uploads where touched_at < $1")
        .bind(before)
        .fetch_all(conn)
        .await?;
    Ok(ids.into_iter().map(UploadId::from_uuid).collect())
}

/// Where a page of parts begins: behind this one.
pub type PartPosition = (Uuid, Vec<u8>, bool, i64);

/// A page of the changes of all uploads.
pub async fn list_changes(
    conn: &mut PgConnection,
    _: &System,
    after: Option<&PartPosition>,
) -> Answer<Vec<(Uuid, Vec<u8>, bool, i64, Vec<u8>)>> {
    let rows = sqlx::query_as(
        "select upload_id, key, whole, from_byte, changes from upload_parts
          where $1::uuid is null or (upload_id, key, whole, from_byte) > ($1, $2, $3, $4)
          order by upload_id, key, whole, from_byte limit $5",
    )
    .bind(after.map(|after| after.0))
    .bind(after.map(|after| &after.1))
    .bind(after.map(|after| after.2))
    .bind(after.map(|after| after.3))
    .bind(PARTS_AT_ONCE)
    .fetch_all(conn)
    .await?;
    Ok(rows)
}
