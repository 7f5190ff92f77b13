//! The files of a directory beside the list of files that it should hold, both in the order of their paths' bytes, so that
//! neither is held as a whole and the first difference is found first.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use contract::api::ListedFile;
use contract::record::RecordDigest;

use super::bundle::wrong;
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
        format!("cannot read {}", at.display()),
        error,
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
        let metadata = fs::metadata(&at).map_err(|e| unread(&at, e))?;
        if metadata.len() != listed.size_bytes || digest(&at).map_err(|e| unread(&at, e))? != listed.digest {
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

fn digest(at: &Path) -> io::Result<RecordDigest> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(fs::File::open(at)?)?;
    Ok(RecordDigest::new(*hasher.finalize().as_bytes()))
}
