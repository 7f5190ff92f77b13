//! Packs kept in parts on local disk: what was read once is read without the store, also by another process and after a restart, and
//! whatever happens to the disk, everything that is read is right.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};
use storage::{DataKey, DiskCache, Elsewhere, Options, PackRepair, Storage, Store, TreeRef};

use crate::conformance;
use crate::faulty::Faulty;
use crate::samples::{content, files_of, noise, path, tree_of};

/// With it, the index of the pack is in the block in which its pieces end.
const LARGE_BYTES: usize = 5_100_000;

fn cache(directory: &Path, most_bytes: u64) -> DiskCache {
    DiskCache::open(directory, most_bytes, || {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)
    })
    .unwrap()
}

/// Another process on the same bucket and the same directory.
fn process(faulty: &Arc<Faulty>, directory: &Path) -> Storage {
    let store = Store::from_object_store(faulty.clone()).with_cache(cache(directory, 100 << 20));
    Storage::new(store, Options::default())
}

async fn bucket() -> (Arc<Faulty>, TreeRef) {
    let faulty = Faulty::never();
    let storage = Storage::new(Store::from_object_store(faulty.clone()), Options::default());
    let tree = fill(&storage).await;
    (faulty, tree)
}

async fn fill(storage: &Storage) -> TreeRef {
    let large = noise(1, LARGE_BYTES);
    let mut files: Vec<(String, Bytes)> = (0..500)
        .map(|number| (format!("d/{number:03}"), noise(number, 2_000)))
        .collect();
    files.push(("large".to_owned(), large));
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (name.as_str(), &bytes[..])).collect();
    let tree = tree_of(storage, &files).await;
    TreeRef::from_bytes(&tree.to_bytes().unwrap()).unwrap()
}

/// Reads all of it in every way there is.
async fn read_everything(storage: &Storage, tree: &TreeRef) {
    let files = files_of(storage, tree).await;
    assert_eq!(files.len(), 501);
    let large = storage.get(tree, &path("large")).await.unwrap().unwrap();
    assert!(storage.read_all(&large).await.unwrap() == noise(1, LARGE_BYTES));
    for (from, to) in [
        (0, 1),
        (262_100, 262_200),
        (1_000_000, 3_000_000),
        (4_999_990, 5_000_000),
    ] {
        let parts: Vec<Bytes> = storage.read(&large, from..to).try_collect().await.unwrap();
        assert!(parts.concat() == noise(1, LARGE_BYTES)[from as usize..to as usize]);
    }
    let entries = files.into_values().filter(|file| file.size == 2_000).collect();
    let contents: Vec<_> = storage.read_many(entries).try_collect().await.unwrap();
    for (index, bytes) in contents {
        assert!(bytes == noise(index as u64, 2_000), "{index}");
    }
}

fn blocks(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for pack in std::fs::read_dir(directory).unwrap() {
        for block in std::fs::read_dir(pack.unwrap().path()).unwrap() {
            found.push(block.unwrap().path());
        }
    }
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_read_of_a_hot_set_does_not_touch_the_store_not_even_after_a_restart() {
    let (faulty, tree) = bucket().await;
    let directory = tempfile::tempdir().unwrap();
    let before = faulty.calls();
    let first = process(&faulty, directory.path());
    let beside = process(&faulty, directory.path());
    read_everything(&first, &tree).await;
    let after = faulty.calls();
    assert!(after - before > 3, "{}", after - before);

    read_everything(&first, &tree).await;
    read_everything(&beside, &tree).await;
    drop((first, beside));
    read_everything(&process(&faulty, directory.path()), &tree).await;
    assert_eq!(faulty.calls(), after, "the store was asked again");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_missing_is_fetched_and_what_vanishes_is_fetched_again() {
    let (faulty, tree) = bucket().await;
    let directory = tempfile::tempdir().unwrap();
    read_everything(&process(&faulty, directory.path()), &tree).await;
    let all = blocks(directory.path());
    assert!(all.len() > 20, "{}", all.len());
    // As eviction by another process takes them.
    std::fs::remove_file(&all[all.len() / 2]).unwrap();
    let before = faulty.calls();
    read_everything(&process(&faulty, directory.path()), &tree).await;
    assert_eq!(faulty.calls() - before, 1);
    assert_eq!(blocks(directory.path()), all);
    for block in all.iter().step_by(2) {
        std::fs::remove_file(block).unwrap();
    }
    read_everything(&process(&faulty, directory.path()), &tree).await;
    assert_eq!(blocks(directory.path()), all);
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_on_the_local_disk_costs_a_fetch_and_nothing_else() {
    let (faulty, tree) = bucket().await;
    let directory = tempfile::tempdir().unwrap();
    read_everything(&process(&faulty, directory.path()), &tree).await;
    for (number, block) in blocks(directory.path()).iter().enumerate() {
        let mut bytes = std::fs::read(block).unwrap();
        match number % 4 {
            0 => bytes.truncate(number * 100),
            1 => bytes.extend_from_slice(b"more"),
            2 => bytes[1_000 + number] ^= 1,
            _ => bytes.fill(0),
        }
        std::fs::write(block, bytes).unwrap();
    }
    read_everything(&process(&faulty, directory.path()), &tree).await;
    let before = faulty.calls();
    read_everything(&process(&faulty, directory.path()), &tree).await;
    assert_eq!(faulty.calls(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_disk_everything_works() {
    let (faulty, tree) = bucket().await;
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("cache");
    let storage = process(&faulty, &place);
    std::fs::remove_dir_all(&place).unwrap();
    std::fs::write(&place, b"a file where the directory was").unwrap();
    read_everything(&storage, &tree).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_that_was_damaged_in_the_store_is_read_anew_once_it_was_restored() {
    let (faulty, tree) = bucket().await;
    let store: Arc<dyn ObjectStore> = faulty.clone();
    let directory = tempfile::tempdir().unwrap();
    let objects: Vec<_> = store.list(None).try_collect().await.unwrap();
    let place = objects[0].location.clone();
    let whole = store.get(&place).await.unwrap().bytes().await.unwrap();
    let damaged: Vec<u8> = whole.iter().map(|byte| byte ^ 1).collect();
    store.put(&place, damaged.into()).await.unwrap();
    let storage = process(&faulty, directory.path());
    let error = storage
        .list(&tree, None, None)
        .try_collect::<Vec<_>>()
        .await
        .unwrap_err();
    assert!(error.is_damage(), "{error}");
    store.put(&place, whole.into()).await.unwrap();
    read_everything(&storage, &tree).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_reads_the_store_whatever_the_cache_has() {
    let (faulty, tree) = bucket().await;
    let directory = tempfile::tempdir().unwrap();
    let storage = process(&faulty, directory.path());
    read_everything(&storage, &tree).await;
    assert_eq!(storage.without_memory().verify(&tree, true).await.unwrap(), []);
    let store: Arc<dyn ObjectStore> = faulty.clone();
    let objects: Vec<_> = store.list(None).try_collect().await.unwrap();
    store.put(&objects[0].location, "gone".into()).await.unwrap();
    assert!(!storage.without_memory().verify(&tree, true).await.unwrap().is_empty());
    // People go on reading meanwhile.
    assert_eq!(content(&storage, &tree, "d/007").await, noise(7, 2_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_in_the_store_is_found_below_a_cache_that_has_everything_and_repaired_from_it() {
    let (faulty, tree) = bucket().await;
    let store: Arc<dyn ObjectStore> = faulty.clone();
    let directory = tempfile::tempdir().unwrap();
    let packs: Vec<_> = process(&faulty, directory.path()).packs().try_collect().await.unwrap();
    let objects: Vec<_> = store.list(None).try_collect().await.unwrap();
    assert_eq!((packs.len(), objects.len()), (1, 1));
    let (pack, place) = (packs[0].id, &objects[0].location);
    let whole = store.get(place).await.unwrap().bytes().await.unwrap();
    // The trailer says how long the index in front of it is, which begins in the block in which the pieces end.
    let trailer = whole.len() - 48;
    let index = trailer - u64::from_le_bytes(whole[trailer..trailer + 8].try_into().unwrap()) as usize;
    let middle = whole.len() / 2;
    for damaged in [vec![0], vec![middle], vec![index], vec![0, middle, index]] {
        let storage = process(&faulty, directory.path());
        read_everything(&storage, &tree).await;
        let mut bytes = whole.to_vec();
        damaged.iter().for_each(|at| bytes[*at] ^= 1);
        store.put(place, bytes.into()).await.unwrap();
        let repaired = storage.repair_pack(pack).await.unwrap();
        assert!(
            matches!(repaired, PackRepair::Repaired { lost: 0, .. }),
            "{damaged:?}: {repaired:?}"
        );
        assert!(
            store.get(place).await.unwrap().bytes().await.unwrap() == whole,
            "{damaged:?}"
        );
        assert_eq!(storage.repair_pack(pack).await.unwrap(), PackRepair::Whole);
    }
}

/// How a pack is lost.
const LOSSES: [fn(&Bytes) -> Option<Bytes>; 6] = [
    |_| None,
    |_| Some(Bytes::new()),
    |whole| Some(whole.slice(..whole.len() / 2)),
    |whole| Some(whole.slice(..whole.len() - 1)),
    // Where a block of the cache ends.
    |whole| Some(whole.slice(..1 << 20)),
    |whole| Some(Bytes::from([&whole[..], b"more"].concat())),
];

async fn lose(store: &dyn ObjectStore, place: &object_store::path::Path, left: Option<Bytes>) {
    match left {
        Some(left) => store.put(place, left.into()).await.map(|_| ()).unwrap(),
        None => store.delete(place).await.unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_that_is_gone_or_cut_off_is_written_anew_from_a_cache_that_has_all_of_it_encrypted_or_not() {
    for key in [None, Some(DataKey::new([7; 32]))] {
        let faulty = Faulty::never();
        let store: Arc<dyn ObjectStore> = faulty.clone();
        let directory = tempfile::tempdir().unwrap();
        let open = async || {
            let store = Store::from_object_store(faulty.clone()).with_cache(cache(directory.path(), 100 << 20));
            Storage::new(store.unlocked(key.clone()).await.unwrap(), Options::default())
        };
        let tree = fill(&open().await).await;
        let pack = open().await.packs().try_next().await.unwrap().unwrap().id;
        let place = object_store::path::Path::from(format!("packs/{pack}"));
        let whole = store.get(&place).await.unwrap().bytes().await.unwrap();
        // Encryption takes its time in tests.
        let step = if key.is_some() { 4 } else { 1 };
        for (number, loss) in LOSSES.iter().enumerate().step_by(step) {
            let storage = open().await;
            read_everything(&storage, &tree).await;
            // The index is read by nobody who reads files; here it is in the block with the last of them.
            let kept = blocks(directory.path()).len();
            assert_eq!(kept, whole.len().div_ceil(256 << 10));
            lose(&*store, &place, loss(&whole)).await;
            assert!(
                !storage.without_memory().verify(&tree, false).await.unwrap().is_empty(),
                "{number}"
            );
            let repaired = storage.repair_needed_pack(pack, &Elsewhere::default()).await.unwrap();
            match number {
                0 => assert!(
                    matches!(repaired, PackRepair::Rebuilt { pieces } if pieces > 500),
                    "{repaired:?}"
                ),
                _ => assert!(
                    matches!(repaired, PackRepair::Repaired { lost: 0, .. }),
                    "{number}: {repaired:?}"
                ),
            }
            assert!(
                store.get(&place).await.unwrap().bytes().await.unwrap() == whole,
                "{number}"
            );
            assert_eq!(
                storage.repair_needed_pack(pack, &Elsewhere::default()).await.unwrap(),
                PackRepair::Whole
            );
            assert_eq!(storage.without_memory().verify(&tree, true).await.unwrap(), []);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_looked_up_for_many_lost_packs_is_not_looked_for_again_for_each() {
    let (faulty, tree) = bucket().await;
    let store: Arc<dyn ObjectStore> = faulty.clone();
    let directory = tempfile::tempdir().unwrap();
    let storage = process(&faulty, directory.path());
    let pack = storage.packs().try_next().await.unwrap().unwrap().id;
    let place = object_store::path::Path::from(format!("packs/{pack}"));
    let whole = store.get(&place).await.unwrap().bytes().await.unwrap();
    read_everything(&storage, &tree).await;
    std::fs::remove_file(directory.path().join(pack.to_string()).join("7")).unwrap();
    store.delete(&place).await.unwrap();
    let before = storage.elsewhere(&[pack]).await.unwrap();
    // The same bytes under another name.
    let options = Options {
        seed: Some([1; 32]),
        ..Options::default()
    };
    fill(&Storage::new(Store::from_object_store(faulty.clone()), options)).await;
    let lost = storage.repair_needed_pack(pack, &before).await.unwrap();
    assert!(
        matches!(&lost, PackRepair::Lost { problem } if problem.contains("only ")),
        "{lost:?}"
    );
    let elsewhere = storage
        .elsewhere(&[pack, storage::Digest::of(b"unknown")])
        .await
        .unwrap();
    let repaired = storage.repair_needed_pack(pack, &elsewhere).await.unwrap();
    assert!(matches!(repaired, PackRepair::Rebuilt { .. }), "{repaired:?}");
    assert!(store.get(&place).await.unwrap().bytes().await.unwrap() == whole);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_cache_lacks_of_a_lost_pack_is_found_in_others_or_the_pack_is_lost() {
    let (faulty, tree) = bucket().await;
    let store: Arc<dyn ObjectStore> = faulty.clone();
    let directory = tempfile::tempdir().unwrap();
    let pack = process(&faulty, directory.path())
        .packs()
        .try_next()
        .await
        .unwrap()
        .unwrap()
        .id;
    let place = object_store::path::Path::from(format!("packs/{pack}"));
    let whole = store.get(&place).await.unwrap().bytes().await.unwrap();
    let storage = process(&faulty, directory.path());
    read_everything(&storage, &tree).await;
    let all = blocks(directory.path());
    std::fs::remove_file(directory.path().join(pack.to_string()).join("7")).unwrap();
    for loss in &LOSSES[..4] {
        let left = loss(&whole);
        lose(&*store, &place, left.clone()).await;
        let lost = storage.repair_needed_pack(pack, &Elsewhere::default()).await.unwrap();
        // Cut off behind what the cache lacks it is repaired.
        match left.filter(|left| left.len() > 8 << 18) {
            Some(_) => assert!(matches!(lost, PackRepair::Repaired { .. }), "{lost:?}"),
            None => assert!(
                matches!(&lost, PackRepair::Lost { problem } if problem.contains("only ")),
                "{lost:?}"
            ),
        }
        // Reading what is not there costs nothing of what is.
        let file = storage.get(&tree, &path("large")).await.unwrap().unwrap();
        let _ = storage.read_all(&file).await;
        if matches!(lost, PackRepair::Lost { .. }) {
            assert_eq!(blocks(directory.path()).len(), all.len() - 1);
        } else {
            read_everything(&storage, &tree).await;
            std::fs::remove_file(directory.path().join(pack.to_string()).join("7")).unwrap();
        }
    }

    // The same bytes once more, under another name.
    store.put(&place, whole.clone().into()).await.unwrap();
    let options = Options {
        seed: Some([1; 32]),
        ..Options::default()
    };
    fill(&Storage::new(Store::from_object_store(faulty.clone()), options)).await;
    store.delete(&place).await.unwrap();
    let repaired = storage.repair_needed_pack(pack, &Elsewhere::default()).await.unwrap();
    assert!(matches!(repaired, PackRepair::Rebuilt { .. }), "{repaired:?}");
    assert!(store.get(&place).await.unwrap().bytes().await.unwrap() == whole);

    // Without its end nobody knows what it held.
    read_everything(&storage, &tree).await;
    let last = (whole.len() - 1) / (256 << 10);
    let _ = std::fs::remove_file(directory.path().join(pack.to_string()).join(last.to_string()));
    store.delete(&place).await.unwrap();
    let lost = storage.repair_needed_pack(pack, &Elsewhere::default()).await.unwrap();
    assert!(
        matches!(&lost, PackRepair::Lost { problem } if problem.contains("is missing")),
        "{lost:?}"
    );
    assert_eq!(
        storage.repair_pack(pack).await.unwrap(),
        PackRepair::Whole,
        "nothing is known to need it"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_with_a_cache_that_is_always_full_conforms() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::from_object_store(Arc::new(InMemory::new()));
    conformance::suite(store.with_cache(cache(directory.path(), 2 << 20))).await;
    let held: u64 = blocks(directory.path())
        .iter()
        .map(|block| std::fs::metadata(block).unwrap().len())
        .sum();
    assert!(held > 0 && held <= 2 << 20, "{held}");
}
