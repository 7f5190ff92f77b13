//! Cron inputs: each has a repo of its own that gets a file at every tick of its schedule (`provenance::ticks`), named by
//! the tick's time. The commit with the files and the mark of the last tick are one transaction under the DAG's lock, so a
//! tick has exactly one file whatever dies in between. Ticks that passed while the plane slept, or the pipeline was
//! stopped, are caught up: up to [`AT_ONCE`] of them in one commit, then the next ones; where files are overwritten only
//! the last. The plane leaves the time of the next tick with the control plane ([`next_alarm`]), which wakes it.

pub mod queries;

use std::str::FromStr;

use bytes::Bytes;
use chrono::{DateTime, SubsecRound, Utc};
use contract::api::Actor;
use contract::ids::{CommitSetId, DomainId, ProjectId};
use contract::names::{BranchName, RepoName};
use provenance::spec::CronInput;
use provenance::ticks::{Ticks, file_name, file_name_by_hand};
use storage::{FilePath, TreeRef};

use crate::branches::triggers;
use crate::commits::lock::lock_dag;
use crate::commits::put::{publish, united};
use crate::commits::{self, CommitRow, NewCommit, finish, origins};
use crate::failure::{Answer, Failure};
use crate::files::change::{self, FileChange};
use crate::files::stored::Stored;
use crate::permissions::System;
use crate::pipelines::MovedHead;
use crate::plane::{Plane, Tx};
use crate::repos;
use queries::CronRow;

const TICK: System =
    System::because("who applied the pipeline owns the repo of its cron input, and asked for its files");
/// So many missed ticks become files of one commit.
pub const AT_ONCE: usize = 1000;

/// The repo of a cron input, as `apply` finds or makes it.
#[derive(Debug, Clone)]
pub struct CronRepo {
    /// Its domain.
    pub id: DomainId,
    /// Its name.
    pub name: RepoName,
    /// Whether it has to be made.
    pub new: bool,
    /// What the spec says.
    pub input: CronInput,
}

/// Makes the repos of a pipeline's cron inputs that are not there.
///
/// # Errors
/// `already-exists` when somebody made a repo of that name meanwhile.
pub async fn make(plane: &Plane, tx: &mut Tx, project: ProjectId, repos: &[CronRepo], actor: &Actor) -> Answer<()> {
    for repo in repos.iter().filter(|repo| repo.new) {
        let new = repos::queries::NewRepo {
            id: repo.id,
            project,
            name: &repo.name,
            description: "ticks of a pipeline's cron input",
            pipeline: true,
            created_at: plane.now(),
            created_by: actor,
        };
        repos::queries::insert_repo(tx, &TICK, &new).await?;
    }
    Ok(())
}

/// Writes down the cron inputs of a pipeline's new version. One that stays as it was
/// goes on counting; another schedule or start counts from the start it names, else from now. One that is gone ticks no more.
///
/// # Errors
/// When the database is away.
pub async fn save(plane: &Plane, tx: &mut Tx, pipeline: DomainId, repos: &[CronRepo]) -> Answer<()> {
    let now = plane.now();
    let kept: Vec<_> = repos.iter().map(|repo| repo.id).collect();
    queries::retire(tx, &TICK, pipeline, &kept).await?;
    for repo in repos {
        let before = queries::find(tx, &TICK, repo.id).await?;
        let same = |row: &&CronRow| row.spec == repo.input.spec && row.start_at == repo.input.start;
        let counted_to = match before.as_ref() {
            Some(row) if same(&row) => row.counted_to,
            Some(row) => repo.input.start.unwrap_or(now).max(row.counted_to),
            None => repo.input.start.unwrap_or(now),
        };
        let counted_to = counted_to.trunc_subsecs(0);
        let next_at = ticks_of(&repo.input.spec)?.next(counted_to);
        queries::upsert(tx, &TICK, pipeline, repo, (counted_to, next_at)).await?;
    }
    Ok(())
}

fn ticks_of(spec: &str) -> Answer<Ticks> {
    Ticks::from_str(spec).map_err(|error| Failure::internal(format!("a stored schedule is none: {error}")))
}

/// Makes the files of ticks that have come. The scheduler calls it every second.
///
/// # Errors
/// When the database is away. One input that cannot get its files holds no other up; it is tried again.
pub async fn tick(plane: &Plane) -> Answer<()> {
    let mut conn = plane.pool.acquire().await?;
    let due = queries::list_due(&mut conn, &TICK, plane.now()).await?;
    drop(conn);
    for row in due {
        if let Err(error) = catch_up(plane, &row).await {
            tracing::warn!(repo.id = %row.repo, "a tick of a cron input is tried again: {error}");
        }
    }
    Ok(())
}

/// When the next tick of a pipeline that runs comes, or of the schedule of a branch that has something to follow.
///
/// # Errors
/// When the database is away.
pub async fn next_alarm(plane: &Plane) -> Answer<Option<DateTime<Utc>>> {
    let mut conn = plane.pool.acquire().await?;
    let tick = queries::next(&mut conn, &TICK).await?;
    let follow = triggers::next_tick(plane, &mut conn).await?;
    Ok(tick.into_iter().chain(follow).min())
}

/// The ticks of one input that have passed, as far as they fit in a commit.
async fn catch_up(plane: &Plane, row: &CronRow) -> Answer<()> {
    let ticks = ticks_of(&row.spec)?;
    let now = plane.now();
    let passed = match row.overwrite {
        true => ticks.last(row.counted_to, now).into_iter().collect(),
        false => ticks.between(row.counted_to, now, AT_ONCE),
    };
    let Some(last) = passed.last().copied() else {
        return Ok(());
    };
    let names: Vec<String> = passed.into_iter().map(file_name).collect();
    let writer = Stored::begin(&plane.storage);
    let mut conn = plane.pool.acquire().await?;
    let head = head(&mut conn, row.repo).await?;
    drop(conn);
    let tree = tree_with(plane, &writer, head.as_ref(), &names, row.overwrite).await?;
    let mut tx = plane.begin().await?;
    lock_dag(&mut tx).await?;
    let same_row = queries::lock_due(&mut tx, &TICK, row, now).await?;
    let now_head = self::head(&mut tx, row.repo).await?;
    let root = |head: &Option<CommitRow>| head.as_ref().map(|h| (h.id, h.root.clone()));
    if !same_row || root(&now_head) != root(&head) {
        // The next second sees what it is now.
        return Ok(());
    }
    let set = plane.id();
    let commit = commit(plane, &mut tx, row, head.as_ref(), &tree, set).await?;
    queries::update_counted(&mut tx, &TICK, row.repo, last, ticks.next(last)).await?;
    writer.may_be_referred_to();
    publish(plane, tx, set, std::slice::from_ref(&commit)).await
}

/// Gives each cron input of a pipeline a tick of this moment; answers the heads that moved. The transaction holds the lock
/// of the DAG, propagation is left to the caller. `writer` may be referred to once that is committed.
///
/// # Errors
/// When the database or storage is away.
pub async fn by_hand(
    plane: &Plane,
    tx: &mut Tx,
    writer: &Stored,
    pipeline: DomainId,
    set: CommitSetId,
) -> Answer<Vec<MovedHead>> {
    let mut moved = Vec::new();
    for row in queries::list_of(tx, &TICK, pipeline).await? {
        let head = head(tx, row.repo).await?;
        let names = [file_name_by_hand(plane.now())];
        let tree = tree_with(plane, writer, head.as_ref(), &names, row.overwrite).await?;
        let commit = commit(plane, tx, &row, head.as_ref(), &tree, set).await?;
        moved.push(MovedHead {
            repo: row.repo,
            branch: BranchName::main(),
            commit,
        });
    }
    Ok(moved)
}

/// Only ticks make commits of the repo, so its head is never open.
async fn head(conn: &mut sqlx::PgConnection, repo: DomainId) -> Answer<Option<CommitRow>> {
    let head = commits::queries::find_head(conn, &TICK, repo, &BranchName::main()).await?;
    Ok(head.flatten())
}

async fn tree_with(
    plane: &Plane,
    writer: &Stored,
    head: Option<&CommitRow>,
    names: &[String],
    overwrite: bool,
) -> Answer<TreeRef> {
    let base = head.map_or_else(|| Ok(TreeRef::empty()), CommitRow::tree)?;
    let mut changes = Vec::with_capacity(names.len() + 1);
    if overwrite {
        changes.push(FileChange::Clear);
    }
    for name in names {
        let path = FilePath::parse(name).map_err(Failure::internal)?;
        let empty = writer.write_bytes(Bytes::new(), false).await?;
        changes.push(FileChange::Put(path, empty));
    }
    let tree = change::apply(&plane.storage, writer, &base, &changes).await?;
    writer.flush().await?;
    Ok(tree)
}

async fn commit(
    plane: &Plane,
    tx: &mut Tx,
    row: &CronRow,
    head: Option<&CommitRow>,
    tree: &TreeRef,
    set: CommitSetId,
) -> Answer<CommitRow> {
    let parents = match head {
        None => Vec::new(),
        Some(head) => vec![origins::get(plane, tx, &TICK, head.origin_set).await?],
    };
    let origin_set = origins::intern(tx, &TICK, &united(row.repo, &parents)).await?;
    let new = NewCommit {
        id: plane.id(),
        repo: row.repo,
        branch: BranchName::main(),
        commit_set: set,
        parent: head.map(|h| h.id),
        message: String::new(),
        actor: row.actor.clone(),
        pipeline: None,
        origin_set,
        inputs: Vec::new(),
        started_at: plane.now(),
    };
    commits::queries::insert_commit(tx, &TICK, &new).await?;
    finish::finish_in_transaction(plane, tx, &TICK, new.id, tree, plane.now()).await
}
