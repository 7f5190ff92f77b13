//! The trees of a repo without the path that is purged. They are made before any lock is held; commits that came meanwhile
//! are noticed under it.

use std::collections::HashMap;

use contract::ids::{CommitId, DomainId};
use futures::TryStreamExt;
use sqlx::PgConnection;
use storage::{FilePath, Marking, Storage, TreeChange, TreeRef};

use super::survey::Survey;
use super::{PURGE, queries};
use crate::commits;
use crate::failure::Answer;
use crate::files::change::{self, FileChange};
use crate::files::stored::Stored;
use crate::plane::{Plane, Tx};

/// What becomes of a commit's tree.
pub struct Rewritten {
    /// The digest of the one that it had.
    pub before: [u8; 32],
    /// The one that it gets.
    pub after: TreeRef,
}

/// Trees by the roots that commits had.
pub struct Trees<'a> {
    plane: &'a Plane,
    /// What is purged.
    pub path: FilePath,
    /// Whose nodes the new trees are.
    pub writer: Stored,
    /// Where the bytes lie that go.
    pub held: Marking,
    known: HashMap<Vec<u8>, Option<(TreeRef, TreeRef)>>,
}

impl<'a> Trees<'a> {
    /// None are known yet.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn new(plane: &'a Plane, path: FilePath) -> Answer<Self> {
        Ok(Self {
            plane,
            path,
            writer: Stored::begin(&plane.storage),
            held: plane.storage.marking().await?,
            known: HashMap::new(),
        })
    }

    /// What was made from the path, unless it was surveyed before, and the trees of all commits up to now; `None` when a commit
    /// was made before the survey began.
    ///
    /// # Errors
    /// As [`Survey::take`].
    pub async fn ready(&mut self, repo: DomainId, known: Option<Survey>) -> Answer<Option<Survey>> {
        let survey = match known {
            Some(survey) => Some(survey),
            None => {
                self.prepare(repo).await?;
                self.survey(repo).await?
            }
        };
        // A survey may take minutes, and commits are made meanwhile.
        self.prepare(repo).await?;
        Ok(survey)
    }

    /// Makes the trees that are not made yet; they are durable then.
    async fn prepare(&mut self, repo: DomainId) -> Answer<()> {
        let rows = {
            let mut conn = self.plane.pool.acquire().await?;
            queries::list_trees(&mut conn, &PURGE, repo).await?
        };
        for (_, root) in rows {
            if self.known.contains_key(&root) {
                continue;
            }
            let tree = TreeRef::from_bytes(&root)?;
            let without = self.without(&tree).await?;
            self.known.insert(root, without.map(|after| (tree, after)));
        }
        self.writer.flush().await?;
        self.writer.in_time()
    }

    async fn without(&mut self, tree: &TreeRef) -> Answer<Option<TreeRef>> {
        let storage = &self.plane.storage;
        if !mark(storage, tree, &self.path, &mut self.held).await? {
            return Ok(None);
        }
        let changes = vec![TreeChange::Delete(self.path.clone())];
        Ok(Some(storage.apply(&self.writer, tree, changes).await?))
    }

    /// What was made from the commits that hold the path, as far as it is settled; `None` when there is a tree that is not known.
    async fn survey(&mut self, repo: DomainId) -> Answer<Option<Survey>> {
        let sources = {
            let mut conn = self.plane.pool.acquire().await?;
            let Some(affected) = self.affected(&mut conn, repo).await? else {
                return Ok(None);
            };
            let mut sources: Vec<CommitId> = affected.into_iter().map(|(id, _)| id).collect();
            sources.extend(queries::list_removed(&mut conn, &PURGE, repo).await?);
            sources
        };
        let survey = Survey::take(self.plane, repo, &self.path, &sources, &mut self.held).await?;
        Ok(Some(survey))
    }

    /// The commits that hold the path, with what their trees become; `None` when there is a tree that is not known.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn affected(&self, tx: &mut PgConnection, repo: DomainId) -> Answer<Option<Vec<(CommitId, Rewritten)>>> {
        let mut affected = Vec::new();
        for (id, root) in queries::list_trees(tx, &PURGE, repo).await? {
            match self.known.get(&root) {
                None => return Ok(None),
                Some(None) => {}
                Some(Some((before, after))) => {
                    let rewritten = Rewritten {
                        before: *before.digest().as_bytes(),
                        after: after.clone(),
                    };
                    affected.push((id, rewritten));
                }
            }
        }
        Ok(Some(affected))
    }
}

/// Marks where the bytes of a path lie, and its names; answers whether the tree has it.
async fn mark(storage: &Storage, tree: &TreeRef, path: &FilePath, held: &mut Marking) -> Answer<bool> {
    if storage.kind(tree, path).await?.is_none() {
        return Ok(false);
    }
    held.names(tree, path).await?;
    let mut files = storage.list(tree, Some(path), None);
    while let Some((_, entry)) = files.try_next().await? {
        held.file(&entry).await?;
    }
    Ok(true)
}

/// Takes the path out of what open commits of the repo were given; answers of how many.
///
/// # Errors
/// When the database or storage is away, or a stored change does not decode.
pub async fn purge_open(
    storage: &Storage,
    tx: &mut Tx,
    repo: DomainId,
    path: &FilePath,
    held: &mut Marking,
) -> Answer<usize> {
    let mut purged = 0;
    for commit in queries::list_open(tx, &PURGE, repo).await? {
        // From here on nobody adds to it.
        commits::queries::lock_commit(tx, &PURGE, commit).await?;
        let mut after = 0;
        let mut found = false;
        loop {
            let page = commits::queries::list_filesets(tx, &PURGE, commit, after).await?;
            let Some((last, _)) = page.last() else { break };
            after = *last;
            for (seq, bytes) in &page {
                let mut left = Vec::new();
                // A tree stays as it is: the deletion below, which comes behind it, takes the path out of what it gives.
                let mut in_tree = false;
                let before = change::decode(bytes)?;
                let count = before.len();
                for step in before {
                    match &step {
                        FileChange::Put(at, entry) | FileChange::Append(at, entry)
                            if at == path || at.strip_directory(path).is_some() =>
                        {
                            held.file(entry).await?;
                        }
                        FileChange::Tree(tree) => {
                            in_tree |= mark(storage, tree, path, held).await?;
                            left.push(step);
                        }
                        _ => left.push(step),
                    }
                }
                found |= in_tree;
                if left.len() < count {
                    found = true;
                    queries::update_fileset(tx, &PURGE, commit, *seq, &change::encode(&left)?).await?;
                }
            }
        }
        if found {
            purged += 1;
            // Whoever is about to finish it has read what it was given: one row more makes him read again, and what he read
            // is deleted.
            let delete = change::encode(&[FileChange::Delete(path.clone())])?;
            commits::queries::insert_fileset(tx, &PURGE, commit, &delete).await?;
        }
    }
    Ok(purged)
}
