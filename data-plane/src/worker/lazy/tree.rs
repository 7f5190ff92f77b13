//! Names and sizes of one input of one datum, in memory: no file system can ask for anything that the datum does not have.

use std::collections::{BTreeMap, HashMap};

use storage::FileEntry;

/// The number of the top.
pub const ROOT: u64 = 1;

/// What has a number.
#[derive(Debug)]
pub enum Node {
    /// A directory: what is in it, by name.
    Directory {
        /// The one that it is in.
        parent: u64,
        /// Their numbers.
        entries: BTreeMap<String, u64>,
    },
    /// A file.
    File(FileEntry),
}

/// All of an input.
#[derive(Debug)]
pub struct Tree {
    nodes: HashMap<u64, Node>,
}

impl Tree {
    /// A tree of these files; of two at one path the first one counts, and what would be below a file is left out.
    pub fn of<'a>(files: impl Iterator<Item = (&'a str, &'a FileEntry)>) -> Self {
        let top = Node::Directory {
            parent: ROOT,
            entries: BTreeMap::new(),
        };
        let mut tree = Self {
            nodes: HashMap::from([(ROOT, top)]),
        };
        for (path, file) in files {
            tree.insert(path, file);
        }
        tree
    }

    fn insert(&mut self, path: &str, file: &FileEntry) {
        let mut at = ROOT;
        let mut parts = path.split('/').filter(|part| !part.is_empty()).peekable();
        while let Some(part) = parts.next() {
            let next = u64::try_from(self.nodes.len()).unwrap_or(u64::MAX) + ROOT;
            let Some(Node::Directory { entries, .. }) = self.nodes.get_mut(&at) else {
                return;
            };
            if let Some(found) = entries.get(part) {
                at = *found;
                continue;
            }
            entries.insert(part.to_owned(), next);
            let node = match parts.peek() {
                Some(_) => Node::Directory {
                    parent: at,
                    entries: BTreeMap::new(),
                },
                None => Node::File(file.clone()),
            };
            self.nodes.insert(next, node);
            at = next;
        }
    }

    /// What has that number.
    pub fn node(&self, number: u64) -> Option<&Node> {
        self.nodes.get(&number)
    }

    /// What has that name in a directory.
    pub fn child(&self, directory: u64, name: &str) -> Option<(u64, &Node)> {
        let Some(Node::Directory { entries, .. }) = self.nodes.get(&directory) else {
            return None;
        };
        let number = *entries.get(name)?;
        Some((number, self.nodes.get(&number)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_has_what_it_was_made_of_and_nothing_else() {
        let file = |text: &'static str| FileEntry::embedded(text.into(), false);
        let files = [
            ("a/b/c", file("1")),
            ("a/d", file("22")),
            ("a/d", file("333")),
            ("a/d/e", file("4")),
        ];
        let tree = Tree::of(files.iter().map(|(path, file)| (*path, file)));
        let (a, _) = tree.child(ROOT, "a").unwrap();
        let (b, _) = tree.child(a, "b").unwrap();
        assert!(matches!(tree.node(b), Some(Node::Directory { parent, .. }) if *parent == a));
        assert!(matches!(tree.child(b, "c"), Some((_, Node::File(file))) if file.size == 1));
        let (d, node) = tree.child(a, "d").unwrap();
        assert!(matches!(node, Node::File(file) if file.size == 2));
        assert!(tree.child(d, "e").is_none() && tree.child(ROOT, "b").is_none() && tree.node(99).is_none());
    }
}
