//! Branches that follow another one of their repo when enough has come there: deferred processing. Whether one follows is
//! decided by `provenance::triggers`, in the transaction that moved the watched branch, or at a tick of its schedule. Then
//! it is moved as by hand: pipelines that read it run, and who set the trigger needs what that takes (R4), at that moment.

use chrono::{DateTime, Utc};
use contract::api::{CommitState, NewTrigger};
use contract::ids::{CommitId, DomainId};
use contract::names::BranchName;
use contract::policy::Permission;
use contract::problem::ProblemKind;
use provenance::access::{Subject, can, required_for_new_pipeline};
use provenance::ticks::Ticks;
use provenance::triggers::{Since, Trigger, would_circle};
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
    System::because("who set the trigger was allowed to write to the repo, and is asked again for that and for R4");
/// What is told of a trigger that may not fire; which domains are missing, only its setter could be told.
const NOT_ALLOWED: &str = "a pipeline reads this branch, and who set the trigger may not derive from everything that the watched branch holds now";
const NOT_WRITER: &str = "who set the trigger may not write to the repo any more";
const NOT_KNOWN: &str = "what who set the trigger may do is not known at the moment";

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
        let ticks = text.parse::<Ticks>();
        if ticks.map_err(|error| Failure::invalid(error.to_string()))?.is_never() {
            return Err(Failure::invalid(format!("the schedule `{text}` never comes"))
                .hint("write five fields, as in `0 * * * *` for every hour, or `@daily`"));
        }
    }
    if new.size_bytes.is_none() && new.commits.is_none() && new.cron.is_none() {
        return Err(Failure::invalid("the trigger has no condition, so it would never fire")
            .hint("give a size, a number of commits or a schedule"));
    }
    let watched = queries::list_watched(tx, &FOLLOW, repo.id).await?;
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

/// Moves branches whose schedules have ticked, and lets their pipelines run. `cron::follow` calls it every second.
///
/// # Errors
/// When the database is away: nothing was moved then.
pub async fn tick(plane: &Plane) -> Answer<()> {
    let mut conn = plane.pool.acquire().await?;
    let mut watched: Vec<(DomainId, BranchName)> = Vec::new();
    for row in queries::list_scheduled(&mut conn, &FOLLOW).await? {
        // Looked at without the lock first: most of the time nothing is due.
        let ticked = row.trigger().schedule.and_then(|schedule| schedule.next(row.since));
        if ticked.is_none_or(|tick| tick > plane.now()) {
            continue;
        }
        let Some(head) = due(plane, &mut conn, &row).await? else {
            continue;
        };
        // One that was refused waits until it may fire.
        if row.reason.is_none() || refusal(plane, &mut conn, &row, head.origin_set).await?.is_none() {
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

/// The next tick of a schedule whose branch has something to follow. One that has passed and did not fire waits for
/// something else than time.
///
/// # Errors
/// When the database is away.
pub async fn next_tick(plane: &Plane, conn: &mut PgConnection) -> Answer<Option<DateTime<Utc>>> {
    let rows = queries::list_scheduled(conn, &FOLLOW).await?;
    let next = |row: &TriggerRow| row.trigger().schedule.and_then(|schedule| schedule.next(row.since));
    Ok(rows.iter().filter_map(next).filter(|tick| *tick > plane.now()).min())
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
    let (commits, before) = {
        let enough = row.commits.unwrap_or(1).max(1);
        queries::count_since(conn, &FOLLOW, head.id, row.followed, enough).await?
    };
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
    if let Some(reason) = refusal(plane, tx, row, head.origin_set).await? {
        if row.reason.as_deref() != Some(reason) {
            queries::update_refused(tx, &FOLLOW, row, reason).await?;
        }
        return Ok(None);
    }
    queries::update_fired(tx, &FOLLOW, row, head.id, plane.now()).await?;
    Ok(Some(MovedHead {
        repo: row.repo,
        branch: row.branch.clone(),
        commit: head,
    }))
}

/// Why a trigger may not fire: who set it may not write to the repo, or may not let pipelines read what it would bring (R4)
/// where one reads the branch.
async fn refusal(
    plane: &Plane,
    conn: &mut PgConnection,
    row: &TriggerRow,
    origin_set: i64,
) -> Answer<Option<&'static str>> {
    let Some(policy) = plane.policy.last_known() else {
        return Ok(Some(NOT_KNOWN));
    };
    let sponsor = Subject::unlimited(row.actor.id);
    // Whose pipeline reads the branch needs to be let derive, not write.
    if row.pipeline.is_none() && !can(&policy, &sponsor, Permission::Write, row.repo) {
        return Ok(Some(NOT_WRITER));
    }
    if !pipelines::queries::is_branch_read(conn, &FOLLOW, row.repo, row.branch.as_str()).await? {
        return Ok(None);
    }
    let set = origins::get(plane, conn, &FOLLOW, origin_set).await?;
    let missing = required_for_new_pipeline(&policy, &sponsor, &[&set], plane.now());
    Ok((!missing.is_empty()).then_some(NOT_ALLOWED))
}
