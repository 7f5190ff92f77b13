//! Stored samples of what the plane keeps in its database. What an earlier version wrote is read for ever; and as long as its format
//! is the one that we write, the same gives the same bytes.

use std::path::Path;

use data_plane::files::change::{FileChange, decode, encode};
use storage::FileEntry;

use crate::samples::{memory, noise, path, tree_of};

/// Every kind of change, several of some in a row, as in a row of `filesets`, `upload_parts` or of an upload.
const CHANGES: &str = "changes-1.hex";

fn stored(name: &str) -> Vec<u8> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    hex::decode(text.trim()).unwrap()
}

async fn changes() -> Vec<FileChange> {
    let storage = memory();
    let writer = storage.writer();
    let large = writer.write_bytes(noise(1, 300_000), true).await.unwrap();
    writer.flush().await.unwrap();
    let small = |text: &'static str| FileEntry::embedded(text.into(), false);
    vec![
        FileChange::Clear,
        FileChange::Put(path("d/large"), large),
        FileChange::Put(path("d/small"), small("here")),
        FileChange::Append(path("log"), small("one line more\n")),
        FileChange::Append(path("log"), small("")),
        FileChange::Delete(path("a/b")),
        FileChange::Delete(path("c")),
        FileChange::Tree(tree_of(&storage, &[("in/a/tree", b"1"), ("in/b", &noise(2, 9_000))]).await),
        FileChange::Tree(storage::TreeRef::empty()),
        FileChange::Put(path("last"), small("last")),
    ]
}

/// What a change says, wherever its bytes lie.
fn said(change: &FileChange) -> String {
    let file = |what: &str, path: &storage::FilePath, entry: &FileEntry| {
        format!("{what} {path} {} {} {}", entry.size, entry.executable, entry.digest)
    };
    match change {
        FileChange::Put(path, entry) => file("put", path, entry),
        FileChange::Append(path, entry) => file("append", path, entry),
        FileChange::Delete(path) => format!("delete {path}"),
        FileChange::Clear => "clear".to_owned(),
        FileChange::Tree(tree) => format!("tree {} {} {}", tree.files(), tree.bytes(), tree.digest()),
    }
}

#[tokio::test]
async fn a_stored_list_of_changes_is_read_and_what_we_write_is_the_same() {
    let bytes = stored(CHANGES);
    let (read, made) = (decode(&bytes).unwrap(), changes().await);
    let all = |changes: &[FileChange]| -> Vec<String> { changes.iter().map(said).collect() };
    assert_eq!(all(&read), all(&made));
    assert_eq!(hex::encode(encode(&made).unwrap()), hex::encode(&bytes));
    assert_eq!(encode(&read).unwrap(), bytes);
}
