//! What stands where under HOWDAH_HOME, and what the running service writes about itself.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Outcome, io};
use crate::files_of_ours::{make_private_directory, open_lock, read_json, write, write_json};

/// The state directory.
#[derive(Debug, Clone)]
pub struct Home {
    /// The directory.
    pub path: PathBuf,
}

/// How far the service is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Not yet answering.
    Starting,
    /// Answering.
    Running,
    /// On its way down.
    Stopping,
}

/// What the supervisor writes about the service into `run/service.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Service {
    /// Its address.
    pub url: String,
    /// Where it listens.
    pub listen: String,
    /// Where services of pipelines are reached, a host for each in the place of the star.
    #[serde(default)]
    pub services_url: String,
    /// Where that is listened.
    #[serde(default)]
    pub services_listen: String,
    /// How far it is.
    pub state: State,
    /// The supervisor's process.
    pub pid: u32,
    /// The control plane's process.
    pub control_plane: Option<u32>,
    /// PostgreSQL's process; nothing when `DATABASE_URL` names a server.
    pub postgres: Option<i32>,
    /// When it was started.
    pub started_at: DateTime<Utc>,
    /// The version of the supervisor.
    pub version: String,
}

impl Home {
    /// The state directory of that path. Nothing is made.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_path_buf(),
        }
    }

    /// Makes the directory and those below it.
    ///
    /// # Errors
    /// When that is not possible.
    pub fn prepare(&self) -> Outcome {
        // Started by root, parts run as other users that must pass through (not list) this directory.
        let mode = if nix::unistd::Uid::effective().is_root() {
            0o711
        } else {
            0o700
        };
        DirBuilder::new()
            .recursive(true)
            .mode(mode)
            .create(&self.path)
            .map_err(io("make", &self.path))?;
        for directory in ["run", "log", "keys"] {
            make_private_directory(&self.path.join(directory))?;
        }
        Ok(())
    }

    /// What the service wrote about itself, if it runs or was killed.
    pub fn service(&self) -> Option<Service> {
        read_json(&self.path.join("run/service.json"))
    }

    /// Writes it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_service(&self, service: &Service) -> Outcome {
        write_json(&self.path.join("run/service.json"), service)
    }

    /// The service is gone.
    pub fn forget_service(&self) {
        let _ = std::fs::remove_file(self.path.join("run/service.json"));
    }

    /// Where the supervisor leaves why it could not start, for `up --detach`.
    pub fn failure(&self) -> PathBuf {
        self.path.join("run/failure.json")
    }

    /// A log file.
    pub fn log(&self, name: &str) -> PathBuf {
        self.path.join("log").join(format!("{name}.log"))
    }

    /// The cluster's directory.
    pub fn postgres(&self) -> PathBuf {
        self.path.join("postgres")
    }

    /// Which external database the service runs on, without its password.
    pub fn external_database(&self) -> Option<String> {
        let text = std::fs::read_to_string(self.path.join("external-database")).ok()?;
        Some(text.trim().to_owned())
    }

    /// Writes it down.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_external_database(&self, shown: &str) -> Outcome {
        write(&self.path.join("external-database"), format!("{shown}\n").as_bytes())
    }

    /// The file that the supervisor holds locked.
    pub fn lock(&self) -> PathBuf {
        self.path.join("run/lock")
    }

    /// Takes the lock that the supervisor holds while it lives; `None` when somebody has it.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn try_lock(&self) -> Outcome<Option<File>> {
        let file = open_lock(&self.lock())?;
        Ok(file.try_lock().is_ok().then_some(file))
    }

    /// Whether a supervisor lives.
    pub fn is_supervised(&self) -> bool {
        self.lock().exists() && matches!(self.try_lock(), Ok(None))
    }

    /// The key that encrypts the secrets in the database: made once. Losing it loses them, so it is never replaced.
    ///
    /// # Errors
    /// When it cannot be read, written, or is damaged.
    pub fn master_key(&self) -> Outcome<String> {
        let path = self.path.join("keys/master.key");
        match std::fs::read_to_string(&path) {
            Ok(text) if text.trim().len() == 64 && hex::decode(text.trim()).is_ok() => Ok(text.trim().to_owned()),
            Ok(_) => Err(Failure::new(
                "the master key is damaged",
                format!("{} does not hold 64 hexadecimal digits", path.display()),
                "restore the file from a backup; without it the stored secrets are lost",
            )),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let mut bytes = [0; 32];
                rand::Rng::fill_bytes(&mut rand::rng(), &mut bytes);
                let key = hex::encode(bytes);
                write(&path, format!("{key}\n").as_bytes())?;
                Ok(key)
            }
            Err(e) => Err(io("read", &path)(e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_master_key_is_made_once_and_never_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::new(directory.path());
        home.prepare().unwrap_or_else(|e| panic!("{e:?}"));
        let key = home.master_key().unwrap_or_else(|e| panic!("{e:?}"));
        assert_eq!(home.master_key().unwrap_or_else(|e| panic!("{e:?}")), key);
        std::fs::write(directory.path().join("keys/master.key"), "cut off").unwrap();
        assert!(home.master_key().is_err());
    }

    #[test]
    fn the_lock_tells_whether_a_supervisor_lives() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::new(directory.path());
        assert!(!home.is_supervised());
        home.prepare().unwrap_or_else(|e| panic!("{e:?}"));
        let lock = home.try_lock().unwrap_or_else(|e| panic!("{e:?}")).unwrap();
        assert!(home.is_supervised());
        drop(lock);
        assert!(!home.is_supervised());
    }
}
