//! What is still needed. Whoever knows all references marks everything below them; packs without a mark are garbage.
//!
//! Marking visits each distinct node once: a node that two thousand trees share is read once. It fails at damage instead
//! of taking what lies behind for garbage.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use crate::digest::Digest;
use crate::entry::{BlockRef, Content, FileEntry};
use crate::error::Result;
use crate::extents::Block;
use crate::location::Location;
use crate::path::FilePath;
use crate::storage::Shared;
use crate::tree::TreeRef;
use crate::tree::cursor::load;
use crate::tree::node::{Child, Items, Node};

/// A pack as the store lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackInfo {
    /// Its name.
    pub id: Digest,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// When it was written, by the store's clock.
    pub modified_at: SystemTime,
}

#[derive(Default)]
struct Marked {
    /// Where the pieces begin that are needed.
    offsets: HashSet<u32>,
    bytes: u64,
    /// The packs that references to them name: this one, and those that were repacked into it.
    names: HashSet<Digest>,
}

/// Where a piece really is.
struct Place {
    /// The pack that the reference names.
    name: Digest,
    pack: Digest,
    offset: u32,
}

/// Everything that was found to be needed so far, where it really is. Memory: some ten bytes for each piece.
pub struct Marking {
    shared: Arc<Shared>,
    /// Packs that were repacked.
    forwards: HashSet<Digest>,
    packs: HashMap<Digest, Marked>,
    beside: Option<Beside>,
}

/// What was marked before, to be found again in other trees: each piece leaves when it is.
struct Beside {
    packs: HashMap<Digest, Marked>,
    common_bytes: u64,
}

impl Marking {
    pub(crate) fn new(shared: Arc<Shared>, forwards: Vec<Digest>) -> Self {
        Self {
            shared,
            forwards: forwards.into_iter().collect(),
            packs: HashMap::new(),
            beside: None,
        }
    }

    /// Begins to find out how much of what is marked here other trees need too. What is only in those is not remembered
    /// but for their nodes.
    #[must_use]
    pub fn beside(self) -> Self {
        Self {
            shared: self.shared,
            forwards: self.forwards,
            packs: HashMap::new(),
            beside: Some(Beside {
                packs: self.packs,
                common_bytes: 0,
            }),
        }
    }

    /// The store as it is, without what is kept of it on local disk: what is read once must not push out what is read often.
    pub(crate) fn store(&self) -> &Shared {
        &self.shared
    }

    /// Bytes that were marked before [`Marking::beside`] and again since, each piece counted once.
    pub fn common_bytes(&self) -> u64 {
        self.beside.as_ref().map_or(0, |beside| beside.common_bytes)
    }

    /// Bytes of a pack that are needed; 0: the pack is not.
    pub fn bytes_of(&self, pack: Digest) -> u64 {
        self.packs.get(&pack).map_or(0, |marked| marked.bytes)
    }

    /// Whether the piece that begins there is needed.
    pub(crate) fn has(&self, pack: Digest, offset: u32) -> bool {
        self.packs
            .get(&pack)
            .is_some_and(|marked| marked.offsets.contains(&offset))
    }

    /// The packs that references name which are to pieces of this one.
    pub(crate) fn names_of(&self, pack: Digest) -> Vec<Digest> {
        self.packs
            .get(&pack)
            .map_or_else(Vec::new, |marked| marked.names.iter().copied().collect())
    }

    /// Bytes of all pieces that are needed, each counted once.
    pub fn bytes(&self) -> u64 {
        self.packs.values().map(|marked| marked.bytes).sum()
    }

    /// The packs that hold something of what is marked, in no order: where it is, and where it was before it was repacked.
    pub fn packs(&self) -> HashSet<Digest> {
        let named = self.packs.values().flat_map(|marked| marked.names.iter());
        self.packs.keys().chain(named).copied().collect()
    }

    /// Marks a tree and all its files.
    ///
    /// # Errors
    /// When something below is damaged or the store does not answer.
    pub async fn tree(&mut self, tree: &TreeRef) -> Result<()> {
        let Some(location) = &tree.root else { return Ok(()) };
        if !self.mark(location).await? {
            return Ok(());
        }
        let root = self.shared.node(location, tree.digest).await?;
        let mut todo: Vec<(Child, u8)> = Vec::new();
        let mut next = Some(root);
        while let Some(node) = next.take() {
            self.node(&node, &mut todo).await?;
            while let Some((child, level)) = todo.pop() {
                if self.mark(&child.location).await? {
                    next = Some(load(&self.shared, &child, level).await?);
                    break;
                }
            }
        }
        Ok(())
    }

    async fn node(&mut self, node: &Arc<Node>, todo: &mut Vec<(Child, u8)>) -> Result<()> {
        match &node.items {
            Items::Inner(level, children) => {
                todo.extend(children.iter().rev().map(|child| (child.clone(), *level)));
            }
            Items::Leaf(files) => {
                for (path, file) in files {
                    self.file(file).await.map_err(|error| error.for_file(path))?;
                }
            }
        }
        Ok(())
    }

    /// Marks the nodes of a tree that name a path or one below it; they hold small files too.
    ///
    /// # Errors
    /// As [`Marking::tree`].
    pub async fn names(&mut self, tree: &TreeRef, path: &FilePath) -> Result<()> {
        let Some(root) = &tree.root else { return Ok(()) };
        let named = |known: &FilePath| known == path || known.strip_directory(path).is_some();
        // What comes behind everything below the path: `0` follows `/` in the order of bytes.
        let behind = format!("{path}0");
        let mut todo: Vec<(Child, u8)> = Vec::new();
        let mut next = Some((root.clone(), self.shared.node(root, tree.digest).await?));
        while let Some((location, node)) = next.take() {
            let names = match &node.items {
                Items::Leaf(files) => files.iter().any(|(known, _)| named(known)),
                Items::Inner(level, children) => {
                    let first = children.partition_point(|child| child.last.as_str() < path.as_str());
                    let last = children.partition_point(|child| child.last.as_str() < behind.as_str());
                    let within = children.iter().take(last + 1).skip(first);
                    todo.extend(within.map(|child| (child.clone(), *level)));
                    children.iter().any(|child| named(&child.last))
                }
            };
            if names {
                self.mark(&location).await?;
            }
            if let Some((child, level)) = todo.pop() {
                let node = load(&self.shared, &child, level).await?;
                next = Some((child.location, node));
            }
        }
        Ok(())
    }

    /// Marks the bytes of a file.
    ///
    /// # Errors
    /// As [`Marking::tree`].
    pub async fn file(&mut self, file: &FileEntry) -> Result<()> {
        match &file.content {
            Content::Embedded(_) => {}
            Content::Extents(extents) => {
                for extent in extents {
                    self.chunk(&extent.location).await?;
                }
            }
            Content::Blocks(root) => {
                let mut todo: Vec<BlockRef> = vec![root.clone()];
                while let Some(next) = todo.pop() {
                    if !self.mark(&next.location).await? {
                        continue;
                    }
                    match &*self.shared.block(&next).await? {
                        Block::Blocks(parts) => todo.extend(parts.iter().map(|part| part.block.clone())),
                        Block::Extents(extents) => {
                            for extent in extents {
                                self.chunk(&extent.location).await?;
                            }
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Notes that a chunk is needed, below which there is nothing to be visited.
    async fn chunk(&mut self, location: &Location) -> Result<()> {
        if self.beside.is_none() {
            return self.mark(location).await.map(|_| ());
        }
        let place = self.place(location).await?;
        if let (Some(beside), Some(place)) = (&mut self.beside, place) {
            beside.meet(&place, location);
        }
        Ok(())
    }

    /// Notes that a piece is needed; whether that is news.
    async fn mark(&mut self, location: &Location) -> Result<bool> {
        let Some(place) = self.place(location).await? else {
            return Ok(true);
        };
        if let Some(beside) = &mut self.beside {
            beside.meet(&place, location);
        }
        let marked = self.packs.entry(place.pack).or_default();
        let is_new = marked.offsets.insert(place.offset);
        if is_new {
            marked.bytes += location.length();
        }
        marked.names.insert(place.name);
        Ok(is_new)
    }

    /// Where a piece is. What a session of this process still holds is younger than any pack that may be removed: `None`.
    async fn place(&self, location: &Location) -> Result<Option<Place>> {
        let Some(name) = location.pack() else { return Ok(None) };
        let (mut pack, mut offset) = (name, location.offset);
        if self.forwards.contains(&name)
            && let Some(forward) = self.shared.forward(name).await?
            && let Some(moved) = forward.find(location.offset, location.length)
        {
            (pack, offset) = moved;
        }
        Ok(Some(Place { name, pack, offset }))
    }
}

impl Beside {
    fn meet(&mut self, place: &Place, location: &Location) {
        let known = self.packs.get_mut(&place.pack);
        if known.is_some_and(|marked| marked.offsets.remove(&place.offset)) {
            self.common_bytes += location.length();
        }
    }
}
