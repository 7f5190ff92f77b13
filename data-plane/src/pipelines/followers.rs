//! Inputs with a `trigger`: the pipeline reads a branch of its own in the input's repo, which follows the branch that the
//! input names (`branches/triggers.rs`). Its name tells nobody whose it is. It is made, changed and deleted with the pipeline; an owner of the repo may delete it too. Who applied the pipeline needs
//! R4 for what it brings, each time, and no right to write to the repo.

use contract::api::Actor;
use contract::ids::{CommitId, DomainId};
use contract::names::{BranchName, RepoName};
use contract::problem::ProblemKind;
use provenance::spec::TriggerInput;
use sqlx::PgConnection;

use super::queries;
use crate::commits;
use crate::failure::{Answer, Failure};
use crate::permissions::System;
use crate::plane::{Plane, Tx};

const FOLLOW: System = System::because("`examine` has asked for `derive` on everything that the branch brings");

/// A branch that a pipeline makes follow another one.
#[derive(Debug, Clone)]
pub struct Follower {
    /// The input's repo.
    pub repo: DomainId,
    /// The branch that the pipeline reads.
    pub branch: BranchName,
    /// What it follows, and when.
    pub on: TriggerInput,
}

/// The branch that an input of that name reads: the same as long as the pipeline and the input are named so.
///
/// # Errors
/// Never: such a name is one of a branch.
pub fn branch_of(pipeline: DomainId, input: &RepoName) -> Answer<BranchName> {
    let mut hasher = blake3::Hasher::new_derive_key("howdah 2026 branch of an input with a trigger");
    hasher.update(pipeline.uuid().as_bytes());
    hasher.update(input.as_str().as_bytes());
    let digest = hasher.finalize();
    Ok(format!("trigger-{}", hex::encode(&digest.as_bytes()[..8])).parse()?)
}

/// Whether the branch is the pipeline's or nobody's.
///
/// # Errors
/// `already-exists`.
pub async fn is_free(conn: &mut PgConnection, pipeline: DomainId, follower: &Follower) -> Answer<()> {
    let head = commits::queries::find_head(conn, &FOLLOW, follower.repo, &follower.branch).await?;
    let owner = queries::follower_of(conn, &FOLLOW, follower.repo, &follower.branch).await?;
    if head.is_none() || owner == Some(pipeline) {
        return Ok(());
    }
    let detail = format!(
        "the input's repo has a branch `{}`, which the pipeline would make follow `{}`",
        follower.branch, follower.on.source
    );
    Err(Failure::new(ProblemKind::AlreadyExists, detail).hint("delete the branch, or give the input another `name`"))
}

/// Makes the branches and triggers of a pipeline's new version, and deletes those that it has no more. A branch that stays
/// and goes on following the same one keeps its head and what it has followed.
///
/// # Errors
/// When the database is away.
pub async fn save(plane: &Plane, tx: &mut Tx, pipeline: DomainId, followers: &[Follower], actor: &Actor) -> Answer<()> {
    let now = plane.now();
    let kept = |repo: DomainId, branch: &BranchName, source: &BranchName| {
        let same = |f: &Follower| f.repo == repo && f.branch == *branch && f.on.source == *source;
        followers.iter().any(same)
    };
    for (repo, branch, source) in queries::list_followers(tx, &FOLLOW, pipeline).await? {
        if !kept(repo, &branch, &source) {
            queries::delete_follower(tx, &FOLLOW, repo, &branch).await?;
            commits::queries::insert_move(tx, &FOLLOW, repo, &branch, None::<CommitId>, now).await?;
        }
    }
    for follower in followers {
        if queries::insert_follower(tx, &FOLLOW, pipeline, follower, actor, now).await? {
            commits::queries::insert_move(tx, &FOLLOW, follower.repo, &follower.branch, None, now).await?;
        }
    }
    Ok(())
}
