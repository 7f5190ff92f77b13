//! Uploads that can be taken up again: what has arrived of one is kept, part by part, until it becomes a commit, is given
//! up, or nothing more arrived for [`KEPT_FOR`]. An upload belongs to whom began it; nobody else learns that it is there.
//! Its parts are what one client sent: bytes that are there from elsewhere are never looked for.

pub mod handover;
pub mod keeper;
mod pack_queries;
pub mod packs;
pub mod queries;
pub mod routes;

use chrono::{DateTime, Utc};
use contract::ids::{CommitId, DomainId, UploadId};
use contract::policy::Permission;
use contract::problem::ProblemKind;
use sqlx::PgConnection;

use crate::call::Call;
use crate::commits::{self, CommitRow};
use crate::failure::{Answer, Failure};
use crate::permissions::System;
use crate::plane::Plane;
use crate::repos;

/// How long an upload waits for more.
pub const KEPT_FOR: chrono::Duration = chrono::Duration::hours(12);
/// What is said of it is no older than this.
const RENEWED_AFTER: chrono::Duration = chrono::Duration::minutes(1);

const KEEP: System =
    System::because("an upload is shown to and changed by whom it belongs to, and removed when it is over");

/// A row of `uploads`.
#[derive(Debug, Clone)]
pub struct UploadRow {
    /// Its id.
    pub id: UploadId,
    /// Where it is going to.
    pub repo: DomainId,
    /// The branch.
    pub branch: String,
    /// The principal that it belongs to.
    pub owner: String,
    /// When something of it arrived last, or began to.
    pub touched_at: DateTime<Utc>,
    /// What it became.
    pub commit: Option<CommitId>,
}

/// The failure of whoever uses an upload that is not there any more.
pub fn is_over() -> Failure {
    Failure::new(
        ProblemKind::NotFound,
        "there is no such upload: it may have been given up or forgotten",
    )
    .hint("begin again")
}

impl Call {
    /// The caller's upload of that id, if he may still do this in the repo that it is going to.
    ///
    /// # Errors
    /// The same 404 for one that is not there, for somebody else's, and when the caller may not know of the repo any more;
    /// `not-allowed` when he may know of it and no more.
    pub async fn upload(&self, conn: &mut PgConnection, id: UploadId, permission: Permission) -> Answer<UploadRow> {
        let row = queries::find_upload(conn, &KEEP, id).await?;
        let own = row.filter(|row| row.owner == self.claims().sub.to_string());
        let row = own.ok_or_else(is_over)?;
        let repo = repos::queries::find_repo_by_id(conn, &KEEP, row.repo).await?;
        let repo = repo.and_then(|repo| self.rights().visible(repo)).ok_or_else(is_over)?;
        self.allowed(&repo, permission)?;
        Ok(row)
    }
}

/// The commit that the caller's upload has become.
///
/// # Errors
/// As [`Call::upload`].
pub async fn committed(conn: &mut PgConnection, call: &Call, id: UploadId) -> Answer<Option<CommitRow>> {
    match call.upload(conn, id, Permission::Discover).await?.commit {
        None => Ok(None),
        Some(commit) => commits::queries::find_commit(conn, &KEEP, commit).await,
    }
}

/// Notes that more of an upload is arriving, of which perhaps nothing is kept before all of it is here; of one that was
/// begun just now that is known.
///
/// # Errors
/// When the database is away.
pub async fn touch(plane: &Plane, conn: &mut PgConnection, upload: &UploadRow) -> Answer<()> {
    let now = plane.now();
    if now - upload.touched_at < RENEWED_AFTER {
        return Ok(());
    }
    queries::touch_upload(conn, &KEEP, upload.id, now).await.map(drop)
}

/// In the transaction that makes a commit of it: the upload is over, and its parts are let go of.
///
/// # Errors
/// When it is over already.
pub async fn complete(conn: &mut PgConnection, id: UploadId, commit: CommitId) -> Answer<()> {
    if queries::complete(conn, &KEEP, id, commit).await? {
        return Ok(());
    }
    Err(is_over())
}

/// Gives an upload up and frees what it holds, unless it has become a commit. Nothing else refers to packs of its parts:
/// nobody is told of them, and whoever would make a commit of them needs the row.
///
/// # Errors
/// When the database or the store is away.
pub async fn give_up(plane: &Plane, id: UploadId) -> Answer<()> {
    let mut tx = plane.begin().await?;
    let packs = queries::delete_upload(&mut tx, &KEEP, id).await?;
    tx.commit().await?;
    for pack in packs {
        plane.storage.remove_pack(pack).await?;
    }
    plane.storage.remove_incoming(&id.to_string(), None).await?;
    Ok(())
}

/// Gives up all uploads of which nothing more arrived for long, and forgets those that are over: every small put is one.
///
/// # Errors
/// As [`give_up`].
pub async fn forget_abandoned(plane: &Plane) -> Answer<()> {
    let abandoned = {
        let mut conn = plane.pool.acquire().await?;
        let before = plane.now() - KEPT_FOR;
        queries::delete_completed(&mut conn, &KEEP, before).await?;
        queries::list_abandoned(&mut conn, &KEEP, before).await?
    };
    for id in abandoned {
        give_up(plane, id).await?;
    }
    Ok(())
}
