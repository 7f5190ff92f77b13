//! Secrets as files that stand in memory alone: written when the command's own file systems are there, and never to a disk
//! of the host.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, chown};
use std::path::Path;

use super::{Setup, Step};
use crate::run::SecretFiles;

/// Bytes of the file system that they stand in: twice what a secret may have, in pages.
pub(super) const ROOM: &str = "size=1m,mode=755";

/// Writes them into a directory, readable to their owner alone: who runs this, or somebody else.
pub(super) fn write(directory: &Path, secret: &SecretFiles, owner: Option<(u32, u32)>) -> Setup<()> {
    for (name, value) in &secret.files {
        let what = || format!("write the secret `{}/{name}`", secret.directory);
        if name.is_empty() || name.contains('/') || name.starts_with('.') {
            return Err(super::Failure::Broken(format!(
                "`{name}` is no name of a file of a secret"
            )));
        }
        let path = directory.join(name);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o400)
            .open(&path)
            .step(what)?;
        file.write_all(value.as_bytes()).step(what)?;
        if let Some((uid, gid)) = owner {
            chown(&path, Some(uid), Some(gid)).step(what)?;
        }
    }
    fs::set_permissions(directory, std::os::unix::fs::PermissionsExt::from_mode(0o555))
        .step(|| format!("close `{}`", secret.directory))
}
