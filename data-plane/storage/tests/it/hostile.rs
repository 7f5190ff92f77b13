//! Bytes from a database column that are not what was stored there, and texts that are no paths.

use proptest::prelude::*;
use storage::{Digest, FilePath, PathError, TreeRef, decode_entries, encode_entries};

use crate::samples::{files_of, memory, path, tree_of};

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
