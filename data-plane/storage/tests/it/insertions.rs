//! What is stored anew when a large file changes a little: the chunks at the change, and the few blocks that list them.

use bytes::Bytes;
use futures::TryStreamExt;
use storage::{Options, Storage, Store};

use crate::samples::noise;

async fn stored_bytes(store: &Store) -> u64 {
    let objects: Vec<_> = store.object_store().list(None).try_collect().await.unwrap();
    objects.iter().map(|object| object.size).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_byte_inserted_into_a_large_file_stores_little_wherever_it_is() {
    const LENGTH: usize = 64 << 20;
    let store = Store::memory();
    let storage = Storage::new(store.clone(), Options::default());
    let bytes = noise(5, LENGTH);
    let writer = storage.writer();
    let mut file = writer.write_file(&bytes[..], false).await.unwrap();
    writer.flush().await.unwrap();
    let mut before = stored_bytes(&store).await;
    assert!(before < LENGTH as u64 * 103 / 100, "{before}");
    let mut content = bytes.to_vec();

    for at in [0, LENGTH / 2, LENGTH - 10] {
        content.insert(at, 42);
        let storage = Storage::new(store.clone(), Options::default());
        let writer = storage.writer();
        let next = writer.write_file_over(&file, &content[..], false).await.unwrap();
        writer.flush().await.unwrap();
        let after = stored_bytes(&store).await;
        assert!(after - before < 500 << 10, "byte {at}: {} bytes more", after - before);
        let read: Vec<Bytes> = storage.read(&next, 0..u64::MAX).try_collect().await.unwrap();
        assert!(read.concat() == content, "byte {at}");
        (before, file) = (after, next);
    }
}
