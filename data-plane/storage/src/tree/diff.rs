//! Comparing two trees: both are walked in step, and wherever the next thing on both sides is the
//! same node, it is passed over unread.

use std::cmp::Ordering;
use std::sync::Arc;

use futures::stream::{self, BoxStream, StreamExt};

use super::cursor::load;
use super::node::{Child, Items, Node};
use super::{Change, TreeRef};
use crate::entry::FileEntry;
use crate::error::{Result, StorageError};
use crate::path::FilePath;
use crate::storage::Shared;

/// What comes next on one side.
enum Next {
    /// An unread node below a node of this level.
    Node(Child, u8),
    File(FilePath, FileEntry),
}

/// One of the two trees; what is to come, nearest last.
struct Side {
    shared: Arc<Shared>,
    todo: Vec<Next>,
}

impl Side {
    async fn new(shared: &Arc<Shared>, tree: &TreeRef) -> Result<Self> {
        let mut side = Self {
            shared: Arc::clone(shared),
            todo: Vec::new(),
        };
        if let Some(root) = &tree.root {
            let root = shared.node(root, tree.digest).await?;
            side.push_items(&root);
        }
        Ok(side)
    }

    fn push_items(&mut self, node: &Node) {
        match &node.items {
            Items::Leaf(files) => {
                self.todo.extend(
                    files
                        .iter()
                        .rev()
                        .map(|(path, file)| Next::File(path.clone(), file.clone())),
                );
            }
            Items::Inner(level, children) => {
                self.todo
                    .extend(children.iter().rev().map(|child| Next::Node(child.clone(), *level)));
            }
        }
    }

    /// Replaces the next thing, a node, by what is in it.
    async fn expand(&mut self) -> Result<()> {
        if let Some(Next::Node(child, level)) = self.todo.pop() {
            let node = load(&self.shared, &child, level).await?;
            self.push_items(&node);
        }
        Ok(())
    }

    fn take_file(&mut self) -> Option<(FilePath, FileEntry)> {
        match self.todo.pop() {
            Some(Next::File(path, file)) => Some((path, file)),
            _ => None,
        }
    }
}

/// What to do about what comes next on both sides.
enum Step {
    Done,
    Skip,
    Expand(bool, bool),
    Removed,
    Added,
    Both,
}

fn step(a: Option<&Next>, b: Option<&Next>) -> Step {
    match (a, b) {
        (None, None) => Step::Done,
        (Some(Next::Node(a, a_level)), Some(Next::Node(b, b_level))) => match a_level.cmp(b_level) {
            _ if a.digest == b.digest => Step::Skip,
            Ordering::Less => Step::Expand(false, true),
            Ordering::Equal => Step::Expand(true, true),
            Ordering::Greater => Step::Expand(true, false),
        },
        (Some(Next::Node(..)), _) => Step::Expand(true, false),
        (_, Some(Next::Node(..))) => Step::Expand(false, true),
        (Some(Next::File(..)), None) => Step::Removed,
        (None, Some(Next::File(..))) => Step::Added,
        (Some(Next::File(a, _)), Some(Next::File(b, _))) => match a.cmp(b) {
            Ordering::Less => Step::Removed,
            Ordering::Equal => Step::Both,
            Ordering::Greater => Step::Added,
        },
    }
}

struct Comparison {
    a: Side,
    b: Side,
}

impl Comparison {
    async fn next(&mut self) -> Result<Option<Change>> {
        loop {
            match step(self.a.todo.last(), self.b.todo.last()) {
                Step::Done => return Ok(None),
                Step::Skip => {
                    self.a.todo.pop();
                    self.b.todo.pop();
                }
                // Both at once: each may be a request to the store.
                Step::Expand(true, true) => {
                    futures::try_join!(self.a.expand(), self.b.expand())?;
                }
                Step::Expand(true, _) => self.a.expand().await?,
                Step::Expand(false, _) => self.b.expand().await?,
                Step::Removed => {
                    let removed = self.a.take_file();
                    return Ok(removed.map(|(path, file)| Change {
                        path,
                        before: Some(file),
                        after: None,
                    }));
                }
                Step::Added => {
                    let added = self.b.take_file();
                    return Ok(added.map(|(path, file)| Change {
                        path,
                        before: None,
                        after: Some(file),
                    }));
                }
                Step::Both => {
                    let (before, after) = (self.a.take_file(), self.b.take_file());
                    if let (Some((path, before)), Some((_, after))) = (before, after)
                        && before != after
                    {
                        return Ok(Some(Change {
                            path,
                            before: Some(before),
                            after: Some(after),
                        }));
                    }
                }
            }
        }
    }
}

/// The differences in path order.
pub(crate) fn diff(shared: &Arc<Shared>, a: &TreeRef, b: &TreeRef) -> BoxStream<'static, Result<Change>> {
    if a.digest == b.digest {
        return stream::empty().boxed();
    }
    let start = (Arc::clone(shared), a.clone(), b.clone());
    let compare = async move {
        let (shared, a, b) = start;
        let comparison = Comparison {
            a: Side::new(&shared, &a).await?,
            b: Side::new(&shared, &b).await?,
        };
        Ok::<_, StorageError>(stream::try_unfold(comparison, |mut comparison| async move {
            let change = comparison.next().await?;
            Ok::<_, StorageError>(change.map(|change| (change, comparison)))
        }))
    };
    use futures::TryStreamExt;
    stream::once(compare).try_flatten().boxed()
}
