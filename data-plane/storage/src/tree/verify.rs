//! Checking a tree: every node, every reference, every pack it uses; says in words what is wrong.

use std::collections::HashMap;
use std::sync::Arc;

use futures::TryStreamExt;

use super::boundary::Boundary;
use super::cursor::load;
use super::node::{Child, Items, Node};
use super::{Finding, TreeRef};
use crate::digest::Digest;
use crate::entry::FileEntry;
use crate::error::{Result, StorageError};
use crate::forward::Forward;
use crate::index;
use crate::location::Location;
use crate::path::FilePath;
use crate::reader::{self, ExtentWalk};
use crate::storage::Shared;

/// What is known of a pack.
enum Pack {
    /// Where its pieces begin, how long they are, and their digests.
    Index(HashMap<u32, (u32, Digest)>),
    /// It was repacked.
    Moved(Forward),
    /// It is damaged, which was said.
    Unusable,
}

struct Check<'a> {
    shared: &'a Arc<Shared>,
    deep: bool,
    packs: HashMap<Digest, Pack>,
    /// Where nodes should end, for each level.
    boundaries: Vec<Boundary>,
    findings: Vec<Finding>,
    before: Option<FilePath>,
}

/// Everything wrong with a tree; errors only if the store itself fails.
pub(crate) async fn verify(shared: &Arc<Shared>, tree: &TreeRef, deep: bool) -> Result<Vec<Finding>> {
    let mut check = Check::new(shared, deep);
    let Some(location) = &tree.root else {
        return Ok(Vec::new());
    };
    let root = match shared.node(location, tree.digest).await {
        Ok(root) => root,
        Err(error) => {
            check.note(None, location.pack(), error)?;
            return Ok(check.findings);
        }
    };
    if root.totals() != (tree.files, tree.bytes) {
        check.say(
            None,
            location.pack(),
            "the counts of the tree reference differ from those of its root".to_owned(),
        );
    }
    check.boundaries = (0..=root.level()).map(Boundary::new).collect();
    check.piece(None, location, None).await?;
    check.nodes(root).await?;
    Ok(check.findings)
}

/// Everything wrong with files that are in no tree.
pub(crate) async fn verify_files(
    shared: &Arc<Shared>,
    files: &[(FilePath, FileEntry)],
    deep: bool,
) -> Result<Vec<Finding>> {
    let mut check = Check::new(shared, deep);
    for (path, file) in files {
        check.before = None;
        check.file(path, file).await?;
    }
    Ok(check.findings)
}

impl<'a> Check<'a> {
    fn new(shared: &'a Arc<Shared>, deep: bool) -> Self {
        Self {
            shared,
            deep,
            packs: HashMap::new(),
            boundaries: Vec::new(),
            findings: Vec::new(),
            before: None,
        }
    }
}

impl Check<'_> {
    fn say(&mut self, path: Option<&FilePath>, pack: Option<Digest>, problem: String) {
        self.findings.push(Finding {
            path: path.cloned(),
            pack,
            problem,
        });
    }

    /// Damage is a finding; a store that does not answer is an error.
    fn note(&mut self, path: Option<&FilePath>, pack: Option<Digest>, error: StorageError) -> Result<()> {
        if !error.is_damage() {
            return Err(error);
        }
        let pack = match &error {
            StorageError::Corrupt { pack, .. }
            | StorageError::PackMissing { pack }
            | StorageError::Forward { pack, .. } => Some(*pack),
            _ => pack,
        };
        self.say(path, pack, error.to_string());
        Ok(())
    }

    /// Visits all nodes from left to right.
    async fn nodes(&mut self, root: Arc<Node>) -> Result<()> {
        let mut todo: Vec<(Child, u8)> = Vec::new();
        let mut node = root;
        let mut rightmost = true;
        loop {
            self.check_boundaries(&node, rightmost);
            match &node.items {
                Items::Leaf(files) => {
                    for (path, file) in files {
                        self.file(path, file).await?;
                    }
                }
                Items::Inner(level, children) => {
                    todo.extend(children.iter().rev().map(|child| (child.clone(), *level)));
                }
            }
            node = loop {
                let Some((child, level)) = todo.pop() else {
                    return Ok(());
                };
                rightmost = todo.is_empty();
                self.piece(None, &child.location, None).await?;
                match load(self.shared, &child, level).await {
                    Ok(node) => break node,
                    Err(error) => {
                        let lost = format!("{} files up to `{}` are unreachable", child.files, child.last);
                        self.say(None, child.location.pack(), lost);
                        self.note(None, child.location.pack(), error)?;
                        self.boundaries = (0..=u8::MAX).take(self.boundaries.len()).map(Boundary::new).collect();
                    }
                }
            };
        }
    }

    fn check_boundaries(&mut self, node: &Node, rightmost: bool) {
        let level = node.level();
        let Some(boundary) = self.boundaries.get_mut(usize::from(level)) else {
            return;
        };
        let paths: Vec<&str> = match &node.items {
            Items::Leaf(files) => files.iter().map(|(path, _)| path.as_str()).collect(),
            Items::Inner(_, children) => children.iter().map(|child| child.last.as_str()).collect(),
        };
        let wrong = paths.iter().enumerate().find(|(index, path)| {
            let is_last = index + 1 == paths.len();
            boundary.ends_with(path) != is_last && !(is_last && rightmost)
        });
        if let Some((_, path)) = wrong {
            let problem = format!("a node of level {level} ends at another place than it should, near `{path}`");
            *boundary = Boundary::new(level);
            self.say(None, None, problem);
        }
    }

    async fn file(&mut self, path: &FilePath, file: &FileEntry) -> Result<()> {
        if self.before.as_ref().is_some_and(|before| before >= path) {
            self.say(Some(path), None, "the path is out of order".to_owned());
        }
        self.before = Some(path.clone());
        let mut walk = ExtentWalk::new(self.shared, file, 0);
        loop {
            match walk.next().await {
                Ok(None) => break,
                Ok(Some((_, extent))) => self.piece(Some(path), &extent.location, Some(extent.digest)).await?,
                Err(error) => return self.note(Some(path), None, error),
            }
        }
        if self.deep {
            self.content(path, file).await
        } else {
            Ok(())
        }
    }

    async fn content(&mut self, path: &FilePath, file: &FileEntry) -> Result<()> {
        let mut hasher = blake3::Hasher::new();
        let mut parts = reader::read(self.shared, file, 0..file.size);
        loop {
            match parts.try_next().await {
                Ok(Some(part)) => {
                    hasher.update(&part);
                }
                Ok(None) => break,
                Err(error) => return self.note(Some(path), None, error),
            }
        }
        if Digest::from(hasher.finalize()) != file.digest {
            self.say(
                Some(path),
                None,
                "the content does not have the digest that the tree says".to_owned(),
            );
        }
        Ok(())
    }

    /// Checks that a pack has this piece, or the one that holds it since.
    async fn piece(&mut self, path: Option<&FilePath>, location: &Location, digest: Option<Digest>) -> Result<()> {
        let Some(name) = location.pack() else { return Ok(()) };
        let (mut pack, mut offset) = (name, location.offset);
        self.learn(path, pack).await?;
        if let Some(Pack::Moved(forward)) = self.packs.get(&pack) {
            let Some(place) = forward.find(offset, location.length) else {
                let problem = format!(
                    "pack `{pack}` was repacked without a piece of {} bytes at {offset}",
                    location.length
                );
                self.say(path, Some(pack), problem);
                return Ok(());
            };
            (pack, offset) = place;
            self.learn(path, pack).await?;
        }
        let fits = match self.packs.get(&pack) {
            Some(Pack::Index(index)) => index.get(&offset).is_some_and(|(length, stored)| {
                *length == location.length && digest.is_none_or(|digest| digest == *stored)
            }),
            // Forwards lead straight to where the bytes are.
            Some(Pack::Moved(_)) => false,
            Some(Pack::Unusable) | None => return Ok(()),
        };
        if !fits {
            let problem = format!(
                "pack `{pack}` has no such piece of {} bytes at {offset}",
                location.length
            );
            self.say(path, Some(pack), problem);
        }
        Ok(())
    }

    /// Reads the index of a pack, or what says where its bytes are, if it was not read before.
    async fn learn(&mut self, path: Option<&FilePath>, pack: Digest) -> Result<()> {
        if self.packs.contains_key(&pack) {
            return Ok(());
        }
        let error = match index::read(self.shared, pack).await {
            Ok(pieces) => {
                let pieces = pieces.into_iter().filter(|(_, piece)| piece.length > 0);
                let index = pieces.map(|(offset, piece)| (offset, (piece.length, piece.digest)));
                self.packs.insert(pack, Pack::Index(index.collect()));
                return Ok(());
            }
            Err(missing @ StorageError::PackMissing { .. }) => match self.shared.read_forward(pack).await {
                Ok(Some(forward)) => {
                    self.packs.insert(pack, Pack::Moved(forward));
                    return Ok(());
                }
                Ok(None) => missing,
                Err(error) => error,
            },
            Err(error) => error,
        };
        self.note(path, Some(pack), error)?;
        self.packs.insert(pack, Pack::Unusable);
        Ok(())
    }
}
