//! Durable puts into a local directory: temporary name, write, sync, rename, sync of the directory.

mod direct;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use bytes::Bytes;

use super::forwards::FORWARDS;
use super::{PACKS, failed};
use crate::digest::Digest;
use crate::error::Result;

const TEMPORARY: &str = "tmp";

/// A directory of packs.
pub(super) struct Directory {
    root: PathBuf,
    serial: AtomicU64,
}

impl Directory {
    pub(super) fn create(root: &Path) -> Result<Self> {
        let make = || -> io::Result<PathBuf> {
            create_durably(root)?;
            let root = root.canonicalize()?;
            create_durably(&root.join(PACKS))?;
            create_durably(&root.join(FORWARDS))?;
            create_durably(&root.join(TEMPORARY))?;
            // A process may have died between creating these and syncing their parents.
            sync_directory(&root)?;
            sync_directory(root.parent().unwrap_or(&root))?;
            Ok(root)
        };
        let root = make().map_err(|error| failed("create", &root.display().to_string(), &error))?;
        Ok(Self {
            root,
            serial: AtomicU64::new(0),
        })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn put(&self, folder: &str, id: Digest, parts: &[Bytes], bulk: bool) -> Result<()> {
        let folder = self.root.join(folder);
        let target = folder.join(id.to_string());
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let temporary = self
            .root
            .join(TEMPORARY)
            .join(format!("{id}.{}.{serial}", std::process::id()));
        let written = write_durably(&temporary, &target, &folder, parts, bulk);
        if written.is_err() {
            // Gone already if the rename was what succeeded; then the pack is whole and merely unreferenced.
            let _ = fs::remove_file(&temporary);
        }
        written.map_err(|error| failed("write", &target.display().to_string(), &error))
    }

    pub(super) fn remove_abandoned(&self, before: SystemTime) -> Result<usize> {
        let directory = self.root.join(TEMPORARY);
        let remove = || -> io::Result<usize> {
            let mut removed = 0;
            for found in fs::read_dir(&directory)? {
                let found = found?;
                if found
                    .metadata()
                    .and_then(|metadata| metadata.modified())
                    .is_ok_and(|changed| changed < before)
                {
                    fs::remove_file(found.path())?;
                    removed += 1;
                }
            }
            Ok(removed)
        };
        remove().map_err(|error| failed("clean", &directory.display().to_string(), &error))
    }
}

fn write_durably(temporary: &Path, target: &Path, directory: &Path, parts: &[Bytes], bulk: bool) -> io::Result<()> {
    if !(bulk && direct::write(temporary, parts)?) {
        let mut file = File::options().write(true).create_new(true).open(temporary)?;
        for part in parts {
            file.write_all(part)?;
        }
        file.sync_all()?;
    }
    fs::rename(temporary, target)?;
    sync_directory(directory)
}

/// Creates a directory and its missing parents, and syncs the directories that got a new name in them.
fn create_durably(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    let parent = directory
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    create_durably(parent)?;
    match fs::create_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    sync_directory(parent)
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}
