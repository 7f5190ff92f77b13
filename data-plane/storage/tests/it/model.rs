//! Trees against the plainest model there is, a `BTreeMap`: random batches of changes, after each of
//! which every question must have the model's answer.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures::TryStreamExt;
use proptest::prelude::*;
use storage::{Change, EntryKind, FileEntry, FilePath, Options, Storage, StorageError, Store, TreeChange, TreeRef};

use crate::samples::{files_of, memory, path};

type Model = BTreeMap<FilePath, FileEntry>;

#[derive(Debug, Clone)]
enum Op {
    Put(String, u8, bool),
    Delete(String),
}

/// Few names, so that batches hit the same paths, conflicts and directories often; `a.b` and `a!` sort around `a/`.
fn name() -> impl Strategy<Value = String> {
    prop::collection::vec(
        prop::sample::select(vec!["a", "a!", "a.b", "b", "c0", "ä", "long-name-of-a-part"]),
        1..4,
    )
    .prop_map(|parts| parts.join("/"))
}

/// Many names, so that trees get several levels.
fn wide_name() -> impl Strategy<Value = String> {
    (0..40u32, 0..60u32).prop_map(|(directory, file)| format!("d{directory:02}/file-{file:03}.bin"))
}

fn op(name: impl Strategy<Value = String> + 'static) -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (name, any::<u8>(), any::<bool>()).prop_map(|(name, content, mode)| Op::Put(name, content, mode)),
        1 => self::name().prop_map(Op::Delete),
        1 => (0..40u32).prop_map(|directory| Op::Delete(format!("d{directory:02}"))),
    ]
}

fn entry(content: u8, executable: bool) -> FileEntry {
    FileEntry::embedded(Bytes::from(vec![content; usize::from(content)]), executable)
}

fn below<'a>(model: &'a Model, directory: &'a FilePath) -> impl Iterator<Item = (&'a FilePath, &'a FileEntry)> {
    model
        .iter()
        .filter(|(path, _)| path.strip_directory(directory).is_some())
}

/// Applies a batch to the model; `None` if a path would be a file and a directory at once.
fn apply_to_model(model: &Model, ops: &[Op]) -> Option<Model> {
    let mut result = model.clone();
    for op in ops {
        match op {
            Op::Put(name, content, executable) => {
                result.insert(path(name), entry(*content, *executable));
            }
            Op::Delete(name) => {
                let gone = path(name);
                result.retain(|path, _| *path != gone && path.strip_directory(&gone).is_none());
            }
        }
    }
    let conflict = result.keys().any(|path| below(&result, path).next().is_some());
    (!conflict).then_some(result)
}

fn changes(ops: &[Op]) -> Vec<TreeChange> {
    ops.iter()
        .map(|op| match op {
            Op::Put(name, content, executable) => TreeChange::Put(path(name), entry(*content, *executable)),
            Op::Delete(name) => TreeChange::Delete(path(name)),
        })
        .collect()
}

async fn build(storage: &Storage, model: &Model) -> TreeRef {
    let writer = storage.writer();
    let puts = model
        .iter()
        .map(|(path, file)| TreeChange::Put(path.clone(), file.clone()))
        .collect();
    storage.apply(&writer, &TreeRef::empty(), puts).await.unwrap()
}

async fn check_directory(storage: &Storage, tree: &TreeRef, model: &Model, directory: Option<&FilePath>) {
    let inside = |path: &FilePath| match directory {
        None => Some(path.as_str().to_owned()),
        Some(directory) => path.strip_directory(directory).map(str::to_owned),
    };
    let expected: BTreeSet<String> = model
        .keys()
        .filter_map(inside)
        .map(|rest| {
            rest.split_once('/')
                .map_or(rest.clone(), |(name, _)| format!("{name}/"))
        })
        .collect();
    // Page by page, two at a time, to meet `after` on files and directories.
    let mut found = BTreeSet::new();
    let mut after: Option<String> = None;
    loop {
        let page = storage
            .list_directory(tree, directory, after.as_deref(), 2)
            .await
            .unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.path.name().to_owned());
        for entry in page {
            let under = || below(model, &entry.path);
            match entry.kind {
                EntryKind::File => {
                    assert_eq!(entry.digest, Some(model[&entry.path].digest));
                    assert!(found.insert(entry.path.name().to_owned()));
                }
                EntryKind::Directory => {
                    assert_eq!(entry.files, under().count() as u64);
                    assert_eq!(entry.size_bytes, under().map(|(_, file)| file.size).sum::<u64>());
                    assert!(found.insert(format!("{}/", entry.path.name())));
                }
            }
        }
    }
    assert_eq!(found, expected);
}

async fn check_tree(storage: &Storage, tree: &TreeRef, model: &Model) {
    assert_eq!(&files_of(storage, tree).await, model);
    assert_eq!(tree.files(), model.len() as u64);
    assert_eq!(tree.bytes(), model.values().map(|file| file.size).sum::<u64>());
    assert_eq!(
        tree.digest(),
        storage.digest_of(model),
        "the digest depends on the history"
    );
    check_directory(storage, tree, model, None).await;
    let directories: BTreeSet<FilePath> = model.keys().filter_map(FilePath::parent).collect();
    for directory in directories.iter().take(4) {
        check_directory(storage, tree, model, Some(directory)).await;
        let listed: Model = storage.list(tree, Some(directory), None).try_collect().await.unwrap();
        assert_eq!(
            listed,
            below(model, directory)
                .map(|(path, file)| (path.clone(), file.clone()))
                .collect()
        );
        // The same files at the root of a tree of their own have the same digest.
        let moved = below(model, directory)
            .map(|(path, file)| (self::path(path.strip_directory(directory).unwrap()), file.clone()))
            .collect();
        let alone = build(storage, &moved).await;
        let here = storage.subtree_digest(tree, Some(directory)).await.unwrap().unwrap();
        assert_eq!(here, storage.subtree_digest(&alone, None).await.unwrap().unwrap());
    }
    for (middle, file) in model.iter().step_by(model.len() / 5 + 1) {
        assert_eq!(storage.get(tree, middle).await.unwrap().as_ref(), Some(file));
        assert_eq!(storage.read_all(file).await.unwrap().len() as u64, file.size);
        let behind: Model = storage.list(tree, None, Some(middle)).try_collect().await.unwrap();
        assert!(behind.iter().eq(model.iter().filter(|(path, _)| *path > middle)));
    }
    assert_eq!(storage.get(tree, &path("nobody/is/here")).await.unwrap(), None);
}

async fn check_diff(storage: &Storage, a: (&TreeRef, &Model), b: (&TreeRef, &Model)) {
    let paths: BTreeSet<&FilePath> = a.1.keys().chain(b.1.keys()).collect();
    let expected: Vec<Change> = paths
        .into_iter()
        .map(|path| Change {
            path: path.clone(),
            before: a.1.get(path).cloned(),
            after: b.1.get(path).cloned(),
        })
        .filter(|change| change.before != change.after)
        .collect();
    let forth: Vec<Change> = storage.diff(a.0, b.0).try_collect().await.unwrap();
    assert_eq!(forth, expected);
    let back: Vec<Change> = storage.diff(b.0, a.0).try_collect().await.unwrap();
    let turned = |change: Change| Change {
        before: change.after,
        after: change.before,
        ..change
    };
    assert_eq!(back.into_iter().map(turned).collect::<Vec<_>>(), expected);
}

async fn follow(batches: Vec<Vec<Op>>) {
    let storage = memory();
    let mut model = Model::new();
    let mut tree = TreeRef::empty();
    for ops in batches {
        let writer = storage.writer();
        let next = storage.apply(&writer, &tree, changes(&ops)).await;
        let Some(next_model) = apply_to_model(&model, &ops) else {
            assert!(matches!(next, Err(StorageError::PathConflict { .. })), "{next:?}");
            continue;
        };
        let next = next.unwrap();
        assert!(next_model.is_empty() || matches!(next.to_bytes(), Err(StorageError::NotFlushed)) || next == tree);
        writer.flush().await.unwrap();
        let next = TreeRef::from_bytes(&next.to_bytes().unwrap()).unwrap();
        check_tree(&storage, &next, &next_model).await;
        check_diff(&storage, (&tree, &model), (&next, &next_model)).await;
        (tree, model) = (next, next_model);
    }
    let cold = Storage::new(storage.store().clone(), Options::default());
    assert_eq!(cold.verify(&tree, true).await.unwrap(), Vec::new());
    assert_eq!(files_of(&cold, &tree).await, model);
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(test);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn small_trees_with_conflicts_agree_with_the_model(
        batches in prop::collection::vec(prop::collection::vec(op(name()), 1..8), 1..12),
    ) {
        run(follow(batches));
    }

    #[test]
    fn trees_of_several_levels_agree_with_the_model(
        first in prop::collection::vec(op(wide_name()), 200..1500),
        batches in prop::collection::vec(prop::collection::vec(op(wide_name()), 1..60), 1..5),
    ) {
        run(follow([vec![first], batches].concat()));
    }
}

#[test]
fn a_storage_can_be_opened_on_a_store_that_is_there() {
    let store = Store::memory();
    run(async {
        let tree = crate::samples::tree_of(&Storage::new(store.clone(), Options::default()), &[("a", b"1")]).await;
        let again = Storage::new(store, Options::default());
        assert_eq!(&crate::samples::content(&again, &tree, "a").await[..], b"1");
    });
}
