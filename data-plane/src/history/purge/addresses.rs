//! Where purged files were fetched from. An address names what was there, and a tag is as good as a digest of it: both leave the
//! commits that keep them. That of a prefix stays as long as the commit was given anything else there: what else came from below it
//! cannot be told from what somebody put beside it, but from what was there before.

use contract::api::{CommitState, ImportedSource};
use contract::ids::{CommitId, DomainId};
use futures::TryStreamExt;
use storage::{EntryKind, FilePath, Storage, TreeRef};

use super::{PURGE, queries};
use crate::commits::records::{ancestry, record_digest};
use crate::commits::{self, CommitRow};
use crate::failure::Answer;
use crate::files::change::{self, FileChange};
use crate::files::listing::directory_path;
use crate::plane::{Plane, Tx};

/// What stands where an address stood.
const PURGED: &str = "(purged)";

/// How a source is to what is purged.
#[derive(Debug, PartialEq, Eq)]
enum Source {
    /// All that it gave is purged.
    Gone,
    /// What is purged is in the directory that it gave.
    InPart,
    /// It gave something else.
    Other,
}

fn source(given: &str, purged: &FilePath) -> Source {
    let (given, purged) = (given.trim_matches('/'), purged.as_str());
    let below = |path: &str, directory: &str| path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'));
    if given == purged || below(given, purged) {
        Source::Gone
    } else if given.is_empty() || below(purged, given) {
        Source::InPart
    } else {
        Source::Other
    }
}

/// Takes the addresses of what is purged out of the commits of the repo, whose trees and changes are without it already; of how many.
///
/// # Errors
/// When storage or the database is away, or a stored change does not decode.
pub async fn purge(plane: &Plane, tx: &mut Tx, repo: DomainId, path: &FilePath) -> Answer<usize> {
    let mut purged = 0;
    for mut row in queries::list_fetched(tx, &PURGE, repo, path.as_str()).await? {
        let mut changed = false;
        let mut sources = std::mem::take(&mut row.sources);
        for given in &mut sources {
            let gone = match source(&given.path, path) {
                Source::Gone => true,
                Source::InPart => {
                    let directory = directory_path(&given.path)?;
                    !gave_more(&plane.storage, tx, &row, directory.as_ref(), path).await?
                }
                Source::Other => false,
            };
            if gone && given.url != PURGED {
                changed = true;
                *given = ImportedSource {
                    url: PURGED.to_owned(),
                    path: PURGED.to_owned(),
                    files: 0,
                    size_bytes: 0,
                    etag: None,
                    version: None,
                    fetched_at: given.fetched_at,
                };
            }
        }
        row.sources = sources;
        if changed {
            let digest = digest(plane, tx, &row).await?;
            queries::update_sources(tx, &PURGE, row.id, &row.sources, digest.as_ref()).await?;
            purged += 1;
        }
    }
    Ok(purged)
}

/// Whether a path is in a directory; everything is in the root.
fn is_in(directory: Option<&FilePath>, path: &FilePath) -> bool {
    directory.is_none_or(|directory| path == directory || path.strip_directory(directory).is_some())
}

/// Whether a commit has anything in a directory that it was given itself, beside what is purged.
async fn gave_more(
    storage: &Storage,
    tx: &mut Tx,
    row: &CommitRow,
    directory: Option<&FilePath>,
    purged: &FilePath,
) -> Answer<bool> {
    match row.state {
        CommitState::Finished => {
            let mut changes = storage.diff(&before(tx, row).await?, &row.tree()?);
            while let Some(change) = changes.try_next().await? {
                if change.after.is_some() && is_in(directory, &change.path) {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        CommitState::Open => is_given(storage, tx, row.id, directory, purged).await,
        // Nothing is left of it.
        _ => Ok(false),
    }
}

/// The tree that a commit began with.
async fn before(tx: &mut Tx, row: &CommitRow) -> Answer<TreeRef> {
    let mut parent = row.parent;
    while let Some(id) = parent {
        let Some(before) = queries::list_commits(tx, &PURGE, &[id]).await?.pop() else {
            break;
        };
        if before.state == CommitState::Finished {
            return before.tree();
        }
        parent = before.parent;
    }
    Ok(TreeRef::empty())
}

/// Whether an open commit was given files in a directory, beside what is purged.
async fn is_given(
    storage: &Storage,
    tx: &mut Tx,
    commit: CommitId,
    directory: Option<&FilePath>,
    purged: &FilePath,
) -> Answer<bool> {
    let (mut after, mut given) = (0, false);
    loop {
        let page = commits::queries::list_filesets(tx, &PURGE, commit, after).await?;
        let Some((last, _)) = page.last() else {
            return Ok(given);
        };
        after = *last;
        for (_, bytes) in &page {
            for step in change::decode(bytes)? {
                match step {
                    FileChange::Put(path, _) | FileChange::Append(path, _) => given |= is_in(directory, &path),
                    FileChange::Delete(path) => given &= !directory.is_some_and(|below| is_in(Some(&path), below)),
                    FileChange::Clear => given = false,
                    FileChange::Tree(tree) => {
                        let purged = files(storage, &tree, Some(purged)).await?;
                        given |= files(storage, &tree, directory).await? > purged;
                    }
                }
            }
        }
    }
}

/// How many files are at a path or below it; everything is below the root.
async fn files(storage: &Storage, tree: &TreeRef, path: Option<&FilePath>) -> Answer<u64> {
    let Some(path) = path else { return Ok(tree.files()) };
    Ok(match storage.kind(tree, path).await? {
        None => 0,
        Some(EntryKind::File) => 1,
        Some(EntryKind::Directory) => storage.directory_size(tree, Some(path)).await?.0,
    })
}

/// The digest of a record as it is now, if it had one.
async fn digest(plane: &Plane, tx: &mut Tx, row: &CommitRow) -> Answer<Option<[u8; 32]>> {
    let Some(tree) = row.recorded_tree_digest()? else {
        return Ok(None);
    };
    let ancestry = ancestry(plane, tx, &PURGE, row, tree).await?;
    let finished_at = row.finished_at.unwrap_or(row.started_at);
    Ok(row.digest.is_some().then(|| record_digest(row, finished_at, ancestry)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_gave_only_what_is_purged_is_told_from_what_gave_more() {
        let purged = FilePath::parse("a/b").unwrap();
        for (given, expected) in [
            ("/a/b", Source::Gone),
            ("/a/b/c", Source::Gone),
            ("/a/bc", Source::Other),
            ("/a/c", Source::Other),
            ("/a", Source::InPart),
            ("/", Source::InPart),
            ("/b", Source::Other),
            (PURGED, Source::Other),
        ] {
            assert_eq!(source(given, &purged), expected, "{given}");
        }
    }
}
