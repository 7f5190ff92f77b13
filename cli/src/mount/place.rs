//! The directory that a commit is mounted on: what is mounted there already, what a killed process left, and taking a mount
//! away again.

use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

use crate::failure::{Exit, Failure, Outcome, io as io_failure};

/// The kernel's name of what is mounted begins with it.
const SOURCE: &str = "howdah:";
const MOUNTS: &str = "/proc/self/mountinfo";

/// A line of the kernel's list of mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// `major:minor`.
    pub device: String,
    /// Where.
    pub point: PathBuf,
    /// What: `howdah:project/repo@commit` of ours.
    pub source: String,
    kind: String,
}

impl Entry {
    /// Whether `howdah mount` made it.
    pub fn is_ours(&self) -> bool {
        self.kind.starts_with("fuse") && self.source.starts_with(SOURCE)
    }

    /// The commit of one of ours.
    pub fn commit(&self) -> &str {
        self.source.strip_prefix(SOURCE).unwrap_or(&self.source)
    }
}

/// The name that the kernel shows for a mounted commit.
pub fn source(commit: &str) -> String {
    format!("{SOURCE}{commit}")
}

/// What is mounted right there, the last one if there are several.
pub fn mounted_at(point: &Path) -> Option<Entry> {
    let text = std::fs::read_to_string(MOUNTS).ok()?;
    parse(&text).into_iter().rev().find(|entry| entry.point == point)
}

fn parse(text: &str) -> Vec<Entry> {
    let entry = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(2);
        let device = left.next()?.to_owned();
        let point = unescaped(left.nth(1)?);
        let mut right = right.split(' ');
        Some(Entry {
            device,
            point: PathBuf::from(std::ffi::OsString::from_vec(point)),
            kind: right.next()?.to_owned(),
            source: String::from_utf8_lossy(&unescaped(right.next()?)).into_owned(),
        })
    };
    text.lines().filter_map(entry).collect()
}

/// `\040` is a space.
fn unescaped(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digits = bytes.get(at + 1..at + 4).filter(|_| bytes[at] == b'\\');
        let code = digits.and_then(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 8).ok());
        match code {
            Some(code) => {
                plain.push(code);
                at += 4;
            }
            None => {
                plain.push(bytes[at]);
                at += 1;
            }
        }
    }
    plain
}

/// The absolute path of a directory, also of one whose mount is dead.
///
/// # Errors
/// When there is no such directory.
pub fn absolute(directory: &Path) -> Outcome<PathBuf> {
    match directory.canonicalize() {
        Err(error) if is_dead(&error) => {
            let whole = std::path::absolute(directory).map_err(io_failure("find", directory))?;
            let parent = whole.parent().unwrap_or(Path::new("/"));
            let parent = parent.canonicalize().map_err(io_failure("find", parent))?;
            Ok(parent.join(whole.file_name().unwrap_or_default()))
        }
        other => other.map_err(io_failure("find", directory)),
    }
}

/// The process behind a mount is gone.
fn is_dead(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(code) if [Errno::ENOTCONN as i32, Errno::ECONNABORTED as i32].contains(&code))
}

/// Makes a directory ready to be mounted on: makes it if it is missing, clears what a killed process left. Answers its
/// absolute path, and what was cleared.
///
/// # Errors
/// When it is no empty directory, or something of ours is mounted there.
pub fn prepare(directory: &Path) -> Outcome<(PathBuf, Option<Entry>)> {
    match std::fs::create_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists && !is_dead(&error) => {
            return Err(io_failure("make", directory)(error));
        }
        _ => {}
    }
    let point = absolute(directory)?;
    let mut cleared = None;
    if let Some(there) = mounted_at(&point).filter(Entry::is_ours) {
        // Not its attributes, which the kernel still knows.
        match std::fs::read_dir(&point) {
            Err(error) if is_dead(&error) => {
                unmount(&point, true)?;
                cleared = Some(there);
            }
            _ => {
                return Err(Failure::new(
                    format!("cannot mount on {}", point.display()),
                    format!("{} is mounted there", there.commit()),
                    format!(
                        "unmount it with `howdah unmount {}`, or choose another directory",
                        point.display()
                    ),
                )
                .with_exit(Exit::Conflict));
            }
        }
    }
    let mut inside = std::fs::read_dir(&point).map_err(io_failure("look into", &point))?;
    if inside.next().is_some() {
        return Err(Failure::new(
            format!("cannot mount on {}", point.display()),
            "the directory is not empty, and what is in it would be hidden",
            "choose an empty directory, or one that does not exist yet",
        )
        .with_exit(Exit::Conflict));
    }
    Ok((point, cleared))
}

/// Takes a mount away; with `force` also while it is in use, whose users then find it gone.
///
/// # Errors
/// When it is in use, or this user may not.
pub fn unmount(point: &Path, force: bool) -> Outcome {
    let flags = if force { MntFlags::MNT_DETACH } else { MntFlags::empty() };
    let why = match umount2(point, flags | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) => return Ok(()),
        Err(Errno::EBUSY) => return Err(busy(point)),
        // Users may take away what is theirs by this program only.
        Err(Errno::EPERM) => match fusermount(point, force) {
            Ok(()) => return Ok(()),
            Err(why) if why.contains("busy") => return Err(busy(point)),
            Err(why) => why,
        },
        Err(error) => error.desc().to_owned(),
    };
    Err(Failure::new(
        format!("cannot unmount {}", point.display()),
        why,
        "unmount it as the user that mounted it",
    ))
}

fn busy(point: &Path) -> Failure {
    Failure::new(
        format!("cannot unmount {}", point.display()),
        "it is in use: a file is open, or it is somebody's current directory",
        "close what uses it, or take it away all the same with --force",
    )
    .with_exit(Exit::Conflict)
}

fn fusermount(point: &Path, force: bool) -> Result<(), String> {
    let mut command = Command::new("fusermount3");
    command.arg("-u").args(force.then_some("-z")).arg("--").arg(point);
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("fusermount3 (Debian package fuse3): {e}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
        30 22 0:40 / /mnt/with\\040space rw - fuse howdah:default/images@0190 rw,user_id=0\n\
        31 30 0:41 / /mnt/other ro,nosuid shared:7 - fuse.sshfs host:/ rw\n\
        nonsense\n\
        32 22 0:42 / /mnt/with\\040space ro - fuse.howdah howdah:default/truth@0191 rw\n";

    #[test]
    fn the_kernels_list_is_read_and_ours_are_found_in_it() {
        let entries = parse(TEXT);
        assert_eq!(entries.len(), 4);
        let ours: Vec<_> = entries.iter().filter(|e| e.is_ours()).collect();
        assert_eq!(ours.len(), 2);
        assert_eq!(ours[0].point, Path::new("/mnt/with space"));
        assert_eq!(
            (ours[1].commit(), ours[1].device.as_str()),
            ("default/truth@0191", "0:42")
        );
    }

    #[test]
    fn escapes_are_octal_and_all_else_is_as_it_stands() {
        assert_eq!(unescaped("a\\040b\\134c"), b"a b\\c");
        assert_eq!(unescaped("\\9\\04"), b"\\9\\04");
    }

    #[test]
    fn a_missing_directory_is_made_and_one_that_is_not_empty_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let (made, cleared) = prepare(&home.path().join("new")).unwrap_or_else(|e| panic!("{e:?}"));
        assert!(made.is_dir() && cleared.is_none());
        std::fs::write(made.join("file"), "x").unwrap();
        assert_eq!(prepare(&made).unwrap_err().exit, Exit::Conflict);
        assert!(prepare(&made.join("file")).is_err());
        assert!(prepare(&home.path().join("no/parent")).is_err());
    }
}
