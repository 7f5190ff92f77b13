//! The root directory of user code that runs from an image: the unpacked image, shared and never written, under an overlay
//! that keeps what this one run writes. What is mounted below lies at names that `prepare_rootfs` made real directories, so
//! no link of an image leads a mount out of it; that is looked at again here.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use nix::mount::{MsFlags, mount};

use super::new_root::{Access, Tree, freeze, small_tmpfs};
use super::{Failure, Setup, Step};
use crate::image::{MOUNT_POINTS, OVERLAID_FILES};
use crate::run::{Image, Network};
use crate::wire::Spec;

/// Where the overlay keeps what is written, and what it needs for itself, below `Image::writes`.
pub(super) const UPPER: &str = "upper";
const WORK: &str = "work";

/// Makes what an overlay is made of.
pub(super) fn make_directories(spec: &Spec) -> Setup<()> {
    let Some(image) = &spec.image else { return Ok(()) };
    for name in [UPPER, WORK] {
        let path = image.writes.join(name);
        // The second command of a datum goes on with what the first one wrote.
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(error).step(|| format!("make `{}`", path.display()))?;
            }
            _ => {}
        }
    }
    Ok(())
}

impl Tree<'_> {
    /// Mounts the image where the root is staged, and everything else into it. Says whether it can be written to.
    pub(super) fn image(&self, image: &Image, spec: &Spec, root_of_host: bool) -> Setup<bool> {
        let overlaid = overlay(image, self.root, root_of_host);
        if overlaid.is_err() {
            self.bind(&image.rootfs, "/", Access::Read)?;
        }
        for path in MOUNT_POINTS {
            let found = fs::symlink_metadata(self.staged(path)).step(|| format!("find `/{path}` in the image"))?;
            if !found.is_dir() {
                return Err(Failure::Broken(format!(
                    "the image's `/{path}` is no directory: unpack it again"
                )));
            }
        }
        let devices = self.staged("dev");
        small_tmpfs(&devices)?;
        self.devices(spec)?;
        freeze(&devices)?;
        self.bind(&spec.scratch, "/tmp", Access::Write)?;
        let pfs = self.staged("pfs");
        small_tmpfs(&pfs)?;
        self.pfs(spec)?;
        freeze(&pfs)?;
        for (source, path) in &spec.shown {
            self.refuse_links(path)?;
            self.bind(source, path, Access::Read)?;
        }
        for secret in &spec.secrets {
            self.refuse_links(&secret.directory)?;
        }
        self.secrets(spec, root_of_host)?;
        if spec.network == Network::Host {
            self.names()?;
        }
        Ok(overlaid.is_ok())
    }

    /// Nothing is mounted through a link of an image: it could lead out of it. Nor over a file.
    fn refuse_links(&self, path: &str) -> Setup<()> {
        let mut so_far = PathBuf::new();
        for part in Path::new(path).components() {
            match part {
                Component::Normal(part) => so_far.push(part),
                Component::RootDir | Component::CurDir => continue,
                Component::ParentDir | Component::Prefix(_) => {
                    return Err(Failure::Refused(format!(
                        "nothing can be shown at `{path}`: name a path without `..`"
                    )));
                }
            }
            match fs::symlink_metadata(self.root.join(&so_far)) {
                Ok(found) if found.is_symlink() => {
                    return Err(Failure::Refused(format!(
                        "nothing can be shown at `{path}`, because `/{}` is a link in the image: name where it leads",
                        so_far.display()
                    )));
                }
                Ok(found) if !found.is_dir() => {
                    return Err(Failure::Refused(format!(
                        "nothing can be shown at `{path}`, because `/{}` is a file in the image: remove it there",
                        so_far.display()
                    )));
                }
                Ok(_) => {}
                // What is missing is made.
                Err(_) => return Ok(()),
            }
        }
        Ok(())
    }

    /// The host's way of finding hosts.
    fn names(&self) -> Setup<()> {
        for path in OVERLAID_FILES {
            let is_file = fs::symlink_metadata(self.staged(path)).is_ok_and(|found| found.is_file());
            match fs::canonicalize(Path::new("/").join(path)) {
                Ok(source) if is_file => self.bind_file(&source, path)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn bind_file(&self, source: &Path, path: &str) -> Setup<()> {
        let target = self.staged(path);
        let what = || format!("show `{}` at `/{path}`", source.display());
        mount(Some(source), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>).step(what)?;
        super::new_root::restrict(&target, Access::Read).step(what)
    }
}

/// Lays what is written over the image. In a user namespace what an overlay notes of a file are a user's attributes (Linux
/// 5.11 and later); else root's, which code cannot set.
fn overlay(image: &Image, target: &Path, root_of_host: bool) -> nix::Result<()> {
    let (upper, work) = (image.writes.join(UPPER), image.writes.join(WORK));
    let options = format!(
        "lowerdir={},upperdir={},workdir={}{}",
        escaped(&image.rootfs),
        escaped(&upper),
        escaped(&work),
        if root_of_host { "" } else { ",userxattr" }
    );
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("overlay"), target, Some("overlay"), flags, Some(options.as_str()))
}

/// A path in the options of a mount, where `:` and `,` separate.
fn escaped(path: &Path) -> String {
    let mut text = String::new();
    for letter in path.to_string_lossy().chars() {
        if matches!(letter, ':' | ',' | '\\') {
            text.push('\\');
        }
        text.push(letter);
    }
    text
}
