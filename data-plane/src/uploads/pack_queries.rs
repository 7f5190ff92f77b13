//! SQL of packs that clients put into the bucket themselves.

use chrono::{DateTime, Utc};
use contract::ids::UploadId;
use sqlx::PgConnection;
use storage::Digest;

use crate::failure::Answer;
use crate::permissions::System;

/// So many packs of one upload may wait to be put: clients have a few on their way.
const WAITING_MAX: i64 = 64;

/// How far a pack is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PackState {
    /// It may be there.
    Announced,
    /// It is being taken over, or that broke off.
    Taking,
    /// It is a part of the upload.
    Kept,
}

/// A row of `upload_packs`.
#[derive(Debug, Clone)]
pub struct PackRow {
    /// Its name.
    pub pack: Digest,
    /// The client's name for the file.
    pub key: Digest,
    /// Where the file goes.
    pub path: String,
    /// Where in the file its chunks begin.
    pub from: u64,
    /// Its index.
    pub chunks: Vec<u8>,
    /// How far it is.
    pub state: PackState,
}

/// Notes a pack that is going to be put; false when the upload is over or waits for too many. One that was announced when
/// `expired` or before is not waited for any more.
pub async fn insert_pack(
    conn: &mut PgConnection,
    _: &System,
    id: UploadId,
    row: &PackRow,
    (now, expired): (DateTime<Utc>, DateTime<Utc>),
) -> Answer<bool> {
    let inserted = sqlx::query(
        "insert into upload_packs (pack, upload_id, key, path, from_byte, chunks, state, announced_at)
         select $1, u.id, $3, $4, $5, $6, 'announced', $8 from uploads u
          where u.id = $2 and u.commit_id is null
            and (select count(*) from upload_packs p where p.upload_id = u.id and p.state = 'announced'
                 and p.announced_at > $9) < $7",
    )
    .bind(&row.pack.as_bytes()[..])
    .bind(id.uuid())
    .bind(&row.key.as_bytes()[..])
    .bind(&row.path)
    .bind(i64::try_from(row.from).unwrap_or(i64::MAX))
    .bind(&row.chunks)
    .bind(WAITING_MAX)
    .bind(now)
    .bind(expired)
    .execute(conn)
    .await?;
    Ok(inserted.rows_affected() == 1)
}

/// The pack of that name of an upload.
pub async fn find_pack(conn: &mut PgConnection, _: &System, id: UploadId, pack: Digest) -> Answer<Option<PackRow>> {
    type Columns = (Vec<u8>, String, i64, Vec<u8>, String);
    let row: Option<Columns> = sqlx::query_as(
        "select key, path, from_byte, chunks, state from upload_packs where pack = $1 and upload_id = $2",
    )
    .bind(&pack.as_bytes()[..])
    .bind(id.uuid())
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|(key, path, from, chunks, state)| PackRow {
        pack,
        key: Digest::from_bytes(key.try_into().unwrap_or_default()),
        path,
        from: from.unsigned_abs(),
        chunks,
        state: match state.as_str() {
            "announced" => PackState::Announced,
            "kept" => PackState::Kept,
            _ => PackState::Taking,
        },
    }))
}

/// Begins to take a pack over; false when somebody has, or the upload is over.
pub async fn claim_pack(conn: &mut PgConnection, _: &System, pack: Digest) -> Answer<bool> {
    let claimed = sqlx::query(
        "update upload_packs p set state = 'taking' from uploads u
          where p.pack = $1 and p.state = 'announced' and u.id = p.upload_id and u.commit_id is null",
    )
    .bind(&pack.as_bytes()[..])
    .execute(conn)
    .await?;
    Ok(claimed.rows_affected() == 1)
}

/// Forgets a pack that was not taken over, unless it was after all.
pub async fn forget_pack(conn: &mut PgConnection, _: &System, pack: Digest) -> Answer<()> {
    sqlx::query("delete from upload_packs where pack = $1 and state = 'taking'")
        .bind(&pack.as_bytes()[..])
        .execute(conn)
        .await?;
    Ok(())
}

/// Notes that a pack is among the parts of its upload now.
pub async fn keep_pack(conn: &mut PgConnection, _: &System, pack: Digest) -> Answer<()> {
    sqlx::query("update upload_packs set state = 'kept' where pack = $1")
        .bind(&pack.as_bytes()[..])
        .execute(conn)
        .await?;
    Ok(())
}
