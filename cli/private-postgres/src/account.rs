//! Which user PostgreSQL runs as, and how a program is started as that user.

use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::unistd::{Uid, User};

use crate::error::PostgresError;

/// The user that PostgreSQL runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Whether that is somebody else than us: we are root then.
    pub(crate) other: bool,
}

impl Account {
    /// Ourselves; if we are root, the owner of the existing data directory, else `postgres`, else `nobody`.
    pub(crate) fn choose(data: &Path) -> Result<Self, PostgresError> {
        let me = Uid::effective();
        if !me.is_root() {
            let user = User::from_uid(me).ok().flatten();
            let user = user.ok_or(PostgresError::NamelessAccount { uid: me.as_raw() })?;
            return Ok(Self {
                uid: me.as_raw(),
                gid: user.gid.as_raw(),
                other: false,
            });
        }
        let owner = data.metadata().ok().map(|m| Uid::from_raw(m.uid()));
        let owner = owner
            .filter(|uid| !uid.is_root())
            .and_then(|uid| User::from_uid(uid).ok().flatten());
        let named = |name| User::from_name(name).ok().flatten().filter(|u: &User| !u.uid.is_root());
        let user = owner
            .or_else(|| named("postgres"))
            .or_else(|| named("nobody"))
            .ok_or(PostgresError::NoAccount)?;
        Ok(Self {
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
            other: true,
        })
    }

    /// A command that runs as this user, with nothing of our environment: `PGPORT` and its like must not reach it.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C")
            .current_dir("/")
            .stdin(Stdio::null());
        // The unpacked wheel of a package index keeps its libraries beside its programs.
        if let Some(library) = program.parent().and_then(Path::parent).map(|p| p.join("lib"))
            && library.is_dir()
            && !program.starts_with("/usr")
        {
            command.env("LD_LIBRARY_PATH", library);
        }
        if self.other {
            command.uid(self.uid).gid(self.gid);
        }
        command
    }

    /// Gives a path to this user.
    pub(crate) fn own(&self, path: &Path) -> Result<(), PostgresError> {
        if self.other {
            chown(path, Some(self.uid), Some(self.gid))
                .map_err(PostgresError::directory("changing the owner of", path))?;
        }
        Ok(())
    }

    /// Whether this user can enter the directory: tried, not computed, because there are access lists and mounts too.
    pub(crate) fn can_enter(&self, directory: &Path) -> bool {
        let mut command = self.command(Path::new("/bin/sh"));
        command.args(["-c", "cd \"$1\"", "sh"]).arg(directory);
        command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }
}
