//! What a list of changes means: later ones win, a directory is deleted with all below it, and
//! nothing becomes a file and a directory at once.

use std::collections::{BTreeMap, HashSet};
use std::ops::Bound;
use std::sync::Arc;

use super::cursor::{Cursor, get};
use super::{TreeChange, TreeRef, edit};
use crate::entry::FileEntry;
use crate::error::{Result, StorageError};
use crate::path::FilePath;
use crate::storage::Shared;
use crate::writer::Writer;

/// Embedded files are packed so many at a time between checks whether there is room.
const EMBEDDED_AT_ONCE: usize = 256;

/// What is at a path afterwards; `None`: nothing.
type Overlay = BTreeMap<FilePath, Option<FileEntry>>;

/// The tree after these changes.
pub(crate) async fn apply(
    shared: &Arc<Shared>,
    writer: &Writer,
    base: &TreeRef,
    changes: Vec<TreeChange>,
) -> Result<TreeRef> {
    let mut overlay = collect(shared, base, changes).await?;
    check_conflicts(shared, base, &overlay).await?;
    for (count, file) in overlay.values_mut().flatten().enumerate() {
        if count.is_multiple_of(EMBEDDED_AT_ONCE) {
            writer.session.room().await;
            tokio::task::yield_now().await;
        }
        writer.settle_embedded(file)?;
    }
    edit::rewrite(shared, writer, base, overlay).await
}

async fn collect(shared: &Arc<Shared>, base: &TreeRef, changes: Vec<TreeChange>) -> Result<Overlay> {
    let mut overlay = Overlay::new();
    for change in changes {
        match change {
            TreeChange::Put(path, file) => {
                overlay.insert(path, Some(file));
            }
            TreeChange::Delete(path) => {
                let (from, to) = below(&path);
                for (_, file) in overlay.range_mut::<str, _>(range(&from, &to)) {
                    *file = None;
                }
                let mut cursor = Cursor::new(shared, base);
                cursor.seek(&from).await?;
                while let Some((path, _)) = cursor.next().await?.filter(|(path, _)| path.as_str() < to.as_str()) {
                    overlay.insert(path, None);
                }
                overlay.insert(path, None);
            }
        }
    }
    Ok(overlay)
}

async fn check_conflicts(shared: &Arc<Shared>, base: &TreeRef, overlay: &Overlay) -> Result<()> {
    let mut directories: HashSet<&str> = HashSet::new();
    for path in overlay.iter().filter(|(_, file)| file.is_some()).map(|(path, _)| path) {
        for directory in path.ancestors().filter(|directory| directories.insert(directory)) {
            let is_file = match overlay.get(directory) {
                Some(file) => file.is_some(),
                None => get(shared, base, directory).await?.is_some(),
            };
            if is_file {
                let file = FilePath::parse(directory).unwrap_or_else(|_| path.clone());
                return Err(StorageError::PathConflict {
                    path: path.clone(),
                    file,
                });
            }
        }
        // Files that are put below this path are seen from their own side; here, what the base has there.
        let (from, to) = below(path);
        let mut cursor = Cursor::new(shared, base);
        cursor.seek(&from).await?;
        while let Some((under, _)) = cursor.next().await?.filter(|(under, _)| under.as_str() < to.as_str()) {
            if !matches!(overlay.get(&under), Some(None)) {
                return Err(StorageError::PathConflict {
                    path: path.clone(),
                    file: path.clone(),
                });
            }
        }
    }
    Ok(())
}

/// The range of paths below a directory: from the first text, up to but without the second.
pub(crate) fn below(directory: &FilePath) -> (String, String) {
    // `0` follows `/` in the order of bytes.
    (format!("{directory}/"), format!("{directory}0"))
}

fn range<'a>(from: &'a str, to: &'a str) -> (Bound<&'a str>, Bound<&'a str>) {
    (Bound::Included(from), Bound::Excluded(to))
}
