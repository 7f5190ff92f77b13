//! Walking the files of a tree in path order, from any point; reads neighbouring leaves together.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};

use super::TreeRef;
use super::node::{Child, Items, Node};
use crate::entry::FileEntry;
use crate::error::{Result, StorageError};
use crate::location::PackRef;
use crate::path::FilePath;
use crate::storage::Shared;

/// So much is read at once when leaves are walked one after the other.
const AHEAD_BYTES_MAX: u64 = 256 << 10;
const AHEAD_LEAVES_MAX: usize = 64;

/// A position between files.
pub(crate) struct Cursor {
    shared: Arc<Shared>,
    tree: TreeRef,
    /// The way from the root to the next file; the index in the last node is that file's.
    way: Vec<(Arc<Node>, usize)>,
    /// How many leaves to read at once; grows with each that is walked to its end.
    ahead: usize,
}

impl Cursor {
    /// Stands in front of nothing until `seek`.
    pub(crate) fn new(shared: &Arc<Shared>, tree: &TreeRef) -> Self {
        Self {
            shared: Arc::clone(shared),
            tree: tree.clone(),
            way: Vec::new(),
            ahead: 0,
        }
    }

    /// Moves in front of the first file whose path is not less than `key`.
    pub(crate) async fn seek(&mut self, key: &str) -> Result<()> {
        self.way.clear();
        let Some(root) = &self.tree.root else { return Ok(()) };
        let mut node = self.shared.node(root, self.tree.digest).await?;
        loop {
            let (index, below) = match &node.items {
                Items::Leaf(files) => (files.partition_point(|(path, _)| path.as_str() < key), None),
                Items::Inner(_, children) => {
                    let index = children.partition_point(|child| child.last.as_str() < key);
                    (index, Some(children.get(index).cloned()))
                }
            };
            let level = node.level();
            self.way.push((node, index));
            match below {
                None => return Ok(()),
                // Behind everything.
                Some(None) => {
                    self.way.clear();
                    return Ok(());
                }
                Some(Some(child)) => node = self.descend(&child, level).await?,
            }
        }
    }

    /// The next file, if there is one.
    pub(crate) async fn next(&mut self) -> Result<Option<(FilePath, FileEntry)>> {
        loop {
            let Some((node, index)) = self.way.last_mut() else {
                return Ok(None);
            };
            let level = node.level();
            match &node.items {
                Items::Leaf(files) => {
                    if let Some(file) = files.get(*index) {
                        *index += 1;
                        return Ok(Some(file.clone()));
                    }
                }
                Items::Inner(_, children) => {
                    *index += 1;
                    if *index < children.len() {
                        let node = Arc::clone(node);
                        let index = *index;
                        self.read_ahead(&node, index).await?;
                        let Items::Inner(_, children) = &node.items else {
                            continue;
                        };
                        let below = self.descend(&children[index], level).await?;
                        // An inner node is entered in front of its first child, which is visited right away.
                        self.enter(below).await?;
                        continue;
                    }
                }
            }
            self.way.pop();
            self.ahead = (self.ahead * 2).clamp(1, AHEAD_LEAVES_MAX);
        }
    }

    /// Goes down to the first leaf below a node.
    async fn enter(&mut self, mut node: Arc<Node>) -> Result<()> {
        loop {
            let first = match &node.items {
                Items::Leaf(_) => None,
                Items::Inner(level, children) => children.first().cloned().map(|child| (child, *level)),
            };
            self.way.push((node, 0));
            let Some((child, level)) = first else { return Ok(()) };
            node = self.descend(&child, level).await?;
        }
    }

    async fn descend(&self, child: &Child, level: u8) -> Result<Arc<Node>> {
        load(&self.shared, child, level).await
    }

    /// Fetches leaves that lie side by side in one request, when they are walked one after the other.
    async fn read_ahead(&self, parent: &Node, index: usize) -> Result<()> {
        let Items::Inner(1, children) = &parent.items else {
            return Ok(());
        };
        let first = &children[index].location;
        let PackRef::Stored(pack) = &first.pack else {
            return Ok(());
        };
        if self.ahead < 2 || self.shared.cached_node(first).is_some() {
            return Ok(());
        }
        let mut end = first.end();
        let mut count = 1;
        for child in children[index + 1..].iter().take(self.ahead - 1) {
            let here = &child.location;
            let beside = here.offset() == end && matches!(&here.pack, PackRef::Stored(id) if id == pack);
            if !beside || here.end() - first.offset() > AHEAD_BYTES_MAX {
                break;
            }
            end = here.end();
            count += 1;
        }
        let bytes: Bytes = self.shared.range(*pack, first.offset(), end).await?;
        for child in &children[index..index + count] {
            let from = (child.location.offset - first.offset) as usize;
            let node = &bytes[from..from + child.location.length as usize];
            self.shared.take_node(&child.location, child.digest, node)?;
        }
        Ok(())
    }
}

/// A child of a node of this level; checks that it is what its parent says.
pub(crate) async fn load(shared: &Shared, child: &Child, level: u8) -> Result<Arc<Node>> {
    let node = shared.node(&child.location, child.digest).await?;
    if node.level() + 1 != level {
        return Err(shared.corrupt(&child.location, "a node hangs at the wrong level"));
    }
    if node.last() != Some(&child.last) || node.totals() != (child.files, child.bytes) {
        return Err(shared.corrupt(&child.location, "a node differs from what its parent says"));
    }
    Ok(node)
}

/// The file at exactly this path.
pub(crate) async fn get(shared: &Arc<Shared>, tree: &TreeRef, path: &str) -> Result<Option<FileEntry>> {
    let Some(root) = &tree.root else { return Ok(None) };
    let mut node = shared.node(root, tree.digest).await?;
    loop {
        let child = match &node.items {
            Items::Leaf(files) => {
                let found = files.binary_search_by(|(known, _)| known.as_str().cmp(path));
                return Ok(found.ok().map(|index| files[index].1.clone()));
            }
            Items::Inner(_, children) => {
                let index = children.partition_point(|child| child.last.as_str() < path);
                match children.get(index) {
                    None => return Ok(None),
                    Some(child) => child.clone(),
                }
            }
        };
        node = load(shared, &child, node.level()).await?;
    }
}

struct Listing {
    cursor: Cursor,
    start: Option<String>,
    /// Yield what is this path or lies below it.
    prefix: Option<FilePath>,
    after: Option<FilePath>,
}

/// Files in path order, below a prefix, behind a path.
pub(crate) fn list(
    shared: &Arc<Shared>,
    tree: &TreeRef,
    prefix: Option<&FilePath>,
    after: Option<&FilePath>,
) -> BoxStream<'static, Result<(FilePath, FileEntry)>> {
    let floor = prefix.map_or("", FilePath::as_str);
    let start = after.map_or(floor, FilePath::as_str).max(floor);
    let listing = Listing {
        cursor: Cursor::new(shared, tree),
        start: Some(start.to_owned()),
        prefix: prefix.cloned(),
        after: after.cloned(),
    };
    stream::try_unfold(listing, |mut listing| async move {
        let next = listing.next().await?;
        Ok::<_, StorageError>(next.map(|file| (file, listing)))
    })
    .boxed()
}

impl Listing {
    async fn next(&mut self) -> Result<Option<(FilePath, FileEntry)>> {
        if let Some(start) = self.start.take() {
            self.cursor.seek(&start).await?;
        }
        while let Some((path, file)) = self.cursor.next().await? {
            if self.after.as_ref().is_some_and(|after| path <= *after) {
                continue;
            }
            let Some(prefix) = &self.prefix else {
                return Ok(Some((path, file)));
            };
            if path == *prefix || path.strip_directory(prefix).is_some() {
                return Ok(Some((path, file)));
            }
            let below = format!("{prefix}/");
            if path.as_str() > below.as_str() {
                return Ok(None);
            }
            // Between `a` and `a/` lie paths such as `a.txt`: over them.
            self.cursor.seek(&below).await?;
        }
        Ok(None)
    }
}
