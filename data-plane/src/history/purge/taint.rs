//! Which datums read a path of a repo, directly or through what other pipelines made of it. Jobs are looked at in the order
//! in which they were made, so that what a pipeline gave is known before it is looked for in what reads it. A datum that a
//! job took over from its base has its row in an earlier job.

use std::collections::{BTreeSet, HashSet};
use std::ops::Bound;

use contract::ids::{CommitId, DomainId};
use sqlx::PgConnection;
use storage::{FilePath, Marking, Storage, TreeRef, decode_entries};

use super::queries::{self, Made};
use super::{ByPipeline, PURGE};
use crate::failure::Answer;
use crate::worker::queries::decode_inputs;

/// Paths in one repo; the empty one stands for everything.
#[derive(Debug, Default)]
struct Paths(BTreeSet<String>);

impl Paths {
    /// Whether something of these is at, below or above a path as a datum names it.
    fn touch(&self, path: &str) -> bool {
        let path = path.trim_matches('/');
        if path.is_empty() || self.0.contains("") {
            return !self.0.is_empty();
        }
        let above = path.match_indices('/').map(|(at, _)| &path[..at]);
        if self.0.contains(path) || above.into_iter().any(|directory| self.0.contains(directory)) {
            return true;
        }
        // `0` follows `/` in the order of bytes.
        let (from, to) = (format!("{path}/"), format!("{path}0"));
        let below = self
            .0
            .range::<str, _>((Bound::Included(from.as_str()), Bound::Excluded(to.as_str())));
        below.into_iter().next().is_some()
    }
}

/// What is known so far.
pub struct Taint {
    paths: ByPipeline<Paths>,
    keys: ByPipeline<BTreeSet<Vec<u8>>>,
    reprocessed: HashSet<DomainId>,
}

impl Taint {
    /// A path of a repo; pipelines that ran everything again may have replaced results, and nobody knows what was in those.
    pub fn new(repo: DomainId, path: &FilePath, reprocessed: HashSet<DomainId>) -> Self {
        let paths = Paths(BTreeSet::from([path.as_str().to_owned()]));
        Self {
            paths: ByPipeline::from([(repo, paths)]),
            keys: ByPipeline::new(),
            reprocessed,
        }
    }

    /// Whether a datum of this pipeline read it.
    pub fn touches(&self, pipeline: DomainId) -> bool {
        self.keys.contains_key(&pipeline)
    }

    /// Marks where the bytes of what was made from it lie in the tree of an output, and its names: small files stand in the
    /// results themselves, and the tree has them somewhere else.
    ///
    /// # Errors
    /// When storage is away.
    pub async fn mark(&self, storage: &Storage, pipeline: DomainId, tree: &TreeRef, held: &mut Marking) -> Answer<()> {
        let Some(Paths(paths)) = self.paths.get(&pipeline) else {
            return Ok(());
        };
        if paths.contains("") {
            return Ok(held.tree(tree).await?);
        }
        for path in paths {
            let path = FilePath::parse(path)?;
            if let Some(entry) = storage.get(tree, &path).await? {
                held.names(tree, &path).await?;
                held.file(&entry).await?;
            }
        }
        Ok(())
    }

    /// Whether no other pipelines than it was told of ran everything again.
    pub fn expected(&self, reprocessed: &HashSet<DomainId>) -> bool {
        reprocessed.is_subset(&self.reprocessed)
    }

    /// How many paths of a pipeline's outputs are known to be made from it.
    pub fn count(&self, pipeline: DomainId) -> usize {
        self.paths.get(&pipeline).map_or(0, |paths| paths.0.len())
    }

    /// The same of all pipelines.
    pub fn counts(&self) -> ByPipeline<usize> {
        self.paths.keys().map(|id| (*id, self.count(*id))).collect()
    }

    /// The keys of the datums that read it.
    pub fn keys(&self) -> impl Iterator<Item = (DomainId, &BTreeSet<Vec<u8>>)> {
        self.keys.iter().map(|(pipeline, keys)| (*pipeline, keys))
    }

    /// Looks at the datums of a job; where the bytes of what they gave lie is marked.
    ///
    /// # Errors
    /// When the database is away or a stored result does not decode.
    pub async fn job(
        &mut self,
        conn: &mut PgConnection,
        made: &Made,
        involved: &HashSet<CommitId>,
        held: &mut Marking,
    ) -> Answer<()> {
        let leaves = queries::list_leaves(conn, &PURGE, made.job).await?;
        let repo_at = |position: u32| {
            let leaf = leaves.iter().find(|(at, ..)| u32::try_from(*at) == Ok(position));
            leaf.filter(|(_, _, commit)| involved.contains(commit))
                .map(|(_, repo, _)| *repo)
        };
        let mut after = -1;
        loop {
            let page = queries::list_datums(conn, &PURGE, made.job, after).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = last.position;
            let mut touched = BTreeSet::new();
            let mut unknown = self.reprocessed.contains(&made.pipeline);
            let mut succeeded = BTreeSet::new();
            for datum in page {
                let inputs = decode_inputs(&datum.inputs);
                let reads = |position, path: &str| {
                    repo_at(position)
                        .and_then(|repo| self.paths.get(&repo))
                        .is_some_and(|p| p.touch(path))
                };
                if inputs.iter().any(|input| reads(input.position, &input.path)) {
                    if datum.has_result {
                        succeeded.insert(datum.key.clone());
                    }
                    touched.insert(datum.key);
                }
            }
            if touched.is_empty() {
                continue;
            }
            let wanted: Vec<&[u8]> = touched.iter().map(Vec::as_slice).collect();
            let paths = self.paths.entry(made.pipeline).or_default();
            for (key, outputs) in queries::list_results(conn, &PURGE, made.pipeline, &wanted).await? {
                succeeded.remove(&key);
                for (path, entry) in decode_entries(&outputs)? {
                    held.file(&entry).await?;
                    paths.0.insert(path.as_str().to_owned());
                }
            }
            // Its result is gone or was replaced, so nobody knows what it wrote.
            unknown |= !succeeded.is_empty();
            if unknown {
                paths.0.insert(String::new());
            }
            self.keys.entry(made.pipeline).or_default().extend(touched);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datum_touches_what_is_at_below_or_above_its_path() {
        let paths = Paths(BTreeSet::from(["a/b".to_owned(), "z".to_owned()]));
        for (path, touched) in [
            ("/", true),
            ("/a", true),
            ("/a/b", true),
            ("/a/b/", true),
            ("/a/b/c", true),
            ("/a/bc", false),
            ("/a/c", false),
            ("/z/x", true),
            ("/zz", false),
            ("/y", false),
        ] {
            assert_eq!(paths.touch(path), touched, "{path}");
        }
        assert!(!Paths::default().touch("/"));
        assert!(Paths(BTreeSet::from([String::new()])).touch("/whatever"));
    }
}
