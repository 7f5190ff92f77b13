//! Where purged files were fetched from. An address names what was there, and a tag is as good as a digest of it: both leave the
//! commits that keep them. That of a prefix stays as long as anything that came from below it does.

use contract::api::{CommitState, ImportedSource};
use contract::ids::{CommitId, DomainId};
use storage::FilePath;

use super::{PURGE, queries};
use crate::commits::finish::ancestry;
use crate::commits::{CommitRow, record_digest};
use crate::failure::Answer;
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

/// Takes the addresses of what is purged out of the commits of the repo, whose trees are without it already; of how many.
///
/// # Errors
/// When storage or the database is away.
pub async fn purge(
    plane: &Plane,
    tx: &mut Tx,
    repo: DomainId,
    path: &FilePath,
    rewritten: &[CommitId],
) -> Answer<usize> {
    let mut purged = 0;
    for mut row in queries::list_fetched(tx, &PURGE, repo, path.as_str()).await? {
        let mut changed = false;
        let mut sources = std::mem::take(&mut row.sources);
        for given in &mut sources {
            let gone = match source(&given.path, path) {
                Source::Gone => true,
                Source::InPart if rewritten.contains(&row.id) => is_empty(plane, &row, &given.path).await?,
                Source::InPart | Source::Other => false,
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

/// Whether nothing is left in a directory of a finished commit.
async fn is_empty(plane: &Plane, row: &CommitRow, directory: &str) -> Answer<bool> {
    if row.state != CommitState::Finished {
        return Ok(false);
    }
    let tree = row.tree()?;
    Ok(match directory_path(directory)? {
        None => tree.files() == 0,
        Some(directory) => plane.storage.kind(&tree, &directory).await?.is_none(),
    })
}

/// The digest of a record as it is now, if it had one.
async fn digest(plane: &Plane, tx: &mut Tx, row: &CommitRow) -> Answer<Option<[u8; 32]>> {
    let Some(tree) = row.recorded_tree_digest()? else {
        return Ok(None);
    };
    let ancestry = ancestry(plane, tx, &PURGE, row, tree).await?;
    let finished_at = row.finished_at.unwrap_or(row.started_at);
    Ok(row.digest.is_some().then(|| record_digest(row, finished_at, &ancestry)))
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
