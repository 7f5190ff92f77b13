//! The digest of a commit's content from the list of its files. It is written here a second time, beside the service's own, from
//! `docs/provenance-bundle.md` alone: whoever checks a service should not have to take its word.

use contract::api::ListedFile;
use packs::Digest;
use packs::codec::put_number;

const WEIGHT_MIN: usize = 1 << 10;
const WEIGHT_TARGET: usize = 4 << 10;
const WEIGHT_MAX: usize = 16 << 10;
const RARE: u64 = 128;
const OFTEN: u64 = 16;

/// A node, as the level above knows it.
struct Child {
    last: String,
    digest: Digest,
    files: u64,
    bytes: u64,
}

/// Takes files in the order of their paths. It keeps a hundred bytes or so of every seventy files.
pub struct Tree {
    leaf: Node,
    leaves: Vec<Child>,
    files: u64,
    bytes: u64,
}

/// A node that is being filled.
struct Node {
    level: u8,
    weight: usize,
    items: usize,
    record: Vec<u8>,
    files: u64,
    bytes: u64,
}

impl Node {
    fn new(level: u8) -> Self {
        let record = match level {
            0 => b"howdah leaf\0".to_vec(),
            _ => [&b"howdah inner\0"[..], &[level]].concat(),
        };
        Self {
            level,
            weight: 0,
            items: 0,
            record,
            files: 0,
            bytes: 0,
        }
    }

    fn add(&mut self, path: &str, files: u64, bytes: u64, rest: impl FnOnce(&mut Vec<u8>)) {
        put_number(&mut self.record, path.len() as u64);
        self.record.extend_from_slice(path.as_bytes());
        rest(&mut self.record);
        self.weight += path.len() / 2 + if self.level == 0 { 50 } else { 90 };
        self.items += 1;
        self.files = self.files.saturating_add(files);
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Whether the item that was added last, with that path, ends it.
    fn ends(&self, path: &str) -> bool {
        if self.weight < WEIGHT_MIN || (self.level > 0 && self.items < 2) {
            return false;
        }
        if self.weight >= WEIGHT_MAX {
            return true;
        }
        let one_in = if self.weight < WEIGHT_TARGET { RARE } else { OFTEN };
        mixed(path, self.level).is_multiple_of(one_in)
    }

    fn end(&mut self, last: &str) -> Child {
        let full = std::mem::replace(self, Self::new(self.level));
        Child {
            last: last.to_owned(),
            digest: Digest::of(&full.record),
            files: full.files,
            bytes: full.bytes,
        }
    }
}

fn mixed(path: &str, level: u8) -> u64 {
    let mut value = Digest::of(path.as_bytes()).prefix() ^ u64::from(level).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

impl Tree {
    /// The tree of no file.
    pub fn new() -> Self {
        Self {
            leaf: Node::new(0),
            leaves: Vec::new(),
            files: 0,
            bytes: 0,
        }
    }

    /// Adds the next file.
    pub fn add(&mut self, file: &ListedFile) {
        self.leaf.add(&file.path, 1, file.size_bytes, |record| {
            put_number(record, file.size_bytes);
            record.extend_from_slice(file.digest.as_bytes());
            record.push(u8::from(file.executable));
        });
        self.files += 1;
        self.bytes = self.bytes.saturating_add(file.size_bytes);
        if self.leaf.ends(&file.path) {
            let leaf = self.leaf.end(&file.path);
            self.leaves.push(leaf);
        }
    }

    /// Number of files and sum of their sizes.
    pub fn totals(&self) -> (u64, u64) {
        (self.files, self.bytes)
    }

    /// The digest of all; `last` is the path of the last file.
    pub fn digest(mut self, last: &str) -> [u8; 32] {
        if self.leaf.items > 0 {
            let leaf = self.leaf.end(last);
            self.leaves.push(leaf);
        }
        let (mut level, mut nodes) = (0, self.leaves);
        while nodes.len() > 1 {
            level += 1;
            nodes = above(level, &nodes);
        }
        let root = nodes.pop().map(|root| root.digest);
        *root.unwrap_or_else(|| Digest::of(b"howdah empty tree\0")).as_bytes()
    }
}

/// The nodes of a level above those of the one below.
fn above(level: u8, below: &[Child]) -> Vec<Child> {
    let mut node = Node::new(level);
    let mut nodes = Vec::new();
    for child in below {
        node.add(&child.last, child.files, child.bytes, |record| {
            record.extend_from_slice(child.digest.as_bytes());
            put_number(record, child.files);
            put_number(record, child.bytes);
        });
        if node.ends(&child.last) {
            nodes.push(node.end(&child.last));
        }
    }
    if let (true, Some(last)) = (node.items > 0, below.last()) {
        nodes.push(node.end(&last.last));
    }
    nodes
}
