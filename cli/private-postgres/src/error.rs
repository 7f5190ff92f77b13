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
    #[error("{program} failed: {message}{log}")]
    Program {
        /// Which.
        program: &'static str,
        /// What it said.
        message: String,
        /// The end of the server's log, or nothing.
        log: String,
    },
}

impl PostgresError {
    pub(crate) fn directory(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Directory { what, path, source }
    }
}
