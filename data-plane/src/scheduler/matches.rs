//! Matches of globs in trees: all of them, for a first plan, or only those that a change touches.

use std::collections::{BTreeMap, HashSet};
use std::time::Instant;

use futures::StreamExt;
use provenance::datums::{Kind, LeafChange, Match, Size, Touched, changed_matches};
use provenance::glob::Glob;
use storage::{Change, EntryKind, FilePath, Storage, SubtreeSummary, TreeRef};

use crate::failure::Answer;

/// So many files of a list are held at once.
const FILES_AT_ONCE: usize = 100_000;

fn summary_match(touched: &Touched, summary: &SubtreeSummary) -> Option<Match> {
    let kind = match summary.kind {
        EntryKind::File => Kind::File,
        EntryKind::Directory => Kind::Directory,
    };
    // A path that is a file now and was a directory before is looked up once as each.
    (kind == touched.kind).then(|| Match {
        path: touched.path.clone(),
        kind,
        digest: *summary.digest.as_bytes(),
        size: summary.size_bytes,
        captures: touched.captures.clone(),
    })
}

/// A match as it is in a tree, if it is there.
pub async fn look_up(storage: &Storage, tree: &TreeRef, touched: &Touched) -> Answer<Option<Match>> {
    // As in `all`: an empty repo has no match, not even of `/`.
    if tree.is_empty() {
        return Ok(None);
    }
    let path = if touched.path == "/" {
        None
    } else {
        Some(FilePath::parse(&touched.path)?)
    };
    let summary = storage.subtree_digest(tree, path.as_ref()).await?;
    Ok(summary.and_then(|summary| summary_match(touched, &summary)))
}

/// How much of a tree is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    /// Not longer than until then.
    pub until: Instant,
    /// At most so many files.
    pub files: u64,
}

/// All matches of a glob in a tree. Costs a listing of what begins like the glob, or two look-ups where all of it is literal.
pub async fn all(storage: &Storage, tree: &TreeRef, glob: &Glob) -> Answer<Vec<Match>> {
    some(storage, tree, glob, None).await.map(|(all, _)| all)
}

/// Matches of a glob in a tree, and whether the limit left some out.
pub async fn some(storage: &Storage, tree: &TreeRef, glob: &Glob, limit: Option<Limit>) -> Answer<(Vec<Match>, bool)> {
    if tree.is_empty() {
        return Ok((Vec::new(), false));
    }
    if glob.is_root() {
        let root = Touched {
            path: "/".to_owned(),
            kind: Kind::Directory,
            captures: glob.matches("/", true).unwrap_or_default(),
        };
        let found = look_up(storage, tree, &root).await?;
        return Ok((found.into_iter().collect(), false));
    }
    if let Some(path) = glob.only_path() {
        return only(storage, tree, glob, path).await.map(|found| (found, false));
    }
    let beginning = glob.literal_prefix().strip_prefix('/').unwrap_or_default();
    let directory = beginning.rsplit_once('/').map_or("", |(directory, _)| directory);
    let prefix = if directory.is_empty() {
        None
    } else {
        Some(FilePath::parse(directory)?)
    };
    let mut found = Found {
        glob,
        matches: Vec::new(),
        directories: HashSet::new(),
    };
    let mut files = BTreeMap::new();
    // Nothing that begins so comes before that, but perhaps a file of that very name.
    let after = FilePath::parse(beginning).ok().filter(|_| !beginning.ends_with('/'));
    let exact = match &after {
        None => None,
        Some(path) => storage.get(tree, path).await?.map(|file| (path.clone(), file)),
    };
    let listed = storage.list(tree, prefix.as_ref(), after.as_ref());
    let mut listed = futures::stream::iter(exact.map(Ok)).chain(listed);
    let (mut seen, mut cut) = (0, false);
    while let Some(entry) = listed.next().await {
        let (path, file) = entry?;
        if !path.as_str().starts_with(beginning) {
            break;
        }
        if limit.is_some_and(|limit| seen >= limit.files || Instant::now() >= limit.until) {
            cut = true;
            break;
        }
        seen += 1;
        files.insert(format!("/{path}"), (*file.fingerprint().as_bytes(), file.size));
        if files.len() >= FILES_AT_ONCE {
            found.add(storage, tree, &std::mem::take(&mut files)).await?;
        }
    }
    found.add(storage, tree, &files).await?;
    Ok((found.matches, cut))
}

/// The file and the directory of a path, of which a tree has one at most.
async fn only(storage: &Storage, tree: &TreeRef, glob: &Glob, path: &str) -> Answer<Vec<Match>> {
    let mut found = Vec::new();
    // What is no path, or not as paths are written, matches none.
    if FilePath::parse(path).map_or(true, |parsed| format!("/{parsed}") != path) {
        return Ok(found);
    }
    for kind in [Kind::File, Kind::Directory] {
        if let Some(captures) = glob.matches(path, kind == Kind::Directory) {
            let touched = Touched {
                path: path.to_owned(),
                kind,
                captures,
            };
            found.extend(look_up(storage, tree, &touched).await?);
        }
    }
    Ok(found)
}

/// The matches among what was listed so far.
struct Found<'a> {
    glob: &'a Glob,
    matches: Vec<Match>,
    /// Directories that matched: one may hold files of several pieces of the list.
    directories: HashSet<String>,
}

impl Found<'_> {
    async fn add(
        &mut self,
        storage: &Storage,
        tree: &TreeRef,
        files: &BTreeMap<String, ([u8; 32], u64)>,
    ) -> Answer<()> {
        for touched in changed_matches(self.glob, files.keys().map(String::as_str)) {
            match (touched.kind, files.get(&touched.path)) {
                (Kind::File, Some((digest, size))) => self.matches.push(Match {
                    path: touched.path,
                    kind: Kind::File,
                    digest: *digest,
                    size: *size,
                    captures: touched.captures,
                }),
                _ => {
                    if self.directories.insert(touched.path.clone()) {
                        self.matches.extend(look_up(storage, tree, &touched).await?);
                    }
                }
            }
            // More could not be planned, whatever becomes of them.
            Size {
                datums: self.matches.len() as u64,
                inputs: self.matches.len() as u64,
            }
            .admit()?;
        }
        Ok(())
    }
}

/// The files that differ between two trees; `None` when they are more than `most`.
pub async fn difference(storage: &Storage, old: &TreeRef, new: &TreeRef, most: usize) -> Answer<Option<Vec<Change>>> {
    let mut changes = Vec::new();
    if old == new {
        return Ok(Some(changes));
    }
    let mut differing = storage.diff(old, new);
    while let Some(change) = differing.next().await {
        if changes.len() >= most {
            return Ok(None);
        }
        changes.push(change?);
    }
    Ok(Some(changes))
}

/// How the matches of a glob change with these files.
pub async fn changed(
    storage: &Storage,
    old: &TreeRef,
    new: &TreeRef,
    glob: &Glob,
    changes: &[Change],
) -> Answer<LeafChange> {
    let paths: Vec<String> = changes.iter().map(|c| format!("/{}", c.path)).collect();
    let by_path: BTreeMap<&str, &Change> = paths.iter().map(String::as_str).zip(changes).collect();
    let mut leaf = LeafChange::default();
    for touched in changed_matches(glob, paths.iter().map(String::as_str)) {
        let (before, after) = match (touched.kind, by_path.get(touched.path.as_str())) {
            (Kind::File, Some(change)) => {
                let found = |file: &Option<storage::FileEntry>| {
                    file.as_ref().map(|file| Match {
                        path: touched.path.clone(),
                        kind: Kind::File,
                        digest: *file.fingerprint().as_bytes(),
                        size: file.size,
                        captures: touched.captures.clone(),
                    })
                };
                (found(&change.before), found(&change.after))
            }
            _ => (
                look_up(storage, old, &touched).await?,
                look_up(storage, new, &touched).await?,
            ),
        };
        if before.as_ref().map(|m| m.digest) != after.as_ref().map(|m| m.digest) {
            leaf.removed.extend(before);
            leaf.added.extend(after);
        }
    }
    Ok(leaf)
}
