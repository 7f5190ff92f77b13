//! A stored sample of format 1. It must stay readable for ever; and as long as format 1 is what we
//! write, the same content must give the same bytes.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use storage::{Options, Storage, Store, TreeChange, TreeRef, decode_entries, encode_entries};

use crate::samples::{content, files_of, noise, path};

fn sample() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/format-1")
}

fn stored(name: &str) -> Vec<u8> {
    let file = sample().join(name);
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

#[tokio::test]
async fn the_stored_sample_of_format_1_stays_readable() {
    let directory = tempfile::tempdir().unwrap();
    let packs = directory.path().join("packs");
    std::fs::create_dir(&packs).unwrap();
    for pack in std::fs::read_dir(sample().join("packs")).unwrap() {
        let pack = pack.unwrap();
        std::fs::copy(pack.path(), packs.join(pack.file_name())).unwrap();
    }
    let storage = Storage::new(Store::local(directory.path()).unwrap(), Options::default());
    let tree = TreeRef::from_bytes(&stored("tree.hex")).unwrap();
    assert_eq!(storage.verify(&tree, true).await.unwrap(), []);
    assert_eq!((tree.files(), tree.bytes()), (92, 2_000_270));
    assert_eq!(content(&storage, &tree, "small/42").await, noise(42, 3));
    assert_eq!(content(&storage, &tree, "large").await, vec![0; 2_000_000]);
    let entries = decode_entries(&stored("entries.hex")).unwrap();
    assert_eq!(entries.len(), 93);
    for (path, file) in entries {
        let bytes = storage.read_all(&file).await.unwrap();
        assert_eq!(bytes.len() as u64, file.size, "{path}");
    }
}

#[tokio::test]
async fn the_same_content_is_still_written_as_the_stored_sample() {
    let directory = tempfile::tempdir().unwrap();
    let (tree, entries) = write(Store::local(directory.path()).unwrap()).await;
    assert_eq!(
        hex::encode(tree),
        hex::encode(stored("tree.hex")),
        "tree references, digests or packs changed"
    );
    assert_eq!(hex::encode(entries), hex::encode(stored("entries.hex")));
    for pack in std::fs::read_dir(sample().join("packs")).unwrap() {
        let name = pack.unwrap().file_name();
        let (old, new) = (
            sample().join("packs").join(&name),
            directory.path().join("packs").join(&name),
        );
        assert!(
            std::fs::read(old).unwrap() == std::fs::read(new).unwrap(),
            "pack {name:?} changed"
        );
    }
}
