//! Encryption of packs where they lie: nothing of what was stored can be seen there, everything can be read, by ranges too, with the
//! key alone; buckets that are not encrypted go on as they are.

use std::sync::Arc;
use std::time::SystemTime;

use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use storage::{DataKey, DiskCache, Options, Storage, Store, TreeRef};

use crate::conformance;
use crate::samples::{content, noise, tree_of};

const SECRET: &[u8] = b"nobody who sees the bucket may see this";

fn key(byte: u8) -> Option<DataKey> {
    Some(DataKey::new([byte; 32]))
}

fn plain(objects: &Arc<InMemory>) -> Store {
    Store::from_object_store(objects.clone())
}

async fn open(objects: &Arc<InMemory>, key: Option<DataKey>) -> storage::Result<Storage> {
    Ok(Storage::new(plain(objects).unlocked(key).await?, Options::default()))
}

async fn write(storage: &Storage) -> TreeRef {
    let tree = tree_of(storage, &[("secret-name", SECRET), ("large", &noise(1, 1 << 20))]).await;
    TreeRef::from_bytes(&tree.to_bytes().unwrap()).unwrap()
}

async fn all_bytes(objects: &Arc<InMemory>) -> Vec<(Path, Vec<u8>)> {
    let mut found = Vec::new();
    let listed: Vec<_> = objects.list(None).try_collect().await.unwrap();
    for object in listed {
        let bytes = objects.get(&object.location).await.unwrap().bytes().await.unwrap();
        found.push((object.location, bytes.to_vec()));
    }
    found
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_store_conforms_in_memory_in_a_directory_and_with_a_disk_cache() {
    conformance::suite(Store::memory().unlocked(key(1)).await.unwrap()).await;
    let directory = tempfile::tempdir().unwrap();
    let local = Store::local(directory.path()).unwrap();
    conformance::suite(local.unlocked(key(1)).await.unwrap()).await;
    let cache = DiskCache::open(directory.path().join("cache"), 4 << 20, || SystemTime::UNIX_EPOCH).unwrap();
    let cached = Store::memory().with_cache(cache).unlocked(key(1)).await.unwrap();
    conformance::suite(cached).await;
}

#[tokio::test]
async fn what_lies_in_the_bucket_and_on_the_local_disk_tells_nothing() {
    let (objects, open_objects) = (Arc::new(InMemory::new()), Arc::new(InMemory::new()));
    write(&open(&open_objects, None).await.unwrap()).await;
    let seen = all_bytes(&open_objects).await;
    assert!(
        seen.iter().any(|(_, bytes)| holds(bytes, SECRET)),
        "the test looks in vain"
    );

    let directory = tempfile::tempdir().unwrap();
    let cache = DiskCache::open(directory.path(), 4 << 20, || SystemTime::UNIX_EPOCH).unwrap();
    let store = plain(&objects).with_cache(cache).unlocked(key(1)).await.unwrap();
    let tree = write(&Storage::new(store.clone(), Options::default())).await;
    let storage = Storage::new(store, Options::default());
    assert_eq!(content(&storage, &tree, "secret-name").await, SECRET);

    let mut places: Vec<Vec<u8>> = all_bytes(&objects).await.into_iter().map(|(_, bytes)| bytes).collect();
    for pack in std::fs::read_dir(directory.path()).unwrap() {
        for block in std::fs::read_dir(pack.unwrap().path()).unwrap() {
            places.push(std::fs::read(block.unwrap().path()).unwrap());
        }
    }
    assert!(places.len() > 2);
    for bytes in places {
        for part in [SECRET, &b"secret-name"[..], b"HWDPACK", &noise(1, 100)] {
            assert!(!holds(&bytes, part));
        }
    }
    // Equal content of two tenants is unlike in their buckets, and so is equal content of two packs of one.
    let other = Arc::new(InMemory::new());
    write(&open(&other, key(2)).await.unwrap()).await;
    let (ours, theirs) = (all_bytes(&objects).await, all_bytes(&other).await);
    let pack = |of: &[(Path, Vec<u8>)]| {
        of.iter()
            .find(|(path, _)| path.as_ref().starts_with("packs/"))
            .unwrap()
            .clone()
    };
    assert_eq!(pack(&ours).0, pack(&theirs).0);
    assert_ne!(pack(&ours).1[..16], pack(&theirs).1[..16]);
}

#[tokio::test]
async fn a_bucket_is_opened_by_its_own_key_and_by_none_other() {
    let objects = Arc::new(InMemory::new());
    let tree = write(&open(&objects, key(1)).await.unwrap()).await;
    for wrong in [None, key(2)] {
        let error = open(&objects, wrong).await.err().unwrap();
        assert!(error.to_string().contains("encrypted"), "{error}");
    }
    // The same when somebody has removed what says so.
    objects.delete(&Path::from("format")).await.unwrap();
    for wrong in [None, key(2)] {
        assert!(open(&objects, wrong).await.is_err());
    }
    let storage = open(&objects, key(1)).await.unwrap();
    assert_eq!(content(&storage, &tree, "secret-name").await, SECRET);
    assert!(objects.head(&Path::from("format")).await.is_ok());
    assert_eq!(storage.verify(&tree, true).await.unwrap(), []);
    assert_eq!(format!("{:?}", key(1).unwrap()), "DataKey(…)");
    assert!(DataKey::from_hex(&"0f".repeat(32)).is_some());
    assert!(DataKey::from_hex("0f").is_none() && DataKey::from_hex(&"xy".repeat(32)).is_none());
}

#[tokio::test]
async fn a_bucket_with_packs_that_are_not_encrypted_goes_on_as_it_is() {
    let objects = Arc::new(InMemory::new());
    let before = write(&open(&objects, None).await.unwrap()).await;
    // The same when somebody has removed what says so, and the first packs there are cannot be read.
    objects.delete(&Path::from("format")).await.unwrap();
    for damaged in [
        "packs/0000000000000000000000000000000000000000000000000000000000000000",
        "packs/0000000000000000000000000000000000000000000000000000000000000001",
    ] {
        objects.put(&Path::from(damaged), "HWD".into()).await.unwrap();
    }
    for given in [key(1), None, key(2)] {
        let storage = open(&objects, given).await.unwrap();
        assert_eq!(content(&storage, &before, "secret-name").await, SECRET);
        let after = tree_of(&storage, &[("more", b"of the same")]).await;
        assert_eq!(
            content(&open(&objects, None).await.unwrap(), &after, "more").await,
            &b"of the same"[..]
        );
    }
}

#[tokio::test]
async fn two_processes_that_open_an_empty_bucket_at_once_agree() {
    let objects = Arc::new(InMemory::new());
    let (one, two) = tokio::join!(open(&objects, key(1)), open(&objects, key(1)));
    let tree = write(&one.unwrap()).await;
    assert_eq!(content(&two.unwrap(), &tree, "secret-name").await, SECRET);
}

#[tokio::test]
async fn a_format_that_was_cut_off_is_found_out_and_written_anew() {
    let objects = Arc::new(InMemory::new());
    let tree = write(&open(&objects, key(1)).await.unwrap()).await;
    objects.put(&Path::from("format"), "".into()).await.unwrap();
    assert!(open(&objects, key(2)).await.is_err());
    let storage = open(&objects, key(1)).await.unwrap();
    assert_eq!(content(&storage, &tree, "secret-name").await, SECRET);
    let said = objects.get(&Path::from("format")).await.unwrap().bytes().await.unwrap();
    assert!(said.starts_with(b"howdah bucket 1\nencryption aes"));
}
