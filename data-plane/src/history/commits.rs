//! Squash and drop: what may go, what goes along, and the transaction that lets it go.

use std::collections::BTreeMap;

use contract::api::{
    CommitState, JobState, MovedBack, RemoveCommits, Removed, RemovedCommits, RemovedHow, RemovedInRepo,
};
use contract::ids::{CommitId, DomainId, JobId};
use contract::names::BranchName;
use contract::policy::Permission;
use contract::problem::ProblemKind;
use http::StatusCode;
use sqlx::PgConnection;

use super::heads::{self, BackAt};
use super::named::{Affected, affected, named, restricted, unanswered};
use super::queries::{self, Remove};
use crate::call::Call;
use crate::commits::CommitRow;
use crate::commits::lock::lock_dag;
use crate::failure::{Answer, Failure};
use crate::jobs;
use crate::permissions::System;
use crate::plane::Tx;
use crate::scheduler::{appending, keys};
use crate::spouts;

const REMOVE: System = System::because("the caller was allowed to write to every repo that something goes in");
/// So many commits of a repo are named in an answer.
const NAMED_MAX: usize = 100;
/// So many are given up by one statement.
const AT_ONCE: usize = 1000;

/// A commit that goes, and its repo.
type Going = (CommitId, DomainId);

/// Gives up the content of commits whose children keep the data.
///
/// # Errors
/// `conflict` for a commit that is not finished, that a branch points at, that nothing finished comes after, or that an
/// unfinished job reads; `deleted` for one that is gone already; 404 and `not-allowed`.
pub async fn squash(call: &Call, body: &RemoveCommits) -> Answer<RemovedCommits> {
    let plane = &call.plane;
    let _gate = plane.change().await?;
    let mut tx = plane.begin().await?;
    lock_dag(&mut tx).await?;
    unanswered(call, &mut tx, &body.reference).await?;
    let rows = named(call, &mut tx, &body.reference).await?;
    let affected = affected(call, &mut tx, rows.iter().map(|row| row.repo).collect()).await?;
    if affected.restricted {
        return Err(restricted("squashing this commit set"));
    }
    let several = rows.len() > 1;
    let mut going = Vec::new();
    for row in rows {
        // Of a set, what has no content need not lose it.
        if several && matches!(row.state, CommitState::Errored | CommitState::Removed) {
            continue;
        }
        may_squash(call, &mut tx, &row).await?;
        going.push((row.id, row.repo));
    }
    let ids = going.iter().map(|(id, _)| *id).collect();
    let removed = remove(call, &mut tx, ids, RemovedHow::Squashed).await?;
    let answer = told(body.dry_run, false, &affected, &going, &removed);
    settle(call, tx, ("commit.squash", body, going.len()), answer).await
}

async fn may_squash(call: &Call, conn: &mut PgConnection, row: &CommitRow) -> Answer<()> {
    let id = row.id;
    let refused = |detail: String, hint: &str| Err(Failure::new(ProblemKind::Conflict, detail).hint(hint));
    match row.state {
        CommitState::Finished => {}
        CommitState::Open => {
            return refused(
                format!("commit `{id}` is open, so nothing keeps its data"),
                "finish it first, or give it up with `howdah commit drop`",
            );
        }
        CommitState::Errored => {
            return refused(
                format!("commit `{id}` is errored: it has no data that another one could keep"),
                "remove it with `howdah commit drop`",
            );
        }
        CommitState::Removed => row.tree().map(drop)?,
    }
    if let Some(branch) = queries::find_branch_at(conn, &REMOVE, id).await? {
        return refused(
            format!("branch `{branch}` points at commit `{id}`"),
            "commit something after it, or remove it with `howdah commit drop`",
        );
    }
    let (finished, open) = queries::count_heirs(conn, &REMOVE, id).await?;
    if open > 0 {
        return refused(
            format!("the commit after `{id}` is open, and gets its data only when it is finished"),
            "finish that one first: `howdah commit finish`",
        );
    }
    if finished == 0 {
        return refused(
            format!("no commit comes after `{id}` that keeps its data"),
            "to give the data up use `howdah commit drop`",
        );
    }
    if let Some((pipeline, project, name)) = queries::find_service_on(conn, &REMOVE, id).await?
        && call.rights().can(Permission::Discover, pipeline)
    {
        return refused(
            format!("the service `{project}/{name}` reads commit `{id}`, and goes on doing so"),
            &format!("stop it, and start it when the commit is gone: `howdah pipeline stop {project}/{name}`"),
        );
    }
    if queries::is_being_read(conn, &REMOVE, id).await? {
        return refused(
            format!("a job that reads commit `{id}` is not done"),
            "wait until it is: `howdah wait`",
        );
    }
    Ok(())
}

/// Gives up commits and everything that was made from them.
///
/// # Errors
/// `conflict` when more would go than was named and `force` was not given; `deleted` for one that is gone already; 404 and
/// `not-allowed`, also for what was made from it.
pub async fn drop_commits(call: &Call, body: &RemoveCommits) -> Answer<RemovedCommits> {
    let plane = &call.plane;
    let _gate = plane.change().await?;
    let mut tx = plane.begin().await?;
    lock_dag(&mut tx).await?;
    unanswered(call, &mut tx, &body.reference).await?;
    let rows = named(call, &mut tx, &body.reference).await?;
    if let [only] = rows.as_slice()
        && only.is_removed()
    {
        only.tree()?;
    }
    let ids: Vec<CommitId> = rows.iter().filter(|r| !r.is_removed()).map(|r| r.id).collect();
    let going = queries::list_derived(&mut tx, &REMOVE, &ids).await?;
    let affected = affected(call, &mut tx, going.iter().map(|(_, repo)| *repo).collect()).await?;
    let needs_force = going.len() > ids.len();
    if !body.dry_run && affected.restricted {
        return Err(restricted("dropping this commit"));
    }
    if !body.dry_run && needs_force && !body.force {
        return Err(more_than_named(&body.reference, &affected, &going, &ids));
    }
    let gone: Vec<CommitId> = going.iter().map(|(id, _)| *id).collect();
    let removed = remove(call, &mut tx, gone.clone(), RemovedHow::Dropped).await?;
    queries::forget_results(&mut tx, &REMOVE, &gone).await?;
    spouts::queries::forget_commits(&mut tx, &REMOVE, &gone).await?;
    let moved: Vec<(DomainId, BranchName)> = removed.branches.iter().map(|b| (b.repo, b.branch.clone())).collect();
    heads::run_again(plane, &mut tx, &moved).await?;
    let answer = told(body.dry_run, needs_force, &affected, &going, &removed);
    settle(call, tx, ("commit.drop", body, going.len()), answer).await
}

fn more_than_named(reference: &str, affected: &Affected, going: &[Going], ids: &[CommitId]) -> Failure {
    let mut counts: BTreeMap<DomainId, usize> = BTreeMap::new();
    for (_, repo) in going.iter().filter(|(id, _)| !ids.contains(id)) {
        *counts.entry(*repo).or_default() += 1;
    }
    let listed: Vec<String> = affected
        .repos
        .iter()
        .filter_map(|(id, repo)| counts.get(id).map(|n| format!("{n} in `{repo}`")))
        .collect();
    Failure::new(
        ProblemKind::Conflict,
        format!(
            "commits were made from `{reference}` and would go with it: {}; nothing was changed",
            listed.join(", ")
        ),
    )
    .hint("look at all of it with `--dry-run`, then repeat the command with `--force`")
}

/// What was done.
pub struct Gone {
    /// Branches that point elsewhere.
    pub branches: Vec<BackAt>,
    /// Jobs that were stopped, with their pipelines.
    pub jobs: Vec<(JobId, DomainId)>,
}

/// Gives up the contents of these commits, a page at a time: their jobs end, their branches go back to what is left. The transaction
/// holds the lock of the DAG.
///
/// # Errors
/// When the database is away, or a stored tree does not decode.
pub async fn remove(call: &Call, tx: &mut Tx, mut ids: Vec<CommitId>, how: RemovedHow) -> Answer<Gone> {
    let plane = &call.plane;
    // In the order in which commits are locked.
    ids.sort_unstable();
    let removed = Removed {
        how,
        at: plane.now(),
        by: call.actor(),
    };
    let mut gone = Gone {
        branches: Vec::new(),
        jobs: Vec::new(),
    };
    // Jobs first: whoever finishes one locks it before its commit.
    let reason = format!("its commit was {} by {}", how.as_str(), removed.by.name);
    for (job, pipeline) in queries::list_unfinished_jobs(tx, &REMOVE, &ids).await? {
        if jobs::end::end(plane, tx, job, JobState::Killed, Some(&reason)).await? {
            gone.jobs.push((job, pipeline));
        }
    }
    for page in ids.chunks(AT_ONCE) {
        let trees = queries::lock_trees(tx, &REMOVE, page).await?;
        let remove = Remove {
            trees: &trees,
            removed: &removed,
        };
        queries::update_removed(tx, &REMOVE, &remove).await?;
        keys::queries::forget_commits(tx, &REMOVE, page).await?;
        appending::queries::forget_outputs(tx, &REMOVE, page).await?;
    }
    gone.branches = heads::move_back(tx, &ids, removed.at).await?;
    Ok(gone)
}

fn told(dry_run: bool, needs_force: bool, affected: &Affected, going: &[Going], gone: &Gone) -> RemovedCommits {
    let mut repos: BTreeMap<DomainId, RemovedInRepo> = BTreeMap::new();
    let in_repo = |id: &DomainId| {
        affected.repos.get(id).map(|repo| RemovedInRepo {
            project: repo.project.clone(),
            repo: repo.name.clone(),
            count: 0,
            commits: Vec::new(),
            branches: Vec::new(),
        })
    };
    for (id, repo) in going {
        let Some(new) = in_repo(repo) else { continue };
        let here = repos.entry(*repo).or_insert(new);
        here.count += 1;
        if here.commits.len() < NAMED_MAX {
            here.commits.push(*id);
        }
    }
    for moved in &gone.branches {
        if let Some(here) = repos.get_mut(&moved.repo) {
            here.branches.push(MovedBack {
                branch: moved.branch.clone(),
                head: moved.head,
            });
        }
    }
    let known = |(job, pipeline): &(JobId, DomainId)| affected.repos.contains_key(pipeline).then_some(*job);
    RemovedCommits {
        dry_run,
        needs_force,
        restricted: affected.restricted,
        repos: repos.into_values().collect(),
        jobs: gone.jobs.iter().filter_map(known).collect(),
    }
}

/// Keeps what the transaction did, or nothing of it.
async fn settle(
    call: &Call,
    mut tx: Tx,
    (action, asked, gone): (&str, &RemoveCommits, usize),
    answer: RemovedCommits,
) -> Answer<RemovedCommits> {
    if asked.dry_run {
        tx.rollback().await?;
        return Ok(answer);
    }
    let subject = format!("{} ({gone} commits)", asked.reference);
    call.record(&mut tx, action, &subject).await?;
    call.keep_answer(&mut tx, StatusCode::OK, &answer).await?;
    tx.commit().await?;
    call.plane.signals.commits_changed();
    call.plane.signals.work_changed();
    Ok(answer)
}
