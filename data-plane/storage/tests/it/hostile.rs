//! Bytes from a database column that are not what was stored there, and texts that are no paths.

use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use proptest::prelude::*;
use storage::{Digest, FilePath, Options, PathError, Storage, Store, TreeRef, decode_entries, encode_entries};

use crate::samples::{files_of, memory, noise, path, tree_of};

async fn stored() -> (Vec<u8>, Vec<u8>) {
    let storage = memory();
    let tree = tree_of(&storage, &[("a/b", b"1"), ("a/c", b"22"), ("d", b"")]).await;
    let files: Vec<_> = files_of(&storage, &tree).await.into_iter().collect();
    (tree.to_bytes().unwrap(), encode_entries(&files).unwrap())
}

#[tokio::test]
async fn each_truncation_of_a_stored_reference_is_an_error() {
    let (tree, entries) = stored().await;
    for length in 0..tree.len() {
        assert!(TreeRef::from_bytes(&tree[..length]).is_err());
    }
    for length in 0..entries.len() {
        assert!(decode_entries(&entries[..length]).is_err());
    }
    assert!(TreeRef::from_bytes(&[tree, vec![0]].concat()).is_err());
    assert_eq!(decode_entries(&entries).unwrap().len(), 3);
}

#[tokio::test]
async fn every_mutation_of_a_stored_reference_is_an_error_or_says_no_more_than_its_bytes_can() {
    let (tree, entries) = stored().await;
    let mutations = |sample: &[u8]| -> Vec<Vec<u8>> {
        (0..sample.len())
            .flat_map(|at| [0, 1, 2, 0x7f, 0x80, 0xff].map(|byte| (at, byte)))
            .map(|(at, byte)| [&sample[..at], &[byte], &sample[at + 1..]].concat())
            .collect()
    };
    for mutated in mutations(&tree) {
        if let Ok(read) = TreeRef::from_bytes(&mutated) {
            assert_eq!(TreeRef::from_bytes(&read.to_bytes().unwrap()).unwrap(), read);
        }
    }
    for mutated in mutations(&entries) {
        let Ok(read) = decode_entries(&mutated) else { continue };
        assert!(read.len() * 36 <= mutated.len());
        assert_eq!(decode_entries(&encode_entries(&read).unwrap()).unwrap(), read);
    }
}

/// A pack that claims to be nearly all index, and references into packs at places where nothing is.
#[tokio::test]
async fn hostile_packs_are_damage_and_cost_nothing() {
    let store = Store::memory();
    let storage = Storage::new(store.clone(), Options::default());
    let tree = tree_of(&storage, &[("a", &noise(1, 5_000)), ("b", b"2")]).await;
    let tree = TreeRef::from_bytes(&tree.to_bytes().unwrap()).unwrap();
    let pack = storage.packs().try_next().await.unwrap().unwrap();
    let place = object_store::path::Path::from(format!("packs/{}", pack.id));
    let whole = store.object_store().get(&place).await.unwrap().bytes().await.unwrap();
    let trailer = whole.len() - 48;
    for length in [0, 1, trailer as u64, trailer as u64 + 1, 1 << 40, u64::MAX] {
        let mut hostile = whole.to_vec();
        hostile[trailer..trailer + 8].copy_from_slice(&length.to_le_bytes());
        store.object_store().put(&place, hostile.into()).await.unwrap();
        let cold = Storage::new(store.clone(), Options::default());
        let found = cold.verify(&tree, true).await.unwrap();
        assert!(!found.is_empty(), "an index of {length} bytes");
    }
    store.object_store().put(&place, whole.clone().into()).await.unwrap();
    let stored = tree.to_bytes().unwrap();
    for at in 0..stored.len() {
        let mut mutated = stored.clone();
        mutated[at] ^= 0x55;
        let Ok(hostile) = TreeRef::from_bytes(&mutated) else {
            continue;
        };
        let cold = Storage::new(store.clone(), Options::default());
        match cold.list(&hostile, None, None).try_collect::<Vec<_>>().await {
            // Only the counts of a reference are not covered by its digest.
            Ok(files) => assert!(files.len() == 2 && (hostile.files(), hostile.bytes()) != (2, 5_001)),
            Err(error) => assert!(error.is_damage(), "{error}"),
        }
    }
}

proptest! {
    #[test]
    fn random_bytes_never_make_a_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = TreeRef::from_bytes(&bytes);
        let _ = decode_entries(&bytes);
        let versioned = [&[1, 1], &bytes[..]].concat();
        let _ = TreeRef::from_bytes(&versioned);
        let _ = decode_entries(&versioned);
    }

    #[test]
    fn random_texts_are_paths_or_errors_and_parsing_is_stable(text in "\\PC{0,40}|[a/.]{0,12}|/{0,2}[äa\u{308}/]{0,9}") {
        if let Ok(path) = FilePath::parse(&text) {
            prop_assert_eq!(FilePath::parse(path.as_str()), Ok(path.clone()));
            prop_assert_eq!(FilePath::parse(&format!("/{path}")), Ok(path));
        }
    }
}

#[test]
fn paths_are_normalized_and_tricks_refused() {
    assert_eq!(path("/a/b"), path("a/b"));
    assert_eq!(path("a\u{308}").as_str(), "\u{e4}");
    assert_eq!(path("data/*?[x]{y}.tif").name(), "*?[x]{y}.tif");
    for (text, error) in [
        ("", PathError::Empty),
        ("/", PathError::Empty),
        ("a//b", PathError::EmptyPart("a//b".to_owned())),
        ("a/", PathError::EmptyPart("a/".to_owned())),
        ("//a", PathError::EmptyPart("/a".to_owned())),
        ("./a", PathError::DotPart("./a".to_owned())),
        ("a/../b", PathError::DotPart("a/../b".to_owned())),
        ("a\0b", PathError::Nul),
    ] {
        assert_eq!(FilePath::parse(text), Err(error), "{text:?}");
    }
    assert_eq!(FilePath::parse(&"x".repeat(4097)), Err(PathError::TooLong(4097)));
    assert!(FilePath::parse(&"x".repeat(4096)).is_ok());
    assert_eq!(FilePath::parse_bytes(b"\xff"), Err(PathError::NotUtf8));
    assert_eq!(path("a/b/c").parent(), Some(path("a/b")));
    assert_eq!(path("a/b/c").strip_directory(&path("a")), Some("b/c"));
    assert_eq!(path("ab/c").strip_directory(&path("a")), None);
}

#[test]
fn digests_are_hexadecimal_everywhere() {
    let digest = Digest::of(b"howdah");
    let text = digest.to_string();
    assert_eq!(text.parse(), Ok(digest));
    assert_eq!(serde_json::to_string(&digest).unwrap(), format!("\"{text}\""));
    assert_eq!(serde_json::from_str::<Digest>(&format!("\"{text}\"")).unwrap(), digest);
    assert!("abc".parse::<Digest>().is_err());
}
