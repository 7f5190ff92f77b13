//! Writes what an archive holds below a directory. Names that lead out of it, links and devices are refused, and a file
//! appears whole or not at all.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

use indicatif::ProgressBar;

use crate::failure::{Failure, Outcome, io};

/// Files up to this size are read whole before they are written, so they need no name of their own meanwhile.
const WHOLE_BYTES_MAX: u64 = 256 << 10;
const READ_BYTES: usize = 256 << 10;

fn broken(error: std::io::Error) -> Failure {
    Failure::new(
        "the archive broke off",
        error,
        "repeat the command; see `howdah status`",
    )
}

/// Writes the files of an archive below a directory; answers how many.
///
/// # Errors
/// When the archive breaks off or something cannot be written.
pub fn unpack(archive: impl Read, to: &Path, bar: &ProgressBar) -> Outcome<u64> {
    std::fs::create_dir_all(to).map_err(io("make", to))?;
    let mut archive = tar::Archive::new(std::io::BufReader::with_capacity(READ_BYTES, archive));
    let mut made = Made::new(to);
    let mut content = Vec::new();
    let mut files = 0;
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let name = entry.path().map_err(broken)?.into_owned();
        let kind = entry.header().entry_type();
        if kind.is_dir() {
            made.directory(&name)?;
            continue;
        }
        let last = name.file_name().filter(|_| kind.is_file());
        let last = last.ok_or_else(|| {
            Failure::new(
                format!("cannot get {}", name.display()),
                "the archive holds something that is neither a file nor a directory",
                "report this",
            )
        })?;
        let path = made.directory(name.parent().unwrap_or(Path::new("")))?.join(last);
        let executable = entry.header().mode().is_ok_and(|mode| mode & 0o100 != 0);
        let size = entry.size();
        if size <= WHOLE_BYTES_MAX {
            content.clear();
            let read = entry.read_to_end(&mut content).map_err(broken)?;
            whole(read as u64, size)?;
            write_small(&path, executable, &content)?;
        } else {
            let mut fresh = file_beside(&path, executable)?;
            whole(std::io::copy(&mut entry, &mut fresh).map_err(broken)?, size)?;
            fresh.persist(&path).map_err(|e| io("write", &path)(e.error))?;
        }
        files += 1;
        bar.inc(size);
    }
    Ok(files)
}

fn whole(read: u64, size: u64) -> Outcome {
    if read < size {
        return Err(broken(std::io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(())
}

fn mode(executable: bool) -> u32 {
    if executable { 0o755 } else { 0o644 }
}

/// A new file is written in its place; one that is there keeps its content until the new one takes its name.
fn write_small(path: &Path, executable: bool, content: &[u8]) -> Outcome {
    let mode = mode(executable);
    match OpenOptions::new().write(true).create_new(true).mode(mode).open(path) {
        Ok(mut file) => file.write_all(content).map_err(|error| {
            let _ = std::fs::remove_file(path);
            io("write", path)(error)
        }),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let mut fresh = file_beside(path, executable)?;
            fresh.write_all(content).map_err(io("write", path))?;
            fresh.persist(path).map_err(|e| io("write", path)(e.error))?;
            Ok(())
        }
        Err(error) => Err(io("write", path)(error)),
    }
}

/// A file beside that path, which is removed unless it takes its place.
pub fn file_beside(path: &Path, executable: bool) -> Outcome<tempfile::NamedTempFile> {
    let directory = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    tempfile::Builder::new()
        .prefix(".howdah-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(mode(executable)))
        .tempfile_in(directory)
        .map_err(io("write in", directory))
}

/// Directories that are there, by their names in the archive: each is looked at once, not for every file in it.
struct Made<'a> {
    to: &'a Path,
    known: HashMap<PathBuf, PathBuf>,
}

impl<'a> Made<'a> {
    fn new(to: &'a Path) -> Self {
        Self {
            to,
            known: HashMap::new(),
        }
    }

    fn directory(&mut self, name: &Path) -> Outcome<PathBuf> {
        if let Some(known) = self.known.get(name) {
            return Ok(known.clone());
        }
        let path = directory_below(self.to, name)?;
        self.known.insert(name.to_path_buf(), path.clone());
        Ok(path)
    }
}

/// Makes a directory below another one; a link that is there already could lead out of it, so none is followed.
fn directory_below(to: &Path, name: &Path) -> Outcome<PathBuf> {
    let mut path = to.to_path_buf();
    for part in name.components() {
        match part {
            Component::Normal(part) => path.push(part),
            Component::CurDir => continue,
            _ => {
                return Err(Failure::new(
                    format!("cannot get {}", name.display()),
                    "its name leads out of the directory",
                    "report this",
                ));
            }
        }
        match std::fs::symlink_metadata(&path) {
            Ok(about) if about.is_dir() => {}
            Ok(_) => {
                return Err(Failure::new(
                    format!("cannot get {}", name.display()),
                    format!("{} is there and is no directory", path.display()),
                    "remove it, or choose another destination with -o",
                ));
            }
            Err(_) => std::fs::create_dir(&path).map_err(io("make", &path))?,
        }
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(name: &str) -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        header.set_size(3);
        header.set_mode(0o644);
        // The library refuses such names, an attacker does not.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(b"abc");
        bytes.resize(2048, 0);
        bytes
    }

    #[test]
    fn files_are_written_below_the_directory_and_nowhere_else() {
        let home = tempfile::tempdir().unwrap();
        let to = home.path().join("to");
        let bar = ProgressBar::hidden();
        assert_eq!(
            unpack(archive("a/b").as_slice(), &to, &bar).unwrap_or_else(|e| panic!("{e:?}")),
            1
        );
        assert_eq!(std::fs::read(to.join("a/b")).unwrap(), b"abc");
        assert!(unpack(archive("../out").as_slice(), &to, &bar).is_err());
        assert!(!home.path().join("out").exists());
        std::os::unix::fs::symlink(home.path(), to.join("link")).unwrap();
        assert!(unpack(archive("link/out").as_slice(), &to, &bar).is_err());
        assert!(!home.path().join("out").exists());
    }

    #[test]
    fn an_archive_that_breaks_off_leaves_no_piece_of_a_file() {
        let home = tempfile::tempdir().unwrap();
        let whole = archive("piece");
        assert!(unpack(&whole[..514], home.path(), &ProgressBar::hidden()).is_err());
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
    }
}
