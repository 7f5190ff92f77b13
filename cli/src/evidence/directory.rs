//! The files of a directory beside the list of files that it should hold, both in the order of their paths' bytes, so that
//! neither is held as a whole and the first difference is found first.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use contract::api::ListedFile;
use contract::record::RecordDigest;

use super::bundle::{plain, wrong};
use crate::failure::{Failure, Outcome};

/// Files of a directory, in order.
pub struct Directory {
    top: PathBuf,
    /// What is left of the directories that lead to where it is, the next entry last.
    left: Vec<Vec<Entry>>,
    /// The next file.
    next: Option<String>,
}

struct Entry {
    path: String,
    is_directory: bool,
}

fn unread(at: &Path, error: impl std::fmt::Display) -> Failure {
    Failure::new(
        format!("cannot read {}", plain(at.display())),
        plain(error),
        "check the directory that --data names",
    )
}

impl Directory {
    /// Begins at the first file of it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn new(top: &Path) -> Outcome<Self> {
        let mut directory = Self {
            top: top.to_owned(),
            left: vec![entries(top, "")?],
            next: None,
        };
        directory.advance()?;
        Ok(directory)
    }

    fn advance(&mut self) -> Outcome {
        self.next = None;
        while let Some(entries_left) = self.left.last_mut() {
            match entries_left.pop() {
                None => {
                    self.left.pop();
                }
                Some(entry) if entry.is_directory => {
                    let below = entries(&self.top.join(&entry.path), &format!("{}/", entry.path))?;
                    self.left.push(below);
                }
                Some(entry) => {
                    self.next = Some(entry.path);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Compares the next file with the next one that is listed.
    ///
    /// # Errors
    /// Naming the path where they differ.
    pub fn compare(&mut self, listed: &ListedFile) -> Outcome {
        match &self.next {
            Some(path) if *path == listed.path => {}
            Some(path) if *path < listed.path => return Err(more(path)),
            _ => return Err(wrong(format!("`/{}` is not in the directory", listed.path))),
        }
        let at = self.top.join(&listed.path);
        let (file, metadata) = open(&at)?;
        if metadata.len() != listed.size_bytes
            || digest(file, metadata.len()).map_err(|e| unread(&at, e))? != listed.digest
        {
            return Err(wrong(format!(
                "`/{}` in the directory has another content than in the commit",
                listed.path
            )));
        }
        if (metadata.permissions().mode() & 0o100 != 0) != listed.executable {
            let not = if listed.executable { "not " } else { "" };
            return Err(wrong(format!("`/{}` is {not}executable in the directory", listed.path)));
        }
        self.advance()
    }

    /// Demands that there is no further file.
    ///
    /// # Errors
    /// Naming the first one.
    pub fn finish(self) -> Outcome {
        self.next.map_or(Ok(()), |path| Err(more(&path)))
    }
}

fn more(path: &str) -> Failure {
    wrong(format!("`/{path}` is in the directory and not in the commit"))
}

/// What is right in a directory, last first; a directory stands where what is below it stands.
fn entries(at: &Path, prefix: &str) -> Outcome<Vec<Entry>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(at).map_err(|e| unread(at, e))? {
        let entry = entry.map_err(|e| unread(at, e))?;
        let name = entry.file_name();
        let name = name
            .to_str()
            .ok_or_else(|| unread(&entry.path(), "its name is not UTF-8"))?;
        // A link counts as what it leads to, as it does when it is put.
        let metadata = fs::metadata(entry.path()).map_err(|e| unread(&entry.path(), e))?;
        found.push(Entry {
            path: format!("{prefix}{name}"),
            is_directory: metadata.is_dir(),
        });
    }
    found.sort_by_cached_key(|entry| match entry.is_directory {
        true => format!("{}/", entry.path),
        false => entry.path.clone(),
    });
    found.reverse();
    Ok(found)
}

/// Opens a file, and nothing that is none: a pipe would be waited for, a device may never end.
fn open(at: &Path) -> Outcome<(fs::File, fs::Metadata)> {
    let mut options = fs::OpenOptions::new();
    let options = options.read(true).custom_flags(nix::libc::O_NONBLOCK);
    let file = options.open(at).map_err(|e| unread(at, e))?;
    let metadata = file.metadata().map_err(|e| unread(at, e))?;
    match metadata.is_file() {
        true => Ok((file, metadata)),
        false => Err(unread(at, "it is neither a file nor a directory")),
    }
}

fn digest(file: fs::File, size: u64) -> io::Result<RecordDigest> {
    let mut hasher = blake3::Hasher::new();
    // One that grows meanwhile has another digest.
    hasher.update_reader(file.take(size.saturating_add(1)))?;
    Ok(RecordDigest::new(*hasher.finalize().as_bytes()))
}
