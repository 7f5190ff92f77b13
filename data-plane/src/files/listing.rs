//! What is in a commit: one directory, everything below one, or what a glob matches. Each costs seeks in the tree and not
//! a scan of it, and goes on behind any path, so a page costs what it shows.

use std::collections::VecDeque;

use contract::api::{FileInfo, FileKind};
use futures::TryStreamExt;
use provenance::glob::Glob;
use serde::{Deserialize, Serialize};
use storage::{DirectoryEntry, EntryKind, FileEntry, FilePath, Names, Storage, TreeRef};

use crate::commits::resolve::ReadableCommit;
use crate::failure::{Answer, Failure};

const READ_AT_ONCE: usize = 256;

/// Where a page ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Position {
    path: FilePath,
    directory: bool,
}

/// The position of a line of a listing.
pub fn position(line: &FileInfo) -> Option<Position> {
    Some(Position {
        path: directory_path(&line.path).ok()??,
        directory: line.kind == FileKind::Directory,
    })
}

/// A path as callers write it: `/` and nothing mean the root, a slash at the end does no harm.
///
/// # Errors
/// When it is no path.
pub fn directory_path(text: &str) -> Answer<Option<FilePath>> {
    let text = text.strip_suffix('/').unwrap_or(text);
    if text.is_empty() {
        return Ok(None);
    }
    Ok(Some(FilePath::parse(text)?))
}

/// What is to be listed.
pub struct Listing<'a> {
    /// A file, or a directory; `None` = the root.
    pub path: Option<&'a FilePath>,
    /// All files below it instead of what is right in it.
    pub recursive: bool,
    /// Only what matches.
    pub glob: Option<&'a Glob>,
    /// Go on behind this.
    pub after: Option<Position>,
    /// At most so many lines.
    pub limit: usize,
}

/// Lists.
///
/// # Errors
/// `not-found` when there is nothing at the path; storage's failures.
pub async fn list(storage: &Storage, commit: &ReadableCommit, listing: &Listing<'_>) -> Answer<Vec<FileInfo>> {
    let tree = commit.commit.tree()?;
    if let Some(path) = listing.path {
        match storage.kind(&tree, path).await? {
            None => return Err(nothing_at(commit, path)),
            Some(EntryKind::File) => {
                let entry = storage
                    .get(&tree, path)
                    .await?
                    .ok_or_else(|| nothing_at(commit, path))?;
                return Ok(vec![file(path, &entry)]);
            }
            Some(EntryKind::Directory) => {}
        }
    }
    if let Some(glob) = listing.glob {
        return matches(storage, &tree, glob, listing).await;
    }
    if listing.recursive {
        let after = listing.after.as_ref().map(|a| &a.path);
        let mut files = storage.list(&tree, listing.path, after);
        let mut lines = Vec::new();
        while lines.len() < listing.limit {
            let Some((path, entry)) = files.try_next().await? else {
                break;
            };
            lines.push(file(&path, &entry));
        }
        return Ok(lines);
    }
    let after = listing.after.as_ref().map(|a| a.path.name());
    let entries = storage
        .list_directory(&tree, listing.path, after, listing.limit)
        .await?;
    Ok(entries.iter().map(line).collect())
}

/// The answer for a path at which nothing is; whoever gets it may read the commit.
pub fn nothing_at(commit: &ReadableCommit, path: &FilePath) -> Failure {
    Failure::new(
        contract::problem::ProblemKind::NotFound,
        format!("there is no file or directory `/{path}` in `{}`", commit.name),
    )
    .hint(format!("howdah ls {}", commit.name))
}

fn file(path: &FilePath, entry: &FileEntry) -> FileInfo {
    FileInfo {
        path: format!("/{path}"),
        kind: FileKind::File,
        size_bytes: entry.size,
        files: 1,
        digest: Some(entry.digest.to_string()),
        executable: entry.executable,
    }
}

fn line(entry: &DirectoryEntry) -> FileInfo {
    let directory = entry.kind == EntryKind::Directory;
    FileInfo {
        path: format!("/{}{}", entry.path, if directory { "/" } else { "" }),
        kind: if directory { FileKind::Directory } else { FileKind::File },
        size_bytes: entry.size_bytes,
        files: entry.files,
        digest: entry.digest.map(|d| d.to_string()),
        executable: entry.executable,
    }
}

/// One directory of a walk, read bit by bit.
struct Level {
    directory: Option<FilePath>,
    after: Option<String>,
    /// What all names of it begin with that may lead to a match.
    beginning: String,
    entries: VecDeque<DirectoryEntry>,
    read: bool,
}

impl Level {
    fn new(glob: &Glob, directory: Option<FilePath>, after: Option<String>) -> Self {
        let at = directory
            .as_ref()
            .map_or("/".to_owned(), |directory| format!("/{directory}/"));
        let rest = glob.literal_prefix().strip_prefix(&at).unwrap_or_default();
        Self {
            beginning: rest.split('/').next().unwrap_or_default().to_owned(),
            directory,
            after,
            entries: VecDeque::new(),
            read: false,
        }
    }

    async fn next(&mut self, storage: &Storage, tree: &TreeRef) -> Answer<Option<DirectoryEntry>> {
        if self.entries.is_empty() && !self.read {
            let directory = self.directory.as_ref();
            let names = Names {
                after: self.after.as_deref(),
                beginning: &self.beginning,
            };
            let found = storage.list_names(tree, directory, names, READ_AT_ONCE).await?;
            self.read = found.len() < READ_AT_ONCE;
            self.after = found.last().map(|e| e.path.name().to_owned()).or(self.after.take());
            self.entries = found.into();
        }
        Ok(self.entries.pop_front())
    }
}

/// Walks down only where the glob may match, and in a directory only over names that begin as it does. Directories match as well as files.
async fn matches(storage: &Storage, tree: &TreeRef, glob: &Glob, listing: &Listing<'_>) -> Answer<Vec<FileInfo>> {
    let mut levels = resume(glob, listing.path, listing.after.as_ref());
    let mut lines = Vec::new();
    while let Some(level) = levels.last_mut() {
        let Some(entry) = level.next(storage, tree).await? else {
            levels.pop();
            continue;
        };
        let shown = line(&entry);
        let directory = entry.kind == EntryKind::Directory;
        if directory && glob.may_match_below(&shown.path) {
            levels.push(Level::new(glob, Some(entry.path), None));
        }
        if glob.matches(&shown.path, directory).is_some() {
            lines.push(shown);
            if lines.len() == listing.limit {
                break;
            }
        }
    }
    Ok(lines)
}

/// The levels of a walk that goes on behind a position: on each level what comes behind the way to it, and, if it is a
/// directory, everything in it.
fn resume(glob: &Glob, root: Option<&FilePath>, after: Option<&Position>) -> Vec<Level> {
    let Some(after) = after else {
        return vec![Level::new(glob, root.cloned(), None)];
    };
    let mut levels = Vec::new();
    let mut path = Some(after.path.clone());
    while let Some(here) = path.filter(|p| Some(p) != root) {
        path = here.parent();
        levels.push(Level::new(glob, path.clone(), Some(here.name().to_owned())));
    }
    levels.reverse();
    if after.directory {
        levels.push(Level::new(glob, Some(after.path.clone()), None));
    }
    levels
}
