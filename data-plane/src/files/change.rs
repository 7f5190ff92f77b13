//! Changes to the files of a commit: what one request wants, in order, how it stands in a row of `filesets`, and how it
//! becomes changes of a tree.

use std::collections::BTreeMap;

use futures::TryStreamExt;
use storage::{
    FileEntry, FilePath, Storage, StorageError, TreeChange, TreeRef, Writer, decode_entries, encode_entries,
};
use tokio_util::io::StreamReader;

use crate::failure::{Answer, Failure};

const VERSION: u8 = 1;
const PUT: u8 = 1;
const APPEND: u8 = 2;
const DELETE: u8 = 3;

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileChange {
    /// The file at this path becomes this one.
    Put(FilePath, FileEntry),
    /// The content is put behind that of the file at this path, or becomes the file where there is none.
    Append(FilePath, FileEntry),
    /// The file, or the directory with everything below it, goes away.
    Delete(FilePath),
}

impl FileChange {
    fn tag(&self) -> u8 {
        match self {
            Self::Put(..) => PUT,
            Self::Append(..) => APPEND,
            Self::Delete(..) => DELETE,
        }
    }
}

/// Changes as a row of `filesets`: runs of one kind, each with its length in front.
///
/// # Errors
/// When the bytes of an entry are not durable yet.
pub fn encode(changes: &[FileChange]) -> Answer<Vec<u8>> {
    let mut out = vec![VERSION];
    for run in changes.chunk_by(|a, b| a.tag() == b.tag()) {
        let tag = run[0].tag();
        let bytes = if tag == DELETE {
            let paths: Vec<&str> = run
                .iter()
                .map(|c| match c {
                    FileChange::Put(p, _) | FileChange::Append(p, _) | FileChange::Delete(p) => p.as_str(),
                })
                .collect();
            // No path holds a NUL.
            paths.join("\0").into_bytes()
        } else {
            let entries: Vec<(FilePath, FileEntry)> = run
                .iter()
                .filter_map(|c| match c {
                    FileChange::Put(p, e) | FileChange::Append(p, e) => Some((p.clone(), e.clone())),
                    FileChange::Delete(_) => None,
                })
                .collect();
            encode_entries(&entries)?
        };
        out.push(tag);
        out.extend((bytes.len() as u64).to_le_bytes());
        out.extend(bytes);
    }
    Ok(out)
}

/// Reads [`encode`].
///
/// # Errors
/// `corrupt` when the bytes are something else.
pub fn decode(bytes: &[u8]) -> Answer<Vec<FileChange>> {
    let damaged = || {
        Failure::from(StorageError::Undecodable {
            what: "fileset",
            why: "it is cut off or of a newer version".to_owned(),
        })
    };
    let (version, mut rest) = bytes.split_first().ok_or_else(damaged)?;
    if *version != VERSION {
        return Err(damaged());
    }
    let mut changes = Vec::new();
    while let Some((tag, behind)) = rest.split_first() {
        let (length, behind) = behind.split_first_chunk::<8>().ok_or_else(damaged)?;
        let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| damaged())?;
        let (run, behind) = behind.split_at_checked(length).ok_or_else(damaged)?;
        rest = behind;
        match *tag {
            PUT => changes.extend(decode_entries(run)?.into_iter().map(|(p, e)| FileChange::Put(p, e))),
            APPEND => changes.extend(decode_entries(run)?.into_iter().map(|(p, e)| FileChange::Append(p, e))),
            DELETE => {
                for path in run.split(|b| *b == 0) {
                    let path = FilePath::parse_bytes(path).map_err(|_| damaged())?;
                    changes.push(FileChange::Delete(path));
                }
            }
            _ => return Err(damaged()),
        }
    }
    Ok(changes)
}

/// What stands at a path after the changes so far.
#[derive(Default)]
struct Overlay {
    files: BTreeMap<FilePath, FileEntry>,
    deleted: Vec<FilePath>,
}

impl Overlay {
    fn put(&mut self, path: FilePath, entry: FileEntry) {
        self.files.insert(path, entry);
    }

    fn delete(&mut self, path: FilePath) {
        self.files
            .retain(|p, _| *p != path && p.strip_directory(&path).is_none());
        self.deleted.push(path);
    }

    async fn get(&self, storage: &Storage, base: &TreeRef, path: &FilePath) -> Answer<Option<FileEntry>> {
        if let Some(entry) = self.files.get(path) {
            return Ok(Some(entry.clone()));
        }
        let gone = |d: &FilePath| d == path || path.strip_directory(d).is_some();
        if self.deleted.iter().any(gone) {
            return Ok(None);
        }
        Ok(storage.get(base, path).await?)
    }
}

/// The changes of the tree `base` that these changes are: what is appended gets the content that stands there.
///
/// # Errors
/// When storage fails.
pub async fn against(
    storage: &Storage,
    writer: &Writer,
    base: &TreeRef,
    changes: &[FileChange],
) -> Answer<Vec<TreeChange>> {
    let appends = changes.iter().any(|c| matches!(c, FileChange::Append(..)));
    let mut overlay = Overlay::default();
    let mut out = Vec::with_capacity(changes.len());
    for change in changes {
        match change {
            FileChange::Put(path, entry) => {
                if appends {
                    overlay.put(path.clone(), entry.clone());
                }
                out.push(TreeChange::Put(path.clone(), entry.clone()));
            }
            FileChange::Delete(path) => {
                if appends {
                    overlay.delete(path.clone());
                }
                out.push(TreeChange::Delete(path.clone()));
            }
            FileChange::Append(path, piece) => {
                let whole = match overlay.get(storage, base, path).await? {
                    None => piece.clone(),
                    Some(before) => {
                        let bytes = storage.read(piece, 0..piece.size).map_err(std::io::Error::other);
                        writer.append(&before, StreamReader::new(bytes)).await?
                    }
                };
                overlay.put(path.clone(), whole.clone());
                out.push(TreeChange::Put(path.clone(), whole));
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> FilePath {
        FilePath::parse(text).unwrap()
    }

    fn file(text: &'static str) -> FileEntry {
        FileEntry::embedded(text.into(), false)
    }

    #[test]
    fn changes_survive_the_round_trip_through_a_row_in_their_order() {
        let changes = [
            FileChange::Put(path("a"), file("1")),
            FileChange::Put(path("b"), file("2")),
            FileChange::Delete(path("d/e")),
            FileChange::Delete(path("\u{fc}")),
            FileChange::Put(path("a"), file("")),
            FileChange::Append(path("a"), file("3")),
        ];
        let bytes = encode(&changes).unwrap();
        assert_eq!(decode(&bytes).unwrap(), changes);
        assert_eq!(decode(&encode(&[]).unwrap()).unwrap(), []);
        for cut in [0, 2, 5, bytes.len() - 1] {
            assert!(decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }
}
