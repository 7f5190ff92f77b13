//! What a listing costs: ways down the tree, however much lies below what is shown or beside what is wanted.

use std::sync::Arc;

use bytes::Bytes;
use storage::{EntryKind, FilePath, Names, Options, Storage, Store, TreeChange, TreeRef};

use crate::faulty::Faulty;
use crate::samples::path;

/// Nodes of one way down, a few more than the tree is high.
const WAY: usize = 8;

/// A directory of 60,000 files beside one of 200 directories with 300 files each, and how to read them with nothing in
/// memory.
async fn wide() -> (Arc<Faulty>, Store, TreeRef) {
    let faulty = Faulty::never();
    let store = Store::from_object_store(faulty.clone());
    let storage = Storage::new(store.clone(), Options::default());
    let writer = storage.writer();
    let file = writer.write_bytes(Bytes::from_static(b"content"), false).await.unwrap();
    let flat = (0..60_000).map(|n| format!("flat/{n:05}"));
    let deep = (0..60_000).map(|n| format!("deep/{:03}/{:03}", n / 300, n % 300));
    let changes = flat
        .chain(deep)
        .map(|name| TreeChange::Put(path(&name), file.clone()))
        .collect();
    let tree = storage.apply(&writer, &TreeRef::empty(), changes).await.unwrap();
    writer.flush().await.unwrap();
    let durable = TreeRef::from_bytes(&tree.to_bytes().unwrap()).unwrap();
    (faulty, store, durable)
}

/// Lists with nothing in memory; answers names and how many nodes were read, at the most.
async fn cold(
    (faulty, store, tree): &(Arc<Faulty>, Store, TreeRef),
    directory: Option<&FilePath>,
    names: Names<'_>,
) -> (Vec<(String, u64, u64)>, usize) {
    let storage = Storage::new(store.clone(), Options::default());
    faulty.reads();
    let found = storage.list_names(tree, directory, names, 1_000).await.unwrap();
    let shown = found
        .iter()
        .inspect(|entry| assert!(entry.kind == EntryKind::Directory || entry.files == 1))
        .map(|entry| (entry.path.to_string(), entry.files, entry.size_bytes))
        .collect();
    (shown, faulty.reads())
}

#[tokio::test]
async fn sizes_of_directories_come_by_seek_and_not_by_walking_over_what_is_below() {
    let wide = wide().await;
    let (top, reads) = cold(&wide, None, Names::default()).await;
    assert_eq!(
        top,
        [
            ("deep".to_owned(), 60_000, 420_000),
            ("flat".to_owned(), 60_000, 420_000)
        ]
    );
    // The beginning and the end of each.
    assert!(reads <= 4 * WAY, "{reads} reads for two directories");

    let (page, reads) = cold(&wide, Some(&path("deep")), Names::default()).await;
    assert_eq!(
        (page.len(), page[7].clone()),
        (200, ("deep/007".to_owned(), 300, 2_100))
    );
    // Each of them begins in a leaf that the one before it ends in.
    assert!(reads <= 2 * 200 + WAY, "{reads} reads for 200 directories");
    let storage = Storage::new(wide.1.clone(), Options::default());
    wide.0.reads();
    let size = storage.directory_size(&wide.2, Some(&path("flat"))).await.unwrap();
    assert_eq!(size, (60_000, 420_000));
    assert!(wide.0.reads() <= 2 * WAY);
}

#[tokio::test]
async fn names_that_begin_as_wanted_are_found_without_walking_over_the_others() {
    let wide = wide().await;
    let names = |beginning, after| Names { beginning, after };
    let (found, reads) = cold(&wide, Some(&path("flat")), names("4200", None)).await;
    assert_eq!((found.len(), found[0].0.as_str()), (10, "flat/42000"));
    assert!(reads <= 2 * WAY, "{reads} reads for ten files of 60,000");

    let (found, reads) = cold(&wide, Some(&path("deep")), names("19", None)).await;
    assert_eq!((found.len(), found[0].0.as_str()), (10, "deep/190"));
    assert!(reads <= 2 * 10 + 2 * WAY, "{reads} reads for ten directories of 200");

    for (beginning, after, expected) in [
        ("4200", Some("42007"), 2),
        ("4200", Some("1"), 10),
        ("4200", Some("5"), 0),
        ("42000", None, 1),
        ("x", None, 0),
    ] {
        let (found, _) = cold(&wide, Some(&path("flat")), names(beginning, after)).await;
        assert_eq!(found.len(), expected, "{beginning} {after:?}");
    }
    let (found, _) = cold(&wide, None, names("fl", None)).await;
    assert_eq!(found.len(), 1);
    let (found, _) = cold(&wide, Some(&path("deep")), names("19", Some("198"))).await;
    assert_eq!(found.len(), 1);
}
