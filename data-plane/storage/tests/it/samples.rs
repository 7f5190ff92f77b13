//! What tests share: short ways to paths, storages and trees.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::TryStreamExt;
use storage::{FileEntry, FilePath, Options, Storage, Store, TreeChange, TreeRef};

/// A path from a literal.
pub fn path(text: &str) -> FilePath {
    FilePath::parse(text).unwrap()
}

/// Storage in memory.
pub fn memory() -> Storage {
    Storage::new(Store::memory(), Options::default())
}

/// Reproducible bytes that do not repeat.
pub fn noise(seed: u64, length: usize) -> Bytes {
    let mut bytes = vec![0; length];
    let mut reader = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
    reader.fill(&mut bytes);
    Bytes::from(bytes)
}

/// A tree of these files, durable.
pub async fn tree_of(storage: &Storage, files: &[(&str, &[u8])]) -> TreeRef {
    let writer = storage.writer();
    let mut changes = Vec::new();
    for (name, content) in files {
        let file = writer
            .write_bytes(Bytes::copy_from_slice(content), false)
            .await
            .unwrap();
        changes.push(TreeChange::Put(path(name), file));
    }
    let tree = storage.apply(&writer, &TreeRef::empty(), changes).await.unwrap();
    writer.flush().await.unwrap();
    tree
}

/// All files of a tree.
pub async fn files_of(storage: &Storage, tree: &TreeRef) -> BTreeMap<FilePath, FileEntry> {
    storage.list(tree, None, None).try_collect().await.unwrap()
}

/// The content of a file of a tree.
pub async fn content(storage: &Storage, tree: &TreeRef, name: &str) -> Bytes {
    let file = storage.get(tree, &path(name)).await.unwrap().unwrap();
    storage.read_all(&file).await.unwrap()
}

/// Chance that can be had again: what it says follows from a seed.
pub struct Chance {
    seed: u64,
    asked: u64,
}

impl Chance {
    /// Begins anew.
    pub fn new(seed: u64) -> Self {
        Self { seed, asked: 0 }
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.asked += 1;
        let mut hasher = blake3::Hasher::new();
        hasher
            .update(&self.seed.to_le_bytes())
            .update(&self.asked.to_le_bytes());
        let mut bytes = [0; 8];
        hasher.finalize_xof().fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// A number below this one.
    pub fn below(&mut self, end: usize) -> usize {
        (self.number() % end as u64) as usize
    }
}

/// The seed of a random test, which is printed so that it can be had again: `SEED=…`.
pub fn seed() -> u64 {
    let given = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| {
        // The one source of entropy in the standard library.
        std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0)
    });
    println!("again with: SEED={seed}");
    seed
}

/// Removes every pack that none of these trees needs; returns how many are left.
pub async fn collect(storage: &Storage, trees: &[Vec<u8>]) -> storage::Result<usize> {
    let mut marking = storage.marking().await?;
    for tree in trees {
        marking.tree(&TreeRef::from_bytes(tree).unwrap()).await?;
    }
    let packs: Vec<_> = storage.packs().try_collect().await?;
    let mut left = 0;
    for pack in packs {
        if marking.bytes_of(pack.id) == 0 {
            storage.remove_pack(pack.id).await?;
        } else {
            left += 1;
        }
    }
    Ok(left)
}
