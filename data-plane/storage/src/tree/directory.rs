//! Directories, which exist only as prefixes of paths: what is in them, how much, and one digest.

use std::sync::Arc;

use super::change::below;
use super::cursor::{Cursor, get, load};
use super::node::Items;
use super::{DirectoryEntry, EntryKind, Names, SubtreeSummary, TreeRef};
use crate::codec::put_number;
use crate::error::Result;
use crate::path::FilePath;
use crate::storage::Shared;

/// The listing of one directory.
pub(crate) async fn list(
    shared: &Arc<Shared>,
    tree: &TreeRef,
    directory: Option<&FilePath>,
    names: Names<'_>,
    limit: usize,
) -> Result<Vec<DirectoryEntry>> {
    let prefix = directory.map_or(String::new(), |directory| format!("{directory}/"));
    let wanted = format!("{prefix}{}", names.beginning);
    let mut cursor = Cursor::new(shared, tree);
    let mut start = match names.after {
        None => wanted.clone(),
        Some(after) => behind(shared, tree, &format!("{prefix}{after}"))
            .await?
            .max(wanted.clone()),
    };
    let mut entries = Vec::new();
    let mut seek = true;
    while entries.len() < limit {
        if seek {
            cursor.seek(&start).await?;
        }
        let Some((path, file)) = cursor.next().await? else {
            break;
        };
        // All that begin alike stand together, and the cursor starts with the first of them.
        if !path.as_str().starts_with(&wanted) {
            break;
        }
        let rest = path.as_str().strip_prefix(&prefix).unwrap_or(path.as_str());
        seek = rest.contains('/');
        if let Some((name, _)) = rest.split_once('/') {
            let Ok(path) = FilePath::parse(&format!("{prefix}{name}")) else {
                break;
            };
            let (files, size_bytes) = size(shared, tree, &path).await?;
            start = below(&path).1;
            let kind = EntryKind::Directory;
            entries.push(DirectoryEntry {
                path,
                kind,
                size_bytes,
                files,
                digest: None,
                executable: false,
            });
        } else {
            let (size_bytes, digest, executable) = (file.size, Some(file.digest), file.executable);
            entries.push(DirectoryEntry {
                path,
                kind: EntryKind::File,
                size_bytes,
                files: 1,
                digest,
                executable,
            });
        }
    }
    Ok(entries)
}

/// The first key behind a path: behind everything below it, if it is a directory.
async fn behind(shared: &Arc<Shared>, tree: &TreeRef, path: &str) -> Result<String> {
    if let Ok(parsed) = FilePath::parse(path)
        && kind(shared, tree, &parsed).await? == Some(EntryKind::Directory)
    {
        return Ok(below(&parsed).1);
    }
    Ok(format!("{path}\0"))
}

/// Whether a path is a file or a directory, or nothing.
pub(crate) async fn kind(shared: &Arc<Shared>, tree: &TreeRef, path: &FilePath) -> Result<Option<EntryKind>> {
    if get(shared, tree, path.as_str()).await?.is_some() {
        return Ok(Some(EntryKind::File));
    }
    let (from, to) = below(path);
    let mut cursor = Cursor::new(shared, tree);
    cursor.seek(&from).await?;
    let found = cursor.next().await?.filter(|(path, _)| path.as_str() < to.as_str());
    Ok(found.map(|_| EntryKind::Directory))
}

/// Number and bytes of the files below a directory.
pub(crate) async fn size(shared: &Arc<Shared>, tree: &TreeRef, directory: &FilePath) -> Result<(u64, u64)> {
    let (from, to) = below(directory);
    let (files_before, bytes_before) = sums_before(shared, tree, &from).await?;
    let (files, bytes) = sums_before(shared, tree, &to).await?;
    Ok((files.saturating_sub(files_before), bytes.saturating_sub(bytes_before)))
}

/// Number and bytes of the files whose paths are less than the key; one way down from the root.
async fn sums_before(shared: &Arc<Shared>, tree: &TreeRef, key: &str) -> Result<(u64, u64)> {
    let Some(root) = &tree.root else { return Ok((0, 0)) };
    let (mut files, mut bytes) = (0u64, 0u64);
    let mut node = shared.node(root, tree.digest).await?;
    loop {
        let child = match &node.items {
            Items::Leaf(all) => {
                for (_, file) in all.iter().take_while(|(path, _)| path.as_str() < key) {
                    files = files.saturating_add(1);
                    bytes = bytes.saturating_add(file.size);
                }
                return Ok((files, bytes));
            }
            Items::Inner(_, children) => {
                let whole = children.partition_point(|child| child.last.as_str() < key);
                for child in &children[..whole] {
                    files = files.saturating_add(child.files);
                    bytes = bytes.saturating_add(child.bytes);
                }
                match children.get(whole) {
                    None => return Ok((files, bytes)),
                    Some(child) => child.clone(),
                }
            }
        };
        node = load(shared, &child, node.level()).await?;
    }
}

/// One digest for a file, for all below a directory, or for the whole tree.
pub(crate) async fn summary(
    shared: &Arc<Shared>,
    tree: &TreeRef,
    path: Option<&FilePath>,
) -> Result<Option<SubtreeSummary>> {
    if let Some(path) = path
        && let Some(file) = get(shared, tree, path.as_str()).await?
    {
        let digest = file.fingerprint();
        return Ok(Some(SubtreeSummary {
            kind: EntryKind::File,
            digest,
            size_bytes: file.size,
            files: 1,
        }));
    }
    let (from, to) = path.map_or((String::new(), None), |path| {
        let (from, to) = below(path);
        (from, Some(to))
    });
    let mut cursor = Cursor::new(shared, tree);
    cursor.seek(&from).await?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"howdah directory\0");
    let (mut files, mut size_bytes) = (0u64, 0u64);
    let mut record = Vec::new();
    while let Some((path, file)) = cursor.next().await? {
        if to.as_ref().is_some_and(|to| path.as_str() >= to.as_str()) {
            break;
        }
        let relative = path.as_str().strip_prefix(&from).unwrap_or(path.as_str());
        record.clear();
        put_number(&mut record, relative.len() as u64);
        record.extend_from_slice(relative.as_bytes());
        put_number(&mut record, file.size);
        record.extend_from_slice(file.digest.as_bytes());
        record.push(u8::from(file.executable));
        hasher.update(&record);
        files += 1;
        size_bytes = size_bytes.saturating_add(file.size);
    }
    if path.is_some() && files == 0 {
        return Ok(None);
    }
    let digest = hasher.finalize().into();
    Ok(Some(SubtreeSummary {
        kind: EntryKind::Directory,
        digest,
        size_bytes,
        files,
    }))
}
