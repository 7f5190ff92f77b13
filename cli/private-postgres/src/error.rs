//! What can go wrong, each with what to do about it.

use std::io;
use std::path::PathBuf;

/// Why there is no running cluster.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// No binaries anywhere.
    #[error(
        "PostgreSQL was not found: no initdb and postgres in {searched}; install it (`apt-get install postgresql`), or set PG_BIN_DIR to the directory of its programs, or DATABASE_URL to a server that runs already"
    )]
    NotFound {
        /// Where we looked, for the reader.
        searched: String,
    },
    /// `PG_BIN_DIR` names a directory without them.
    #[error(
        "PG_BIN_DIR is {directory:?}, but there is no initdb and postgres in it; set it to the directory that holds both, or unset it"
    )]
    WrongDirectory {
        /// The directory.
        directory: PathBuf,
    },
    /// The cluster was made by another major version.
    #[error(
        "the database in {data:?} was made by PostgreSQL {wanted}, but only {found} is installed; install postgresql-{wanted} or set PG_BIN_DIR to its programs"
    )]
    WrongVersion {
        /// The data directory.
        data: PathBuf,
        /// The major version that made it.
        wanted: u32,
        /// What there is.
        found: String,
    },
    /// Nobody to run it as.
    #[error(
        "PostgreSQL does not run as root, and this machine has neither a user `postgres` nor `nobody`; create one (`useradd --system postgres`)"
    )]
    NoAccount,
    /// The user id has no name, which initdb needs.
    #[error("PostgreSQL needs a user with a name, but user id {uid} has no entry in /etc/passwd; run as a named user")]
    NamelessAccount {
        /// The id.
        uid: u32,
    },
    /// A directory could not be made or read.
    #[error("{what} {path:?} failed: {source}; check its owner, its permissions and the space on its disk")]
    Directory {
        /// What was tried.
        what: &'static str,
        /// With which path.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Somebody else owns what should be ours.
    #[error("{path:?} belongs to another user and cannot be trusted; remove it or choose another HOWDAH_HOME")]
    NotOurs {
        /// The path.
        path: PathBuf,
    },
    /// A program of PostgreSQL failed.
    #[error("{program} failed: {message}{}", said(.log))]
    Program {
        /// Which.
        program: &'static str,
        /// What it said.
        message: String,
        /// The server's log, if it has one already.
        log: Option<PathBuf>,
    },
}

/// The end of the server's log, for who reads an error alone.
fn said(log: &Option<PathBuf>) -> String {
    let Some(log) = log else { return String::new() };
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().rev().take(5).collect();
    if lines.is_empty() {
        return String::new();
    }
    let lines: Vec<&str> = lines.into_iter().rev().collect();
    format!("; the end of {}: {}", log.display(), lines.join("; "))
}

impl PostgresError {
    /// Why, and what to do: the two halves of what it says.
    pub fn parts(&self) -> (String, String) {
        if let Self::Program { program, message, log } = self {
            let why = format!("{program} failed: {message}");
            let hint = match log {
                Some(log) => format!("check the space on its disk, and look into {}", log.display()),
                None => "check the space on its disk".to_owned(),
            };
            return (why, hint);
        }
        let text = self.to_string();
        match text.split_once("; ") {
            Some((why, hint)) => (why.to_owned(), hint.to_owned()),
            None => (text, "see `howdah doctor`".to_owned()),
        }
    }

    pub(crate) fn directory(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Directory { what, path, source }
    }
}
