//! `get -r` over connections that break.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::json;

use crate::scripted::{self, Asked, howdah};
use crate::text;

/// In the order of the tree: `/d/…`.
const FILES: [(&str, usize); 6] = [
    ("a", 10),
    ("b/large", 300_000),
    ("b/small", 600),
    ("c", 0),
    ("e/f/g", 1_000),
    ("z", 3),
];

fn content(name: &str, size: usize) -> Vec<u8> {
    name.bytes().cycle().take(size).collect()
}

fn archive_of(files: &[(&str, usize)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, size) in files {
        let mut head = tar::Header::new_gnu();
        head.set_size(*size as u64);
        head.set_mode(0o644);
        archive.append_data(&mut head, name, &content(name, *size)[..]).unwrap();
    }
    archive.into_inner().unwrap()
}

/// The archive of what comes behind that path.
fn archive(after: Option<&str>) -> Vec<u8> {
    let behind = |name: &str| after.is_none_or(|after| format!("/d/{name}").as_str() > after);
    let files: Vec<_> = FILES.into_iter().filter(|(name, _)| behind(name)).collect();
    archive_of(&files)
}

/// Says of an archive as many bytes as there are, and sends only so many of them.
fn broken_off(archive: &[u8], sent: usize) -> Vec<u8> {
    let length = archive.len();
    let mut said = format!("HTTP/1.1 200 x\r\ncontent-length: {length}\r\n\r\n").into_bytes();
    said.extend_from_slice(&archive[..sent.min(length)]);
    said
}

fn listing() -> Vec<u8> {
    let line = |(name, size): (&str, usize)| {
        let digest = blake3::hash(&content(name, size)).to_hex().to_string();
        let path = format!("/d/{name}");
        json!({"path": path, "kind": "file", "size_bytes": size, "digest": digest, "executable": false, "files": 1})
    };
    scripted::json(200, &json!({"items": FILES.map(line), "next_cursor": null}))
}

/// A service whose archives break off after so many bytes, but each file that is the first of one is sent whole; and the
/// `after` of all requests.
fn service(bytes: usize) -> (String, Arc<Mutex<Vec<Option<String>>>>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = asked.clone();
    let url = scripted::start(move |asked: &Asked| {
        if asked.is("GET /v1/commits") {
            assert_eq!(asked.query("ref").unwrap(), "default/images@main");
            return scripted::json(200, &scripted::commit());
        }
        let pinned = "default/images@0190b6a2000070008000000000000001";
        assert_eq!(asked.query("ref").unwrap(), pinned);
        if asked.is("GET /v1/files") {
            return listing();
        }
        assert!(asked.is("GET /v1/archive"), "{}", asked.line);
        let after = asked.query("after");
        seen.lock().unwrap().push(after.clone());
        broken_off(&archive(after.as_deref()), bytes)
    });
    (url, asked)
}

fn holds_everything(directory: &Path) {
    let mut found = BTreeMap::new();
    let mut left = vec![directory.to_path_buf()];
    while let Some(at) = left.pop() {
        for entry in std::fs::read_dir(at).unwrap().map(Result::unwrap) {
            match entry.file_type().unwrap().is_dir() {
                true => left.push(entry.path()),
                false => {
                    let name = entry.path().strip_prefix(directory).unwrap().display().to_string();
                    found.insert(name, std::fs::read(entry.path()).unwrap());
                }
            }
        }
    }
    let expected: BTreeMap<_, _> = FILES
        .iter()
        .map(|(name, size)| ((*name).to_owned(), content(name, *size)))
        .collect();
    assert!(found == expected, "{:?}", found.keys());
}

#[test]
fn a_directory_whose_connection_breaks_goes_on_behind_the_last_whole_file_of_the_same_commit() {
    let (home, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    // The large file fits, what follows it is cut in the middle.
    let (url, asked) = service(301_700);
    let args = ["get", "images@main:/d", "-r", "-o", "to"];
    let output = howdah(&url, home.path(), files.path(), &args).output().unwrap();

    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("continuing"), "{said}");
    assert_eq!(text(&output.stdout), "6 files in to\n");
    holds_everything(&files.path().join("to"));
    let asked = asked.lock().unwrap();
    assert_eq!(
        *asked,
        [None, Some("/d/b/large".to_owned())],
        "what was cut comes again"
    );
}

#[test]
fn a_directory_of_which_nothing_more_comes_is_given_up_and_leaves_no_piece_of_a_file() {
    let (home, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (url, asked) = service(200_000);
    let args = ["get", "images@main:/d", "-r", "-o", "to"];
    let output = howdah(&url, home.path(), files.path(), &args).output().unwrap();

    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("--continue"), "{said}");
    assert!(asked.lock().unwrap().len() < 10);
    let left = |at: &str| std::fs::read_dir(files.path().join(at)).unwrap().count();
    assert_eq!(
        (left("to"), left("to/b")),
        (2, 0),
        "the first file, and an empty directory"
    );
}

#[test]
fn a_directory_that_was_begun_is_continued_where_it_is_not_the_same() {
    let (home, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (url, asked) = service(usize::MAX);
    let to = files.path().join("to");
    let get = || {
        let args = ["get", "images@main:/d/", "-r", "-o", "to", "--continue"];
        let output = howdah(&url, home.path(), files.path(), &args).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert_eq!(text(&output.stdout), "6 files in to\n");
        holds_everything(&to);
        asked.lock().unwrap().pop().unwrap()
    };
    assert_eq!(get(), None, "nothing was there");
    assert_eq!(get().as_deref(), Some("/d/z"), "everything was there");
    // Of the same size, but not the same.
    std::fs::write(to.join("b/small"), content("other", 600)).unwrap();
    assert_eq!(get().as_deref(), Some("/d/b/large"));
    std::fs::remove_file(to.join("e/f/g")).unwrap();
    assert_eq!(get().as_deref(), Some("/d/c"));
    std::fs::remove_file(to.join("b/large")).unwrap();
    std::os::unix::fs::symlink(to.join("z"), to.join("b/large")).unwrap();
    assert_eq!(get().as_deref(), Some("/d/a"), "a link is not the file");
}

#[test]
fn a_refusal_in_the_middle_ends_the_command_at_once() {
    let (home, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let archives = AtomicUsize::new(0);
    let url = scripted::start(move |asked: &Asked| match asked.is("GET /v1/archive") {
        false => scripted::json(200, &scripted::commit()),
        true if archives.fetch_add(1, Ordering::SeqCst) == 0 => broken_off(&archive(None), 200_000),
        true => scripted::problem(403, "not-allowed"),
    });
    let args = ["get", "images@main:/d", "-r", "-o", "to"];
    let output = howdah(&url, home.path(), files.path(), &args).output().unwrap();
    assert_eq!(output.status.code(), Some(4), "{}", text(&output.stderr));
}

#[test]
fn a_large_file_of_a_directory_goes_on_in_its_middle_however_often_the_connection_breaks() {
    let (home, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let all = [("a", 10), ("large", 3_000_000), ("z", 3)];
    let pieces = Arc::new(AtomicUsize::new(0));
    let counted = pieces.clone();
    let url = scripted::start(move |asked: &Asked| {
        if asked.is("GET /v1/commits") {
            return scripted::json(200, &scripted::commit());
        }
        if asked.is("GET /v1/archive") {
            let after = asked.query("after").unwrap_or_default();
            let behind: Vec<_> = all
                .into_iter()
                .filter(|(name, _)| format!("/d/{name}") > after)
                .collect();
            return broken_off(&archive_of(&behind), 1_000_000);
        }
        assert!(asked.is("GET /v1/content"), "{}", asked.line);
        assert_eq!(asked.query("path").unwrap(), "/d/large");
        counted.fetch_add(1, Ordering::SeqCst);
        let rest = &content("large", 3_000_000)[asked.from..];
        let (status, length) = (if asked.from > 0 { 206 } else { 200 }, rest.len());
        let mut said = format!("HTTP/1.1 {status} x\r\netag: \"x\"\r\ncontent-length: {length}\r\n\r\n").into_bytes();
        said.extend_from_slice(&rest[..length.min(300_000)]);
        said
    });
    let args = ["get", "images@main:/d", "-r", "-o", "to"];
    let output = howdah(&url, home.path(), files.path(), &args).output().unwrap();
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(text(&output.stdout), "3 files in to\n");
    for (name, size) in all {
        let at = files.path().join("to").join(name);
        assert!(std::fs::read(at).unwrap() == content(name, size), "{name}");
    }
    assert!(pieces.load(Ordering::SeqCst) >= 10);
}
