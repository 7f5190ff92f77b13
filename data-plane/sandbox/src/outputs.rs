//! Reads what user code left in `/pfs/out` as the worker, who must never follow a link that user code made. Every step
//! opens one name below an open directory and refuses symbolic links.

use std::ffi::{CStr, OsStr};
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{Mode, SFlag, fstatat};

/// Directories deeper than this are refused, as no path of a repo may be so long.
const DEPTH_MAX: usize = 1024;

/// One entry of `/pfs/out`. Directories appear only through what they hold.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Output {
    /// Relative to `/pfs/out`, parts separated by `/`.
    pub path: String,
    pub kind: OutputKind,
}

/// What an output is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OutputKind {
    File {
        size: u64,
        executable: bool,
    },
    /// A link to something below `/pfs/<input>`: a copy by reference. `path` is empty for the whole input.
    LinkToInput {
        input: String,
        path: String,
    },
    /// The same to something below `/code`, which not every run has.
    LinkToCode {
        path: String,
    },
}

/// How much a run may leave: its listing is held in memory, its files are read in full.
#[derive(Clone, Copy, Debug)]
pub struct OutputLimits {
    /// Files, links and directories.
    pub entries: usize,
    /// Bytes of all paths.
    pub path_bytes: usize,
    /// Bytes of all files.
    pub bytes: u64,
}

/// Why the outputs are refused; every message names the path.
#[derive(Debug)]
pub enum OutputError {
    /// The name is not UTF-8; shown with replacement characters.
    NotUtf8 {
        path: String,
    },
    /// Neither a file, a directory nor a link into an input.
    NotAFile {
        path: String,
        what: &'static str,
    },
    LinkOutside {
        path: String,
        target: String,
    },
    TooDeep {
        path: String,
    },
    TooMany {
        most: usize,
    },
    /// The paths alone take too much.
    TooLong {
        most: usize,
    },
    TooLarge {
        path: String,
        most: u64,
    },
    Io {
        path: String,
        source: Errno,
    },
}

impl fmt::Display for OutputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotUtf8 { path } => write!(f, "output `{path}` has a name that is not UTF-8: rename it"),
            Self::NotAFile { path, what } => {
                write!(
                    f,
                    "output `{path}` is a {what}: only files, directories and links into inputs can be stored"
                )
            }
            Self::LinkOutside { path, target } => write!(
                f,
                "output `{path}` is a link to `{target}`: only links to `/pfs/<input>/...` can be stored, so copy the file"
            ),
            Self::TooDeep { path } => write!(f, "output `{path}` lies more than {DEPTH_MAX} directories deep"),
            Self::TooMany { most } => write!(
                f,
                "the outputs are more than {most} files and directories: write fewer per datum, or pack them into an archive"
            ),
            Self::TooLong { most } => write!(
                f,
                "the paths of the outputs have more than {most} bytes: write fewer files per datum, or give them shorter names"
            ),
            Self::TooLarge { path, most } => write!(
                f,
                "output `{path}` brings the outputs to more than {most} bytes: write less per datum, or raise resource_limits.disk"
            ),
            Self::Io {
                path,
                source: Errno::EACCES,
            } => {
                write!(
                    f,
                    "output `{path}` cannot be read: the command must leave it readable to its owner"
                )
            }
            Self::Io { path, source } => write!(f, "output `{path}` cannot be read: {source}"),
        }
    }
}

impl std::error::Error for OutputError {}

/// Everything below `out_dir`, sorted by path. Call it when nothing of the run is left.
pub fn collect_outputs(out_dir: &Path, limits: OutputLimits) -> Result<Vec<Output>, OutputError> {
    let io = |source| OutputError::Io {
        path: ".".to_owned(),
        source,
    };
    let mut found = Vec::new();
    let pfs = out_dir.parent().unwrap_or(Path::new("/pfs"));
    // One directory is open at a time, reached from the top again: width and depth cost no descriptors.
    let mut pending = vec![String::new()];
    let mut left = Left { limits, now: limits };
    while let Some(relative) = pending.pop() {
        let directory = open_directory(out_dir, &relative).map_err(|source| match relative.as_str() {
            "" => io(source),
            path => OutputError::Io {
                path: path.to_owned(),
                source,
            },
        })?;
        visit(directory, &relative, (pfs, &mut left), &mut found, &mut pending)?;
    }
    found.sort_unstable();
    Ok(found)
}

/// Opens the output file at a path that `collect_outputs` gave, without following links.
pub fn open_output(out_dir: &Path, path: &str) -> Result<File, OutputError> {
    let io = |source| OutputError::Io {
        path: path.to_owned(),
        source,
    };
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    let directory = open_directory(out_dir, parent).map_err(io)?;
    // Not blocking: a FIFO that took the file's place would hold the worker forever.
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let file = File::from(openat(&directory, name, flags, Mode::empty()).map_err(io)?);
    // Code that goes on may have put something else there since it was listed.
    match file.metadata() {
        Ok(found) if found.is_file() => Ok(file),
        Ok(_) => Err(OutputError::NotAFile {
            path: path.to_owned(),
            what: "file no more",
        }),
        Err(_) => Err(io(Errno::EIO)),
    }
}

/// Removes a datum's directory when its run is over, also when the command took away its own permissions.
pub fn discard(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            unlock(directory)?;
            fs::remove_dir_all(directory)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Removes all that lies in a directory but for one name; the directory itself may be the root of a volume. One that is not
/// there is made.
pub fn empty(directory: &Path, kept: Option<&str>) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if kept.is_some_and(|kept| entry.file_name() == kept) {
            continue;
        }
        match entry.file_type()?.is_dir() {
            true => discard(&entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

/// Gives the owner access to every directory below. Code of the run may go on (a spout's): no link is followed, whenever it was
/// made, and what is gone or is no directory any more is passed by.
fn unlock(top: &Path) -> io::Result<()> {
    let mut pending = vec![PathBuf::new()];
    while let Some(relative) = pending.pop() {
        let directory = match find_directory(top, &relative) {
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => continue,
            found => found?,
        };
        // It is this directory for as long as it is open, whatever has its name by now.
        let itself = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
        fs::set_permissions(&itself, fs::Permissions::from_mode(0o700))?;
        for entry in fs::read_dir(&itself)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                pending.push(relative.join(entry.file_name()));
            }
        }
    }
    Ok(())
}

/// A directory that may not be readable, reached part by part without following links.
fn find_directory(top: &Path, relative: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut directory = openat(AT_FDCWD, top, flags, Mode::empty())?;
    for part in relative {
        directory = openat(&directory, part, flags, Mode::empty())?;
    }
    Ok(directory)
}

/// Opens a directory part by part.
fn open_directory(out_dir: &Path, relative: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut directory = openat(AT_FDCWD, out_dir, flags, Mode::empty())?;
    for part in relative.split('/').filter(|part| !part.is_empty()) {
        if part == ".." {
            return Err(Errno::EINVAL);
        }
        directory = openat(&directory, part, flags, Mode::empty())?;
    }
    Ok(directory)
}

/// What may still come.
struct Left {
    limits: OutputLimits,
    now: OutputLimits,
}

impl Left {
    /// Counts an entry, before anything is kept of it.
    fn entry(&mut self, directory: &str, name: &CStr) -> Result<(), OutputError> {
        let Some(entries) = self.now.entries.checked_sub(1) else {
            return Err(OutputError::TooMany {
                most: self.limits.entries,
            });
        };
        let length = directory.len() + name.count_bytes() + 1;
        let Some(path_bytes) = self.now.path_bytes.checked_sub(length) else {
            return Err(OutputError::TooLong {
                most: self.limits.path_bytes,
            });
        };
        self.now = OutputLimits {
            entries,
            path_bytes,
            ..self.now
        };
        Ok(())
    }

    fn file(&mut self, path: &str, size: u64) -> Result<(), OutputError> {
        self.now.bytes = self.now.bytes.checked_sub(size).ok_or_else(|| OutputError::TooLarge {
            path: path.to_owned(),
            most: self.limits.bytes,
        })?;
        Ok(())
    }
}

/// Sorts the entries of one directory into outputs and further directories.
fn visit(
    directory: OwnedFd,
    relative: &str,
    (pfs, left): (&Path, &mut Left),
    found: &mut Vec<Output>,
    pending: &mut Vec<String>,
) -> Result<(), OutputError> {
    let io = |path: &str, source| OutputError::Io {
        path: path.to_owned(),
        source,
    };
    let mut listing = Dir::from_fd(directory).map_err(|source| io(relative, source))?;
    let mut names = Vec::new();
    for entry in listing.iter() {
        let entry = entry.map_err(|source| io(relative, source))?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            left.entry(relative, entry.file_name())?;
            names.push(entry.file_name().to_owned());
        }
    }
    // The order of a directory is accidental, the first complaint must not be.
    names.sort_unstable();
    for name in names {
        let path = join(relative, &name)?;
        let entry = fstatat(listing.as_fd(), name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW)
            .map_err(|source| io(&path, source))?;
        let kind = SFlag::from_bits_truncate(entry.st_mode & SFlag::S_IFMT.bits());
        let kind = match kind {
            SFlag::S_IFDIR if path.matches('/').count() >= DEPTH_MAX => return Err(OutputError::TooDeep { path }),
            SFlag::S_IFDIR => {
                pending.push(path);
                continue;
            }
            SFlag::S_IFREG => {
                let size = u64::try_from(entry.st_size).unwrap_or(0);
                left.file(&path, size)?;
                OutputKind::File {
                    size,
                    executable: entry.st_mode & 0o100 != 0,
                }
            }
            SFlag::S_IFLNK => {
                let target = readlinkat(listing.as_fd(), name.as_c_str()).map_err(|source| io(&path, source))?;
                link_to_input(&path, &target, pfs).ok_or_else(|| OutputError::LinkOutside {
                    path: path.clone(),
                    target: lossy(&target),
                })?
            }
            other => {
                return Err(OutputError::NotAFile {
                    path,
                    what: special(other),
                });
            }
        };
        found.push(Output { path, kind });
    }
    Ok(())
}

fn join(relative: &str, name: &CStr) -> Result<String, OutputError> {
    let separator = if relative.is_empty() { "" } else { "/" };
    match name.to_str() {
        Ok(name) => Ok(format!("{relative}{separator}{name}")),
        Err(_) => Err(OutputError::NotUtf8 {
            path: format!("{relative}{separator}{}", name.to_string_lossy()),
        }),
    }
}

fn lossy(text: &OsStr) -> String {
    String::from_utf8_lossy(text.as_bytes()).into_owned()
}

fn special(kind: SFlag) -> &'static str {
    match kind {
        SFlag::S_IFIFO => "named pipe",
        SFlag::S_IFSOCK => "socket",
        SFlag::S_IFCHR | SFlag::S_IFBLK => "device",
        _ => "special file",
    }
}

/// Where a link in `/pfs/out` points, by its text alone: nothing is resolved on the host. Without namespaces commands
/// know `/pfs` as the host directory `pfs`.
fn link_to_input(path: &str, target: &OsStr, pfs: &Path) -> Option<OutputKind> {
    let target = Path::new(target.to_str()?);
    let mut parts: Vec<&str> = Vec::new();
    let rest = match target.strip_prefix(pfs) {
        Ok(below) if pfs.is_absolute() => {
            parts.push("pfs");
            below
        }
        _ if target.is_absolute() => target,
        _ => {
            parts.extend(["pfs", "out"]);
            parts.extend(path.split('/'));
            parts.pop();
            target
        }
    };
    for component in rest.components() {
        match component {
            Component::ParentDir => drop(parts.pop()?),
            Component::Normal(part) => parts.push(part.to_str()?),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    match parts.as_slice() {
        ["pfs", "out", ..] => None,
        ["pfs", input, rest @ ..] => Some(OutputKind::LinkToInput {
            input: (*input).to_owned(),
            path: rest.join("/"),
        }),
        ["code", rest @ ..] => Some(OutputKind::LinkToCode { path: rest.join("/") }),
        _ => None,
    }
}
