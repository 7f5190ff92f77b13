//! Every byte of a pack, damaged one after the other: an error or the right data, never a panic,
//! never wrong data, and never unnoticed by verification.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};
use storage::{Digest, FilePath, Options, PackRepair, Result, Storage, Store, TreeChange, TreeRef};

use crate::samples::{content, noise, path, tree_of};

type Contents = BTreeMap<FilePath, (bool, Bytes)>;

async fn read_everything(storage: &Storage, tree: &TreeRef) -> Result<Contents> {
    let mut contents = Contents::new();
    let mut files = storage.list(tree, None, None);
    while let Some((path, file)) = files.try_next().await? {
        let bytes = storage.read_all(&file).await?;
        contents.insert(path, (file.executable, bytes));
    }
    Ok(contents)
}

async fn bytes_of(store: &Store, location: &Path) -> Bytes {
    let found = store.object_store().get(location).await.unwrap();
    found.bytes().await.unwrap()
}

/// A tree of several levels in one small pack: the path, the bytes, the tree.
async fn one_pack(store: &Store, files: usize) -> (Path, Bytes, TreeRef) {
    let storage = Storage::new(store.clone(), Options::default());
    let names: Vec<String> = (0..files).map(|index| format!("d/{index:04}")).collect();
    let contents: Vec<Vec<u8>> = (0..files)
        .map(|index| noise(index as u64, index % 23).to_vec())
        .collect();
    let files: Vec<(&str, &[u8])> = names
        .iter()
        .map(String::as_str)
        .zip(contents.iter().map(Vec::as_slice))
        .collect();
    let tree = tree_of(&storage, &files).await;
    let objects: Vec<_> = store.object_store().list(None).try_collect().await.unwrap();
    assert_eq!(objects.len(), 1);
    let location = objects[0].location.clone();
    let bytes = bytes_of(store, &location).await;
    (location, bytes, tree)
}

async fn check_damaged(store: &Store, tree: &TreeRef, whole: &Contents, what: &str) {
    match read_everything(&Storage::new(store.clone(), Options::default()), tree).await {
        Ok(contents) => assert_eq!(&contents, whole, "{what}: wrong data"),
        Err(error) => {
            assert!(error.is_damage(), "{what}: {error}");
            assert!(error.to_string().contains("packs/"), "{what}: which pack? {error}");
        }
    }
    let found = Storage::new(store.clone(), Options::default()).verify(tree, true).await;
    assert!(!found.unwrap().is_empty(), "{what}: verification did not notice");
}

#[tokio::test]
async fn each_flipped_byte_of_a_pack_is_noticed_and_never_yields_wrong_data() {
    let store = Store::memory();
    let (location, bytes, tree) = one_pack(&store, 12).await;
    let tree = TreeRef::from_bytes(&tree.to_bytes().unwrap()).unwrap();
    let whole = read_everything(&Storage::new(store.clone(), Options::default()), &tree)
        .await
        .unwrap();
    for (index, bit) in (0..bytes.len()).map(|index| (index, 1 << (index % 8))) {
        let mut damaged = bytes.to_vec();
        damaged[index] ^= bit;
        store
            .object_store()
            .put(&location, PutPayload::from(damaged))
            .await
            .unwrap();
        check_damaged(&store, &tree, &whole, &format!("byte {index} of {}", bytes.len())).await;
    }
}

#[tokio::test]
async fn each_truncation_of_a_pack_of_several_levels_is_noticed() {
    let store = Store::memory();
    let (location, bytes, tree) = one_pack(&store, 300).await;
    let tree = TreeRef::from_bytes(&tree.to_bytes().unwrap()).unwrap();
    let whole = read_everything(&Storage::new(store.clone(), Options::default()), &tree)
        .await
        .unwrap();
    for length in (0..bytes.len()).step_by(997) {
        store
            .object_store()
            .put(&location, PutPayload::from(bytes.slice(..length)))
            .await
            .unwrap();
        check_damaged(&store, &tree, &whole, &format!("{length} bytes of {}", bytes.len())).await;
    }
}

#[tokio::test]
async fn a_pack_that_was_stunted_is_healed_by_writing_the_same_content_again() {
    let store = Store::memory();
    let (location, bytes, tree) = one_pack(&store, 12).await;
    store
        .object_store()
        .put(&location, PutPayload::from(bytes.slice(..40)))
        .await
        .unwrap();
    one_pack(&store, 12).await;
    let storage = Storage::new(store, Options::default());
    assert_eq!(content(&storage, &tree, "d/0005").await, noise(5, 5));
}

#[tokio::test]
async fn a_damaged_file_is_named_with_its_pack() {
    let store = Store::memory();
    let (location, bytes, tree) = one_pack(&store, 12).await;
    let mut damaged = bytes.to_vec();
    damaged[9] ^= 1;
    store
        .object_store()
        .put(&location, PutPayload::from(damaged))
        .await
        .unwrap();
    let found = Storage::new(store, Options::default())
        .verify(&tree, true)
        .await
        .unwrap();
    let files: Vec<_> = found.iter().filter_map(|finding| finding.path.clone()).collect();
    assert_eq!(
        files,
        [path("d/0002")],
        "the second byte of all content is in the first file of two bytes: {found:?}"
    );
    assert!(found.iter().all(|finding| {
        finding
            .pack
            .is_some_and(|pack| location.as_ref().ends_with(&pack.to_string()))
    }));
}

#[tokio::test]
async fn putting_a_damaged_file_again_heals_it_and_its_content_keeps_its_digest() {
    let store = Store::memory();
    let storage = Storage::new(store.clone(), Options::default());
    let small = noise(1, 3000);
    let large = noise(2, 3 << 20);
    let before = tree_of(&storage, &[("d/small", &small), ("large", &large), ("other", b"other")]).await;
    let objects: Vec<_> = store.object_store().list(None).try_collect().await.unwrap();
    let location = objects[0].location.clone();
    let whole = bytes_of(&store, &location).await;
    let mut damaged = whole.to_vec();
    for content in [&small, &large] {
        let at = whole.windows(64).position(|w| w == &content[1000..1064]).unwrap();
        damaged[at] ^= 1;
    }
    store
        .object_store()
        .put(&location, PutPayload::from(damaged))
        .await
        .unwrap();

    let cold = Storage::new(store.clone(), Options::default());
    let writer = cold.writer();
    let mut changes = Vec::new();
    for (name, content) in [("d/small", &small), ("large", &large)] {
        let entry = cold.get(&before, &path(name)).await.unwrap().unwrap();
        assert!(cold.read_all(&entry).await.unwrap_err().is_damage());
        let again = writer.write_file_over(&entry, &content[..], false).await.unwrap();
        changes.push(TreeChange::Put(path(name), again));
    }
    let after = cold.apply(&writer, &before, changes).await.unwrap();
    writer.flush().await.unwrap();

    assert_eq!(after.digest(), before.digest());
    let cold = Storage::new(store, Options::default());
    assert_eq!(content(&cold, &after, "d/small").await, small);
    assert_eq!(content(&cold, &after, "large").await, large);
    assert_eq!(content(&cold, &after, "other").await, Bytes::from_static(b"other"));
    assert!(cold.verify(&after, true).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_check_found_damaged_is_healed_by_putting_it_again_also_in_files_of_many_packs() {
    let store = Store::memory();
    let options = || Options {
        pack_bytes: 1 << 20,
        ..Options::default()
    };
    let large = noise(7, 6 << 20);
    let before = {
        let storage = Storage::new(store.clone(), options());
        let tree = tree_of(&storage, &[("large", &large), ("other", b"other")]).await;
        TreeRef::from_bytes(&tree.to_bytes().unwrap()).unwrap()
    };
    let objects: Vec<_> = store.object_store().list(None).try_collect().await.unwrap();
    assert!(objects.len() > 4);
    for object in &objects {
        let whole = bytes_of(&store, &object.location).await;
        if let Some(at) = whole.windows(64).position(|w| w == &large[100_000..100_064]) {
            let mut damaged = whole.to_vec();
            damaged[at] ^= 1;
            store
                .object_store()
                .put(&object.location, PutPayload::from(damaged))
                .await
                .unwrap();
        }
    }
    let storage = Storage::new(store.clone(), options());
    assert!(!storage.without_memory().verify(&before, true).await.unwrap().is_empty());

    let writer = storage.writer();
    let entry = storage.get(&before, &path("large")).await.unwrap().unwrap();
    let again = writer.write_file_over(&entry, &large[..], false).await.unwrap();
    let change = vec![TreeChange::Put(path("large"), again)];
    let after = storage.apply(&writer, &before, change).await.unwrap();
    writer.flush().await.unwrap();
    assert_eq!(after.digest(), before.digest());
    assert_eq!(content(&storage, &after, "large").await, large);
    assert!(storage.without_memory().verify(&after, true).await.unwrap().is_empty());
}

/// Two packs of other names with equal contents: their names and bytes, and the tree of the first.
async fn twins(store: &Store) -> ([(Digest, Path, Bytes); 2], TreeRef) {
    let contents: Vec<(String, Bytes)> = (0..40).map(|n| (format!("f{n}"), noise(n, n as usize % 23))).collect();
    let files: Vec<(&str, &[u8])> = contents.iter().map(|(name, bytes)| (&name[..], &bytes[..])).collect();
    let mut packs: Vec<(Digest, Path, Bytes)> = Vec::new();
    let mut trees = Vec::new();
    for seed in [1, 2] {
        let options = Options {
            seed: Some([seed; 32]),
            ..Options::default()
        };
        let storage = Storage::new(store.clone(), options);
        let tree = tree_of(&storage, &files).await;
        trees.push(TreeRef::from_bytes(&tree.to_bytes().unwrap()).unwrap());
        let infos: Vec<storage::PackInfo> = storage.packs().try_collect().await.unwrap();
        for info in infos {
            if packs.iter().all(|(id, ..)| *id != info.id) {
                let location = Path::from(format!("packs/{}", info.id));
                let bytes = bytes_of(store, &location).await;
                packs.push((info.id, location, bytes));
            }
        }
    }
    (packs.try_into().unwrap(), trees.remove(0))
}

async fn put(store: &Store, location: &Path, bytes: impl Into<Bytes>) {
    let payload = PutPayload::from_bytes(bytes.into());
    store.object_store().put(location, payload).await.unwrap();
}

#[tokio::test]
async fn each_flipped_byte_is_repaired_from_a_twin_as_long_as_the_index_is_whole() {
    let store = Store::memory();
    let ([(id, location, bytes), _], tree) = twins(&store).await;
    // The trailer says how long the index in front of it is.
    let trailer = bytes.len() - 48;
    let index = u64::from_le_bytes(bytes[trailer..trailer + 8].try_into().unwrap()) as usize;
    let pieces_end = trailer - index;
    assert!(pieces_end > 1000);
    for at in (0..bytes.len()).filter(|at| at % 7 == 0 || *at < 16 || *at > trailer) {
        let mut damaged = bytes.to_vec();
        damaged[at] ^= 1 << (at % 8);
        put(&store, &location, damaged.clone()).await;
        let storage = Storage::new(store.clone(), Options::default());
        let repaired = storage.repair_pack(id).await.unwrap();
        let now = bytes_of(&store, &location).await;
        let found = storage.without_memory().verify(&tree, true).await.unwrap();
        if at < pieces_end {
            assert!(
                matches!(repaired, PackRepair::Repaired { lost: 0, .. }),
                "{at}: {repaired:?}"
            );
            assert_eq!(now, bytes, "{at}");
            assert!(found.is_empty(), "{at}: {found:?}");
        } else {
            assert!(matches!(repaired, PackRepair::Lost { .. }), "{at}: {repaired:?}");
            assert_eq!(now, damaged, "what cannot be repaired is left as it is");
            assert!(!found.is_empty(), "{at}");
        }
    }
}

#[tokio::test]
async fn what_there_is_no_copy_of_is_found_and_said_and_left_as_it_is() {
    let store = Store::memory();
    let ([(id, location, bytes), (_, twin, twin_bytes)], tree) = twins(&store).await;
    let storage = Storage::new(store.clone(), Options::default());
    assert_eq!(storage.repair_pack(id).await.unwrap(), PackRepair::Whole);
    let broken = async || !storage.without_memory().verify(&tree, true).await.unwrap().is_empty();

    store.object_store().delete(&twin).await.unwrap();
    let mut damaged = bytes.to_vec();
    damaged[20] ^= 1;
    put(&store, &location, damaged.clone()).await;
    assert!(matches!(
        storage.repair_pack(id).await.unwrap(),
        PackRepair::Lost { .. }
    ));
    assert!(broken().await);
    // A twin that is damaged at the same place is none.
    let mut also = twin_bytes.to_vec();
    also[20] ^= 2;
    put(&store, &twin, also).await;
    damaged[9] ^= 1;
    put(&store, &location, damaged).await;
    let partly = storage.repair_pack(id).await.unwrap();
    assert!(
        matches!(partly, PackRepair::Repaired { pieces: 1, lost: 1 }),
        "{partly:?}"
    );
    put(&store, &twin, twin_bytes).await;
    assert!(matches!(
        storage.repair_pack(id).await.unwrap(),
        PackRepair::Repaired { lost: 0, .. }
    ));
    assert_eq!(bytes_of(&store, &location).await, bytes);
    assert!(!broken().await);

    for length in [0, 7, 47, bytes.len() / 2, bytes.len() - 1] {
        put(&store, &location, bytes.slice(..length)).await;
        assert!(
            matches!(storage.repair_pack(id).await.unwrap(), PackRepair::Lost { .. }),
            "{length}"
        );
        assert!(broken().await, "{length}");
    }
    store.object_store().delete(&location).await.unwrap();
    assert!(broken().await);
    // Under another name.
    let other = Digest::of(b"other");
    put(&store, &Path::from(format!("packs/{other}")), bytes).await;
    assert!(broken().await);
    assert!(matches!(
        storage.repair_pack(other).await.unwrap(),
        PackRepair::Lost { .. }
    ));
}
