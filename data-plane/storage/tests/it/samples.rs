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
