//! The inode table: which number stands for which file or directory of the commit, filled as directories are looked into.
//! Nothing in it ever changes, since a commit does not; so numbers are never taken back.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use contract::api::{FileInfo, FileKind, Page};

/// The number of a file or directory.
pub type Inode = u64;
/// The top directory.
pub const ROOT: Inode = 1;
/// What the kernel takes as a name at most, in bytes.
const NAME_BYTES_MAX: usize = 1024;

/// The BLAKE3 digest of a file's content.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Reads 64 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        Some(Self(bytes))
    }

    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// Its 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What is known of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct File {
    /// Bytes.
    pub size: u64,
    /// Of its content.
    pub digest: Digest,
    /// Whether it may be executed.
    pub executable: bool,
}

/// A file or a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A file.
    File(File),
}

impl Kind {
    /// What a line of a listing is; `None` when it says neither.
    pub fn of(info: &FileInfo) -> Option<Self> {
        match info.kind {
            FileKind::Directory => Some(Self::Directory),
            FileKind::File => Some(Self::File(File {
                size: info.size_bytes,
                digest: Digest::parse(info.digest.as_deref()?)?,
                executable: info.executable,
            })),
        }
    }
}

/// What is known of a name in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Child {
    /// It is there.
    Is(Inode),
    /// The directory is known whole, and it is not there.
    Absent,
    /// It has to be asked for alone: the directory is large and not listed to its end.
    AskAlone,
    /// The directory has not been looked into.
    ListFirst,
}

/// Where the listing of a directory goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// With this cursor, `None` = from the beginning.
    Page(Option<String>),
    /// It is whole.
    Nothing,
}

/// One line for the kernel.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its number.
    pub inode: Inode,
    /// Its name.
    pub name: Arc<str>,
    /// What it is.
    pub kind: Kind,
}

struct Directory {
    /// In the order of the listing, as far as it was read.
    order: Vec<Inode>,
    /// These, and what was asked for alone.
    children: HashMap<Arc<str>, Inode>,
    next: Next,
}

enum Content {
    File(File),
    Directory(Box<Directory>),
}

struct Node {
    parent: Inode,
    name: Arc<str>,
    content: Content,
    /// Which line of the directory's listing it is, if it was listed.
    position: Option<usize>,
}

/// The table.
pub struct Tree {
    nodes: Vec<Node>,
}

impl Tree {
    /// A table that knows of the top directory and of nothing in it.
    pub fn new() -> Self {
        Self {
            nodes: vec![Node {
                parent: ROOT,
                name: "".into(),
                content: Content::new(Kind::Directory),
                position: None,
            }],
        }
    }

    fn node(&self, inode: Inode) -> Option<&Node> {
        self.nodes.get(usize::try_from(inode.checked_sub(1)?).ok()?)
    }

    fn directory(&self, inode: Inode) -> Option<&Directory> {
        match &self.node(inode)?.content {
            Content::Directory(directory) => Some(directory),
            Content::File(_) => None,
        }
    }

    fn directory_mut(&mut self, inode: Inode) -> Option<&mut Directory> {
        let index = usize::try_from(inode.checked_sub(1)?).ok()?;
        match &mut self.nodes.get_mut(index)?.content {
            Content::Directory(directory) => Some(directory),
            Content::File(_) => None,
        }
    }

    /// What that number stands for.
    pub fn kind(&self, inode: Inode) -> Option<Kind> {
        self.node(inode).map(|node| node.content.kind())
    }

    /// The directory that it lies in; of the top directory itself.
    pub fn parent(&self, inode: Inode) -> Inode {
        self.node(inode).map_or(ROOT, |node| node.parent)
    }

    /// Its absolute path in the commit; `/` of the top directory.
    pub fn path(&self, inode: Inode) -> String {
        let mut parts: Vec<&str> = Vec::new();
        let mut at = inode;
        while at != ROOT {
            let Some(node) = self.node(at) else { break };
            parts.push(&node.name);
            at = node.parent;
        }
        let names: Vec<&str> = parts.into_iter().rev().collect();
        format!("/{}", names.join("/"))
    }

    /// What is known of a name in a directory.
    pub fn child(&self, directory: Inode, name: &str) -> Child {
        let Some(found) = self.directory(directory) else {
            return Child::Absent;
        };
        match (found.children.get(name), &found.next) {
            (Some(inode), _) => Child::Is(*inode),
            (None, Next::Nothing) => Child::Absent,
            (None, Next::Page(None)) => Child::ListFirst,
            (None, Next::Page(Some(_))) => Child::AskAlone,
        }
    }

    /// Where the listing of a directory goes on.
    pub fn next(&self, directory: Inode) -> Next {
        self.directory(directory)
            .map_or(Next::Nothing, |directory| directory.next.clone())
    }

    /// How many lines of a directory's listing are known.
    pub fn listed(&self, directory: Inode) -> usize {
        self.directory(directory).map_or(0, |directory| directory.order.len())
    }

    /// Which line of its directory's listing it is, if it was listed.
    pub fn position(&self, inode: Inode) -> Option<usize> {
        self.node(inode)?.position
    }

    /// The known lines of a directory from that one on, at most so many.
    pub fn entries(&self, directory: Inode, from: usize, most: usize) -> Vec<Entry> {
        let order = self.directory(directory).map_or(&[][..], |found| &found.order);
        let wanted = order.iter().skip(from).take(most);
        wanted
            .filter_map(|inode| {
                let node = self.node(*inode)?;
                Some(Entry {
                    inode: *inode,
                    name: node.name.clone(),
                    kind: node.content.kind(),
                })
            })
            .collect()
    }

    /// Adds the page that was asked for with that cursor. One that is there already, or is not the next, changes nothing.
    /// Lines that are no names of this directory are left out: they could lead anywhere.
    pub fn add_page(&mut self, directory: Inode, asked: &Next, page: &Page<FileInfo>) {
        if *asked == Next::Nothing || self.next(directory) != *asked {
            return;
        }
        let path = self.path(directory);
        let mut lines = Vec::with_capacity(page.items.len());
        for info in &page.items {
            let name = name_in(&path, &info.path);
            if let (Some(name), Some(kind)) = (name, Kind::of(info)) {
                lines.push(self.add(directory, name, kind));
            }
        }
        let listed = self.listed(directory);
        for (position, inode) in (listed..).zip(&lines) {
            if let Some(node) = self.nodes.get_mut(*inode as usize - 1) {
                node.position = Some(position);
            }
        }
        if let Some(found) = self.directory_mut(directory) {
            found.order.extend(lines);
            found.next = match &page.next_cursor {
                Some(cursor) => Next::Page(Some(cursor.clone())),
                None => Next::Nothing,
            };
        }
    }

    /// Adds one name of a directory; the number is the same however often it is added.
    pub fn add(&mut self, directory: Inode, name: &str, kind: Kind) -> Inode {
        if let Some(known) = self.directory(directory).and_then(|d| d.children.get(name)) {
            return *known;
        }
        let name: Arc<str> = name.into();
        self.nodes.push(Node {
            parent: directory,
            name: name.clone(),
            content: Content::new(kind),
            position: None,
        });
        let inode = self.nodes.len() as Inode;
        if let Some(found) = self.directory_mut(directory) {
            found.children.insert(name, inode);
        }
        inode
    }

    /// Begins the listing of a directory again: its cursor is not taken any more. What is known keeps its number.
    pub fn relist(&mut self, directory: Inode) {
        if let Some(found) = self.directory_mut(directory) {
            found.order.clear();
            found.next = Next::Page(None);
        }
    }

    /// All files that are known.
    pub fn files(&self) -> impl Iterator<Item = File> + '_ {
        self.nodes.iter().filter_map(|node| match node.content {
            Content::File(file) => Some(file),
            Content::Directory(_) => None,
        })
    }
}

impl Content {
    fn new(kind: Kind) -> Self {
        match kind {
            Kind::File(file) => Self::File(file),
            Kind::Directory => Self::Directory(Box::new(Directory {
                order: Vec::new(),
                children: HashMap::new(),
                next: Next::Page(None),
            })),
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::File(file) => Kind::File(*file),
            Self::Directory(_) => Kind::Directory,
        }
    }
}

/// The path of a name in a directory.
pub fn joined(directory: &str, name: &str) -> String {
    format!("{}/{name}", directory.trim_end_matches('/'))
}

/// The name of a line of a directory's listing; `None` when it is no name of this directory.
fn name_in<'a>(directory: &str, path: &'a str) -> Option<&'a str> {
    let rest = path.strip_prefix(directory.trim_end_matches('/'))?.strip_prefix('/')?;
    let name = rest.strip_suffix('/').unwrap_or(rest);
    let plain = !name.is_empty() && name != "." && name != ".." && name.len() <= NAME_BYTES_MAX;
    (plain && !name.contains(['/', '\0'])).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, size: u64) -> FileInfo {
        FileInfo {
            path: path.to_owned(),
            kind: FileKind::File,
            size_bytes: size,
            digest: Some(Digest::of(path.as_bytes()).to_string()),
            executable: false,
            files: 1,
        }
    }

    fn directory(path: &str) -> FileInfo {
        FileInfo {
            path: path.to_owned(),
            kind: FileKind::Directory,
            size_bytes: 0,
            digest: None,
            executable: false,
            files: 1,
        }
    }

    fn page(items: Vec<FileInfo>, next: Option<&str>) -> Page<FileInfo> {
        Page {
            items,
            next_cursor: next.map(str::to_owned),
        }
    }

    #[test]
    fn a_directory_is_listed_page_by_page_and_numbers_stay() {
        let mut tree = Tree::new();
        assert_eq!(tree.child(ROOT, "a"), Child::ListFirst);
        tree.add_page(ROOT, &Next::Page(None), &page(vec![directory("/a/")], Some("x")));
        let Child::Is(a) = tree.child(ROOT, "a") else {
            panic!("it was listed")
        };
        assert_eq!(tree.child(ROOT, "b"), Child::AskAlone);
        let b = tree.add(ROOT, "b", Kind::of(&file("/b", 3)).unwrap());
        let rest = page(vec![file("/b", 3), file("/c", 4)], None);
        tree.add_page(ROOT, &Next::Page(Some("x".to_owned())), &rest);
        // The same answer once more.
        tree.add_page(ROOT, &Next::Page(Some("x".to_owned())), &rest);
        assert_eq!(tree.child(ROOT, "b"), Child::Is(b));
        assert_eq!(tree.child(ROOT, "nothing"), Child::Absent);
        let names: Vec<_> = tree.entries(ROOT, 1, 9).iter().map(|e| e.name.to_string()).collect();
        assert_eq!(names, ["b", "c"]);
        assert_eq!(
            (tree.position(a), tree.position(b), tree.position(ROOT)),
            (Some(0), Some(1), None)
        );
        assert_eq!(tree.next(ROOT), Next::Nothing);

        tree.add_page(a, &Next::Page(None), &page(vec![file("/a/x", 1)], None));
        let Child::Is(x) = tree.child(a, "x") else {
            panic!("it was listed")
        };
        assert_eq!((tree.path(x).as_str(), tree.path(ROOT).as_str()), ("/a/x", "/"));
        assert_eq!((tree.parent(x), tree.parent(ROOT)), (a, ROOT));
        assert_eq!(tree.child(x, "below a file"), Child::Absent);
        assert_eq!(tree.files().count(), 3);
        assert_eq!(tree.kind(99), None);

        tree.relist(ROOT);
        assert_eq!((tree.listed(ROOT), tree.next(ROOT)), (0, Next::Page(None)));
        assert_eq!(tree.child(ROOT, "b"), Child::Is(b), "what is known is known");
    }

    #[test]
    fn lines_that_are_no_names_of_the_directory_are_left_out() {
        let mut tree = Tree::new();
        let lines = ["/../x", "/.", "/..", "//", "/a/b", "relative", "/a\0b", "/good"];
        let mut items: Vec<FileInfo> = lines.map(|path| file(path, 1)).to_vec();
        items.push(FileInfo {
            digest: Some("no digest".to_owned()),
            ..file("/other", 1)
        });
        tree.add_page(ROOT, &Next::Page(None), &page(items, None));
        let names: Vec<_> = tree.entries(ROOT, 0, 99).iter().map(|e| e.name.to_string()).collect();
        assert_eq!(names, ["good"]);
        assert_eq!((joined("/", "a").as_str(), joined("/a", "b").as_str()), ("/a", "/a/b"));
    }
}
