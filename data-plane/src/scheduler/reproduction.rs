//! The end of a job that reproduces a commit: what it made is compared and let go of.

use contract::api::{Comparison, Difference};
use contract::ids::{CommitId, JobId};
use futures::TryStreamExt;
use storage::TreeRef;

use super::SELF;
use super::queries::{self, WorkRow};
use crate::commits;
use crate::commits::lock::lock_dag;
use crate::failure::{Answer, Failure};
use crate::jobs::reproductions_queries as rows;
use crate::pipelines;
use crate::plane::Plane;

/// What its commit says of itself afterwards.
const LET_GO: &str = "a reproduction: its content was compared and let go of";

/// Compares the tree that a finishing job made with that of the commit that it reproduces, and ends the job. No commit
/// gets the tree, so nothing refers to what was stored for it, and it is collected.
///
/// # Errors
/// `deleted` when the original was given up meanwhile; when the database or storage is away: try again.
pub async fn finish(plane: &Plane, job: JobId, work: &WorkRow, original: CommitId, tree: &TreeRef) -> Answer<()> {
    let mut conn = plane.pool.acquire().await?;
    let commit = commits::queries::find_commit(&mut conn, &SELF, original)
        .await?
        .ok_or_else(|| Failure::internal("the commit that is reproduced is missing"))?;
    drop(conn);
    let comparison = compare(plane, &commit.tree()?, tree).await?;
    let now = plane.now();
    let mut tx = plane.begin().await?;
    lock_dag(&mut tx).await?;
    pipelines::sponsors::settle_in(plane, &mut tx).await?;
    if !queries::succeed(&mut tx, &SELF, job, now).await? {
        return Ok(());
    }
    rows::update_compared(&mut tx, &SELF, job, &comparison).await?;
    rows::delete_results(&mut tx, &SELF, job).await?;
    let scratch = CommitId::from_uuid(work.output_commit_id);
    commits::queries::update_errored(&mut tx, &SELF, scratch, LET_GO, now).await?;
    tx.commit().await?;
    Ok(())
}

async fn compare(plane: &Plane, expected: &TreeRef, found: &TreeRef) -> Answer<Comparison> {
    let first = match expected.digest() == found.digest() {
        true => None,
        false => plane.storage.diff(expected, found).try_next().await?,
    };
    let difference = first.map(|change| Difference {
        change: match (change.before, change.after) {
            (None, _) => "added",
            (_, None) => "removed",
            _ => "changed",
        }
        .to_owned(),
        path: format!("/{}", change.path),
    });
    Ok(Comparison {
        expected: expected.digest().to_string(),
        found: found.digest().to_string(),
        difference,
    })
}
