//! What is remembered between commands, per service: the session, the current organization, the highest policy epoch seen,
//! and access tokens until they run out. Readable by its owner only, replaced as a whole.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Outcome, io};
use crate::files_of_ours::{make_private_directory, open_lock, read_json, write_json};

/// What is remembered about one service.
#[derive(Default, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct Login {
    /// `hwd_ses_…`.
    pub session_token: Option<String>,
    /// Whose session it is.
    pub email: Option<String>,
    /// The organization in use.
    pub organization: Option<String>,
    /// The highest policy epoch seen, by the organization's id: the next organization of a name counts from 1 again.
    pub epochs: BTreeMap<String, u64>,
    /// Access tokens, by who asked and for which organization.
    pub access: BTreeMap<String, CachedAccess>,
}

/// An access token that may still be good.
#[derive(Clone, Serialize, Deserialize)]
pub struct CachedAccess {
    /// The JWT.
    pub access_token: String,
    /// When it ends.
    pub expires_at: DateTime<Utc>,
    /// The organization's id.
    #[serde(default)]
    pub organization_id: String,
    /// The plane through the gateway.
    pub plane_url: String,
    /// The plane itself.
    pub direct_url: Option<String>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Document {
    services: BTreeMap<String, Login>,
}

/// The file.
#[derive(Debug, Clone)]
pub struct Credentials {
    directory: PathBuf,
    url: String,
}

impl Login {
    /// Forgets what was learned by using the service: it, or the organization, is another one now.
    pub fn forget_seen(&mut self) {
        self.access.clear();
        self.epochs.clear();
    }
}

impl Credentials {
    /// The credentials for one service.
    pub fn new(directory: &Path, url: &str) -> Self {
        Self {
            directory: directory.to_path_buf(),
            url: url.to_owned(),
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.join("credentials.json")
    }

    /// What is remembered; nothing when there is no file.
    pub fn read(&self) -> Login {
        let document: Document = read_json(&self.path()).unwrap_or_default();
        document.services.get(&self.url).cloned().unwrap_or_default()
    }

    /// Changes what is remembered, so that commands that run at the same time lose nothing of each other's.
    ///
    /// # Errors
    /// When the file cannot be written, or holds something that is not ours.
    pub fn change(&self, change: impl FnOnce(&mut Login)) -> Outcome {
        make_private_directory(&self.directory)?;
        let lock = self.directory.join("lock");
        let held = open_lock(&lock)?;
        held.lock().map_err(io("lock", &lock))?;
        let path = self.path();
        let mut document: Document = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| {
                let hint = format!("remove {} and log in again", path.display());
                Failure::new("the stored credentials are damaged", e, hint)
            })?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Document::default(),
            Err(e) => return Err(io("read", &path)(e)),
        };
        change(document.services.entry(self.url.clone()).or_default());
        write_json(&path, &document)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn each_service_has_its_own_login_and_nobody_else_reads_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let one = Credentials::new(directory.path(), "http://one");
        let two = Credentials::new(directory.path(), "http://two");
        one.change(|login| login.email = Some("a@example.org".to_owned()))
            .unwrap_or_else(|e| panic!("{e:?}"));
        assert_eq!(one.read().email.as_deref(), Some("a@example.org"));
        assert_eq!(two.read().email, None);
        let mode = directory
            .path()
            .join("credentials.json")
            .metadata()
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_file_is_not_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("credentials.json"), "{").unwrap();
        let credentials = Credentials::new(directory.path(), "http://one");
        assert!(credentials.change(|_| ()).is_err());
    }
}
