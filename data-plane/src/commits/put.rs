//! One atomic change of a branch: a commit of its own, or an addition to the open commit that is the branch's head. The
//! tree is made without any lock; the transaction then looks whether the head is still the one it was made on, and if
//! not, everything but the upload is done again on the new one.

use std::sync::Arc;

use chassis::http::Json;
use contract::api::{Commit, CommitState, ImportedSource};
use contract::ids::{CommitId, CommitSetId, UploadId};
use contract::names::BranchName;
use contract::policy::Permission;
use contract::problem::ProblemKind;
use http::StatusCode;
use provenance::origins::{Edge, OriginSet};
use sqlx::PgConnection;
use storage::TreeRef;
use tokio::sync::SemaphorePermit;

use super::finish::finish_in_transaction;
use super::lock::lock_dag;
use super::{CommitRow, NewCommit, origins, queries, views};
use crate::branches::triggers;
use crate::call::Call;
use crate::failure::{Answer, Failure};
use crate::files::change::{self, FileChange};
use crate::files::samples;
use crate::files::stored::Stored;
use crate::permissions::{Allowed, System, Visible};
use crate::pipelines::{self, MovedHead};
use crate::plane::{Plane, Tx};
use crate::{repos, uploads};

const PUT: System = System::because("the caller was allowed to write to the repo");
pub(crate) const ATTEMPTS: usize = 50;
/// Content up to this size goes into the pack of the tree's nodes: one object and one sync instead of two.
const SHARED_PACK_BYTES_MAX: usize = 4 << 20;

/// A commit that something is copied from: it becomes an input of the commit that it is copied into (R3).
#[derive(Debug, Clone)]
pub struct Source {
    /// The commit.
    pub commit: CommitId,
    /// The tree that was copied from.
    pub tree: TreeRef,
    /// Its origins.
    pub origins: Arc<OriginSet>,
}

/// Whether what was copied is still there: while a request is under way a commit may be dropped, or lose a file to a purge.
async fn still_there(tx: &mut Tx, sources: &[Source]) -> Answer<()> {
    for source in sources {
        let commit = queries::find_commit(tx, &PUT, source.commit)
            .await?
            .ok_or_else(Failure::not_found)?;
        if commit.tree()? != source.tree {
            let detail = format!("commit `{}` lost a file while it was copied from", commit.id);
            return Err(Failure::new(ProblemKind::Conflict, detail).hint("repeat the request"));
        }
    }
    Ok(())
}

/// What is to become of a branch.
pub struct Change<'a> {
    /// The repo.
    pub repo: &'a Visible,
    /// The proof that the caller may write to it.
    pub allowed: &'a Allowed,
    /// The branch, which is made if it is not there.
    pub branch: &'a BranchName,
    /// The changes, whose bytes are with `writer`.
    pub changes: Vec<FileChange>,
    /// What was copied.
    pub sources: Vec<Source>,
    /// Where it was fetched from.
    pub imported: Vec<ImportedSource>,
    /// What the caller says.
    pub message: String,
}

/// The head of a branch that a change goes onto.
pub struct Head {
    /// The head, whatever its state.
    pub commit: Option<CommitRow>,
    /// The tree that readers of the branch see.
    pub tree: TreeRef,
    /// The origin set of that tree's commit, if there is one.
    pub origin_set: Option<i64>,
}

impl Head {
    /// Whether what is put goes into an open commit.
    pub fn is_open(&self) -> bool {
        self.commit.as_ref().is_some_and(|c| c.state == CommitState::Open)
    }
}

/// The head of a branch with the content that is visible there.
///
/// # Errors
/// When the database is away or the stored tree does not decode.
pub async fn head(conn: &mut PgConnection, allowed: &Allowed, branch: &BranchName) -> Answer<Head> {
    let commit = queries::find_head(conn, &PUT, allowed.domain(), branch)
        .await?
        .flatten();
    let finished = match &commit {
        None => None,
        Some(head) if head.state == CommitState::Finished => Some(head.clone()),
        Some(head) => queries::find_finished(conn, &PUT, head.id).await?,
    };
    let origin_set = finished.as_ref().map(|f| f.origin_set);
    let tree = finished.map_or_else(|| Ok(TreeRef::empty()), |f| f.tree())?;
    Ok(Head {
        commit,
        tree,
        origin_set,
    })
}

/// Whether the caller may be told of the content that a change goes onto: there may be write without read.
///
/// # Errors
/// When the database is away or the origin set is damaged.
pub async fn is_readable(call: &Call, origin_set: Option<i64>) -> Answer<bool> {
    let Some(id) = origin_set else {
        return Ok(true);
    };
    let mut conn = call.plane.pool.acquire().await?;
    let set = origins::get(&call.plane, &mut conn, &PUT, id).await?;
    Ok(call.readable(&set, "").is_ok())
}

/// A change that cannot be made. Which file is in the way is told to whom may read it.
async fn refused(call: &Call, origin_set: Option<i64>, failure: Failure) -> Failure {
    if failure.kind() != ProblemKind::Conflict || matches!(is_readable(call, origin_set).await, Ok(true)) {
        return failure;
    }
    Failure::new(
        ProblemKind::Conflict,
        "a path of this change would be a file and a directory; nothing was changed",
    )
    .hint("ask somebody who may read the branch which path is in the way")
}

/// The tree after these changes, or why not, in words that the caller may read.
///
/// # Errors
/// `conflict`, and storage's failures.
pub(super) async fn applied(
    call: &Call,
    writer: &Stored,
    base: &TreeRef,
    origin_set: Option<i64>,
    changes: &[FileChange],
) -> Answer<TreeRef> {
    match change::apply(&call.plane.storage, writer, base, changes).await {
        Ok(tree) => Ok(tree),
        Err(failure) => Err(refused(call, origin_set, failure).await),
    }
}

/// Makes the change.
///
/// # Errors
/// `conflict` when a path would be a file and a directory, `branch-moved` when others win too often, storage's and the
/// database's failures. Nothing is left behind then.
pub async fn commit(call: &Call, writer: &Stored, change: Change<'_>) -> Answer<CommitRow> {
    commit_upload(call, writer, change, Upload::default()).await
}

/// What there is to an upload beside its files.
#[derive(Debug, Default)]
pub struct Upload {
    /// The commit of the repo that bytes were taken from. Unless it is among those before the new commit, it becomes an
    /// input of that, like everything that is copied.
    pub base: Option<Source>,
    /// The upload that is over with the commit.
    pub id: Option<UploadId>,
}

/// Makes the change of an upload.
///
/// # Errors
/// As [`commit`], and `not-found` when the upload is over already.
pub async fn commit_upload(
    call: &Call,
    writer: &Stored,
    mut change: Change<'_>,
    mut upload: Upload,
) -> Answer<CommitRow> {
    let plane = &call.plane;
    // The bytes first: the turn below is then held for the tree's few nodes only. A little may as well share their pack.
    if writer.open_bytes() > SHARED_PACK_BYTES_MAX {
        writer.flush().await?;
    }
    let mut turn = None;
    for _ in 0..ATTEMPTS {
        let head = {
            let mut conn = plane.pool.acquire().await?;
            let head = head(&mut conn, change.allowed, change.branch).await?;
            if let Some(base) = &upload.base
                && !is_before(&mut conn, base.commit, head.commit.as_ref()).await?
            {
                change.sources.extend(upload.base.take());
            }
            head
        };
        let made = match &head.commit {
            // Additions to an open commit do not wait for each other.
            Some(open) if head.is_open() => add_to(call, writer, &change, &upload, open.id).await?,
            _ if turn.is_none() => {
                turn = Some(plane.turns.take(change.repo.id, change.branch).await);
                continue;
            }
            _ => commit_onto(call, writer, &change, &upload, &head).await?,
        };
        if let Some(row) = made {
            return Ok(row);
        }
    }
    Err(Failure::new(
        ProblemKind::BranchMoved,
        format!(
            "`{}@{}` was moved by others all the time; nothing was committed",
            change.repo, change.branch
        ),
    )
    .hint("repeat the request"))
}

async fn is_before(conn: &mut PgConnection, commit: CommitId, head: Option<&CommitRow>) -> Answer<bool> {
    match head {
        Some(head) if head.id == commit => Ok(true),
        Some(head) => queries::is_ancestor(conn, &PUT, commit, head.id).await,
        None => Ok(false),
    }
}

async fn commit_onto(
    call: &Call,
    writer: &Stored,
    change: &Change<'_>,
    upload: &Upload,
    head: &Head,
) -> Answer<Option<CommitRow>> {
    let plane = &call.plane;
    let tree = applied(call, writer, &head.tree, head.origin_set, &change.changes).await?;
    writer.flush().await?;
    let (mut tx, _gate) = begin_change(call, change).await?;
    writer.in_time()?;
    let now = self::head(&mut tx, change.allowed, change.branch).await?;
    // The same commit may have another tree: something was purged from it.
    if now.tree != head.tree || now.commit.map(|c| c.id) != head.commit.as_ref().map(|c| c.id) {
        return Ok(None);
    }
    still_there(&mut tx, &change.sources).await?;
    still_there(&mut tx, upload.base.as_slice()).await?;
    let parent = head.commit.as_ref();
    let new = new_commit(plane, call, &mut tx, change, parent).await?;
    queries::insert_commit(&mut tx, &PUT, &new).await?;
    queries::add_sources(&mut tx, &PUT, new.id, &change.imported).await?;
    samples::keep(&mut tx, change.allowed, new.id, writer).await?;
    let row = finish_in_transaction(plane, &mut tx, &PUT, new.id, &tree, plane.now()).await?;
    if let Some(upload) = upload.id {
        uploads::complete(&mut tx, upload, new.id).await?;
    }
    keep_answer(call, &mut tx, &row).await?;
    writer.may_be_referred_to();
    publish(plane, tx, row.commit_set, std::slice::from_ref(&row)).await?;
    Ok(Some(row))
}

/// Keeps the answer of a request that has a key, and ends one that was answered before: then nothing is changed.
async fn keep_answer(call: &Call, tx: &mut Tx, row: &CommitRow) -> Answer<()> {
    if call.keyed.is_none() {
        return Ok(());
    }
    let shown = views::show_to_maker(tx, call, row.clone()).await?;
    call.keep_answer(tx, StatusCode::CREATED, &shown).await
}

/// Lets branches that follow these, and downstream pipelines, know of finished commits of one set, commits the transaction, wakes who waits.
///
/// # Errors
/// When the database is away: then nothing of the transaction is kept.
pub async fn publish(plane: &Plane, mut tx: Tx, set: CommitSetId, rows: &[CommitRow]) -> Answer<()> {
    let mut moved: Vec<MovedHead> = rows
        .iter()
        .map(|row| MovedHead {
            repo: row.repo,
            branch: row.branch.clone(),
            commit: row.clone(),
        })
        .collect();
    let watched: Vec<_> = rows.iter().map(|row| (row.repo, row.branch.clone())).collect();
    moved.extend(triggers::fire(plane, &mut tx, &watched).await?);
    pipelines::propagate(plane, &mut tx, set, &moved).await?;
    tx.commit().await?;
    plane.signals.commits_changed();
    plane.signals.work_changed();
    Ok(())
}

/// Begins the transaction of a change: under the plane's lock, on a repo that is still there, with rights that the
/// caller still has. An upload may have taken an hour.
async fn begin_change<'p>(call: &'p Call, change: &Change<'_>) -> Answer<(Tx, SemaphorePermit<'p>)> {
    let gate = call.plane.change().await?;
    let mut tx = call.plane.begin().await?;
    lock_dag(&mut tx).await?;
    still_allowed(call, &mut tx, change.repo).await?;
    Ok((tx, gate))
}

/// Whether the repo is still there and the caller may still write to it, by the policy of this moment.
///
/// # Errors
/// 404, `not-allowed`, `policy-unreachable`.
pub async fn still_allowed(call: &Call, tx: &mut Tx, repo: &Visible) -> Answer<()> {
    let row = repos::queries::find_repo(tx, &PUT, &repo.project, &repo.name).await?;
    if row.is_none_or(|r| r.id != repo.id) || !call.may_still(Permission::Write, repo.id)? {
        return Err(Failure::not_found());
    }
    Ok(())
}

async fn new_commit(
    plane: &Plane,
    call: &Call,
    tx: &mut Tx,
    change: &Change<'_>,
    parent: Option<&CommitRow>,
) -> Answer<NewCommit> {
    let mut from = change
        .sources
        .iter()
        .map(|s| Arc::clone(&s.origins))
        .collect::<Vec<_>>();
    if let Some(parent) = parent {
        from.push(origins::get(plane, tx, &PUT, parent.origin_set).await?);
    }
    let set = united(change.repo.id, &from);
    Ok(NewCommit {
        id: plane.id(),
        repo: change.repo.id,
        branch: change.branch.clone(),
        commit_set: plane.id::<CommitSetId>(),
        parent: parent.map(|p| p.id),
        message: change.message.clone(),
        actor: call.actor(),
        pipeline: None,
        origin_set: origins::intern(tx, &PUT, &set).await?,
        inputs: inputs(&change.sources),
        started_at: plane.now(),
    })
}

fn inputs(sources: &[Source]) -> Vec<(CommitId, String)> {
    sources.iter().map(|s| (s.commit, "copy".to_owned())).collect()
}

/// The origins of something in the repo of that domain that has something of all these.
pub fn united(own: contract::ids::DomainId, from: &[Arc<OriginSet>]) -> OriginSet {
    let parents: Vec<(&OriginSet, Edge)> = from.iter().map(|s| (s.as_ref(), Edge::plain())).collect();
    OriginSet::combine(own, &parents)
}

/// Adds the change to an open commit; `None` when it is not open any more.
async fn add_to(
    call: &Call,
    writer: &Stored,
    change: &Change<'_>,
    upload: &Upload,
    id: CommitId,
) -> Answer<Option<CommitRow>> {
    let plane = &call.plane;
    writer.flush().await?;
    let encoded = change::encode(&change.changes)?;
    let copies = !change.sources.is_empty();
    let takes = copies || upload.base.is_some();
    let _gate = match takes {
        true => Some(plane.change().await?),
        false => None,
    };
    let mut tx = plane.begin().await?;
    if takes {
        // Origins change, and whoever computes those of several commits again holds the lock, as does who purges.
        lock_dag(&mut tx).await?;
        still_there(&mut tx, &change.sources).await?;
        still_there(&mut tx, upload.base.as_slice()).await?;
    }
    still_allowed(call, &mut tx, change.repo).await?;
    writer.in_time()?;
    let open = match copies || !change.imported.is_empty() {
        true => queries::lock_commit(&mut tx, &PUT, id).await?,
        false => queries::hold_commit(&mut tx, &PUT, id).await?,
    };
    let Some(mut open) = open.filter(|c| c.state == CommitState::Open) else {
        return Ok(None);
    };
    if !change.changes.is_empty() {
        queries::insert_fileset(&mut tx, &PUT, id, &encoded).await?;
    }
    queries::add_sources(&mut tx, &PUT, id, &change.imported).await?;
    samples::keep(&mut tx, change.allowed, id, writer).await?;
    if !change.sources.is_empty() {
        let mut from: Vec<_> = change.sources.iter().map(|s| Arc::clone(&s.origins)).collect();
        from.push(origins::get(plane, &mut tx, &PUT, open.origin_set).await?);
        let set = united(change.repo.id, &from);
        open.origin_set = origins::intern(&mut tx, &PUT, &set).await?;
        queries::update_origins(&mut tx, &PUT, id, open.origin_set).await?;
        for (input, name) in inputs(&change.sources) {
            queries::insert_input(&mut tx, &PUT, id, input, &name).await?;
        }
    }
    open.sources.extend(change.imported.iter().cloned());
    if let Some(upload) = upload.id {
        uploads::complete(&mut tx, upload, id).await?;
    }
    keep_answer(call, &mut tx, &open).await?;
    writer.may_be_referred_to();
    tx.commit().await?;
    Ok(Some(open))
}

/// Starts a commit on a branch and leaves it open.
///
/// # Errors
/// `conflict` when the branch has an open commit already.
pub async fn start(call: &Call, change: Change<'_>) -> Answer<(StatusCode, Json<Commit>)> {
    let plane = &call.plane;
    let (mut tx, _gate) = begin_change(call, &change).await?;
    call.unanswered(&mut tx).await?;
    let parent = queries::find_head(&mut tx, &PUT, change.repo.id, change.branch)
        .await?
        .flatten();
    if let Some(open) = parent.as_ref().filter(|p| p.state == CommitState::Open) {
        return Err(Failure::new(
            ProblemKind::Conflict,
            format!(
                "`{}@{}` has the open commit `{}` already",
                change.repo, change.branch, open.id
            ),
        )
        .hint(format!("howdah commit finish {}@{}", change.repo, change.branch)));
    }
    let new = new_commit(plane, call, &mut tx, &change, parent.as_ref()).await?;
    queries::insert_commit(&mut tx, &PUT, &new).await?;
    let row = queries::find_commit(&mut tx, &PUT, new.id)
        .await?
        .ok_or_else(Failure::not_found)?;
    let shown = views::show_to_maker(&mut tx, call, row).await?;
    let answer = call.commit(tx, StatusCode::CREATED, shown).await?;
    plane.signals.commits_changed();
    Ok(answer)
}
