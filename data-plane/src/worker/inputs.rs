//! Lays out `/pfs` of one datum: only this datum's files, as links into the cache, below `/pfs/<name>`.

use std::collections::HashSet;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::StreamExt;
use storage::{FileEntry, FilePath, Storage, StorageError, TreeRef};

use super::cache::{Cache, CacheError};
use super::pod::Turn;
use super::protocol::{DatumTask, JobTask};

/// An input of a job, read once for all its datums.
pub struct Tree {
    /// Its name below `/pfs`.
    pub name: String,
    /// Its content.
    pub tree: TreeRef,
    /// Show names only.
    pub empty_files: bool,
    /// Fetch contents when they are read.
    pub lazy: bool,
    /// It is shown at `/code`, from this path in it on.
    pub code: Option<String>,
}

/// A file that a datum sees.
#[derive(Clone)]
pub struct Seen {
    /// The input's name.
    pub name: String,
    /// The path in the repo and below `/pfs/<name>`.
    pub path: FilePath,
    /// The file.
    pub file: FileEntry,
    /// Shown without content.
    pub empty: bool,
    /// Its content is fetched when it is read.
    pub lazy: bool,
}

/// Why a datum could not be laid out. Never the user's fault.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// The bucket.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The cache.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The disk of this machine.
    #[error("laying out `{path}` failed: {source}; check the disk")]
    Disk {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The plane and the bucket do not agree.
    #[error("`{0}` is not in the input commit any more")]
    Missing(String),
}

/// Reads the trees of a job.
pub fn trees(job: &JobTask) -> Result<Vec<Tree>, StorageError> {
    job.inputs
        .iter()
        .map(|input| {
            let bytes = hex::decode(&input.root).unwrap_or_default();
            Ok(Tree {
                name: input.name.clone(),
                tree: TreeRef::from_bytes(&bytes)?,
                empty_files: input.empty_files,
                lazy: input.lazy,
                code: input.code.clone(),
            })
        })
        .collect()
}

/// The files that a datum sees.
pub async fn seen(storage: &Storage, trees: &[Tree], datum: &DatumTask) -> Result<Vec<Seen>, InputError> {
    let mut all = Vec::new();
    for input in &datum.inputs {
        let missing = || InputError::Missing(input.path.clone());
        let tree = trees.get(input.position as usize).ok_or_else(missing)?;
        let see = |path, file| Seen {
            name: tree.name.clone(),
            path,
            file,
            empty: tree.empty_files,
            lazy: tree.lazy,
        };
        let trimmed = input.path.trim_matches('/');
        let prefix = if trimmed.is_empty() {
            None
        } else {
            Some(FilePath::parse(trimmed).map_err(|_| missing())?)
        };
        if let Some(path) = &prefix
            && let Some(file) = storage.get(&tree.tree, path).await?
        {
            all.push(see(path.clone(), file));
            continue;
        }
        let before = all.len();
        let mut files = storage.list(&tree.tree, prefix.as_ref(), None);
        while let Some(file) = files.next().await {
            let (path, file) = file?;
            all.push(see(path, file));
        }
        if all.len() == before && prefix.is_some() {
            return Err(missing());
        }
    }
    Ok(all)
}

/// The directories of one datum on this machine. Those of a pod are the pod's, with one datum in them at a time.
pub struct Place {
    /// All of it.
    pub root: PathBuf,
    /// What becomes `/pfs`.
    pub pfs: PathBuf,
    /// What becomes `/tmp`.
    pub scratch: PathBuf,
    /// What code writes into its image.
    pub writes: PathBuf,
    /// Where what lies in `/pfs/out` can be moved to at once: a directory of the same file system.
    pub aside: PathBuf,
    /// The turn to have a datum in the directories of a pod. Whoever is next empties them first.
    pub turn: Option<Turn>,
}

impl Place {
    /// The place of a datum; nothing is made yet.
    pub fn below(datums: &Path, unique: &str) -> Self {
        let root = datums.join(unique);
        Self {
            pfs: root.join("pfs"),
            scratch: root.join("tmp"),
            writes: root.join("writes"),
            aside: root.clone(),
            turn: None,
            root,
        }
    }

    /// The same, in the directory that a pod's containers share.
    pub fn shared(self, pfs: &Path) -> Self {
        Self {
            pfs: pfs.to_owned(),
            aside: pfs.to_owned(),
            ..self
        }
    }
}

/// Makes the directories and links of a datum.
pub async fn lay_out(
    cache: &Arc<Cache>,
    place: &Place,
    names: &[String],
    seen: &[Seen],
    copy: bool,
) -> Result<(), InputError> {
    for directory in [&place.pfs.join("out"), &place.scratch, &place.writes] {
        std::fs::create_dir_all(directory).map_err(disk(directory))?;
    }
    lay_out_files(cache, &place.pfs, names, seen, copy).await.map(drop)
}

pub(super) fn disk(path: &Path) -> impl FnOnce(io::Error) -> InputError + use<> {
    let path = path.to_owned();
    move |source| InputError::Disk { path, source }
}

/// Makes the directories and links of inputs below a directory; answers the directories.
pub async fn lay_out_files(
    cache: &Arc<Cache>,
    pfs: &Path,
    names: &[String],
    seen: &[Seen],
    copy: bool,
) -> Result<HashSet<PathBuf>, InputError> {
    let mut made: HashSet<PathBuf> = HashSet::new();
    for name in names {
        let directory = pfs.join(name);
        open_directory(&directory).map_err(disk(&directory))?;
        made.insert(directory);
    }
    for one in seen {
        let mut parent = pfs.join(&one.name);
        let to = parent.join(one.path.as_str());
        let parts = one
            .path
            .as_str()
            .rsplit_once('/')
            .map_or("", |(directory, _)| directory);
        for part in parts.split('/').filter(|part| !part.is_empty()) {
            parent.push(part);
            if made.insert(parent.clone()) {
                open_directory(&parent).map_err(disk(&parent))?;
            }
        }
        if one.empty {
            std::fs::write(&to, b"")
                .and_then(|()| std::fs::set_permissions(&to, Permissions::from_mode(0o444)))
                .map_err(disk(&to))?;
        } else {
            link(cache, &one.file, &to, copy).await?;
        }
    }
    Ok(made)
}

/// Makes a directory that user code may look into, whatever umask the worker was started with.
fn open_directory(path: &Path) -> io::Result<()> {
    match std::fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => std::fs::set_permissions(path, Permissions::from_mode(0o755)),
    }
}

/// Copies a file to where none is, as a link is made where none is.
fn copied(from: &Path, to: &Path) -> io::Result<()> {
    if to.try_exists()? {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    std::fs::copy(from, to).map(drop)
}

/// Links a file out of the cache. One that was evicted in between is brought again; where there can be no more links,
/// or user code could change the cache through one, it is copied.
async fn link(cache: &Cache, file: &FileEntry, to: &Path, copy: bool) -> Result<(), InputError> {
    let mut tries = 0;
    loop {
        let from = cache.bring(file).await?;
        let linked = if copy {
            copied(&from, to)
        } else {
            std::fs::hard_link(&from, to)
        };
        match linked {
            Ok(()) => return Ok(()),
            // The same file under the same path by two inputs of one name.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound && tries < 5 => cache.forget(file),
            Err(error) if error.kind() == io::ErrorKind::TooManyLinks => {
                let path = to.to_owned();
                return std::fs::copy(&from, to)
                    .map(drop)
                    .map_err(|source| InputError::Disk { path, source });
            }
            Err(source) => {
                return Err(InputError::Disk {
                    path: to.to_owned(),
                    source,
                });
            }
        }
        tries += 1;
    }
}
