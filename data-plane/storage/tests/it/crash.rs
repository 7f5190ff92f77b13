//! Dying and failing at every point: what was acknowledged is whole, what was not is merely absent.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;

use futures::TryStreamExt;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use storage::{FilePath, Options, Result, Storage, StorageError, Store, TreeChange, TreeRef};

use crate::faulty::{Fault, Faulty};
use crate::samples::{collect, files_of, noise, path};

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

/// What is needed to go on is there, and what nobody needs goes away.
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
    let needed = [acknowledged, &[next.to_bytes().unwrap()]].concat();
    collect(&storage, &needed).await.unwrap();
    assert_eq!(storage.without_memory().verify(&next, true).await.unwrap(), []);
    let packs: Vec<_> = storage.packs().try_collect().await.unwrap();
    let marked = collect(&storage, &needed).await.unwrap();
    assert_eq!(packs.len(), marked, "what a process that died left behind stays");
}

/// All that storage does to a store: commits, a session that is taken back, a look at everything, removal of what only the oldest
/// commits needed. Stops at the first error; returns the references that a database would hold.
async fn live(store: Store) -> (Vec<Vec<u8>>, Option<StorageError>) {
    let storage = Storage::new(
        store.clone(),
        Options {
            pack_bytes: 64 << 10,
            seed: Some([7; 32]),
            ..Options::default()
        },
    );
    let mut acknowledged = vec![TreeRef::empty().to_bytes().unwrap()];
    let lived = live_with(&storage, &mut acknowledged).await;
    (acknowledged, lived.err())
}

async fn live_with(storage: &Storage, acknowledged: &mut Vec<Vec<u8>>) -> Result<()> {
    for number in 0..COMMITS {
        let base = TreeRef::from_bytes(acknowledged.last().unwrap()).unwrap();
        let tree = commit(storage, &base, number).await?;
        acknowledged.push(tree.to_bytes().unwrap());
    }
    let given_up = storage.writer();
    given_up.write_file(&noise(500, 200_000)[..], false).await?;
    given_up.flush().await?;
    given_up.discard().await?;
    storage.store_time().await?;
    // The database forgets first.
    acknowledged.drain(..COMMITS as usize / 2);
    for stored in acknowledged.iter() {
        let tree = TreeRef::from_bytes(stored).unwrap();
        assert_eq!(storage.without_memory().verify(&tree, true).await?, []);
    }
    collect(storage, acknowledged).await.map(|_| ())
}

/// At each call that is made to the store, one after the other, until there is none left to strike at.
async fn fail_at_each_call(fault: Fault) {
    for calls_before in 0.. {
        let inner = Arc::new(InMemory::new());
        let faulty = Faulty::after(Arc::clone(&inner), calls_before, fault);
        let (acknowledged, error) = live(Store::from_object_store(faulty.clone())).await;
        check_recovered(Store::from_object_store(inner), &acknowledged).await;
        if faulty.struck() == 0 {
            assert!(error.is_none(), "{error:?}");
            assert!(calls_before > 25, "the fault struck {calls_before} times only");
            return;
        }
        // A call whose answer was lost may have been made once more.
        assert!(
            error.is_some() || fault == Fault::LoseAnswer,
            "the fault was passed over"
        );
        if let Some(error) = error {
            assert!(error.is_retryable(), "{error}");
            assert_eq!(
                fault == Fault::Full,
                matches!(error, StorageError::Full { .. }),
                "{error}"
            );
        }
    }
}

#[tokio::test]
async fn a_refused_call_fails_what_needs_it_and_nothing_else() {
    fail_at_each_call(Fault::Refuse).await;
}

#[tokio::test]
async fn a_call_whose_answer_is_lost_leaves_only_an_unreferenced_pack() {
    fail_at_each_call(Fault::LoseAnswer).await;
}

#[tokio::test]
async fn dying_before_any_call_takes_effect_loses_nothing_acknowledged() {
    fail_at_each_call(Fault::Die).await;
}

#[tokio::test]
async fn dying_after_any_call_has_taken_effect_loses_nothing_acknowledged() {
    fail_at_each_call(Fault::DieAfter).await;
}

#[tokio::test]
async fn a_full_disk_is_said_to_be_full() {
    fail_at_each_call(Fault::Full).await;
}

#[tokio::test]
async fn a_pack_whose_acknowledgement_was_lost_is_put_once_more() {
    let inner = Arc::new(InMemory::new());
    let faulty = Faulty::after(Arc::clone(&inner), 0, Fault::LoseAnswer);
    let storage = open(Store::from_object_store(faulty.clone()));
    let tree = commit(&storage, &TreeRef::empty(), 0).await.unwrap();
    assert_eq!(faulty.struck(), 1);
    let cold = open(Store::from_object_store(inner));
    let tree = TreeRef::from_bytes(&tree.to_bytes().unwrap()).unwrap();
    assert_eq!(cold.verify(&tree, true).await.unwrap(), []);
}

#[tokio::test]
async fn a_session_that_could_not_be_taken_back_at_once_is_by_the_next_try() {
    let inner = Arc::new(InMemory::new());
    let write = async |store: Arc<dyn ObjectStore>| {
        let options = Options {
            pack_bytes: 64 << 10,
            seed: Some([1; 32]),
            ..Options::default()
        };
        let writer = Storage::new(Store::from_object_store(store), options).writer();
        writer.write_file(&noise(1, 500_000)[..], false).await.unwrap();
        let packs = writer.flush().await.unwrap().packs;
        (writer, packs as usize)
    };
    let puts = write(Faulty::never()).await.1;
    assert!(puts > 3);
    let (writer, _) = write(Faulty::after(Arc::clone(&inner), puts + 1, Fault::LoseAnswer)).await;
    assert!(writer.discard().await.is_err());
    writer.discard().await.unwrap();
    let left: Vec<_> = inner.list(None).try_collect().await.unwrap();
    assert_eq!(left, []);
}

#[tokio::test]
async fn a_torn_temporary_file_is_no_pack_and_goes_away() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::local(directory.path()).unwrap();
    let storage = open(store.clone());
    let tree = commit(&storage, &TreeRef::empty(), 0).await.unwrap();
    let packs: Vec<_> = storage.packs().try_collect().await.unwrap();
    // As a process leaves them that dies while it writes a pack that is there already, and one that is not.
    let pack = directory.path().join("packs").join(packs[0].id.to_string());
    let whole = std::fs::read(pack).unwrap();
    for (name, length) in [
        (packs[0].id.to_string(), whole.len() / 2),
        (storage::Digest::of(b"other").to_string(), 0),
    ] {
        let torn = directory.path().join("tmp").join(format!("{name}.1.1"));
        std::fs::write(torn, &whole[..length]).unwrap();
    }
    let cold = open(store.clone());
    let listed: Vec<_> = cold.packs().try_collect().await.unwrap();
    assert_eq!(listed.len(), packs.len());
    assert_eq!(cold.verify(&tree, true).await.unwrap(), []);
    commit(&cold, &TreeRef::empty(), 0).await.unwrap();
    let later = std::fs::metadata(directory.path()).unwrap().modified().unwrap() + std::time::Duration::from_secs(60);
    assert_eq!(store.remove_abandoned(later).unwrap(), 2);
    assert_eq!(cold.verify(&tree, true).await.unwrap(), []);
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
