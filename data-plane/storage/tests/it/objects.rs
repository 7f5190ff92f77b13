//! What packs need of an object store, asked of the store itself: conditional creation, ranges, lists longer than a page,
//! uploads in parts, deletions, objects of the greatest size of a pack.

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutPayload};

use crate::samples::noise;

/// A page of an S3 list has at most a thousand.
const MORE_THAN_A_PAGE: usize = 1_050;
/// The least size of a part that is not the last.
const PART_BYTES: usize = 5 << 20;
/// A pack is sealed at 64 MiB at the latest, and has an index behind that.
const LARGEST_PACK_BYTES: usize = (64 << 20) + (1 << 20);

/// All of it, on one store, below `objects/`, which is empty again afterwards.
pub async fn suite(store: &Arc<dyn ObjectStore>) {
    an_object_is_created_once(store).await;
    ranges_are_exact_and_what_is_missing_is_said_to_be(store).await;
    uploads_in_parts_appear_whole_or_not_at_all(store).await;
    the_largest_pack_goes_in_and_out(store).await;
    long_lists_are_complete_and_deletion_empties_them(store).await;
}

fn at(name: &str) -> Path {
    Path::from(format!("objects/{name}"))
}

async fn read(store: &Arc<dyn ObjectStore>, path: &Path) -> Bytes {
    store.get(path).await.unwrap().bytes().await.unwrap()
}

async fn an_object_is_created_once(store: &Arc<dyn ObjectStore>) {
    let path = at("once");
    let create = |text: &'static [u8]| store.put_opts(&path, PutPayload::from_static(text), PutMode::Create.into());
    create(b"first").await.unwrap();
    let second = create(b"second").await.unwrap_err();
    assert!(matches!(second, Error::AlreadyExists { .. }), "{second}");
    assert_eq!(&read(store, &path).await[..], b"first");

    // Of many at once one stays, whole. Not every server tells exactly one that it was the one, and as packs of one name are
    // equal, nothing depends on it.
    let contested = at("contested");
    let tries = (0..8u64).map(|number| {
        let (store, path) = (Arc::clone(store), contested.clone());
        tokio::spawn(async move {
            let payload = PutPayload::from(noise(number, 1_000));
            let made = store.put_opts(&path, payload, PutMode::Create.into()).await;
            (number, made)
        })
    });
    let mut winners = Vec::new();
    for tried in tries.collect::<Vec<_>>() {
        match tried.await.unwrap() {
            (number, Ok(_)) => winners.push(number),
            (_, Err(error)) => assert!(matches!(error, Error::AlreadyExists { .. }), "{error}"),
        }
    }
    let stays = read(store, &contested).await;
    assert!(
        winners.iter().any(|winner| noise(*winner, 1_000) == stays),
        "{winners:?} were told that theirs is there"
    );

    store.put(&path, PutPayload::from_static(b"replaced")).await.unwrap();
    assert_eq!(&read(store, &path).await[..], b"replaced");
    for path in [path, contested] {
        store.delete(&path).await.unwrap();
    }
}

async fn ranges_are_exact_and_what_is_missing_is_said_to_be(store: &Arc<dyn ObjectStore>) {
    let (path, bytes) = (at("ranges"), noise(1, 10_000));
    store.put(&path, PutPayload::from(bytes.clone())).await.unwrap();
    for (from, to) in [(0, 1), (0, 10_000), (9_999, 10_000), (4_095, 4_097)] {
        let found = store.get_range(&path, from..to).await.unwrap();
        assert_eq!(found, bytes[from as usize..to as usize], "{from}..{to}");
    }
    // Short or an error, never something else.
    if let Ok(found) = store.get_range(&path, 9_000..20_000).await {
        assert_eq!(found, bytes[9_000..]);
    }
    if let Ok(found) = store.get_range(&path, 20_000..20_010).await {
        assert!(found.is_empty());
    }
    let head = store.head(&path).await.unwrap();
    assert_eq!(head.size, 10_000);
    store.put(&path, PutPayload::from(bytes.clone())).await.unwrap();
    let later = store.head(&path).await.unwrap();
    assert!(later.last_modified >= head.last_modified, "its clock goes backwards");

    let nowhere = at("nowhere");
    for error in [
        store.get_range(&nowhere, 0..5).await.unwrap_err(),
        store.head(&nowhere).await.unwrap_err(),
    ] {
        assert!(matches!(error, Error::NotFound { .. }), "{error}");
    }
    let again = store.delete(&nowhere).await;
    assert!(matches!(again, Ok(()) | Err(Error::NotFound { .. })), "{again:?}");
    store.delete(&path).await.unwrap();
}

async fn uploads_in_parts_appear_whole_or_not_at_all(store: &Arc<dyn ObjectStore>) {
    let (path, bytes) = (at("parts"), noise(2, 2 * PART_BYTES + 12_345));
    let mut upload = store.put_multipart(&path).await.unwrap();
    for part in bytes.chunks(PART_BYTES) {
        upload.put_part(PutPayload::from(bytes.slice_ref(part))).await.unwrap();
    }
    assert!(
        matches!(store.head(&path).await, Err(Error::NotFound { .. })),
        "too early"
    );
    upload.complete().await.unwrap();
    assert_eq!(store.head(&path).await.unwrap().size, bytes.len() as u64);
    let across = PART_BYTES as u64 - 10..PART_BYTES as u64 + 10;
    let found = store.get_range(&path, across).await.unwrap();
    assert_eq!(found, bytes[PART_BYTES - 10..PART_BYTES + 10]);
    assert!(
        read(store, &path).await == bytes,
        "the parts are put together in another order"
    );
    store.delete(&path).await.unwrap();

    let mut given_up = store.put_multipart(&path).await.unwrap();
    given_up.put_part(PutPayload::from_static(b"half")).await.unwrap();
    given_up.abort().await.unwrap();
    assert!(matches!(store.head(&path).await, Err(Error::NotFound { .. })));
}

async fn the_largest_pack_goes_in_and_out(store: &Arc<dyn ObjectStore>) {
    let (path, bytes) = (at("large"), noise(3, LARGEST_PACK_BYTES));
    // As packs are put: of many parts.
    let payload: PutPayload = bytes.chunks(1 << 20).map(|part| bytes.slice_ref(part)).collect();
    store.put_opts(&path, payload, PutMode::Create.into()).await.unwrap();
    let end = bytes.len() as u64;
    for (from, to) in [(0, 100), (end / 2, end / 2 + (2 << 20)), (end - 48, end)] {
        let found = store.get_range(&path, from..to).await.unwrap();
        assert!(found == bytes[from as usize..to as usize], "{from}..{to}");
    }
    store.delete(&path).await.unwrap();
}

async fn long_lists_are_complete_and_deletion_empties_them(store: &Arc<dyn ObjectStore>) {
    let name = |number: usize| at(&format!("many/{number:05}"));
    futures::stream::iter(0..MORE_THAN_A_PAGE)
        .map(|number| {
            let (store, path) = (Arc::clone(store), name(number));
            async move { store.put(&path, PutPayload::from_static(b"x")).await }
        })
        .buffer_unordered(16)
        .try_for_each(|_| async { Ok(()) })
        .await
        .unwrap();
    let prefix = at("many");
    let listed: Vec<_> = store.list(Some(&prefix)).try_collect().await.unwrap();
    let mut found: Vec<Path> = listed.iter().map(|object| object.location.clone()).collect();
    found.sort();
    assert_eq!(found.len(), MORE_THAN_A_PAGE);
    assert!(found.iter().cloned().eq((0..MORE_THAN_A_PAGE).map(name)));
    assert!(listed.iter().all(|object| object.size == 1));

    let found = futures::stream::iter(found).map(Ok).boxed();
    let deleted: Vec<Path> = store.delete_stream(found).try_collect().await.unwrap();
    assert_eq!(deleted.len(), MORE_THAN_A_PAGE);
    let left: Vec<_> = store.list(Some(&Path::from("objects"))).try_collect().await.unwrap();
    assert_eq!(left, []);
}
