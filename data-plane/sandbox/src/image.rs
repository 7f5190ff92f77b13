//! What the sandbox needs of an unpacked image: directories to mount things at, and files to mount the host's over. And
//! whether this machine lays overlays.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, lchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::isolation::Isolation;
use crate::run::{Exit, Image, Limits, Run};
use crate::running::spawn;

/// Directories at the top of an image that the sandbox mounts something at.
pub(crate) const MOUNT_POINTS: [&str; 4] = ["dev", "pfs", "proc", "tmp"];
/// Further ones that programs expect.
const EXPECTED: [&str; 2] = ["etc", "sys"];
/// Files that say how hosts are found, of the host where its network is open.
pub(crate) const OVERLAID_FILES: [&str; 2] = ["etc/resolv.conf", "etc/hosts"];
const HOSTS: &str = "127.0.0.1\tlocalhost howdah\n::1\tlocalhost\n";

/// Makes an unpacked image fit to be `Image::rootfs`: what lies at the sandbox's own names and is no directory goes. `owner`
/// is the id that code runs as, where that is not the caller.
///
/// # Errors
/// Those of the disk.
pub fn prepare_rootfs(rootfs: &Path, owner: Option<(u32, u32)>) -> io::Result<()> {
    let own = |path: &Path| match owner {
        Some((uid, gid)) => lchown(path, Some(uid), Some(gid)),
        None => Ok(()),
    };
    for name in MOUNT_POINTS.into_iter().chain(EXPECTED) {
        let path = rootfs.join(name);
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => continue,
            Ok(_) => fs::remove_file(&path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        fs::create_dir(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        own(&path)?;
    }
    for (name, text) in OVERLAID_FILES.into_iter().zip(["", HOSTS]) {
        let path = rootfs.join(name);
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => fs::remove_dir_all(&path)?,
            Ok(_) => fs::remove_file(&path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
        own(&path)?;
    }
    Ok(())
}

/// Whether what code writes in an image can be laid over it, tried below `directory` with an image that holds nothing.
///
/// # Errors
/// Why it cannot be run, or not be written to, in words.
pub fn overlay_trial(sandbox_binary: &Path, isolation: Isolation, directory: &Path) -> Result<(), String> {
    let in_words = |error: io::Error| format!("cannot prepare a trial in `{}`: {error}", directory.display());
    let base = tried(directory).map_err(in_words)?;
    let writes = base.join("writes");
    let run = Run {
        command: vec!["/there-is-no-program".to_owned()],
        pfs: base.join("pfs"),
        scratch: base.join("tmp"),
        limits: Limits {
            wall: Some(Duration::from_secs(20)),
            ..Limits::default()
        },
        image: Some(Image {
            rootfs: base.join("rootfs"),
            writes: writes.clone(),
            user: (0, 0),
        }),
        ..Run::default()
    };
    let exit = spawn(sandbox_binary, isolation, &run).map(|running| running.wait().exit);
    // What the kernel makes where it lays one.
    let laid = writes.join("work/work").exists();
    let _ = crate::discard(&base);
    match exit {
        Ok(Exit::Code(127)) if laid => Ok(()),
        Ok(Exit::Code(127)) => Err("the kernel lays no overlay over that disk".to_owned()),
        Ok(Exit::SandboxFailed(reason)) => Err(reason),
        Ok(other) => Err(format!("the trial ended with {other:?}")),
        Err(error) => Err(error.to_string()),
    }
}

/// The directories of a trial.
fn tried(directory: &Path) -> io::Result<PathBuf> {
    let base = directory.join(format!("overlay-trial-{}", std::process::id()));
    crate::discard(&base)?;
    for name in ["rootfs", "writes", "tmp", "pfs/out"] {
        fs::create_dir_all(base.join(name))?;
    }
    prepare_rootfs(&base.join("rootfs"), None)?;
    Ok(base)
}
