//! What a repo takes: how much there seems to be, how much of it is stored, and how much of that other repos hold too.
//! Found out when somebody asks, by the marking that garbage is collected with. It tells of content, so who asks must be
//! able to read every commit of the repo (R1); and of other repos only commits that he may read are looked at, so that
//! nothing tells that a hidden one holds the same.

pub mod queries;
pub mod routes;

use contract::api::RepoStatistics;
use contract::policy::Permission;
use contract::problem::ProblemKind;
use contract::reference::RepoRef;
use storage::TreeRef;

use crate::call::Call;
use crate::commits::origins;
use crate::failure::{Answer, Failure};
use crate::garbage;
use crate::permissions::{System, Visible};
use crate::plane::Tx;

const DECIDE: System = System::because("rows are read in order to decide what the caller may read");
const MEASURE: System = System::because("only commits that the caller was found to be allowed to read are looked at");

/// Measures a repo.
///
/// # Errors
/// 404 for a repo that the caller may not know of; `not-allowed` when there is a commit in it that he may not read;
/// `conflict` when he may read less of other repos at the end than before; `corrupt` when something cannot be read.
pub async fn measure(call: &Call, reference: &RepoRef) -> Answer<RepoStatistics> {
    let plane = &call.plane;
    {
        // Before waiting, which nobody does who would be refused.
        let mut tx = plane.begin().await?;
        let repo = call.repo(&mut tx, reference).await?;
        demand(call, &mut tx, &repo).await?;
    }
    let _turn = plane.measuring.lock().await;
    // The wait may have been long, and rights may have ended since (R6).
    let call = &call.renewed()?;
    let _busy = plane.activity.begin(&plane.environment);
    let mut tx = plane.begin().await?;
    garbage::queries::freeze(&mut tx, &DECIDE).await?;
    let repo = call.repo(&mut tx, reference).await?;
    demand(call, &mut tx, &repo).await?;

    let heads = queries::sum_heads(&mut tx, &MEASURE, repo.id).await?;
    let all = queries::sum_commits(&mut tx, &MEASURE, repo.id).await?;
    let mut marking = plane.storage.marking().await?;
    let mut after = 0;
    while let Some(page) = queries::list_roots(&mut tx, &MEASURE, repo.id, after).await? {
        after = page.last;
        for root in &page.roots {
            marking.tree(&TreeRef::from_bytes(root)?).await?;
        }
    }
    let stored_bytes = marking.bytes();
    let mut marking = marking.beside();
    let readable = readable_sets(call, &mut tx, &repo).await?;
    let mut after = 0;
    while let Some(page) = queries::list_other_roots(&mut tx, &MEASURE, repo.id, &readable, after).await? {
        after = page.last;
        for root in &page.roots {
            marking.tree(&TreeRef::from_bytes(root)?).await?;
        }
    }
    // And so may the work.
    let call = call.renewed()?;
    demand(&call, &mut tx, &repo).await?;
    let still = readable_sets(&call, &mut tx, &repo).await?;
    if !readable.iter().all(|id| still.contains(id)) {
        return Err(Failure::new(
            ProblemKind::Conflict,
            "what you may read has changed while it was measured",
        )
        .hint("repeat the command"));
    }
    tx.rollback().await?;
    let shared_bytes = marking.common_bytes();
    Ok(RepoStatistics {
        project: repo.project.clone(),
        repo: repo.name.clone(),
        files: heads.files,
        size_bytes: heads.bytes,
        commits: all.commits,
        commits_bytes: all.bytes,
        stored_bytes,
        unique_bytes: stored_bytes - shared_bytes,
        shared_bytes,
        saved_bytes: all.bytes.saturating_sub(stored_bytes),
    })
}

/// The caller may read every commit of the repo.
async fn demand(call: &Call, tx: &mut Tx, repo: &Visible) -> Answer<()> {
    let sets = queries::list_sets(tx, &DECIDE, repo.id).await?;
    if sets.is_empty() {
        call.allowed(repo, Permission::Read)?;
    }
    for id in sets {
        let set = origins::get(&call.plane, tx, &DECIDE, id).await?;
        call.readable(&set, &repo.to_string())?;
    }
    Ok(())
}

/// Origin sets of commits of other repos that the caller may read.
async fn readable_sets(call: &Call, tx: &mut Tx, repo: &Visible) -> Answer<Vec<i64>> {
    let mut readable = Vec::new();
    for id in queries::list_other_sets(tx, &DECIDE, repo.id).await? {
        let set = origins::get(&call.plane, tx, &DECIDE, id).await?;
        if call.readable(&set, "").is_ok() {
            readable.push(id);
        }
    }
    Ok(readable)
}
