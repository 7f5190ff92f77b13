//! Unpacks layers, one over the other, into one directory. Layers are hostile: each name is resolved by the kernel with the
//! directory as the root (`openat2`, `RESOLVE_IN_ROOT`), so that neither `..` nor a link of an earlier entry leads out of it,
//! and what is new is made below an open directory without following anything.
//!
//! Everything belongs to the one id that code runs as. Device nodes and pipes are left out, and so are the set-id bits and
//! extended attributes, none of which could take effect.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmod, fchmodat, fstatat, futimens, mkdirat};
use nix::sys::statvfs::statvfs;
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat};
use sha2::Digest as _;
use tar::EntryType;

use super::members::{Member, Members};
use super::{Digest, ImageError};

/// Deeper directories are refused: whoever removes them must be able to.
const DEPTH_MAX: usize = 256;
/// Bytes of all names for each entry that is admitted: what lists a directory holds its names.
const NAME_BYTES: u64 = 128;
const COPY_BYTES: usize = 256 << 10;
/// The disk is looked at before a file of more than that, and now and then.
const ROOM_BYTES: u64 = 16 << 20;
/// What an entry takes on the disk besides its content.
const ENTRY_BYTES: u64 = 4096;
/// Marks what a layer takes away from those below it.
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
const WHITEOUT_INTERNAL: &[u8] = b".wh..wh.";

/// How much an image may take.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Bytes of all layers when they are not compressed.
    pub bytes: u64,
    /// Files, directories and links of all layers.
    pub entries: u64,
    /// Bytes of the disk that stay free.
    pub free_bytes: u64,
}

/// An image that is being unpacked.
pub struct Unpacking {
    path: PathBuf,
    root: OwnedFd,
    owner: Option<(Uid, Gid)>,
    bounds: Bounds,
    bytes: u64,
    /// Bytes of files, with the holes that no layer holds.
    content: u64,
    entries: u64,
    name_bytes: u64,
    buffer: Vec<u8>,
}

/// The names that a layer brought with all directories above them, by their digests: they are as many and as long as the
/// layer says.
#[derive(Default)]
struct Made(HashSet<[u8; 16]>);

impl Made {
    /// Answers whether it is new.
    fn insert(&mut self, path: &Path) -> bool {
        self.0.insert(Self::short(path))
    }

    fn contains(&self, path: &Path) -> bool {
        self.0.contains(&Self::short(path))
    }

    fn short(path: &Path) -> [u8; 16] {
        let mut short = [0; 16];
        short.copy_from_slice(&blake3::hash(path.as_os_str().as_bytes()).as_bytes()[..16]);
        short
    }
}

/// Why an entry is not taken.
enum Trouble {
    Hostile(String),
    Kernel(&'static str, Errno),
    Bound(String),
}

type Step<T> = Result<T, Trouble>;

trait During<T> {
    fn during(self, what: &'static str) -> Step<T>;
}

impl<T> During<T> for nix::Result<T> {
    fn during(self, what: &'static str) -> Step<T> {
        self.map_err(|errno| Trouble::Kernel(what, errno))
    }
}

/// Reads through, and knows what came.
struct Watched<'a, R> {
    from: R,
    hash: sha2::Sha256,
    so_far: &'a mut u64,
    most: u64,
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        *self.so_far += read as u64;
        if *self.so_far > self.most {
            return Err(io::Error::other(format!("the image has more than {} bytes", self.most)));
        }
        self.hash.update(&buffer[..read]);
        Ok(read)
    }
}

impl Unpacking {
    /// Begins with an empty directory at `path`, whose parent is there. `owner` gets everything; `None` is the caller.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn begin(path: &Path, owner: Option<(u32, u32)>, bounds: Bounds) -> Result<Self, ImageError> {
        let disk = |error: io::Error| ImageError::Disk(format!("`{}` could not be made: {error}", path.display()));
        fs::create_dir(path).map_err(disk)?;
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = nix::fcntl::open(path, flags, Mode::empty()).map_err(|errno| disk(errno.into()))?;
        let owner = owner.map(|(uid, gid)| (Uid::from_raw(uid), Gid::from_raw(gid)));
        std::os::unix::fs::chown(path, owner.map(|o| o.0.as_raw()), owner.map(|o| o.1.as_raw())).map_err(disk)?;
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).map_err(disk)?;
        Ok(Self {
            path: path.to_owned(),
            root,
            owner,
            bounds,
            bytes: 0,
            content: 0,
            entries: 0,
            name_bytes: 0,
            buffer: vec![0; COPY_BYTES],
        })
    }

    /// Bytes of all layers so far, not compressed.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// About the bytes that it takes on the disk.
    pub fn disk_bytes(&self) -> u64 {
        self.content.saturating_add(self.entries.saturating_mul(ENTRY_BYTES))
    }

    /// Lays a layer, gzip, zstd or not compressed, over those before it, and compares it with its digest.
    ///
    /// # Errors
    /// When it is hostile, damaged, beyond a bound, or the disk is.
    pub fn layer(&mut self, mut from: impl Read, expected: &Digest) -> Result<(), ImageError> {
        let mut begin = [0; 4];
        let mut length = 0;
        while length < begin.len() {
            match from.read(&mut begin[length..]).map_err(|error| damaged(&error))? {
                0 => break,
                read => length += read,
            }
        }
        let whole = io::Cursor::new(begin[..length].to_vec()).chain(from);
        match &begin[..length] {
            [0x1f, 0x8b, ..] => self.plain(flate2::read::MultiGzDecoder::new(whole), expected),
            [0x28, 0xb5, 0x2f, 0xfd] => {
                let from = zstd::stream::read::Decoder::new(whole).map_err(|error| damaged(&error))?;
                self.plain(from, expected)
            }
            _ => self.plain(whole, expected),
        }
    }

    fn plain(&mut self, from: impl Read, expected: &Digest) -> Result<(), ImageError> {
        let mut so_far = self.bytes;
        let watched = Watched {
            from,
            hash: sha2::Sha256::new(),
            so_far: &mut so_far,
            most: self.bounds.bytes,
        };
        let mut members = Members::new(watched);
        let mut made = Made::default();
        while let Some(member) = members.next().map_err(|error| damaged(&error))? {
            let shown = String::from_utf8_lossy(&member.path).into_owned();
            self.entry(&member, &mut members, &mut made)
                .map_err(|trouble| match trouble {
                    Trouble::Hostile(why) => ImageError::Damaged(format!("a layer holds `{shown}`: {why}")),
                    Trouble::Bound(why) => ImageError::Unfit(why),
                    Trouble::Kernel(
                        what,
                        Errno::ENOSPC | Errno::EDQUOT | Errno::EIO | Errno::EMFILE | Errno::ENFILE,
                    ) => ImageError::Disk(format!("`{shown}` of an image could not be unpacked ({what})")),
                    Trouble::Kernel(what, errno) => ImageError::Damaged(format!(
                        "a layer holds `{shown}`, which cannot be unpacked ({what}: {errno})"
                    )),
                })?;
        }
        let mut watched = members.into_inner();
        // What is behind the end of the archive belongs to the digest too.
        io::copy(&mut watched, &mut io::sink()).map_err(|error| damaged(&error))?;
        let digest = Digest::from_hash(&watched.hash.finalize());
        self.bytes = so_far;
        if digest == *expected {
            Ok(())
        } else {
            Err(ImageError::Damaged(format!(
                "a layer of the image is {digest}, and its configuration says {expected}"
            )))
        }
    }

    fn entry(&mut self, member: &Member, content: &mut impl Read, made: &mut Made) -> Step<()> {
        let kind = member.header.entry_type();
        let path = clean(&member.path)?;
        self.count(path.file_name().unwrap_or_default())?;
        let Some(name) = path.file_name().map(OsStr::to_owned) else {
            // The root itself.
            return Ok(());
        };
        let above = path.parent().unwrap_or(Path::new("")).to_owned();
        if name.as_bytes().starts_with(WHITEOUT) {
            return self.whiteout(&above, name.as_bytes(), made);
        }
        let parent = self.directory(&above)?;
        let mode = member.header.mode().unwrap_or(0o755);
        match kind {
            EntryType::Directory => self.make_directory(&parent, &name, mode)?,
            EntryType::Regular | EntryType::Continuous => {
                remove(&parent, &name, 0)?;
                self.file(&parent, &name, mode, (member, content))?;
            }
            EntryType::Link => {
                self.hard_link(&parent, &name, &clean(&member.link)?)?;
            }
            EntryType::Symlink => {
                remove(&parent, &name, 0)?;
                symlinkat(OsStr::from_bytes(&member.link), &parent, name.as_os_str()).during("make a link")?;
                self.own(&parent, &name)?;
            }
            // Devices and pipes: the sandbox has its own.
            _ => return Ok(()),
        }
        for made_or_above in path.ancestors() {
            if !made.insert(made_or_above) {
                break;
            }
        }
        if made.0.len() as u64 > self.bounds.entries.saturating_mul(2) {
            return Err(self.too_many());
        }
        Ok(())
    }

    /// One more entry, or directory on the way to one.
    fn count(&mut self, name: &OsStr) -> Step<()> {
        self.entries += 1;
        self.name_bytes += name.len() as u64;
        if self.entries > self.bounds.entries || self.name_bytes > self.bounds.entries.saturating_mul(NAME_BYTES) {
            return Err(self.too_many());
        }
        if self.entries.is_multiple_of(1024) {
            self.room(0)?;
        }
        Ok(())
    }

    fn too_many(&self) -> Trouble {
        Trouble::Bound(format!(
            "the image has more than {} files and directories, or names that are as long together as those of so many",
            self.bounds.entries
        ))
    }

    /// Opens a directory of the image, and makes those that are missing on the way.
    fn directory(&mut self, path: &Path) -> Step<OwnedFd> {
        match self.open(path) {
            Err(Errno::ENOENT) => {}
            opened => return opened.during("open its directory"),
        }
        let mut so_far = PathBuf::new();
        let mut parent = self.open(&so_far).during("open its directory")?;
        for part in path.components() {
            so_far.push(part);
            parent = match self.open(&so_far) {
                Err(Errno::ENOENT) => {
                    self.count(part.as_os_str())?;
                    self.make_directory(&parent, part.as_os_str(), 0o755)?;
                    self.open(&so_far).during("open its directory")?
                }
                opened => opened.during("open its directory")?,
            };
        }
        Ok(parent)
    }

    /// Opens a directory as a process would whose root is the image.
    fn open(&self, path: &Path) -> nix::Result<OwnedFd> {
        let how = OpenHow::new()
            .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS | ResolveFlag::RESOLVE_NO_XDEV);
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        openat2(&self.root, path, how)
    }

    /// A directory, or what was there already with these permissions. Whoever owns it can always get in.
    fn make_directory(&self, parent: &OwnedFd, name: &OsStr, mode: u32) -> Step<()> {
        let is_there = fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR);
        if !is_there {
            remove(parent, name, 0)?;
            self.check_depth(parent)?;
            mkdirat(parent, name, Mode::S_IRWXU).during("make a directory")?;
            self.own(parent, name)?;
        }
        let mode = Mode::from_bits_truncate((mode & 0o1777) | 0o700);
        // Not a link: it was just looked at, and nobody else is here.
        fchmodat(parent, name, mode, FchmodatFlags::FollowSymlink).during("set permissions")
    }

    /// Links make real directories deeper than their names tell.
    fn check_depth(&self, parent: &OwnedFd) -> Step<()> {
        let real = fs::read_link(format!("/proc/self/fd/{}", parent.as_raw_fd()));
        let real = real.map_err(|_| Trouble::Kernel("find its directory", Errno::ENAMETOOLONG))?;
        let depth = real.components().count().saturating_sub(self.path.components().count());
        if depth >= DEPTH_MAX {
            return Err(Trouble::Hostile(format!(
                "it lies more than {DEPTH_MAX} directories deep"
            )));
        }
        Ok(())
    }

    fn file(&mut self, parent: &OwnedFd, name: &OsStr, mode: u32, from: (&Member, &mut impl Read)) -> Step<()> {
        let (member, content) = from;
        self.content = self.content.saturating_add(member.size);
        if self.content > self.bounds.bytes {
            return Err(Trouble::Bound(format!(
                "the image has more than {} bytes",
                self.bounds.bytes
            )));
        }
        if member.size > ROOM_BYTES {
            self.room(member.size)?;
        }
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut file = File::from(openat(parent, name, flags, Mode::S_IRUSR | Mode::S_IWUSR).during("make a file")?);
        let io = |what: &'static str| {
            move |error: io::Error| match error.raw_os_error() {
                Some(code) => Trouble::Kernel(what, Errno::from_raw(code)),
                None if error.kind() == io::ErrorKind::Other => Trouble::Bound(error.to_string()),
                None => Trouble::Hostile(error.to_string()),
            }
        };
        loop {
            match content.read(&mut self.buffer).map_err(io("read it"))? {
                0 => break,
                read => file.write_all(&self.buffer[..read]).map_err(io("write it"))?,
            }
        }
        self.own(parent, name)?;
        let mode = Mode::from_bits_truncate((mode & 0o777) | 0o600);
        fchmod(file.as_fd(), mode).during("set permissions")?;
        // Programs that keep what they compiled compare these.
        let time = TimeSpec::new(i64::try_from(member.header.mtime().unwrap_or(0)).unwrap_or(0), 0);
        futimens(file.as_fd(), &time, &time).during("set its time")
    }

    fn hard_link(&self, parent: &OwnedFd, name: &OsStr, target: &Path) -> Step<()> {
        let Some(target_name) = target.file_name() else {
            return Err(Trouble::Hostile("it is a second name of the root".to_owned()));
        };
        let above = target.parent().unwrap_or(Path::new(""));
        let target_parent = self.open(above).during("find what it is a second name of")?;
        let found = fstatat(&target_parent, target_name, AtFlags::AT_SYMLINK_NOFOLLOW)
            .during("find what it is a second name of")?;
        let known = fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW);
        if known.is_ok_and(|known| (known.st_dev, known.st_ino) == (found.st_dev, found.st_ino)) {
            return Ok(());
        }
        remove(parent, name, 0)?;
        linkat(&target_parent, target_name, parent, name, AtFlags::empty()).during("make a second name")
    }

    /// Takes away what earlier layers brought.
    fn whiteout(&mut self, above: &Path, name: &[u8], made: &Made) -> Step<()> {
        let parent = match self.open(above) {
            // There is nothing to take away.
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
            opened => opened.during("open its directory")?,
        };
        if name == OPAQUE {
            return clear(&parent, above, made);
        }
        if name.starts_with(WHITEOUT_INTERNAL) {
            return Ok(());
        }
        let gone = OsStr::from_bytes(&name[WHITEOUT.len()..]);
        if matches!(gone.as_bytes(), b"" | b"." | b"..") {
            return Err(Trouble::Hostile("it takes away what has no name".to_owned()));
        }
        remove(&parent, gone, 0)
    }

    fn own(&self, parent: &OwnedFd, name: &OsStr) -> Step<()> {
        match self.owner {
            Some((uid, gid)) => {
                fchownat(parent, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW).during("own it")
            }
            None => Ok(()),
        }
    }

    fn room(&self, wanted: u64) -> Step<()> {
        let found = statvfs(&self.path).during("look at the disk")?;
        let free = found.blocks_available().saturating_mul(found.fragment_size());
        if free < self.bounds.free_bytes.saturating_add(wanted) {
            return Err(Trouble::Kernel("the disk is nearly full", Errno::ENOSPC));
        }
        Ok(())
    }
}

/// Reads a file of an unpacked image, whose links lead nowhere but into it. Nothing when it is not there or too large.
pub(super) fn read_inside(rootfs: &Path, path: &str, most: u64) -> String {
    let read = || -> io::Result<String> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = nix::fcntl::open(rootfs, flags, Mode::empty())?;
        let how = OpenHow::new()
            .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let mut bytes = Vec::new();
        File::from(openat2(&root, path, how)?)
            .take(most)
            .read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_default()
}

/// A path inside the image: nothing above it, not too deep.
fn clean(bytes: &[u8]) -> Step<PathBuf> {
    let mut path = PathBuf::new();
    for part in Path::new(OsStr::from_bytes(bytes)).components() {
        match part {
            Component::Normal(part) => path.push(part),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(Trouble::Hostile("its path leads out of the image".to_owned()));
            }
        }
    }
    if bytes.contains(&0) {
        return Err(Trouble::Hostile("its path holds a NUL".to_owned()));
    }
    if path.components().count() > DEPTH_MAX {
        return Err(Trouble::Hostile(format!(
            "it lies more than {DEPTH_MAX} directories deep"
        )));
    }
    Ok(path)
}

/// Removes a name and all that is below it; one that is not there is no error.
fn remove(parent: &impl AsFd, name: &OsStr, depth: usize) -> Step<()> {
    match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => return Ok(()),
        Err(Errno::EISDIR | Errno::EPERM) if depth <= 2 * DEPTH_MAX => {}
        Err(errno) => return Err(Trouble::Kernel("remove what was there", errno)),
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let directory = openat(parent, name, flags, Mode::empty()).during("remove what was there")?;
    for below in names(&directory)? {
        remove(&directory, &below, depth + 1)?;
    }
    unlinkat(parent, name, UnlinkatFlags::RemoveDir).during("remove what was there")
}

/// Removes what earlier layers brought into a directory; `made` is what this one brought, with all directories above.
fn clear(directory: &OwnedFd, path: &Path, made: &Made) -> Step<()> {
    for found in names(directory)? {
        let path = path.join(&found);
        if !made.contains(&path) {
            remove(directory, &found, 0)?;
            continue;
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        match openat(directory, found.as_os_str(), flags, Mode::empty()) {
            Ok(below) => clear(&below, &path, made)?,
            // A file of this layer.
            Err(Errno::ENOTDIR | Errno::ELOOP) => {}
            Err(errno) => return Err(Trouble::Kernel("list a directory", errno)),
        }
    }
    Ok(())
}

/// What is in a directory.
fn names(directory: &OwnedFd) -> Step<Vec<OsString>> {
    let own = openat(
        directory,
        ".",
        OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    );
    let mut listing = Dir::from_fd(own.during("list a directory")?).during("list a directory")?;
    let mut found = Vec::new();
    for entry in listing.iter() {
        let entry = entry.during("list a directory")?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            found.push(OsStr::from_bytes(name).to_owned());
        }
    }
    Ok(found)
}

fn damaged(error: &io::Error) -> ImageError {
    match error.raw_os_error() {
        Some(_) => ImageError::Disk(format!("a layer could not be read: {error}")),
        None => ImageError::Damaged(format!("a layer of the image cannot be read: {error}")),
    }
}
