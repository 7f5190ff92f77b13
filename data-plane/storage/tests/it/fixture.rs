//! Stored samples of format 1. They must stay readable for ever; and as long as format 1 is what we
//! write, the same content must give the same bytes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::TryStreamExt;
use storage::{
    Content, FileEntry, FilePath, Options, Storage, Store, TreeChange, TreeRef, decode_entries, encode_entries,
};

use crate::samples::{content, files_of, noise, path};

/// Every kind of content, in a tree of two levels.
const KINDS: &str = "format-1";
/// A file whose extents need blocks of blocks, a file of one change in it, packs that refer to another pack, a salt.
const LARGE: &str = "format-1-large";

fn sample(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn stored(sample_name: &str, name: &str) -> Vec<u8> {
    let file = sample(sample_name).join(name);
    hex::decode(
        std::fs::read_to_string(&file)
            .unwrap_or_else(|error| panic!("{}: {error}", file.display()))
            .trim(),
    )
    .unwrap()
}

/// Writes the sample's content into an empty store; returns the stored tree reference and entry list.
async fn write(store: Store) -> (Vec<u8>, Vec<u8>) {
    let storage = Storage::new(store, Options::default());
    let writer = storage.writer();
    let mut changes = Vec::new();
    for index in 0..90u64 {
        let file = writer
            .write_bytes(noise(index, 1 + index as usize % 5), index % 10 == 0)
            .await
            .unwrap();
        changes.push(TreeChange::Put(path(&format!("small/{index:02}")), file));
    }
    // Zeros make chunks of the greatest size, all equal: many extents in a small pack.
    let large = writer
        .write_bytes(Bytes::from(vec![0; 2_000_000]), false)
        .await
        .unwrap();
    changes.push(TreeChange::Put(path("large"), large));
    changes.push(TreeChange::Put(
        path("empty"),
        writer.write_bytes(Bytes::new(), false).await.unwrap(),
    ));
    let tree = storage.apply(&writer, &TreeRef::empty(), changes).await.unwrap();
    writer.flush().await.unwrap();
    let mut entries: Vec<_> = files_of(&storage, &tree).await.into_iter().collect();
    entries.push((
        path("embedded"),
        storage::FileEntry::embedded(Bytes::from_static(b"here"), true),
    ));
    (tree.to_bytes().unwrap(), encode_entries(&entries).unwrap())
}

const HUGE_BYTES: usize = 280 << 20;

/// The same of the large sample.
async fn write_large(store: Store) -> (Vec<u8>, Vec<u8>) {
    let options = Options {
        seed: Some([42; 32]),
        ..Options::default()
    };
    let storage = Storage::new(store, options);
    let writer = storage.writer();
    // More than 1,024 chunks of the greatest size.
    let zeros = Bytes::from(vec![0; HUGE_BYTES]);
    let huge = writer.write_bytes(zeros.clone(), true).await.unwrap();
    writer.flush().await.unwrap();
    let change = vec![TreeChange::Put(path("d/huge"), huge)];
    let first = storage.apply(&writer, &TreeRef::empty(), change).await.unwrap();
    writer.flush().await.unwrap();
    let first = TreeRef::from_bytes(&first.to_bytes().unwrap()).unwrap();

    let writer = storage.writer();
    let huge = storage.get(&first, &path("d/huge")).await.unwrap().unwrap();
    let behind = writer.append(&huge, &b"and more"[..]).await.unwrap();
    let small = writer.write_bytes(Bytes::from_static(b"small"), false).await.unwrap();
    let changes = vec![
        TreeChange::Put(path("d/more"), behind),
        TreeChange::Put(path("e/small"), small),
    ];
    let tree = storage.apply(&writer, &first, changes).await.unwrap();
    writer.flush().await.unwrap();
    let entries: Vec<_> = files_of(&storage, &tree).await.into_iter().collect();
    (tree.to_bytes().unwrap(), encode_entries(&entries).unwrap())
}

/// A store that holds a sample's packs.
fn store_of(name: &str, directory: &Path) -> Store {
    let packs = directory.join("packs");
    std::fs::create_dir(&packs).unwrap();
    for pack in std::fs::read_dir(sample(name).join("packs")).unwrap() {
        let pack = pack.unwrap();
        std::fs::copy(pack.path(), packs.join(pack.file_name())).unwrap();
    }
    Store::local(directory).unwrap()
}

#[tokio::test]
async fn the_stored_sample_of_large_files_stays_readable() {
    let directory = tempfile::tempdir().unwrap();
    let storage = Storage::new(store_of(LARGE, directory.path()), Options::default());
    let tree = TreeRef::from_bytes(&stored(LARGE, "tree.hex")).unwrap();
    assert_eq!(storage.verify(&tree, false).await.unwrap(), []);
    let entries: BTreeMap<FilePath, FileEntry> = decode_entries(&stored(LARGE, "entries.hex"))
        .unwrap()
        .into_iter()
        .collect();
    assert_eq!(files_of(&storage, &tree).await, entries);
    let huge = &entries[&path("d/huge")];
    assert!(huge.executable && huge.size == HUGE_BYTES as u64);
    let Content::Blocks(block) = &huge.content else {
        panic!("{:?}", huge.content)
    };
    assert!(format!("{block:?}").contains("height: 1"), "{block:?}");
    let more = &entries[&path("d/more")];
    let end = HUGE_BYTES as u64;
    let parts: Vec<Bytes> = storage.read(more, end - 4..u64::MAX).try_collect().await.unwrap();
    assert_eq!(parts.concat(), b"\0\0\0\0and more");
    let parts: Vec<Bytes> = storage
        .read(huge, end / 2..end / 2 + 1_000_000)
        .try_collect()
        .await
        .unwrap();
    assert!(parts.concat() == vec![0; 1_000_000]);
    assert_eq!(&content(&storage, &tree, "e/small").await[..], b"small");
}

#[tokio::test]
async fn the_stored_sample_of_format_1_stays_readable() {
    let directory = tempfile::tempdir().unwrap();
    let storage = Storage::new(store_of(KINDS, directory.path()), Options::default());
    let tree = TreeRef::from_bytes(&stored(KINDS, "tree.hex")).unwrap();
    assert_eq!(storage.verify(&tree, true).await.unwrap(), []);
    assert_eq!((tree.files(), tree.bytes()), (92, 2_000_270));
    assert_eq!(content(&storage, &tree, "small/42").await, noise(42, 3));
    assert_eq!(content(&storage, &tree, "large").await, vec![0; 2_000_000]);
    let entries = decode_entries(&stored(KINDS, "entries.hex")).unwrap();
    assert_eq!(entries.len(), 93);
    for (path, file) in entries {
        let bytes = storage.read_all(&file).await.unwrap();
        assert_eq!(bytes.len() as u64, file.size, "{path}");
    }
}

/// The same names and the same bytes as the stored ones.
fn compare(name: &str, directory: &Path, (tree, entries): (Vec<u8>, Vec<u8>)) {
    assert_eq!(
        hex::encode(tree),
        hex::encode(stored(name, "tree.hex")),
        "tree references, digests or packs changed"
    );
    assert_eq!(hex::encode(entries), hex::encode(stored(name, "entries.hex")));
    for pack in std::fs::read_dir(sample(name).join("packs")).unwrap() {
        let pack = pack.unwrap().file_name();
        let (old, new) = (
            sample(name).join("packs").join(&pack),
            directory.join("packs").join(&pack),
        );
        assert!(
            std::fs::read(old).unwrap() == std::fs::read(new).unwrap(),
            "pack {pack:?} changed"
        );
    }
}

#[tokio::test]
async fn the_same_content_is_still_written_as_the_stored_samples() {
    let directory = tempfile::tempdir().unwrap();
    let written = write(Store::local(directory.path()).unwrap()).await;
    compare(KINDS, directory.path(), written);
    let directory = tempfile::tempdir().unwrap();
    let written = write_large(Store::local(directory.path()).unwrap()).await;
    compare(LARGE, directory.path(), written);
}
