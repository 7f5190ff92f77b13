//! Rewriting the part of a tree that changes. Level by level: the nodes that hold a changed item are
//! cut anew until a cut falls where one was before; what changed of the nodes is the change of the
//! level above.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::sync::Arc;

use super::TreeRef;
use super::build::{self, Cutter, Item, NodeWriter, Sink};
use super::cursor::load;
use super::node::{Child, Items, Node};
use crate::entry::FileEntry;
use crate::error::Result;
use crate::path::FilePath;
use crate::storage::Shared;
use crate::writer::Writer;

/// What is at a path afterwards: an item, or nothing.
type Edits<I> = BTreeMap<FilePath, Option<I>>;

/// The tree with these files put (or, `None`, removed).
pub(crate) async fn rewrite(
    shared: &Arc<Shared>,
    writer: &Writer,
    base: &TreeRef,
    files: BTreeMap<FilePath, Option<FileEntry>>,
) -> Result<TreeRef> {
    let mut sink = NodeWriter::new(shared, writer);
    let edits: Edits<(FilePath, FileEntry)> = files
        .into_iter()
        .map(|(path, file)| (path.clone(), file.map(|file| (path, file))))
        .collect();
    let Some(location) = &base.root else {
        let leaves = build::level(0, edits.into_values().flatten(), &mut sink)?;
        return Ok(tree(build::root(0, leaves, &mut sink)?));
    };
    let root = shared.node(location, base.digest).await?;
    let (count, bytes) = root.totals();
    let last = root.last().cloned().unwrap_or_else(FilePath::nowhere);
    let top = Child {
        last,
        digest: base.digest,
        location: location.clone(),
        files: count,
        bytes,
    };
    let mut walk = LevelWalk {
        shared,
        top,
        root: Arc::clone(&root),
        level: 0,
        way: Vec::new(),
    };
    let mut edits = edit_level(&mut walk, &mut sink, edits).await?;
    for level in 1..=root.level() {
        writer.session.room().await;
        walk.level = level;
        edits = edit_level(&mut walk, &mut sink, edits).await?;
    }
    if edits.is_empty() {
        return Ok(base.clone());
    }
    // The level of the old root had one node; these are now all of its nodes.
    let nodes: Vec<Child> = edits.into_values().flatten().collect();
    let root = build::root(root.level(), nodes, &mut sink)?;
    Ok(tree(lowest(shared, root).await?))
}

/// A root with a single child is none: the child is.
async fn lowest(shared: &Shared, root: Option<Child>) -> Result<Option<Child>> {
    let Some(mut root) = root else { return Ok(None) };
    loop {
        let node = shared.node(&root.location, root.digest).await?;
        match &node.items {
            Items::Inner(_, children) if children.len() == 1 => root = children[0].clone(),
            _ => return Ok(Some(root)),
        }
    }
}

fn tree(root: Option<Child>) -> TreeRef {
    match root {
        None => TreeRef::empty(),
        Some(root) => TreeRef {
            digest: root.digest,
            root: Some(root.location),
            files: root.files,
            bytes: root.bytes,
        },
    }
}

/// Applies edits to one level and returns what they mean for the level above.
async fn edit_level<I: Item>(
    walk: &mut LevelWalk<'_>,
    sink: &mut NodeWriter<'_>,
    edits: Edits<I>,
) -> Result<Edits<Child>> {
    let mut above = Edits::new();
    let mut edits = edits.into_iter().peekable();
    while let Some(key) = edits.peek().map(|(key, _)| key.clone()) {
        sink.stored.clear();
        let mut cutter = Cutter::new(walk.level);
        let mut old: Vec<Child> = Vec::new();
        let (mut child, mut node) = walk.seek(&key).await?;
        loop {
            sink.stored.insert(child.digest, (child.clone(), Arc::clone(&node)));
            let is_last = walk.is_last();
            merge(
                walk.shared,
                I::unwrap(&node.items),
                (!is_last).then_some(&child.last),
                &mut edits,
                &mut cutter,
                sink,
            )?;
            old.push(child);
            if is_last {
                cutter.end(sink)?;
            }
            if cutter.is_at_boundary() {
                break;
            }
            tokio::task::yield_now().await;
            (child, node) = walk.next().await?;
        }
        let unchanged = old.len() == cutter.nodes.len()
            && old
                .iter()
                .zip(&cutter.nodes)
                .all(|(old, new)| old.same(new) && old.is_at(new));
        if !unchanged {
            above.extend(old.into_iter().map(|child| (child.last, None)));
            above.extend(cutter.nodes.into_iter().map(|child| (child.last.clone(), Some(child))));
        }
    }
    Ok(above)
}

/// Merges the items of one old node with the edits that fall into it: those up to `until`, or all.
fn merge<I: Item>(
    shared: &Shared,
    items: &[I],
    until: Option<&FilePath>,
    edits: &mut Peekable<impl Iterator<Item = (FilePath, Option<I>)>>,
    cutter: &mut Cutter<I>,
    sink: &mut impl Sink,
) -> Result<()> {
    for item in items {
        while let Some((_, edit)) = edits.next_if(|(key, _)| key < item.key()) {
            if let Some(new) = edit {
                cutter.push(new, sink)?;
            }
        }
        match edits.next_if(|(key, _)| key == item.key()) {
            None => cutter.push(item.clone(), sink)?,
            Some((_, None)) => {}
            // Same content as before: the old place is as good, and the node may stay.
            Some((_, Some(new))) if new.same(item) && I::stays(item, shared) => cutter.push(item.clone(), sink)?,
            Some((_, Some(new))) => cutter.push(new, sink)?,
        }
    }
    while let Some((_, edit)) = edits.next_if(|(key, _)| until.is_none_or(|until| key <= until)) {
        if let Some(new) = edit {
            cutter.push(new, sink)?;
        }
    }
    Ok(())
}

/// Walks the nodes of one level.
struct LevelWalk<'a> {
    shared: &'a Arc<Shared>,
    top: Child,
    root: Arc<Node>,
    level: u8,
    /// Inner nodes from the root down to the level above, and which child of each.
    way: Vec<(Arc<Node>, usize)>,
}

impl LevelWalk<'_> {
    /// The node in whose range the key falls; the last node for keys behind everything.
    async fn seek(&mut self, key: &FilePath) -> Result<(Child, Arc<Node>)> {
        self.way.clear();
        self.descend(Some(key)).await
    }

    /// The node behind the current one, which must not be the last.
    async fn next(&mut self) -> Result<(Child, Arc<Node>)> {
        while self
            .way
            .last()
            .is_some_and(|(node, index)| index + 1 >= Child::unwrap(&node.items).len())
        {
            self.way.pop();
        }
        if let Some((_, index)) = self.way.last_mut() {
            *index += 1;
        }
        self.descend(None).await
    }

    fn is_last(&self) -> bool {
        self.way
            .iter()
            .all(|(node, index)| index + 1 == Child::unwrap(&node.items).len())
    }

    /// Goes down to the level, along the key or along first children.
    async fn descend(&mut self, key: Option<&FilePath>) -> Result<(Child, Arc<Node>)> {
        let (mut child, mut node) = match self.way.last() {
            None => (self.top.clone(), Arc::clone(&self.root)),
            Some((node, index)) => self.child(node, *index).await?,
        };
        while node.level() > self.level {
            let children = Child::unwrap(&node.items);
            let index = key.map_or(0, |key| children.partition_point(|child| child.last < *key));
            let index = index.min(children.len() - 1);
            let next = self.child(&node, index).await?;
            self.way.push((node, index));
            (child, node) = next;
        }
        Ok((child, node))
    }

    async fn child(&self, node: &Node, index: usize) -> Result<(Child, Arc<Node>)> {
        let child = Child::unwrap(&node.items)[index].clone();
        let below = load(self.shared, &child, node.level()).await?;
        Ok((child, below))
    }
}
