//! Directories in which nothing of one command is left for the next one.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, chown};
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;
use sandbox::SecretFiles;

/// Memory that looks like a directory; every container has its own.
const SHARED_MEMORY: &str = "/dev/shm";

/// Empties `scratch`, and the shared memory of a container that is this process's own.
///
/// # Errors
/// When something is left in `scratch`.
pub fn empty_all(scratch: &Path) -> io::Result<()> {
    // Not as root, which no pod lets it be: where memory is shared with the host everybody's would go.
    if std::process::id() == 1 && !geteuid().is_root() {
        // What is not writable there was not written there.
        let _ = sandbox::empty(Path::new(SHARED_MEMORY), None);
    }
    sandbox::empty(scratch, None)
}

/// Secrets as files. They are removed when this is dropped.
pub struct Shown(Vec<PathBuf>);

impl Shown {
    /// Writes the files, readable to whom user code runs as alone. `owner` names him, when that is not this process's.
    ///
    /// # Errors
    /// Names what could not be written, and what to do.
    pub fn write(secrets: &[SecretFiles], owner: Option<(u32, u32)>) -> Result<Self, String> {
        let mut shown = Self(Vec::new());
        for secret in secrets {
            let directory = Path::new(&secret.directory);
            let failed = |error: io::Error| {
                format!(
                    "the secrets of `{}` could not be written: {error}; mount a volume in memory there",
                    secret.directory
                )
            };
            fs::create_dir_all(directory).map_err(failed)?;
            for (name, value) in &secret.files {
                if name.is_empty() || name.contains('/') || name.starts_with('.') {
                    return Err(format!("`{name}` is no name of a file of a secret"));
                }
                let path = directory.join(name);
                // What a container left that was killed.
                match fs::remove_file(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
                    _ => shown.0.push(path.clone()),
                }
                write(&path, value, owner).map_err(failed)?;
            }
        }
        Ok(shown)
    }
}

fn write(path: &Path, value: &str, owner: Option<(u32, u32)>) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o400).open(path)?;
    file.write_all(value.as_bytes())?;
    match owner {
        Some((uid, gid)) => chown(path, Some(uid), Some(gid)),
        None => Ok(()),
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = fs::remove_file(path);
        }
    }
}
