//! Changes to the files of a commit: what one request wants, in order, how it stands in a row of `filesets`, and how it
//! becomes changes of a tree.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Bound;

use futures::{StreamExt, TryStreamExt};
use storage::{
    FileEntry, FilePath, Storage, StorageError, TreeChange, TreeRef, Writer, decode_entries, encode_entries,
};
use tokio_util::io::StreamReader;

use crate::failure::{Answer, Failure};

const VERSION: u8 = 1;
const PUT: u8 = 1;
const APPEND: u8 = 2;
const DELETE: u8 = 3;
const CLEAR: u8 = 4;
const TREE: u8 = 5;

/// So many changes of one request are held in memory; fewer when there are many uploads.
const HELD_MAX: usize = 32 << 10;
const HELD_MIN: usize = 1 << 10;

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileChange {
    /// The file at this path becomes this one.
    Put(FilePath, FileEntry),
    /// The content is put behind that of the file at this path, or becomes the file where there is none.
    Append(FilePath, FileEntry),
    /// The file, or the directory with everything below it, goes away.
    Delete(FilePath),
    /// Everything goes away, also what the same open commit was given before.
    Clear,
    /// Every file of this tree is put: how more files are put than should be held in memory.
    Tree(TreeRef),
}

/// How many changes of one request may be held in memory now.
pub fn held_most(storage: &Storage) -> usize {
    storage.part(HELD_MIN, HELD_MAX)
}

impl FileChange {
    fn tag(&self) -> u8 {
        match self {
            Self::Put(..) => PUT,
            Self::Append(..) => APPEND,
            Self::Delete(..) => DELETE,
            Self::Clear => CLEAR,
            Self::Tree(..) => TREE,
        }
    }
}

/// Files that are put, in order, as few of them in memory as may be however many there are.
pub struct Puts<'a> {
    storage: &'a Storage,
    writer: &'a Writer,
    /// Those that came first.
    tree: TreeRef,
    rest: Vec<FileChange>,
    /// A path that two of them are to, if both are in `tree`.
    twice: Option<FilePath>,
}

impl<'a> Puts<'a> {
    /// None yet; their bytes are with `writer`.
    pub fn new(storage: &'a Storage, writer: &'a Writer) -> Self {
        Self {
            storage,
            writer,
            tree: TreeRef::empty(),
            rest: Vec::new(),
            twice: None,
        }
    }

    /// One more.
    ///
    /// # Errors
    /// `conflict` when a path would be a file and a directory; when storage fails.
    pub async fn push(&mut self, path: FilePath, entry: FileEntry) -> Answer<()> {
        self.rest.push(FileChange::Put(path, entry));
        if self.rest.len() >= held_most(self.storage) {
            let tree = apply(self.storage, self.writer, &self.tree, &self.rest).await?;
            let before = std::mem::replace(&mut self.tree, tree);
            let distinct = self.tree.files().saturating_sub(before.files());
            if self.twice.is_none() && distinct < self.rest.len() as u64 {
                self.twice = self.first_twice(&before).await?;
            }
            self.rest.clear();
        }
        Ok(())
    }

    /// What another list of puts has; nothing else is taken.
    ///
    /// # Errors
    /// As [`Puts::push`].
    pub async fn extend(&mut self, change: FileChange) -> Answer<()> {
        match change {
            FileChange::Put(path, entry) => self.push(path, entry).await,
            FileChange::Tree(tree) => {
                let mut files = self.storage.list(&tree, None, None);
                while let Some((path, entry)) = files.try_next().await? {
                    self.push(path, entry).await?;
                }
                Ok(())
            }
            FileChange::Append(..) | FileChange::Delete(_) | FileChange::Clear => Ok(()),
        }
    }

    /// Whether there are none yet.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty() && self.tree.is_empty()
    }

    /// A path that two of them are to.
    ///
    /// # Errors
    /// When storage fails.
    pub async fn twice(&self) -> Answer<Option<FilePath>> {
        match &self.twice {
            Some(path) => Ok(Some(path.clone())),
            None => self.first_twice(&self.tree).await,
        }
    }

    /// The first of those in memory that has the path of another one, or of a file of this tree.
    async fn first_twice(&self, tree: &TreeRef) -> Answer<Option<FilePath>> {
        let mut paths = HashSet::with_capacity(self.rest.len());
        for change in &self.rest {
            let FileChange::Put(path, _) = change else { continue };
            let known = !tree.is_empty() && self.storage.get(tree, path).await?.is_some();
            if known || !paths.insert(path) {
                return Ok(Some(path.clone()));
            }
        }
        Ok(None)
    }

    /// All of them as changes.
    pub fn changes(self) -> Vec<FileChange> {
        let mut changes = self.rest;
        if !self.tree.is_empty() {
            changes.insert(0, FileChange::Tree(self.tree));
        }
        changes
    }
}

/// Changes as a row of `filesets`: runs of one kind, each with its length in front.
///
/// # Errors
/// When the bytes of an entry are not durable yet.
pub fn encode(changes: &[FileChange]) -> Answer<Vec<u8>> {
    let mut out = vec![VERSION];
    for run in changes.chunk_by(|a, b| a.tag() == b.tag() && a.tag() != TREE) {
        let tag = run[0].tag();
        let bytes = if let FileChange::Tree(tree) = &run[0] {
            tree.to_bytes()?
        } else if tag == CLEAR {
            Vec::new()
        } else if tag == DELETE {
            let paths: Vec<&str> = run
                .iter()
                .filter_map(|c| match c {
                    FileChange::Delete(p) => Some(p.as_str()),
                    _ => None,
                })
                .collect();
            // No path holds a NUL.
            paths.join("\0").into_bytes()
        } else {
            let entries: Vec<(FilePath, FileEntry)> = run
                .iter()
                .filter_map(|c| match c {
                    FileChange::Put(p, e) | FileChange::Append(p, e) => Some((p.clone(), e.clone())),
                    FileChange::Delete(_) | FileChange::Clear | FileChange::Tree(_) => None,
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
            CLEAR if run.is_empty() => changes.push(FileChange::Clear),
            TREE => changes.push(FileChange::Tree(TreeRef::from_bytes(run)?)),
            _ => return Err(damaged()),
        }
    }
    Ok(changes)
}

/// What stands at a path after the changes so far; kept only where something is appended.
#[derive(Default)]
struct Overlay {
    files: BTreeMap<FilePath, FileEntry>,
    deleted: BTreeSet<FilePath>,
    /// What goes behind the content of a file, in order. It is put together once, at the end: a log of ten thousand lines
    /// must not be read ten thousand times.
    pieces: BTreeMap<FilePath, Vec<FileEntry>>,
}

impl Overlay {
    fn put(&mut self, path: FilePath, entry: FileEntry) {
        self.pieces.remove(&path);
        self.files.insert(path, entry);
    }

    fn delete(&mut self, path: FilePath) {
        fn remove<T>(map: &mut BTreeMap<FilePath, T>, path: &FilePath) {
            // `0` follows `/` in the order of bytes.
            let (from, to) = (format!("{path}/"), format!("{path}0"));
            let below: Vec<FilePath> = map
                .range::<str, _>((Bound::Included(from.as_str()), Bound::Excluded(to.as_str())))
                .map(|(below, _)| below.clone())
                .collect();
            map.remove(path);
            for path in below {
                map.remove(&path);
            }
        }
        remove(&mut self.files, &path);
        remove(&mut self.pieces, &path);
        self.deleted.insert(path);
    }

    async fn get(&self, storage: &Storage, base: &TreeRef, path: &FilePath) -> Answer<Option<FileEntry>> {
        if let Some(entry) = self.files.get(path) {
            return Ok(Some(entry.clone()));
        }
        if self.deleted.contains(path) || path.ancestors().any(|above| self.deleted.contains(above)) {
            return Ok(None);
        }
        Ok(storage.get(base, path).await?)
    }

    /// The files that were appended to, whole.
    async fn whole(self, storage: &Storage, writer: &Writer, base: &TreeRef) -> Answer<Vec<TreeChange>> {
        let mut out = Vec::with_capacity(self.pieces.len());
        for (path, pieces) in &self.pieces {
            let mut pieces = pieces.iter().cloned();
            let before = match self.get(storage, base, path).await? {
                None => pieces.next(),
                before => before,
            };
            let Some(mut whole) = before else { continue };
            if pieces.len() > 0 {
                let parts: Vec<_> = pieces.map(|piece| storage.read(&piece, 0..piece.size)).collect();
                let behind = futures::stream::iter(parts).flatten().map_err(std::io::Error::other);
                whole = writer.append(&whole, StreamReader::new(behind)).await?;
            }
            out.push(TreeChange::Put(path.clone(), whole));
        }
        Ok(out)
    }
}

/// The tree that is there after these changes of `base`: what is appended gets the content that stands there. The nodes
/// are with `writer`.
///
/// # Errors
/// `conflict` when a path would be a file and a directory; when storage fails.
pub async fn apply(storage: &Storage, writer: &Writer, base: &TreeRef, changes: &[FileChange]) -> Answer<TreeRef> {
    // Nothing in front of the last `Clear` counts.
    let clear = changes.iter().rposition(|c| *c == FileChange::Clear);
    let changes = clear.map_or(changes, |at| &changes[at + 1..]);
    let empty = TreeRef::empty();
    let mut tree = if clear.is_some() { &empty } else { base }.clone();
    for run in changes.split_inclusive(|change| matches!(change, FileChange::Tree(_))) {
        let (list, put) = match run.split_last() {
            Some((FileChange::Tree(put), list)) => (list, Some(put)),
            _ => (run, None),
        };
        if !list.is_empty() {
            let steps = against(storage, writer, &tree, list).await?;
            tree = storage.apply(writer, &tree, steps).await?;
        }
        if let Some(put) = put {
            tree = put_all(storage, writer, tree, put).await?;
        }
    }
    Ok(tree)
}

/// The tree with every file of another one.
async fn put_all(storage: &Storage, writer: &Writer, mut tree: TreeRef, put: &TreeRef) -> Answer<TreeRef> {
    if tree.is_empty() {
        return Ok(put.clone());
    }
    let mut files = storage.list(put, None, None);
    loop {
        let page = files.by_ref().take(held_most(storage));
        let steps: Vec<_> = page
            .map_ok(|(path, entry)| TreeChange::Put(path, entry))
            .try_collect()
            .await?;
        if steps.is_empty() {
            return Ok(tree);
        }
        tree = storage.apply(writer, &tree, steps).await?;
    }
}

async fn against(
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
                overlay.pieces.entry(path.clone()).or_default().push(piece.clone());
            }
            // Both are dealt with where the list is split.
            FileChange::Clear | FileChange::Tree(_) => {}
        }
    }
    // Behind everything else: whatever came later at one of these paths has taken its pieces away.
    out.extend(overlay.whole(storage, writer, base).await?);
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

    #[tokio::test]
    async fn a_path_that_is_put_twice_is_found_also_where_neither_is_in_memory_any_more() {
        let storage = Storage::new(storage::Store::memory(), storage::Options::default());
        let writer = storage.writer();
        let mut puts = Puts::new(&storage, &writer);
        for n in 0..HELD_MAX - 1 {
            puts.push(path(&format!("d/{n}")), file("x")).await.unwrap();
        }
        assert_eq!(puts.twice().await.unwrap(), None);
        puts.push(path("last"), file("x")).await.unwrap();
        assert_eq!(puts.twice().await.unwrap(), None);
        puts.push(path("d/9"), file("y")).await.unwrap();
        assert_eq!(puts.twice().await.unwrap(), Some(path("d/9")), "one is in memory");
        for n in 1..HELD_MAX {
            puts.push(path(&format!("e/{n}")), file("x")).await.unwrap();
        }
        assert!(puts.rest.is_empty());
        assert_eq!(puts.twice().await.unwrap(), Some(path("d/9")), "neither is");

        let mut puts = Puts::new(&storage, &writer);
        for n in 0..HELD_MAX {
            puts.push(path(&format!("d/{}", n.min(HELD_MAX - 2))), file("x"))
                .await
                .unwrap();
        }
        assert!(puts.rest.is_empty());
        let last = format!("d/{}", HELD_MAX - 2);
        assert_eq!(puts.twice().await.unwrap(), Some(path(&last)), "both went at once");
    }

    #[tokio::test]
    async fn more_files_than_are_held_are_put_as_a_tree_and_the_last_of_a_name_wins() {
        let storage = Storage::new(storage::Store::memory(), storage::Options::default());
        let writer = storage.writer();
        let (many, names) = (HELD_MAX + 100, HELD_MAX - 50);
        let mut puts = Puts::new(&storage, &writer);
        let mut expected = BTreeMap::new();
        for n in 0..many {
            let (path, entry) = (
                path(&format!("d/{}", n % names)),
                FileEntry::embedded(n.to_string().into(), false),
            );
            expected.insert(path.clone(), entry.digest);
            puts.push(path, entry).await.unwrap();
        }
        let changes = puts.changes();
        assert!(matches!(changes[0], FileChange::Tree(_)), "some are not in memory");
        assert!(changes.len() < HELD_MAX, "{} are", changes.len());
        writer.flush().await.unwrap();
        let stored = decode(&encode(&changes).unwrap()).unwrap();
        assert_eq!(stored, changes);

        let before = [
            FileChange::Put(path("a"), file("1")),
            FileChange::Put(path("d/1"), file("old")),
        ];
        let base = apply(&storage, &writer, &TreeRef::empty(), &before).await.unwrap();
        expected.insert(path("a"), file("1").digest);
        let behind = [FileChange::Delete(path("d/2"))];
        expected.remove(&path("d/2"));
        let all = [&stored[..], &behind].concat();
        let tree = apply(&storage, &writer, &base, &all).await.unwrap();
        let found = storage
            .list(&tree, None, None)
            .map_ok(|(path, entry)| (path, entry.digest));
        assert_eq!(found.try_collect::<BTreeMap<_, _>>().await.unwrap(), expected);

        let clash = [FileChange::Put(path("d"), file("")), changes[0].clone()];
        assert!(
            apply(&storage, &writer, &TreeRef::empty(), &clash).await.is_err(),
            "a file and a directory"
        );
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
            FileChange::Clear,
            FileChange::Delete(path("a")),
        ];
        let bytes = encode(&changes).unwrap();
        assert_eq!(decode(&bytes).unwrap(), changes);
        assert_eq!(decode(&encode(&[]).unwrap()).unwrap(), []);
        for cut in [0, 2, 5, bytes.len() - 1] {
            assert!(decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }
}
