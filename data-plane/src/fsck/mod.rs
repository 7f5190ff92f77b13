//! Verification of everything that is stored: trees and their packs, the chain of record digests, origin sets against
//! provenance, open commits, unfinished uploads and results of datums; on demand, repair of what can be. Findings are lines as they are found. Managers of the organization may run it; since they are not readers
//! (R14), a finding names a path only in a commit that the caller may read.

mod others;
pub mod queries;
mod repair;
pub mod routes;

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

use contract::api::CommitState;
use contract::ids::CommitId;
use provenance::origins::OriginSet;
use serde::Serialize;
use storage::{Digest, FileEntry, FilePath, Finding, Storage, TreeRef};

use crate::call::Call;
use crate::commits::records::{ancestry, record_digest};
use crate::commits::{CommitRow, origins};
use crate::failure::Answer;
use crate::permissions::System;
use crate::plane::Plane;
use queries::Holder;

const CHECK: System = System::because("the check sees everything; findings are filtered for who reads them");

/// Copies of the pieces of so many packs are looked for in one pass over all packs.
const PACKS_AT_ONCE: usize = 64;

/// One line of the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Line {
    /// `ok`, `repaired`, `warning` or `error`.
    pub severity: &'static str,
    /// What it is about.
    pub subject: String,
    /// What is wrong and what to do.
    pub message: String,
}

fn error(subject: &str, message: impl Into<String>) -> Line {
    Line {
        severity: "error",
        subject: subject.to_owned(),
        message: message.into(),
    }
}

/// What is known of trees that were checked already: most commits share most of their nodes, some all.
pub struct Checked {
    plane: Plane,
    /// The plane's store, read anew: what the plane remembers may be damaged in the bucket by now.
    storage: Storage,
    roots: HashSet<Vec<u8>>,
    /// Record digests by commit.
    pub commits: usize,
    mending: Option<Mending>,
}

/// What a check that repairs does about packs that are found to be gone.
struct Mending {
    tried: HashSet<Digest>,
    /// What came of it, to be told before what is still wrong.
    lines: Vec<Line>,
}

impl Checked {
    /// Nothing was checked yet.
    pub fn new(plane: &Plane) -> Self {
        Self {
            plane: plane.clone(),
            storage: plane.storage.without_memory(),
            roots: HashSet::new(),
            commits: 0,
            mending: None,
        }
    }

    /// The same, and what is found to be gone is made anew if it can be.
    #[must_use]
    pub fn repairing(self) -> Self {
        let mending = Mending {
            tried: HashSet::new(),
            lines: Vec::new(),
        };
        Self {
            mending: Some(mending),
            ..self
        }
    }

    /// What was repaired, or could not be, since this was asked last.
    pub fn take_repairs(&mut self) -> Vec<Line> {
        let lines = self.mending.as_mut().map(|mending| &mut mending.lines);
        lines.map(std::mem::take).unwrap_or_default()
    }

    /// A pack was looked after already.
    pub fn was_tried(&mut self, pack: Digest) {
        if let Some(mending) = &mut self.mending {
            mending.tried.insert(pack);
        }
    }

    /// What is wrong with a tree; `None` when the row that refers to it does no more.
    async fn verify(&mut self, holder: &Holder<'_>, tree: &TreeRef, deep: bool) -> Answer<Option<Vec<Finding>>> {
        loop {
            let found = self.storage.verify(tree, deep).await?;
            if let ControlFlow::Break(found) = self.judge(holder, found).await? {
                return Ok(found);
            }
        }
    }

    /// The same of files.
    async fn verify_files(
        &mut self,
        holder: &Holder<'_>,
        files: &[(FilePath, FileEntry)],
        deep: bool,
    ) -> Answer<Option<Vec<Finding>>> {
        loop {
            let found = self.storage.verify_files(files, deep).await?;
            if let ControlFlow::Break(found) = self.judge(holder, found).await? {
                return Ok(found);
            }
        }
    }

    /// What is to be said of what was found, or nothing where the row refers to it no more: packs of what was let go of may be gone,
    /// which is no damage. Otherwise what can be repaired is, and behind that there may be more.
    async fn judge(&mut self, holder: &Holder<'_>, found: Vec<Finding>) -> Answer<ControlFlow<Option<Vec<Finding>>>> {
        if found.is_empty() {
            return Ok(ControlFlow::Break(Some(found)));
        }
        if !self.is_as_read(holder).await? {
            return Ok(ControlFlow::Break(None));
        }
        let mut lines = self.mend(&found).await?;
        let is_needed = lines.is_empty() || self.is_as_read(holder).await?;
        let is_repair = |line: &Line| line.severity == "repaired";
        let repaired = lines.iter().any(is_repair);
        lines.retain(|line| is_needed || is_repair(line));
        if let Some(mending) = &mut self.mending {
            mending.lines.extend(lines);
        }
        Ok(match (is_needed, repaired) {
            (false, _) => ControlFlow::Break(None),
            (true, false) => ControlFlow::Break(Some(found)),
            (true, true) => ControlFlow::Continue(()),
        })
    }

    async fn is_as_read(&self, holder: &Holder<'_>) -> Answer<bool> {
        let mut conn = self.plane.pool.acquire().await?;
        queries::is_as_read(&mut conn, &CHECK, holder).await
    }

    /// Looks after the packs that these are about, each once; what came of it.
    async fn mend(&mut self, found: &[Finding]) -> Answer<Vec<Line>> {
        let mut lines = Vec::new();
        let Some(mending) = &mut self.mending else {
            return Ok(lines);
        };
        let packs = found.iter().filter_map(|finding| finding.pack);
        let packs: Vec<Digest> = packs.filter(|pack| mending.tried.insert(*pack)).collect();
        for some in packs.chunks(PACKS_AT_ONCE) {
            let elsewhere = self.plane.storage.elsewhere(some).await?;
            for pack in some {
                lines.extend(repair::repair_needed_pack(&self.plane, *pack, &elsewhere).await?);
            }
        }
        Ok(lines)
    }
}

/// Checks one commit.
///
/// # Errors
/// When the database is away; damage is no error but a line.
pub async fn check_commit(call: &Call, commit: &CommitRow, deep: bool, checked: &mut Checked) -> Answer<Vec<Line>> {
    checked.commits += 1;
    let subject = format!("commit {}", commit.id);
    let mut lines = Vec::new();
    let mut tx = call.plane.begin().await?;
    let set = match origins::get(&call.plane, &mut tx, &CHECK, commit.origin_set).await {
        Ok(set) => set,
        Err(failure) => return Ok(vec![error(&subject, failure.detail())]),
    };
    lines.extend(check_origins(call, &mut tx, commit, &set, &subject).await?);
    if commit.is_removed() {
        if let Some(tree) = commit.recorded_tree_digest()? {
            lines.extend(check_record(call, &mut tx, commit, tree, &subject).await?);
        }
        return Ok(lines);
    }
    if commit.state != CommitState::Finished {
        return Ok(lines);
    }
    let tree = match commit.tree() {
        Ok(tree) => tree,
        Err(failure) => {
            lines.push(error(&subject, failure.detail()));
            return Ok(lines);
        }
    };
    let recorded = commit.recorded_tree_digest()?.unwrap_or(*tree.digest().as_bytes());
    lines.extend(check_record(call, &mut tx, commit, recorded, &subject).await?);
    drop(tx);
    let root = commit.root.clone().unwrap_or_default();
    if !checked.roots.contains(&root) {
        let readable = call.readable(&set, "").is_ok();
        let Some(found) = checked.verify(&Holder::Commit(commit.id, &root), &tree, deep).await? else {
            return Ok(lines);
        };
        checked.roots.insert(root);
        for finding in found {
            let place = match (&finding.path, readable) {
                (Some(path), true) => format!("{subject} /{path}"),
                _ => subject.clone(),
            };
            let pack = finding.pack.map(|p| format!(" (packs/{p})")).unwrap_or_default();
            let message = match (readable, &finding.path) {
                // The words may hold a path.
                (false, Some(_)) => format!("a file is damaged{pack}; restore the object from a backup"),
                _ => format!("{}{pack}", finding.problem),
            };
            lines.push(error(&place, message));
        }
    }
    Ok(lines)
}

async fn check_record(
    call: &Call,
    tx: &mut crate::plane::Tx,
    commit: &CommitRow,
    tree: [u8; 32],
    subject: &str,
) -> Answer<Option<Line>> {
    let ancestry = ancestry(&call.plane, tx, &CHECK, commit, tree).await?;
    let finished_at = commit.finished_at.unwrap_or(commit.started_at);
    let digest = record_digest(commit, finished_at, ancestry);
    Ok((commit.current_digest() != Some(&digest[..])).then(|| {
        error(
            subject,
            "its record does not have the digest that was stored with it: the row, its inputs or its parent were changed; restore the database from a backup",
        )
    }))
}

/// Every domain of what a commit was made from is among its origins (R3), its own too.
async fn check_origins(
    call: &Call,
    tx: &mut crate::plane::Tx,
    commit: &CommitRow,
    set: &OriginSet,
    subject: &str,
) -> Answer<Vec<Line>> {
    let mut lines = Vec::new();
    if set.home() != commit.repo {
        lines.push(error(subject, "its origin set is that of another repo"));
    }
    let mut sources: HashMap<CommitId, i64> = queries::list_input_sets(tx, &CHECK, commit.id).await?;
    if let Some(parent) = commit.parent.filter(|_| commit.holds_parent()) {
        sources.extend(queries::find_set(tx, &CHECK, parent).await?.map(|set| (parent, set)));
    }
    for (source, id) in sources {
        let Ok(from) = origins::get(&call.plane, tx, &CHECK, id).await else {
            lines.push(error(
                subject,
                format!("the origin set of its input `{source}` is damaged"),
            ));
            continue;
        };
        if from.domains().any(|d| set.get(d).is_none()) {
            lines.push(error(
                subject,
                format!("its origins lack a domain of `{source}`, which it was made from: readers may see too much; restore the database from a backup"),
            ));
        }
    }
    Ok(lines)
}
