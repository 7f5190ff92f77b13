//! What every back end must do: one suite, run on memory, on a local directory, and on S3 spoken over HTTP to two servers that
//! have nothing in common.

use bytes::Bytes;
use futures::TryStreamExt;
use storage::{
    Content, EntryKind, FileEntry, FilePath, Options, Storage, StorageError, Store, TreeChange, TreeRef,
    decode_entries, encode_entries,
};

use crate::samples::{content, noise, path, tree_of};
use crate::{faulty, moto, objects, s3};

fn open(store: &Store) -> Storage {
    Storage::new(
        store.clone(),
        Options {
            pack_bytes: 256 << 10,
            ..Options::default()
        },
    )
}

async fn read(storage: &Storage, file: &FileEntry, from: u64, to: u64) -> Vec<u8> {
    let parts: Vec<Bytes> = storage.read(file, from..to).try_collect().await.unwrap();
    parts.concat()
}

/// All of it, on one store.
pub async fn suite(store: Store) {
    objects::suite(store.object_store()).await;
    small_files_and_trees(&store).await;
    large_files(&store).await;
    references_outlive_the_process(&store).await;
    replaced_and_appended_files_share_chunks(&store).await;
    concurrent_writers(&store).await;
    many_small_files(&store).await;
    a_missing_pack_is_named(&store).await;
    what_a_session_takes_back_is_gone_and_nothing_else(&store).await;
}

async fn small_files_and_trees(store: &Store) {
    let storage = open(store);
    let tree = tree_of(
        &storage,
        &[
            ("a/b.txt", b"beta"),
            ("a/empty", b""),
            ("c", b"gamma"),
            ("a.txt", b"alpha"),
        ],
    )
    .await;
    assert_eq!((tree.files(), tree.bytes()), (4, 14));
    assert_eq!(&content(&storage, &tree, "a/b.txt").await[..], b"beta");
    assert_eq!(&content(&open(store), &tree, "a/empty").await[..], b"");
    let top = storage.list_directory(&tree, None, None, 10).await.unwrap();
    let top: Vec<_> = top
        .iter()
        .map(|entry| (entry.path.as_str(), entry.kind, entry.size_bytes))
        .collect();
    assert_eq!(
        top,
        [
            ("a.txt", EntryKind::File, 5),
            ("a", EntryKind::Directory, 4),
            ("c", EntryKind::File, 5)
        ],
        "sorted as paths sort, `/` behind `.`"
    );
    let writer = storage.writer();
    let gone = storage
        .apply(&writer, &tree, vec![TreeChange::Delete(path("a"))])
        .await
        .unwrap();
    writer.flush().await.unwrap();
    let left: Vec<(FilePath, FileEntry)> = open(store).list(&gone, None, None).try_collect().await.unwrap();
    assert_eq!(
        left.iter().map(|(path, _)| path.as_str()).collect::<Vec<_>>(),
        ["a.txt", "c"]
    );
    assert_eq!(open(store).verify(&gone, true).await.unwrap(), []);
    let none = storage.apply(
        &writer,
        &gone,
        vec![TreeChange::Delete(path("a.txt")), TreeChange::Delete(path("c"))],
    );
    assert_eq!(none.await.unwrap(), TreeRef::empty());
}

async fn large_files(store: &Store) {
    let storage = open(store);
    let writer = storage.writer();
    let bytes = noise(1, 3_000_000);
    let file = writer.write_file(&bytes[..], true).await.unwrap();
    assert_eq!(file.size, 3_000_000);
    assert_eq!(file.digest.as_bytes(), blake3::hash(&bytes).as_bytes());
    assert!(
        matches!(file.content, Content::Blocks(_)),
        "dozens of extents do not belong into an entry"
    );
    // Readable before it is durable, and afterwards by a storage that knows nothing of the session.
    assert_eq!(read(&storage, &file, 0, u64::MAX).await, bytes);
    assert!(matches!(
        encode_entries(&[(path("f"), file.clone())]),
        Err(StorageError::NotFlushed)
    ));
    let report = writer.flush().await.unwrap();
    assert!(report.packs >= 10 && report.bytes_new == 3_000_000, "{report:?}");
    let stored = encode_entries(&[(path("f"), file)]).unwrap();
    let (_, file) = decode_entries(&stored).unwrap().remove(0);
    let cold = open(store);
    for (from, to) in [
        (0, 3_000_000),
        (0, 1),
        (2_999_999, 3_000_000),
        (70_000, 1_200_001),
        (5, 5),
        (3_000_000, 9),
    ] {
        let expected = bytes.get(from as usize..to as usize).unwrap_or_default();
        assert_eq!(read(&cold, &file, from, to).await, expected, "{from}..{to}");
    }
}

async fn references_outlive_the_process(store: &Store) {
    let tree = tree_of(&open(store), &[("x/y/z", b"deep"), ("x/w", b"shallow")]).await;
    let stored = tree.to_bytes().unwrap();
    let again = TreeRef::from_bytes(&stored).unwrap();
    assert_eq!((again.digest(), again.files(), again.bytes()), (tree.digest(), 2, 11));
    assert_eq!(&content(&open(store), &again, "x/y/z").await[..], b"deep");
    assert_eq!(
        TreeRef::from_bytes(&TreeRef::empty().to_bytes().unwrap()).unwrap(),
        TreeRef::empty()
    );
}

async fn replaced_and_appended_files_share_chunks(store: &Store) {
    let storage = open(store);
    let old = noise(2, 2_000_000);
    let writer = storage.writer();
    let before = writer.write_bytes(old.clone(), false).await.unwrap();
    writer.flush().await.unwrap();

    let mut changed = old.to_vec();
    changed.insert(1_000_000, b'!');
    let writer = storage.writer();
    let after = writer.write_file_over(&before, &changed[..], false).await.unwrap();
    let report = writer.flush().await.unwrap();
    assert!(
        report.bytes_new < 600_000,
        "one inserted byte stores a few chunks, not {report:?}"
    );
    assert_eq!(storage.read_all(&after).await.unwrap(), changed);

    let writer = storage.writer();
    let longer = writer.append(&before, &b"tail"[..]).await.unwrap();
    let report = writer.flush().await.unwrap();
    assert!(report.bytes_new < 600_000, "{report:?}");
    let expected = [&old[..], b"tail"].concat();
    assert_eq!(storage.read_all(&longer).await.unwrap(), expected);
    assert_eq!(longer, writer.write_bytes(Bytes::from(expected), false).await.unwrap());
}

async fn concurrent_writers(store: &Store) {
    let storage = open(store);
    let writer = storage.writer();
    let tasks = (0..40u64).map(|seed| {
        let writer = writer.clone();
        tokio::spawn(async move {
            let size = (seed as usize % 7) * 40_000 + 1;
            let file = writer.write_file(&noise(seed, size)[..], false).await.unwrap();
            writer.flush().await.unwrap();
            // After a flush of one's own, the entry can be stored, whatever the others do.
            encode_entries(&[(path(&format!("t/{seed}")), file)]).unwrap()
        })
    });
    let mut changes = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        let (path, file) = decode_entries(&task.await.unwrap()).unwrap().remove(0);
        changes.push(TreeChange::Put(path, file));
    }
    let tree = storage.apply(&writer, &TreeRef::empty(), changes).await.unwrap();
    writer.flush().await.unwrap();
    assert_eq!(open(store).verify(&tree, true).await.unwrap(), []);
}

async fn many_small_files(store: &Store) {
    let storage = open(store);
    let writer = storage.writer();
    let contents: Vec<Bytes> = (0..700u64).map(|seed| noise(seed, seed as usize * 3)).collect();
    let files = contents.iter().map(|content| (content.clone(), false)).collect();
    let mut entries = writer.write_small_files(files).await.unwrap();
    entries.push(FileEntry::embedded(Bytes::from_static(b"embedded"), false));
    entries.push(writer.write_bytes(noise(9, 900_000), false).await.unwrap());
    writer.flush().await.unwrap();
    let stored: Vec<_> = entries.into_iter().map(|entry| (path("x"), entry)).collect();
    let decoded = decode_entries(&encode_entries(&stored).unwrap()).unwrap();
    let entries: Vec<FileEntry> = decoded.into_iter().map(|(_, entry)| entry).rev().collect();
    let mut found: Vec<(usize, Bytes)> = open(store).read_many(entries).try_collect().await.unwrap();
    found.sort_by_key(|(index, _)| std::cmp::Reverse(*index));
    let found: Vec<Bytes> = found.into_iter().map(|(_, content)| content).collect();
    let expected = contents
        .into_iter()
        .chain([Bytes::from_static(b"embedded"), noise(9, 900_000)]);
    assert!(found.into_iter().eq(expected));
}

async fn a_missing_pack_is_named(store: &Store) {
    let writer = open(store).writer();
    let file = writer
        .write_bytes(Bytes::from_static(b"only here, in a pack of its own"), false)
        .await
        .unwrap();
    writer.flush().await.unwrap();
    let Content::Extents(extents) = &file.content else {
        panic!("a small file has extents")
    };
    let pack = extents[0].pack().unwrap();
    let object = object_store::path::Path::from(format!("packs/{pack}"));
    object_store::ObjectStoreExt::delete(store.object_store().as_ref(), &object)
        .await
        .unwrap();
    let error = open(store).read_all(&file).await.unwrap_err();
    assert!(
        matches!(error, StorageError::PackMissing { pack: missing } if missing == pack),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_conforms() {
    suite(Store::memory()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_directory_conforms() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("new/and/deep");
    suite(Store::local(&root).unwrap()).await;
    let left = std::fs::read_dir(root.join("tmp")).unwrap().count();
    assert_eq!(left, 0, "temporary files stay behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_conforms() {
    let server = s3::Server::start().await;
    suite(Store::from_object_store(server.client())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_of_another_make_conforms() {
    let server = moto::Server::start();
    suite(Store::from_object_store(server.client())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_wrapped_for_faults_conforms_while_there_are_none() {
    suite(Store::from_object_store(faulty::Faulty::never())).await;
}

async fn what_a_session_takes_back_is_gone_and_nothing_else(store: &Store) {
    let salted = |seed: u8| {
        let options = Options {
            pack_bytes: 256 << 10,
            seed: Some([seed; 32]),
            ..Options::default()
        };
        Storage::new(store.clone(), options)
    };
    let count = || async {
        let objects: Vec<_> = store.object_store().list(None).try_collect().await.unwrap();
        objects.len()
    };
    let bytes = noise(77, 1 << 20);
    let (kept, other) = (salted(1), salted(2));
    let before = count().await;
    let writer = kept.writer();
    let file = writer.write_file(&bytes[..], false).await.unwrap();
    writer.flush().await.unwrap();
    let entries = encode_entries(&[(path("f"), file)]).unwrap();
    let between = count().await;
    assert!(between > before);

    // The same content by another process and by another session of this one, flushed and not.
    for storage in [&other, &kept] {
        let writer = storage.writer();
        writer.write_file(&bytes[..], false).await.unwrap();
        writer.flush().await.unwrap();
        writer.write_file(&noise(78, 400 << 10)[..], false).await.unwrap();
        assert!(count().await > between);
        writer.discard().await.unwrap();
        assert!(writer.write_bytes(bytes.clone(), false).await.is_err(), "it is over");
    }

    assert_eq!(count().await, between);
    let (_, file) = decode_entries(&entries).unwrap().remove(0);
    assert_eq!(read(&open(store), &file, 0, u64::MAX).await, bytes);
}
