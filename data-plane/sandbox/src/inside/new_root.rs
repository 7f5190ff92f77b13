//! The root directory of user code, built from nothing: the host's programs read-only, a few devices, a private
//! `/proc` and `/tmp`, and `/pfs`. An allow-list, so that what a host keeps in unusual places stays unseen.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statvfs::{FsFlags, statvfs};

use super::{DEVICES, PROGRAM_DIRECTORIES, Setup, Step, is_below_program_directory, secrets};
use crate::run::Network;
use crate::wire::Spec;

/// Where the new root grows until it becomes the root: a directory that every host has and that no bind comes from.
const STAGING: &str = "/proc";
/// Size of the tmpfs under `/dev/shm` when there is no memory limit to take for it.
const SHARED_MEMORY_BYTES: u64 = 1 << 30;

/// Builds the new root and makes it this process's root. `root_of_host`: no user namespace is around it.
pub(super) fn enter(spec: &Spec, root_of_host: bool) -> Setup<()> {
    let none = None::<&str>;
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).step(|| "make mounts private".to_owned())?;
    // Read before the staging area covers /proc.
    let mount_points = mount_points();
    let root = Path::new(STAGING);
    let tree = Tree { root, mount_points };
    let writable = match &spec.image {
        Some(image) => tree.image(image, spec, root_of_host)?,
        None => {
            small_tmpfs(root)?;
            tree.programs(spec)?;
            tree.devices(spec)?;
            tree.data(spec)?;
            tree.secrets(spec, root_of_host)?;
            tree.directory("/proc")?;
            false
        }
    };
    let inner = root.join("proc");
    mount(Some("proc"), &inner, Some("proc"), quiet | MsFlags::MS_NOEXEC, none).step(|| "mount /proc".to_owned())?;
    nix::unistd::chdir(root).step(|| "enter the new root".to_owned())?;
    nix::unistd::pivot_root(".", ".").step(|| "make the new root the root".to_owned())?;
    // The old root lies on top of the new one now; without it nothing of the host is reachable.
    umount2(".", MntFlags::MNT_DETACH).step(|| "let go of the host's root".to_owned())?;
    nix::unistd::chdir("/").step(|| "enter the root".to_owned())?;
    if writable { Ok(()) } else { freeze(Path::new("/")) }
}

/// A file system for a few directories, links and mount points.
pub(super) fn small_tmpfs(target: &Path) -> Setup<()> {
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let options = Some("size=1m,mode=755");
    mount(Some("tmpfs"), target, Some("tmpfs"), quiet, options).step(|| format!("mount `{}`", target.display()))
}

/// Makes a mount read-only, not those below it.
pub(super) fn freeze(target: &Path) -> Setup<()> {
    let none = None::<&str>;
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let frozen = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | quiet;
    mount(none, target, none, frozen, none).step(|| format!("make `{}` read-only", target.display()))
}

pub(super) struct Tree<'a> {
    pub(super) root: &'a Path,
    /// Of the host, to find what lies below a directory that is bound.
    mount_points: Vec<PathBuf>,
}

impl Tree<'_> {
    /// A path of the new root while it is staged.
    pub(super) fn staged(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    fn directory(&self, path: &str) -> Setup<PathBuf> {
        let staged = self.staged(path);
        fs::create_dir_all(&staged).step(|| format!("make `{path}`"))?;
        Ok(staged)
    }

    fn link(&self, target: impl AsRef<Path>, path: &str) -> Setup<()> {
        symlink(target, self.staged(path)).step(|| format!("make the link `{path}`"))
    }

    /// The host's programs and their configuration, minus what is masked.
    fn programs(&self, spec: &Spec) -> Setup<()> {
        for path in PROGRAM_DIRECTORIES {
            match fs::symlink_metadata(path) {
                Ok(entry) if entry.is_symlink() => {
                    let target = fs::read_link(path).step(|| format!("read the link `{path}`"))?;
                    self.link(target, path)?;
                }
                Ok(entry) if entry.is_dir() => self.bind(Path::new(path), path, Access::Read)?,
                _ => {}
            }
        }
        for path in &spec.visible {
            if !is_below_program_directory(path, &[]) {
                self.bind(path, &path.to_string_lossy(), Access::Read)?;
            }
        }
        if spec.network == Network::Host {
            self.resolver()?;
        }
        for path in spec
            .masked
            .iter()
            .filter(|path| is_below_program_directory(path, &spec.visible))
        {
            self.mask(path)?;
        }
        Ok(())
    }

    /// `/etc/resolv.conf` often points into /run, which is not there.
    fn resolver(&self) -> Setup<()> {
        match fs::canonicalize("/etc/resolv.conf") {
            Ok(path) if !is_below_program_directory(&path, &[]) => {
                self.bind(&path, &path.to_string_lossy(), Access::Read)
            }
            _ => Ok(()),
        }
    }

    fn mask(&self, path: &Path) -> Setup<()> {
        let target = self.staged(&path.to_string_lossy());
        let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        let masked = if path.is_dir() {
            mount(Some("tmpfs"), &target, Some("tmpfs"), flags, Some("size=4k,mode=000"))
        } else {
            mount(Some("/dev/null"), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        };
        masked.step(|| format!("hide `{}`", path.display()))
    }

    pub(super) fn devices(&self, spec: &Spec) -> Setup<()> {
        self.directory("/dev")?;
        for name in DEVICES {
            let path = format!("/dev/{name}");
            let target = self.staged(&path);
            fs::File::create(&target).step(|| format!("make `{path}`"))?;
            mount(
                Some(path.as_str()),
                &target,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )
            .step(|| format!("show `{path}`"))?;
        }
        for (name, target) in [("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")] {
            self.link(format!("/proc/self/fd{target}"), &format!("/dev/{name}"))?;
        }
        let shared = self.directory("/dev/shm")?;
        let options = format!("mode=1777,size={}", spec.limits.memory.unwrap_or(SHARED_MEMORY_BYTES));
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("tmpfs"), &shared, Some("tmpfs"), flags, Some(options.as_str())).step(|| "mount /dev/shm".to_owned())
    }

    /// `/tmp` and `/pfs`.
    fn data(&self, spec: &Spec) -> Setup<()> {
        self.bind(&spec.scratch, "/tmp", Access::Write)?;
        self.directory("/var")?;
        self.link("../tmp", "/var/tmp")?;
        for (source, path) in &spec.shown {
            self.bind(source, path, Access::Read)?;
        }
        self.pfs(spec)
    }

    /// The inputs and `out`.
    pub(super) fn pfs(&self, spec: &Spec) -> Setup<()> {
        for name in &spec.inputs {
            self.bind(&spec.pfs.join(name), &format!("/pfs/{name}"), Access::Read)?;
        }
        self.bind(&spec.pfs.join("out"), "/pfs/out", Access::Write)
    }

    /// Each list of secrets in a small file system of its own.
    pub(super) fn secrets(&self, spec: &Spec, root_of_host: bool) -> Setup<()> {
        let owner = root_of_host.then_some(spec.uid_gid);
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        for secret in &spec.secrets {
            let what = || format!("mount `{}`", secret.directory);
            let target = self.directory(&secret.directory)?;
            mount(Some("tmpfs"), &target, Some("tmpfs"), flags, Some(secrets::ROOM)).step(what)?;
            secrets::write(&target, secret, owner)?;
            let closed = flags | MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
            mount(None::<&str>, &target, None::<&str>, closed, None::<&str>).step(what)?;
        }
        Ok(())
    }

    /// Shows `source` at `path`, with the mounts below it.
    pub(super) fn bind(&self, source: &Path, path: &str, access: Access) -> Setup<()> {
        let target = self.staged(path);
        let what = || format!("show `{}` at `{path}`", source.display());
        if source.is_dir() {
            fs::create_dir_all(&target).step(what)?;
        } else {
            target.parent().map_or(Ok(()), fs::create_dir_all).step(what)?;
            fs::File::create(&target).step(what)?;
        }
        mount(
            Some(source),
            &target,
            None::<&str>,
            MsFlags::MS_BIND | MsFlags::MS_REC,
            None::<&str>,
        )
        .step(what)?;
        restrict(&target, access).step(what)?;
        // A recursive bind is recursive, its flags are not.
        for below in self
            .mount_points
            .iter()
            .filter_map(|point| point.strip_prefix(source).ok())
        {
            let below = target.join(below);
            // What cannot be reached, or is covered by another mount of the host, shows nothing anyway.
            if below != target && statvfs(&below).is_ok() {
                match restrict(&below, access) {
                    Err(Errno::EINVAL) => {}
                    result => result.step(what)?,
                }
            }
        }
        Ok(())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

/// Sets the flags of one bound mount. What a host mount forbids stays forbidden, else the kernel refuses the change.
pub(super) fn restrict(target: &Path, access: Access) -> nix::Result<()> {
    let mut flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let host = statvfs(target)?.flags();
    if access == Access::Read || host.contains(FsFlags::ST_RDONLY) {
        flags |= MsFlags::MS_RDONLY;
    }
    if host.contains(FsFlags::ST_NOEXEC) {
        flags |= MsFlags::MS_NOEXEC;
    }
    mount(None::<&str>, target, None::<&str>, flags, None::<&str>)
}

/// The mount points of the host, from the fifth field of each line, with its escapes undone.
fn mount_points() -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|field| PathBuf::from(unescape(field)))
        .collect()
}

/// Undoes the octal escapes of blanks and backslashes.
fn unescape(field: &str) -> String {
    let pairs = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    pairs
        .iter()
        .fold(field.to_owned(), |text, (from, to)| text.replace(from, to))
}
