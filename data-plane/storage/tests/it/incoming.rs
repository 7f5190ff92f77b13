//! Packs that clients build and put into the bucket themselves: the same as the storage's own, and believed only when read.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt};
use packs::pack::{PieceKind, TRAILER_BYTES, decode_index, decode_trailer};
use packs::{Builder, PackKey};
use storage::{DataKey, Digest, IncomingPack, Options, Storage, Store, Taken, Whole};

use crate::samples::noise;
use crate::{moto, s3};

const UPLOAD: &str = "upload";

#[tokio::test]
async fn a_pack_of_a_client_is_byte_for_byte_that_of_the_storage() {
    let objects = Arc::new(object_store::memory::InMemory::new());
    let options = Options {
        seed: Some([3; 32]),
        ..Options::default()
    };
    let file = noise(1, 3 << 20);
    let storage = Storage::new(Store::from_object_store(objects.clone()), options);
    let writer = storage.writer();
    writer.write_bytes(file.clone(), false).await.unwrap();
    writer.settle().await.unwrap();
    let [pack] = &storage.packs().try_collect::<Vec<_>>().await.unwrap()[..] else {
        panic!("one pack is expected");
    };
    let path = format!("packs/{}", pack.id).into();
    let stored = objects.get(&path).await.unwrap().bytes().await.unwrap();
    let (rest, trailer) = stored.split_at(stored.len() - TRAILER_BYTES);
    let (length, _) = decode_trailer(trailer).unwrap();
    let pieces = decode_index(&rest[rest.len() - length as usize..]).unwrap();
    // The list of chunks, which is behind them, is not a client's to write.
    let own: Vec<_> = pieces.iter().filter(|piece| piece.kind == PieceKind::Chunk).collect();

    let mut builder = Builder::with_room(0);
    fill(&mut builder, &file);

    let built: Vec<_> = builder.chunks().to_vec();
    assert_eq!(own.iter().map(|p| (p.length, p.digest)).collect::<Vec<_>>(), built);
    let sealed = builder.seal(pieces[0].digest, None);
    let same = 8 + file.len();
    assert_eq!(sealed.bytes[..same], stored[..same]);
    let incoming = IncomingPack::new(pieces[0].digest, &built).unwrap();
    assert_eq!(
        (incoming.id(), incoming.length()),
        (sealed.id, sealed.bytes.len() as u64)
    );
    assert_eq!(IncomingPack::from_index(&incoming.index()).unwrap().id(), sealed.id);
}

fn fill(builder: &mut Builder, file: &[u8]) {
    let filled = chunks::cut_all(file, |chunk| {
        builder.push(chunk);
        Ok::<(), ()>(())
    });
    filled.unwrap();
}

fn packed(file: &[u8]) -> Builder {
    let mut builder = Builder::with_room(file.len());
    fill(&mut builder, file);
    builder
}

async fn put(url: &str, bytes: Vec<u8>) -> u16 {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    client.put(url).body(bytes).send().await.unwrap().status().as_u16()
}

async fn names(bucket: &Arc<object_store::aws::AmazonS3>) -> Vec<String> {
    let listed: Vec<_> = bucket.list(None).try_collect().await.unwrap();
    listed.into_iter().map(|object| object.location.to_string()).collect()
}

async fn is_taken_over_when_every_byte_is_right(endpoint: &str, key: Option<DataKey>) {
    let bucket = s3::amazon(endpoint);
    let store = Store::from_object_store(bucket.clone()).with_signer(bucket.clone());
    let storage = Storage::new(store.unlocked(key).await.unwrap(), Options::default());
    let file = noise(2, 2 << 20);
    for (what, change) in [
        ("a byte", Some(100_000)),
        ("the header", Some(0)),
        ("the index", Some((2 << 20) + 20)),
        ("nothing", None),
    ] {
        let builder = packed(&file);
        let salt = Digest::of(what.as_bytes());
        let pack = IncomingPack::new(salt, builder.chunks()).unwrap();
        let (url, key) = storage.place(UPLOAD, &pack, Duration::from_secs(60)).await.unwrap();
        assert_eq!(storage.incoming_size(UPLOAD, pack.id()).await.unwrap(), None);
        let key = key.map(|key| PackKey::from_hex(&key.to_hex()).unwrap());
        let mut sealed = builder.seal(salt, key.as_ref());
        if let Some(at) = change {
            sealed.bytes[at] ^= 1;
        }
        assert_eq!(sealed.id, pack.id());
        assert_eq!(put(&url, sealed.bytes.clone()).await, 200, "{what}");
        assert_eq!(
            storage.incoming_size(UPLOAD, pack.id()).await.unwrap(),
            Some(pack.length())
        );
        let taken = storage.take_over(UPLOAD, &pack, Whole::default()).await.unwrap();
        let at = format!("packs/{}", pack.id());
        assert_eq!(names(&bucket).await.contains(&at), change.is_none(), "{what}");
        match (taken, change) {
            (Taken::Wrong(_), Some(_)) => continue,
            (Taken::Piece(entry, _), None) => assert!(storage.read_all(&entry).await.unwrap() == file),
            (taken, _) => panic!("{what}: {taken:?}"),
        }
        // Whatever comes by the same request later comes to where nobody reads.
        sealed.bytes[100_000] ^= 1;
        assert_eq!(put(&url, sealed.bytes).await, 200);
        assert!(!names(&bucket).await.iter().all(|name| name.starts_with("packs/")));
    }
    let early = SystemTime::UNIX_EPOCH;
    assert_eq!(storage.remove_incoming_before(early).await.unwrap(), 0);
    let late = storage.store_time().await.unwrap() + Duration::from_secs(3600);
    assert!(storage.remove_incoming_before(late).await.unwrap() > 0);
    assert!(!names(&bucket).await.iter().any(|name| name.starts_with("incoming/")));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_put_is_taken_over_when_every_byte_is_right() {
    let server = s3::Server::start().await;
    is_taken_over_when_every_byte_is_right(&server.endpoint(), None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_put_encrypted_is_taken_over_when_every_byte_is_right() {
    let server = s3::Server::start().await;
    is_taken_over_when_every_byte_is_right(&server.endpoint(), Some(DataKey::new([5; 32]))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_put_into_a_bucket_of_another_make_is_taken_over_too() {
    let server = moto::Server::start();
    is_taken_over_when_every_byte_is_right(server.endpoint(), None).await;
}

#[test]
fn packs_that_cost_more_than_they_bring_are_none() {
    let digest = Digest::of(b"");
    let new = |lengths: &[u32]| {
        let chunks: Vec<_> = lengths.iter().map(|length| (*length, digest)).collect();
        IncomingPack::new(digest, &chunks)
    };
    for lengths in [
        &[][..],
        &[0],
        &[100, 100_000],
        &[40_000, 0],
        &[(256 << 10) + 1],
        &[256 << 10; 257],
    ] {
        assert!(new(lengths).is_err(), "{lengths:?}");
    }
    for lengths in [&[1][..], &[40_000, 5], &[256 << 10; 255]] {
        assert!(new(lengths).is_ok(), "{lengths:?}");
    }
}
