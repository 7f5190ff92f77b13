//! Branches that follow another one of their repo when enough has come there: deferred processing. Whether one follows is
//! decided by `provenance::triggers`, in the transaction that moved the watched branch, or at a tick of its schedule. Then
//! it is moved as by hand: pipelines that read it run, and who set the trigger needs what that takes (R4), at that moment.

use std::str::FromStr;

use contract::api::{CommitState, NewTrigger};
use contract::ids::{CommitId, DomainId};
use contract::names::BranchName;
use contract::problem::ProblemKind;
use provenance::access::{Subject, required_for_new_pipeline};
use provenance::triggers::{Schedule, Since, Trigger, would_circle};
use sqlx::PgConnection;

use super::queries::{self, TriggerRow};
use crate::call::Call;
use crate::commits::lock::lock_dag;
use crate::commits::{self, CommitRow, origins};
use crate::failure::{Answer, Failure};
use crate::permissions::{Allowed, System, Visible};
use crate::pipelines::{self, MovedHead};
use crate::plane::{Plane, Tx};

const FOLLOW: System =
    System::because("who set the trigger was allowed to write to the repo, and is asked again for R4");
/// What is told of a trigger that may not fire; which domains are missing, only its setter could be told.
const NOT_ALLOWED: &str = "a pipeline reads this branch, and who set the trigger may not derive from everything that the watched branch holds now";

/// Keeps the trigger of a branch that was just made.
///
/// # Errors
/// `invalid` for one without conditions or with a schedule that is none; `conflict` where branches would follow each other
/// in a circle.
pub async fn set(
    call: &Call,
    tx: &mut Tx,
    (repo, allowed): (&Visible, &Allowed),
    branch: &BranchName,
    new: &NewTrigger,
    head: Option<CommitId>,
) -> Answer<()> {
    if let Some(text) = &new.cron {
        Schedule::from_str(text).map_err(|error| Failure::invalid(error.to_string()))?;
    }
    if new.size_bytes.is_none() && new.commits.is_none() && new.cron.is_none() {
        return Err(Failure::invalid("the trigger has no condition, so it would never fire")
            .hint("give a size, a number of commits or a schedule"));
    }
    let watched = queries::list_watched(tx, allowed).await?;
    if would_circle(&watched, branch, &new.branch) {
        return Err(Failure::new(
            ProblemKind::Conflict,
            format!("`{branch}` and `{}` would follow each other in a circle", new.branch),
        )
        .hint("watch another branch"));
    }
    // What it would bring today (R4); whenever it fires this is asked again.
    if let Some(head) = commits::queries::find_head(tx, &FOLLOW, repo.id, &new.branch)
        .await?
        .flatten()
    {
        let set = origins::get(&call.plane, tx, &FOLLOW, head.origin_set).await?;
        pipelines::conditions::may_feed(call, tx, repo, branch, &set).await?;
    }
    let now = call.plane.now();
    queries::insert_trigger(tx, allowed, branch, new, &call.actor(), head, now).await
}

/// Moves the branches that follow these, and those that follow them, as far as their triggers fire. The transaction holds
/// the lock of the DAG; propagation is left to the caller.
///
/// # Errors
/// When the database is away.
pub async fn fire(plane: &Plane, tx: &mut Tx, moved: &[(DomainId, BranchName)]) -> Answer<Vec<MovedHead>> {
    let mut waiting = moved.to_vec();
    let mut fired = Vec::new();
    while let Some((repo, source)) = waiting.pop() {
        for row in queries::list_triggers(tx, &FOLLOW, repo, &source).await? {
            if let Some(head) = follow(plane, tx, &row).await? {
                waiting.push((repo, head.branch.clone()));
                fired.push(head);
            }
        }
    }
    Ok(fired)
}

/// Moves branches whose schedules have ticked, and lets their pipelines run. The scheduler calls it every second.
///
/// # Errors
/// When the database is away: nothing was moved then.
pub async fn tick(plane: &Plane) -> Answer<()> {
    let mut conn = plane.pool.acquire().await?;
    let mut watched: Vec<(DomainId, BranchName)> = Vec::new();
    for row in queries::list_scheduled(&mut conn, &FOLLOW).await? {
        // Looked at without the lock first: most of the time nothing is due.
        if due(plane, &mut conn, &row).await?.is_some() {
            watched.push((row.repo, row.source));
        }
    }
    drop(conn);
    if watched.is_empty() {
        return Ok(());
    }
    let mut tx = plane.begin().await?;
    lock_dag(&mut tx).await?;
    let moved = fire(plane, &mut tx, &watched).await?;
    if moved.is_empty() {
        tx.commit().await?;
        return Ok(());
    }
    let set = plane.id();
    pipelines::propagate(plane, &mut tx, set, &moved).await?;
    tx.commit().await?;
    plane.signals.commits_changed();
    plane.signals.work_changed();
    Ok(())
}

impl TriggerRow {
    /// As the rules see it.
    fn trigger(&self) -> Trigger {
        Trigger {
            size_bytes: self.size_bytes,
            commits: self.commits,
            schedule: self.cron.as_deref().and_then(|text| text.parse().ok()),
            all: self.all,
        }
    }
}

/// The commit that a branch has to follow to now, if its trigger fires.
async fn due(plane: &Plane, conn: &mut PgConnection, row: &TriggerRow) -> Answer<Option<CommitRow>> {
    let head = commits::queries::find_head(conn, &FOLLOW, row.repo, &row.source).await?;
    let Some(head) = head.flatten() else {
        return Ok(None);
    };
    let Some(head) = commits::queries::find_finished(conn, &FOLLOW, head.id).await? else {
        return Ok(None);
    };
    let (commits, before) = queries::count_since(conn, &FOLLOW, head.id, row.followed).await?;
    let number = |n: i64| u64::try_from(n).unwrap_or(0);
    let since = Since {
        commits: number(commits),
        size_bytes: number(head.size_bytes - before),
        at: row.since,
    };
    if !row.trigger().fires(&since, plane.now()) {
        return Ok(None);
    }
    // One with an open commit stays where it is, as when it is moved by hand; it follows when there is something new again.
    let here = commits::queries::find_head(conn, &FOLLOW, row.repo, &row.branch).await?;
    let is_open = here.flatten().is_some_and(|h| h.state == CommitState::Open);
    Ok((!is_open).then_some(head))
}

/// Moves one branch if its trigger fires; answers where to.
async fn follow(plane: &Plane, tx: &mut Tx, row: &TriggerRow) -> Answer<Option<MovedHead>> {
    let Some(head) = due(plane, tx, row).await? else {
        return Ok(None);
    };
    if !may_feed(plane, tx, row, head.origin_set).await? {
        queries::update_refused(tx, &FOLLOW, row, NOT_ALLOWED).await?;
        return Ok(None);
    }
    queries::update_fired(tx, &FOLLOW, row, head.id, plane.now()).await?;
    Ok(Some(MovedHead {
        repo: row.repo,
        branch: row.branch.clone(),
        commit: head,
    }))
}

/// Whether who set the trigger may let pipelines read what it would bring (R4), where one reads the branch.
async fn may_feed(plane: &Plane, tx: &mut Tx, row: &TriggerRow, origin_set: i64) -> Answer<bool> {
    if !pipelines::queries::is_branch_read(tx, &FOLLOW, row.repo, row.branch.as_str()).await? {
        return Ok(true);
    }
    let Some(policy) = plane.policy.last_known() else {
        return Ok(false);
    };
    let set = origins::get(plane, tx, &FOLLOW, origin_set).await?;
    let sponsor = Subject::unlimited(row.actor.id);
    Ok(required_for_new_pipeline(&policy, &sponsor, &[&set], plane.now()).is_empty())
}
