//! From items to nodes, and from the nodes of one level to a root.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::TreeRef;
use super::boundary::Boundary;
use super::node::{Child, Items, Node};
use crate::digest::Digest;
use crate::entry::{Content, FileEntry};
use crate::error::Result;
use crate::location::{Location, PackRef};
use crate::pack::PieceKind;
use crate::path::FilePath;
use crate::storage::Shared;
use crate::writer::Writer;

/// What a level of a tree consists of: files, or nodes of the level below.
pub(crate) trait Item: Clone + Send + Sync {
    /// What the level is sorted by.
    fn key(&self) -> &FilePath;
    /// Wraps the items of one node.
    fn wrap(level: u8, items: Vec<Self>) -> Items;
    /// The items of a node; none if it is a node of the other sort.
    fn unwrap(items: &Items) -> &[Self];
    /// Equal as far as digests can tell.
    fn same(&self, other: &Self) -> bool;
    /// Where it lies.
    fn locations(&self) -> impl Iterator<Item = &Location>;
    /// Whether an item that is replaced by the same content may stay where it lies.
    fn stays(&self, shared: &Shared) -> bool;
    /// Whether two items that are the same lie at the same places.
    fn is_at(&self, other: &Self) -> bool {
        let (mut mine, mut others) = (self.locations(), other.locations());
        loop {
            match (mine.next(), others.next()) {
                (None, None) => return true,
                (Some(a), Some(b)) if a.is_at(b) => {}
                _ => return false,
            }
        }
    }
}

impl Item for (FilePath, FileEntry) {
    fn key(&self) -> &FilePath {
        &self.0
    }

    fn wrap(_: u8, items: Vec<Self>) -> Items {
        Items::Leaf(items)
    }

    fn unwrap(items: &Items) -> &[Self] {
        match items {
            Items::Leaf(files) => files,
            Items::Inner(..) => &[],
        }
    }

    fn same(&self, other: &Self) -> bool {
        self == other
    }

    fn locations(&self) -> impl Iterator<Item = &Location> {
        self.1.locations()
    }

    /// The chunks of a large file lie in many packs, of which only the root of its list is known here.
    fn stays(&self, shared: &Shared) -> bool {
        match &self.1.content {
            Content::Blocks(_) => !shared.has_suspects(),
            _ => !self.locations().any(|location| shared.is_suspect(location)),
        }
    }
}

impl Item for Child {
    fn key(&self) -> &FilePath {
        &self.last
    }

    fn wrap(level: u8, items: Vec<Self>) -> Items {
        Items::Inner(level, items)
    }

    fn unwrap(items: &Items) -> &[Self] {
        match items {
            Items::Inner(_, children) => children,
            Items::Leaf(_) => &[],
        }
    }

    fn same(&self, other: &Self) -> bool {
        self.digest == other.digest
    }

    fn locations(&self) -> impl Iterator<Item = &Location> {
        std::iter::once(&self.location)
    }

    /// A node is replaced by one of the same content only when something below it has moved.
    fn stays(&self, _: &Shared) -> bool {
        false
    }
}

/// Where finished nodes go.
pub(crate) trait Sink {
    fn place(&mut self, node: Node) -> Result<Child>;
}

/// Writes nodes into the packs of a write session.
pub(crate) struct NodeWriter<'a> {
    shared: &'a Shared,
    writer: &'a Writer,
    /// Nodes that are stored already, in the part of the tree that is being rewritten.
    pub(crate) stored: HashMap<Digest, (Child, Arc<Node>)>,
}

impl<'a> NodeWriter<'a> {
    pub(crate) fn new(shared: &'a Shared, writer: &'a Writer) -> Self {
        Self {
            shared,
            writer,
            stored: HashMap::new(),
        }
    }
}

impl Sink for NodeWriter<'_> {
    fn place(&mut self, node: Node) -> Result<Child> {
        // A node of the same content whose items lie elsewhere now is not good enough: they moved away from damage.
        if let Some((stored, old)) = self.stored.get(&node.digest)
            && lie_alike(&node.items, &old.items)
        {
            return Ok(stored.clone());
        }
        let (location, _) = self.writer.session.record(PieceKind::Node, |own| {
            let bytes = node.encode(own)?;
            let digest = Digest::of(&bytes);
            Ok((bytes, digest))
        })?;
        let child = known(&node, location.clone());
        self.shared.remember_node(&location, &Arc::new(node));
        Ok(child)
    }
}

fn lie_alike(a: &Items, b: &Items) -> bool {
    fn all<I: Item>(a: &[I], b: &[I]) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.is_at(b))
    }
    match (a, b) {
        (Items::Leaf(a), Items::Leaf(b)) => all(a, b),
        (Items::Inner(_, a), Items::Inner(_, b)) => all(a, b),
        _ => false,
    }
}

/// Forgets nodes; for digests alone.
struct Nowhere;

impl Sink for Nowhere {
    fn place(&mut self, node: Node) -> Result<Child> {
        let pack = PackRef::Stored(Digest::default());
        Ok(known(
            &node,
            Location {
                pack,
                offset: 0,
                length: 0,
            },
        ))
    }
}

fn known(node: &Node, location: Location) -> Child {
    let (files, bytes) = node.totals();
    let last = node.last().cloned().unwrap_or_else(FilePath::nowhere);
    Child {
        last,
        digest: node.digest,
        location,
        files,
        bytes,
    }
}

/// Cuts a sequence of items into nodes.
pub(crate) struct Cutter<I> {
    level: u8,
    boundary: Boundary,
    items: Vec<I>,
    pub(crate) nodes: Vec<Child>,
}

impl<I: Item> Cutter<I> {
    pub(crate) fn new(level: u8) -> Self {
        Self {
            level,
            boundary: Boundary::new(level),
            items: Vec::new(),
            nodes: Vec::new(),
        }
    }

    pub(crate) fn push(&mut self, item: I, sink: &mut impl Sink) -> Result<()> {
        let ends = self.boundary.ends_with(item.key().as_str());
        self.items.push(item);
        if ends { self.end(sink) } else { Ok(()) }
    }

    /// True between two nodes.
    pub(crate) fn is_at_boundary(&self) -> bool {
        self.items.is_empty()
    }

    /// Ends the last node of the level.
    pub(crate) fn end(&mut self, sink: &mut impl Sink) -> Result<()> {
        if self.items.is_empty() {
            return Ok(());
        }
        let items = std::mem::take(&mut self.items);
        self.nodes.push(sink.place(Node::new(I::wrap(self.level, items)))?);
        Ok(())
    }
}

/// The nodes of a whole level from its items.
pub(crate) fn level<I: Item>(
    level: u8,
    items: impl IntoIterator<Item = I>,
    sink: &mut impl Sink,
) -> Result<Vec<Child>> {
    let mut cutter = Cutter::new(level);
    for item in items {
        cutter.push(item, sink)?;
    }
    cutter.end(sink)?;
    Ok(cutter.nodes)
}

/// The root above all nodes of a level; `None` above nothing.
pub(crate) fn root(mut below: u8, mut nodes: Vec<Child>, sink: &mut impl Sink) -> Result<Option<Child>> {
    while nodes.len() > 1 {
        below += 1;
        nodes = level(below, nodes, sink)?;
    }
    Ok(nodes.pop())
}

/// The digest of a tree of these files.
pub(crate) fn digest_of(files: &BTreeMap<FilePath, FileEntry>) -> Digest {
    let items = files.iter().map(|(path, file)| (path.clone(), file.clone()));
    let leaves = level(0, items, &mut Nowhere);
    // `Nowhere` never fails.
    let root = leaves.and_then(|leaves| root(0, leaves, &mut Nowhere)).ok().flatten();
    root.map_or(TreeRef::empty().digest, |root| root.digest)
}
