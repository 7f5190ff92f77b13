//! Dying and failing at every point: what was acknowledged is whole, what was not is merely absent.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;

use object_store::memory::InMemory;
use storage::{FilePath, Options, Result, Storage, StorageError, Store, TreeChange, TreeRef};

use crate::faulty::{Fault, Faulty};
use crate::samples::{files_of, noise, path};

const COMMITS: u64 = 6;
const CHILD_STORE: &str = "HOWDAH_TEST_CRASH_STORE";

fn open(store: Store) -> Storage {
    Storage::new(
        store,
        Options {
            pack_bytes: 64 << 10,
            ..Options::default()
        },
    )
}

fn file_name(number: u64) -> FilePath {
    path(&format!("d{}/f{number}", number % 3))
}

/// One commit: a file of several packs, a small file, a deleted file.
async fn commit(storage: &Storage, base: &TreeRef, number: u64) -> Result<TreeRef> {
    let writer = storage.writer();
    let large = writer.write_file(&noise(number, 150_000)[..], false).await?;
    let small = writer.write_bytes(noise(number, 100), false).await?;
    let changes = vec![
        TreeChange::Put(file_name(number), large),
        TreeChange::Put(path(&format!("small-{number}")), small),
        TreeChange::Delete(path(&format!("small-{}", number.wrapping_sub(1)))),
    ];
    let tree = storage.apply(&writer, base, changes).await?;
    if let Err(error) = writer.flush().await {
        assert!(
            tree.to_bytes().is_err(),
            "a reference to bytes that are not there can't be stored"
        );
        assert!(
            writer.flush().await.is_err(),
            "a session that lost bytes never says that all is well"
        );
        return Err(error);
    }
    Ok(tree)
}

/// Commits until it fails; returns the acknowledged references, as a database would hold them.
async fn commit_all(storage: &Storage) -> (Vec<Vec<u8>>, Option<StorageError>) {
    let mut acknowledged = vec![TreeRef::empty().to_bytes().unwrap()];
    for number in 0..COMMITS {
        let base = TreeRef::from_bytes(acknowledged.last().unwrap()).unwrap();
        match commit(storage, &base, number).await {
            Ok(tree) => acknowledged.push(tree.to_bytes().unwrap()),
            Err(error) => return (acknowledged, Some(error)),
        }
    }
    (acknowledged, None)
}

async fn check_recovered(store: Store, acknowledged: &[Vec<u8>]) {
    let storage = open(store);
    for stored in acknowledged {
        let tree = TreeRef::from_bytes(stored).unwrap();
        assert_eq!(storage.verify(&tree, true).await.unwrap(), []);
    }
    let last = TreeRef::from_bytes(acknowledged.last().unwrap()).unwrap();
    let next = commit(&storage, &last, 1_000).await.unwrap();
    assert_eq!(storage.verify(&next, true).await.unwrap(), []);
    assert!(files_of(&storage, &next).await.contains_key(&file_name(1_000)));
}

async fn fail_at_each_put(fault: Fault) {
    for puts_before in 0.. {
        let inner = Arc::new(InMemory::new());
        let faulty = Faulty::after(Arc::clone(&inner), puts_before, fault);
        let (acknowledged, error) = commit_all(&open(Store::from_object_store(faulty))).await;
        check_recovered(Store::from_object_store(inner), &acknowledged).await;
        let Some(error) = error else {
            assert_eq!(acknowledged.len() as u64, COMMITS + 1);
            assert!(puts_before > 10, "the fault never struck");
            return;
        };
        assert!(error.is_retryable(), "{error}");
        assert_eq!(
            fault == Fault::Full,
            matches!(error, StorageError::Full { .. }),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_refused_put_fails_the_commit_and_nothing_else() {
    fail_at_each_put(Fault::Refuse).await;
}

#[tokio::test]
async fn a_put_whose_answer_is_lost_leaves_only_an_unreferenced_pack() {
    fail_at_each_put(Fault::LoseAnswer).await;
}

#[tokio::test]
async fn dying_at_any_put_loses_nothing_acknowledged() {
    fail_at_each_put(Fault::Die).await;
}

#[tokio::test]
async fn a_full_disk_is_said_to_be_full() {
    fail_at_each_put(Fault::Full).await;
}

#[tokio::test]
async fn a_local_store_that_cannot_write_leaves_no_pack() {
    let directory = tempfile::tempdir().unwrap();
    let storage = open(Store::local(directory.path()).unwrap());
    std::fs::remove_dir(directory.path().join("tmp")).unwrap();
    let error = commit(&storage, &TreeRef::empty(), 0).await.unwrap_err();
    assert!(matches!(error, StorageError::Store { action: "write", .. }), "{error}");
    assert_eq!(std::fs::read_dir(directory.path().join("packs")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_source_that_fails_is_told_apart_from_a_store_that_fails() {
    let storage = open(Store::memory());
    let reader = tokio_util::io::StreamReader::new(futures::stream::iter([
        Ok(noise(1, 300_000)),
        Err(std::io::Error::other("connection reset")),
    ]));
    let error = storage.writer().write_file(reader, false).await.unwrap_err();
    assert!(matches!(error, StorageError::Source(_)), "{error}");
}

/// Does nothing unless started by the test below: commits without end, printing each acknowledged reference.
#[tokio::test]
async fn commits_without_end_when_started_to_be_killed() {
    let Ok(directory) = std::env::var(CHILD_STORE) else {
        return;
    };
    let storage = open(Store::local(directory).unwrap());
    let mut tree = TreeRef::empty();
    for number in 0.. {
        tree = commit(&storage, &tree, number).await.unwrap();
        println!("acknowledged {}", hex::encode(tree.to_bytes().unwrap()));
    }
}

#[tokio::test]
async fn a_killed_process_loses_nothing_acknowledged_and_leaves_only_temporary_files() {
    let directory = tempfile::tempdir().unwrap();
    for lines in [1, 4, 9] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "crash::commits_without_end_when_started_to_be_killed",
                "--nocapture",
            ])
            .env(CHILD_STORE, directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut acknowledged = vec![TreeRef::empty().to_bytes().unwrap()];
        for line in output.lines() {
            // The first line may begin with what the test harness prints.
            if let Some((_, stored)) = line.unwrap().split_once("acknowledged ") {
                acknowledged.push(hex::decode(stored).unwrap());
            }
            if acknowledged.len() > lines {
                break;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(acknowledged.len() > lines);
        check_recovered(Store::local(directory.path()).unwrap(), &acknowledged).await;
    }
    let store = Store::local(directory.path()).unwrap();
    let later = std::fs::metadata(directory.path()).unwrap().modified().unwrap() + std::time::Duration::from_secs(60);
    store.remove_abandoned(later).unwrap();
    assert_eq!(std::fs::read_dir(directory.path().join("tmp")).unwrap().count(), 0);
}
