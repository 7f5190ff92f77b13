//! Cron inputs: each has a repo of its own that gets a file at every tick of its schedule (`provenance::ticks`), named by
//! the tick's time. The commit with the files and the mark of the last tick are one transaction under the DAG's lock, so a
//! tick has exactly one file whatever dies in between. Ticks that passed while the plane slept, or the pipeline was
//! stopped, are caught up, the newest [`BACKLOG_MOST`]: up to [`AT_ONCE`] of them in one commit, then a second later the
//! next ones, and what reads them runs when all are there; where files are overwritten only the last. The plane leaves the time of the next tick with the control plane ([`next_alarm`]), which wakes it.

pub mod queries;

use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use chassis::process::Shutdown;
use chrono::{DateTime, SubsecRound, Utc};
use contract::api::Actor;
use contract::ids::{CommitSetId, DomainId, ProjectId};
use contract::names::{BranchName, RepoName};
use provenance::spec::CronInput;
use provenance::ticks::{BACKLOG_MOST, Ticks, file_name, file_name_by_hand};
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
use crate::spouts;
use queries::CronRow;

const TICK: System =
    System::because("who applied the pipeline owns the repo of its cron input, and asked for its files");
/// So many missed ticks become files of one commit.
pub const AT_ONCE: usize = 1000;
/// So often it is looked whether a tick has come.
const EVERY: Duration = Duration::from_secs(1);

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

/// Makes the files of ticks and moves branches by their schedules, until shutdown.
pub async fn follow(plane: Plane, shutdown: Shutdown) {
    while !shutdown.has_begun() {
        if let Err(error) = triggers::tick(&plane).await {
            tracing::warn!("schedules of triggers are looked at again in a second: {error}");
        }
        if let Err(error) = tick(&plane).await {
            tracing::warn!("ticks of cron inputs are looked at again in a second: {error}");
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = shutdown.begun() => return,
        }
    }
}

/// Makes the files of ticks that have come, one commit an input, all of them in one transaction and commit set: what ticks
/// at the same moment is one change. While an input has more ticks to catch up nothing runs for it.
///
/// # Errors
/// When the database is away. One input that cannot get its files holds no other up; it is tried again.
pub async fn tick(plane: &Plane) -> Answer<()> {
    let now = plane.now();
    let mut conn = plane.pool.acquire().await?;
    let due = queries::list_due(&mut conn, &TICK, now).await?;
    drop(conn);
    if due.is_empty() {
        return Ok(());
    }
    let _busy = plane.activity.begin(&plane.environment);
    let writer = Stored::begin(&plane.storage);
    let mut passed = Vec::with_capacity(due.len());
    for row in due {
        let repo = row.repo;
        match Passed::prepare(plane, &writer, row, now).await {
            Ok(one) => passed.extend(one),
            Err(error) => tracing::warn!(repo.id = %repo, "a tick of a cron input is tried again: {error}"),
        }
    }
    writer.may_be_referred_to();
    let Err(error) = commit_all(plane, &passed, now).await else {
        return Ok(());
    };
    if passed.len() < 2 {
        return Err(error);
    }
    // One of them may be what it fails by: no other must wait for it.
    for one in &passed {
        if let Err(error) = commit_all(plane, std::slice::from_ref(one), now).await {
            tracing::warn!(repo.id = %one.files.row.repo, "a tick of a cron input is tried again: {error}");
        }
    }
    Ok(())
}

/// The commits of ticks, in one transaction.
async fn commit_all(plane: &Plane, passed: &[Passed], now: DateTime<Utc>) -> Answer<()> {
    let _gate = plane.change().await?;
    let mut tx = plane.begin().await?;
    lock_dag(&mut tx).await?;
    let (set, mut moved) = (plane.id(), Vec::new());
    for one in passed {
        let files = &one.files;
        // The next second sees what it is now.
        if !queries::lock_due(&mut tx, &TICK, &files.row, now).await? || !files.fits(&mut tx).await? {
            continue;
        }
        let commit = files.commit(plane, &mut tx, set, &files.row.actor).await?;
        queries::update_counted(&mut tx, &TICK, files.row.repo, one.last, one.next).await?;
        if one.next.is_none_or(|next| next > now) {
            moved.push(commit);
        }
    }
    publish(plane, tx, set, &moved).await
}

/// When the next tick of a pipeline that runs comes, or of the schedule of a branch that has something to follow; now, while a
/// spout is wanted: it cannot receive while its plane sleeps.
///
/// # Errors
/// When the database is away.
pub async fn next_alarm(plane: &Plane) -> Answer<Option<DateTime<Utc>>> {
    let mut conn = plane.pool.acquire().await?;
    if spouts::queries::is_any_wanted(&mut conn, &TICK).await? {
        return Ok(Some(plane.now()));
    }
    let tick = queries::next(&mut conn, &TICK).await?;
    let follow = triggers::next_tick(plane, &mut conn).await?;
    Ok(tick.into_iter().chain(follow).min())
}

/// Files of ticks on their way into a commit.
struct Files {
    row: CronRow,
    /// What they are put onto.
    head: Option<CommitRow>,
    /// What comes of it; stored.
    tree: TreeRef,
    message: String,
}

impl Files {
    async fn prepare(plane: &Plane, writer: &Stored, row: CronRow, names: &[String]) -> Answer<Self> {
        let mut conn = plane.pool.acquire().await?;
        let head = head(&mut conn, row.repo).await?;
        drop(conn);
        Ok(Self {
            tree: tree_with(plane, writer, head.as_ref(), names, row.overwrite).await?,
            head,
            row,
            message: String::new(),
        })
    }

    /// Whether the repo still has the head that they were put onto.
    async fn fits(&self, tx: &mut Tx) -> Answer<bool> {
        let root = |head: &Option<CommitRow>| head.as_ref().map(|h| (h.id, h.root.clone()));
        Ok(root(&head(tx, self.row.repo).await?) == root(&self.head))
    }

    async fn commit(&self, plane: &Plane, tx: &mut Tx, set: CommitSetId, actor: &Actor) -> Answer<CommitRow> {
        let parents = match &self.head {
            None => Vec::new(),
            Some(head) => vec![origins::get(plane, tx, &TICK, head.origin_set).await?],
        };
        let origin_set = origins::intern(tx, &TICK, &united(self.row.repo, &parents)).await?;
        let new = NewCommit {
            id: plane.id(),
            repo: self.row.repo,
            branch: BranchName::main(),
            commit_set: set,
            parent: self.head.as_ref().map(|h| h.id),
            message: self.message.clone(),
            actor: actor.clone(),
            pipeline: None,
            origin_set,
            inputs: Vec::new(),
            started_at: plane.now(),
        };
        commits::queries::insert_commit(tx, &TICK, &new).await?;
        finish::finish_in_transaction(plane, tx, &TICK, new.id, &self.tree, plane.now()).await
    }
}

/// The ticks of one input that have passed, as far as they fit in a commit.
struct Passed {
    files: Files,
    last: DateTime<Utc>,
    /// The tick behind that.
    next: Option<DateTime<Utc>>,
}

impl Passed {
    async fn prepare(plane: &Plane, writer: &Stored, row: CronRow, now: DateTime<Utc>) -> Answer<Option<Self>> {
        let ticks = ticks_of(&row.spec)?;
        let mut from = row.counted_to;
        let passed = match row.overwrite {
            true => ticks.last(from, now).into_iter().collect(),
            false => {
                from = ticks.newest(from, now, BACKLOG_MOST);
                ticks.between(from, now, AT_ONCE)
            }
        };
        let Some(last) = passed.last().copied() else {
            return Ok(None);
        };
        let left_out = from > row.counted_to;
        let names: Vec<String> = passed.into_iter().map(file_name).collect();
        let mut files = Files::prepare(plane, writer, row, &names).await?;
        if left_out {
            let until = file_name(from);
            files.message =
                format!("ticks up to {until} are left out: of those missed the newest {BACKLOG_MOST} are made");
        }
        let next = ticks.next(last);
        Ok(Some(Self { files, last, next }))
    }
}

/// A tick of this moment for each cron input of a pipeline, stored before the lock of the DAG is taken.
pub struct ByHand {
    writer: Stored,
    files: Vec<Files>,
}

impl ByHand {
    /// Stores the files. That the caller may run the pipeline was asked.
    ///
    /// # Errors
    /// When the database or storage is away.
    pub async fn prepare(plane: &Plane, pipeline: DomainId) -> Answer<Self> {
        let mut conn = plane.pool.acquire().await?;
        let rows = queries::list_of(&mut conn, &TICK, pipeline).await?;
        drop(conn);
        let (writer, mut files) = (Stored::begin(&plane.storage), Vec::with_capacity(rows.len()));
        for row in rows {
            let names = [file_name_by_hand(plane.now())];
            files.push(Files::prepare(plane, &writer, row, &names).await?);
        }
        Ok(Self { writer, files })
    }

    /// Makes the commits, by whom runs the pipeline; answers the heads that moved, or `None` when inputs or heads are others
    /// by now. The transaction holds the lock of the DAG; propagation is left to the caller.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn commit(
        &self,
        plane: &Plane,
        tx: &mut Tx,
        pipeline: DomainId,
        set: CommitSetId,
        actor: &Actor,
    ) -> Answer<Option<Vec<MovedHead>>> {
        let rows = queries::list_of(tx, &TICK, pipeline).await?;
        let seen = |row: &CronRow| (row.repo, row.overwrite);
        if !rows
            .iter()
            .map(seen)
            .eq(self.files.iter().map(|files| seen(&files.row)))
        {
            return Ok(None);
        }
        let mut moved = Vec::new();
        for files in &self.files {
            if !files.fits(tx).await? {
                return Ok(None);
            }
            moved.push(MovedHead {
                repo: files.row.repo,
                branch: BranchName::main(),
                commit: files.commit(plane, tx, set, actor).await?,
            });
        }
        self.writer.may_be_referred_to();
        Ok(Some(moved))
    }
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
