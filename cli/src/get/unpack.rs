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

/// Why an archive was not unpacked to its end.
#[derive(Debug)]
pub enum Stopped {
    /// It broke off: what comes behind the last whole file is still to come.
    Broke(Failure),
    /// Something cannot be written, or has no place here.
    Failed(Failure),
}

impl From<Failure> for Stopped {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

fn broken(error: std::io::Error) -> Stopped {
    Stopped::Broke(Failure::new(
        "the archive broke off",
        error,
        "repeat the command with --continue; see `howdah status`",
    ))
}

/// A file that was not there to its end when an archive broke off.
pub struct Cut {
    /// In the archive.
    pub name: String,
    /// Where it goes.
    pub path: PathBuf,
    /// Whether it can be run.
    pub executable: bool,
    /// All of its bytes.
    pub size: u64,
}

/// Files that are written below a directory, from one archive or from several of which each goes on where the one before
/// broke off.
pub struct Unpacking {
    made: Made,
    bar: ProgressBar,
    files: u64,
    last: Option<String>,
    cut: Option<Cut>,
}

impl Unpacking {
    /// Nothing yet.
    pub fn new(to: PathBuf, bar: ProgressBar) -> Self {
        Self {
            made: Made::new(to),
            bar,
            files: 0,
            last: None,
            cut: None,
        }
    }

    /// How many files were written.
    pub fn files(&self) -> u64 {
        self.files
    }

    /// The name of the last one.
    pub fn last(&self) -> Option<&str> {
        self.last.as_deref()
    }

    /// The file in the middle of which the last archive broke off, if it is none of the smallest.
    pub fn cut(&mut self) -> Option<Cut> {
        self.cut.take()
    }

    /// Notes that it is there by now.
    pub fn has(&mut self, cut: Cut) {
        self.files += 1;
        self.bar.inc(cut.size);
        self.last = Some(cut.name);
    }

    /// Writes the files of an archive.
    ///
    /// # Errors
    /// When the archive breaks off or something cannot be written.
    pub fn take(&mut self, archive: impl Read) -> Result<(), Stopped> {
        let to = &self.made.to;
        std::fs::create_dir_all(to).map_err(io("make", to))?;
        self.cut = None;
        let mut archive = tar::Archive::new(Watched {
            inner: std::io::BufReader::with_capacity(READ_BYTES, archive),
            ended: false,
        });
        let mut content = Vec::new();
        for entry in archive.entries().map_err(broken)? {
            let mut entry = entry.map_err(broken)?;
            let name = entry.path().map_err(broken)?.into_owned();
            if entry.header().entry_type().is_dir() {
                self.made.directory(&name)?;
                continue;
            }
            self.file(&mut entry, &name, &mut content)?;
            self.files += 1;
            self.bar.inc(entry.size());
            self.last = name.to_str().map(str::to_owned).or(self.last.take());
        }
        is_whole(archive.into_inner())
    }

    fn file(
        &mut self,
        entry: &mut tar::Entry<'_, impl Read>,
        name: &Path,
        content: &mut Vec<u8>,
    ) -> Result<(), Stopped> {
        let last = name.file_name().filter(|_| entry.header().entry_type().is_file());
        let last = last.ok_or_else(|| {
            Failure::new(
                format!("cannot get {}", name.display()),
                "the archive holds something that is neither a file nor a directory",
                "report this",
            )
        })?;
        let path = self.made.directory(name.parent().unwrap_or(Path::new("")))?.join(last);
        let executable = entry.header().mode().is_ok_and(|mode| mode & 0o100 != 0);
        let size = entry.size();
        if size <= WHOLE_BYTES_MAX {
            content.clear();
            let read = entry.read_to_end(content).map_err(broken)?;
            whole(read as u64, size)?;
            write_small(&path, executable, content)?;
            return Ok(());
        }
        self.cut = name.to_str().map(|name| Cut {
            name: name.to_owned(),
            path: path.clone(),
            executable,
            size,
        });
        let mut fresh = file_beside(&path, executable)?;
        content.resize(READ_BYTES, 0);
        let mut all = 0;
        loop {
            let read = entry.read(content).map_err(broken)?;
            if read == 0 {
                break;
            }
            fresh.write_all(&content[..read]).map_err(io("write", &path))?;
            all += read as u64;
        }
        whole(all, size)?;
        self.cut = None;
        fresh.persist(&path).map_err(|e| io("write", &path)(e.error))?;
        Ok(())
    }
}

/// Bytes of an archive, and whether they came to their end.
struct Watched<R> {
    inner: R,
    ended: bool,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.ended |= read == 0 && !buffer.is_empty();
        Ok(read)
    }
}

/// Whether an archive, read to its last entry, ends as archives do: in two empty blocks, of which the first has been read. Without
/// them it may be the beginning of one, whose connection was closed between two files.
fn is_whole(mut rest: Watched<impl Read>) -> Result<(), Stopped> {
    let mut block = [0; 512];
    if rest.ended {
        return Err(broken(std::io::ErrorKind::UnexpectedEof.into()));
    }
    rest.read_exact(&mut block).map_err(broken)?;
    match block.iter().all(|byte| *byte == 0) {
        true => Ok(()),
        false => Err(broken(std::io::ErrorKind::InvalidData.into())),
    }
}

fn whole(read: u64, size: u64) -> Result<(), Stopped> {
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
struct Made {
    to: PathBuf,
    known: HashMap<PathBuf, PathBuf>,
}

impl Made {
    fn new(to: PathBuf) -> Self {
        Self {
            to,
            known: HashMap::new(),
        }
    }

    fn directory(&mut self, name: &Path) -> Outcome<PathBuf> {
        if let Some(known) = self.known.get(name) {
            return Ok(known.clone());
        }
        let path = directory_below(&self.to, name)?;
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

    fn unpack(archive: &[u8], to: &Path) -> Result<u64, Stopped> {
        let mut unpacking = Unpacking::new(to.to_path_buf(), ProgressBar::hidden());
        unpacking.take(archive).map(|()| unpacking.files())
    }

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
        assert_eq!(unpack(&archive("a/b"), &to).unwrap_or_else(|e| panic!("{e:?}")), 1);
        assert_eq!(std::fs::read(to.join("a/b")).unwrap(), b"abc");
        assert!(matches!(unpack(&archive("../out"), &to), Err(Stopped::Failed(_))));
        assert!(!home.path().join("out").exists());
        std::os::unix::fs::symlink(home.path(), to.join("link")).unwrap();
        assert!(matches!(unpack(&archive("link/out"), &to), Err(Stopped::Failed(_))));
        assert!(!home.path().join("out").exists());
    }

    #[test]
    fn an_archive_that_breaks_off_leaves_no_piece_of_a_file() {
        let home = tempfile::tempdir().unwrap();
        let whole = archive("piece");
        assert!(matches!(unpack(&whole[..514], home.path()), Err(Stopped::Broke(_))));
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
    }

    #[test]
    fn an_archive_without_its_end_is_one_that_broke_off_also_between_two_files() {
        let home = tempfile::tempdir().unwrap();
        let whole = archive("first");
        for length in [0, 1024, 1024 + 512, 2047] {
            let unpacked = unpack(&whole[..length], home.path());
            assert!(matches!(unpacked, Err(Stopped::Broke(_))), "{length}: {unpacked:?}");
        }
        assert!(unpack(&whole, home.path()).is_ok());
    }
}
