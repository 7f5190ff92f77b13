//! Finds the sources: every file that git would keep, by walking the tree and leaving out what is built.

use std::fs;
use std::path::{Path, PathBuf};

/// A source file: its path from the top of the tree, with `/`, and its text.
pub struct Source {
    pub path: String,
    pub text: String,
}

/// The top of the tree.
pub fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ lies in the tree")
        .to_owned()
}

/// All Rust sources.
pub fn rust() -> Vec<Source> {
    let mut found = Vec::new();
    walk(&top(), &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(
        found.len() > 20,
        "only {} sources were found: the walk looks in the wrong place",
        found.len()
    );
    found
}

fn walk(folder: &Path, found: &mut Vec<Source>) {
    for entry in fs::read_dir(folder)
        .expect("a folder of the tree can be read")
        .flatten()
    {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') || name == "target" || name == "node_modules" {
            continue;
        }
        if path.is_dir() {
            walk(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = fs::read_to_string(&path).expect("a source can be read");
            let path = path
                .strip_prefix(top())
                .expect("it lies in the tree")
                .to_string_lossy()
                .into_owned();
            found.push(Source { path, text });
        }
    }
}

/// Whether a file is a test: another length and other habits are usual there.
pub fn is_test(path: &str) -> bool {
    path.contains("/tests/") || path.starts_with("tests/") || path.ends_with("/tests.rs") || path.contains("/benches/")
}
