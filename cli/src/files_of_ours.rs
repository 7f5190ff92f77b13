//! Small files that belong to us: written whole or not at all, readable by their owner only.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::failure::{Outcome, io};

/// Makes a directory (and those above it) that only its owner can enter.
///
/// # Errors
/// When it cannot be made.
pub fn make_private_directory(path: &Path) -> Outcome {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(io("make", path))
}

/// Replaces a file by one that only its owner can read: a reader sees the old one or the new one.
///
/// # Errors
/// When it cannot be written.
pub fn write(path: &Path, bytes: &[u8]) -> Outcome {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let fresh = path.with_file_name(name);
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .and_then(|()| std::fs::rename(&fresh, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&fresh);
    }
    written.map_err(io("write", path))
}

/// Writes a document.
///
/// # Errors
/// When it cannot be written.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Outcome {
    let mut bytes = serde_json::to_vec_pretty(value)
        .map_err(|e| crate::failure::Failure::new(format!("cannot write {}", path.display()), e, "report this"))?;
    bytes.push(b'\n');
    write(path, &bytes)
}

/// Reads a document; `None` when it is missing or not of that shape.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// Opens a file to lock it.
///
/// # Errors
/// When it cannot be opened.
pub fn open_lock(path: &Path) -> Outcome<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(io("open", path))
}
