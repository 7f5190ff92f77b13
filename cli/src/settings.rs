//! What the environment says: which service, organization and project, and where state and credentials are kept.

use std::path::{Path, PathBuf};

use crate::embedded::home::Home;
use crate::failure::{Failure, Outcome};

/// The settings of this run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The service, without a slash at the end.
    pub url: String,
    /// `HOWDAH_TOKEN`: wins over a stored login.
    pub token: Option<String>,
    /// `HOWDAH_ORG`: wins over `org use`.
    pub organization: Option<String>,
    /// `HOWDAH_PROJECT`, else `default`.
    pub project: String,
    /// Where credentials are kept.
    pub config: PathBuf,
    /// The embedded service's state.
    pub home: PathBuf,
    /// What can be fetched again.
    pub cache: PathBuf,
}

impl Settings {
    /// Reads the environment.
    ///
    /// # Errors
    /// When there is no home directory to keep anything in.
    pub fn from_environment() -> Outcome<Self> {
        let home = home_directory()?;
        let url = variable("HOWDAH_URL")
            .or_else(|| Home::new(&home).service().map(|service| service.url))
            .unwrap_or_else(|| "http://127.0.0.1:7433".to_owned());
        let config = config_directory()?;
        Ok(Self {
            url: url.trim_end_matches('/').to_owned(),
            token: variable("HOWDAH_TOKEN"),
            organization: variable("HOWDAH_ORG"),
            project: variable("HOWDAH_PROJECT").unwrap_or_else(|| "default".to_owned()),
            cache: cache_directory(&config),
            config,
            home,
        })
    }
}

/// A variable that is set and not empty.
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name)
        .ok()
        .map(|v| v.trim().to_owned())
        .filter(|v| !v.is_empty())
}

fn directory(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(variable(name)?);
    std::path::absolute(path).ok()
}

fn in_user_home(rest: &str) -> Outcome<PathBuf> {
    directory("HOME").map(|home| home.join(rest)).ok_or_else(|| {
        Failure::new(
            "there is no place for Howdah's files",
            "HOME is not set",
            "set HOME, or HOWDAH_HOME and HOWDAH_CONFIG_HOME",
        )
    })
}

/// `HOWDAH_HOME`; for root `/var/lib/howdah`; else in the user's data directory.
fn home_directory() -> Outcome<PathBuf> {
    if let Some(home) = directory("HOWDAH_HOME") {
        return Ok(home);
    }
    if nix::unistd::Uid::effective().is_root() {
        return Ok(Path::new("/var/lib/howdah").to_path_buf());
    }
    match directory("XDG_DATA_HOME") {
        Some(data) => Ok(data.join("howdah")),
        None => in_user_home(".local/share/howdah"),
    }
}

fn config_directory() -> Outcome<PathBuf> {
    if let Some(config) = directory("HOWDAH_CONFIG_HOME") {
        return Ok(config);
    }
    match directory("XDG_CONFIG_HOME") {
        Some(config) => Ok(config.join("howdah")),
        None => in_user_home(".config/howdah"),
    }
}

/// In the user's cache directory; who has none set keeps it beside the credentials.
fn cache_directory(config: &Path) -> PathBuf {
    match directory("XDG_CACHE_HOME") {
        Some(cache) => cache.join("howdah"),
        None => in_user_home(".cache/howdah").unwrap_or_else(|_| config.join("cache")),
    }
}
