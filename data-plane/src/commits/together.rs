//! Open commits of people are finished: what was put into each is merged onto its parent's tree, and all of them become
//! one commit set in one transaction, so that a pipeline that reads several of them runs once.

use contract::api::CommitState;
use contract::ids::CommitId;
use contract::problem::ProblemKind;
use storage::{TreeRef, Writer};

use super::finish::{finish_in_transaction, finished_already};
use super::lock::lock_dag;
use super::put::{ATTEMPTS, applied, publish, still_allowed};
use super::{CommitRow, queries};
use crate::call::Call;
use crate::failure::{Answer, Failure};
use crate::files::change::{self, FileChange};
use crate::files::stored::Stored;
use crate::permissions::{Allowed, System, Visible};
use crate::plane::Tx;

const FINISH: System = System::because("the caller was allowed to write to the repos");

/// An open commit that is to be finished.
pub struct Open {
    /// Its repo.
    pub repo: Visible,
    /// The proof that the caller may write to it.
    pub allowed: Allowed,
    /// The commit.
    pub id: CommitId,
}

/// Finishes these commits, all or none.
///
/// # Errors
/// `commit-finished`; `conflict` when a path would be a file and a directory: all of them stay open then.
pub async fn finish(call: &Call, open: &[Open]) -> Answer<Vec<CommitRow>> {
    let plane = &call.plane;
    let mut merges: Vec<Merge<'_>> = open.iter().map(|open| Merge::begin(call, open)).collect();
    'attempt: for _ in 0..ATTEMPTS {
        let mut trees = Vec::with_capacity(merges.len());
        for merge in &mut merges {
            trees.push(merge.tree(call).await?);
        }
        let _gate = plane.change().await?;
        let mut tx = plane.begin().await?;
        lock_dag(&mut tx).await?;
        for merge in &merges {
            if !merge.is_whole(call, &mut tx).await? {
                continue 'attempt;
            }
        }
        let mut rows: Vec<CommitRow> = Vec::with_capacity(merges.len());
        for (merge, tree) in merges.iter().zip(&trees) {
            if let Some(first) = rows.first() {
                queries::update_set(&mut tx, &merge.open.allowed, merge.open.id, first.commit_set).await?;
            }
            rows.push(finish_in_transaction(plane, &mut tx, &FINISH, merge.open.id, tree, plane.now()).await?);
            merge.writer.may_be_referred_to();
        }
        let Some(set) = rows.first().map(|row| row.commit_set) else {
            return Ok(rows);
        };
        publish(plane, tx, set, &rows).await?;
        return Ok(rows);
    }
    Err(Failure::new(
        ProblemKind::BranchMoved,
        "others kept putting files into the commit, so it was not finished",
    )
    .hint("repeat the request"))
}

/// What an open commit holds, on its way to a tree.
struct Merge<'a> {
    open: &'a Open,
    writer: Stored,
    /// The tree with what was read, but for `changes`; `None` = nothing was read yet.
    tree: Option<TreeRef>,
    /// What was read last.
    changes: Vec<FileChange>,
    /// What the tree was made on.
    base: TreeRef,
    /// The place of the last change that was read.
    seen: i64,
    /// Rows they stood in.
    rows: i64,
}

impl<'a> Merge<'a> {
    fn begin(call: &Call, open: &'a Open) -> Self {
        Self {
            open,
            writer: Stored::begin(&call.plane.storage),
            tree: None,
            changes: Vec::new(),
            base: TreeRef::empty(),
            seen: 0,
            rows: 0,
        }
    }

    /// The tree with everything that was put into the commit by now; durable.
    async fn tree(&mut self, call: &Call) -> Answer<TreeRef> {
        let (base, origin_set) = {
            let mut conn = call.plane.pool.acquire().await?;
            // What was put into it may be others': its own origins count, which hold those of what is below it.
            let set = queries::find_commit(&mut conn, &FINISH, self.open.id)
                .await?
                .map(|c| c.origin_set);
            let finished = queries::find_finished(&mut conn, &FINISH, self.open.id).await?;
            (finished.map_or_else(|| Ok(TreeRef::empty()), |f| f.tree())?, set)
        };
        if base != self.base {
            // What it was made on lost a file to a purge.
            self.begin_again();
            self.base = base.clone();
        }
        self.collect(call, &base, origin_set).await?;
        let tree = self.fold(call, &base, origin_set).await?;
        self.writer.flush().await?;
        Ok(tree)
    }

    /// Forgets what was read.
    fn begin_again(&mut self) {
        (self.tree, self.seen, self.rows) = (None, 0, 0);
        self.changes.clear();
    }

    /// Merges what was read last onto the tree.
    async fn fold(&mut self, call: &Call, base: &TreeRef, origin_set: Option<i64>) -> Answer<TreeRef> {
        let before = self.tree.as_ref().unwrap_or(base);
        let tree = applied(call, &self.writer, before, origin_set, &self.changes).await?;
        self.changes.clear();
        self.tree = Some(tree.clone());
        Ok(tree)
    }

    /// Reads changes that were not read yet, a page at a time, and merges them when there are many. Contents that stand in the
    /// rows go into packs as they are met.
    async fn collect(&mut self, call: &Call, base: &TreeRef, origin_set: Option<i64>) -> Answer<()> {
        let (id, pool) = (self.open.id, &call.plane.pool);
        // Places are given when a row is inserted, not when it can be seen: one may turn up in front of what was read.
        let until = {
            let mut conn = pool.acquire().await?;
            queries::count_filesets_until(&mut conn, &FINISH, id, self.seen).await?
        };
        if until != self.rows {
            self.begin_again();
        }
        loop {
            // Given back before the contents go into packs, which may have to wait.
            let page = {
                let mut conn = pool.acquire().await?;
                queries::list_filesets(&mut conn, &FINISH, id, self.seen).await?
            };
            let Some((last, _)) = page.last() else { return Ok(()) };
            self.seen = *last;
            for (_, bytes) in &page {
                self.rows += 1;
                for change in change::decode(bytes)? {
                    self.changes.push(packed(&self.writer, change).await?);
                }
                if self.changes.len() >= change::held_most(&call.plane.storage) {
                    self.fold(call, base, origin_set).await?;
                }
            }
        }
    }

    /// Locks the commit; whether the tree holds everything that was put into it.
    async fn is_whole(&self, call: &Call, tx: &mut Tx) -> Answer<bool> {
        still_allowed(call, tx, &self.open.repo).await?;
        let commit = queries::lock_commit(tx, &FINISH, self.open.id)
            .await?
            .ok_or_else(Failure::not_found)?;
        if commit.state != CommitState::Open {
            return Err(finished_already(commit.id));
        }
        let finished = queries::find_finished(tx, &FINISH, self.open.id).await?;
        // What it was made on may have lost a file to a purge.
        if finished.map_or_else(|| Ok(TreeRef::empty()), |f| f.tree())? != self.base {
            return Ok(false);
        }
        Ok(queries::count_filesets(tx, &FINISH, self.open.id).await? == self.rows)
    }
}

async fn packed(writer: &Writer, mut change: FileChange) -> Answer<FileChange> {
    if let FileChange::Put(_, entry) | FileChange::Append(_, entry) = &mut change {
        writer.pack_embedded(entry).await?;
    }
    Ok(change)
}
