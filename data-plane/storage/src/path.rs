//! Paths of files in a versioned tree: one parser at the edge, so that everything behind it may
//! rely on NFC-normalized, relative paths without tricks, ordered by their bytes.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use unicode_normalization::{UnicodeNormalization, is_nfc};

/// The longest path in bytes, after normalization.
pub const PATH_BYTES_MAX: usize = 4096;

/// A valid path of a file or directory below the root of a tree, without leading slash; cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FilePath(Arc<str>);

/// Why a text is no path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Nothing, or only a slash.
    #[error("path is empty: name a file or directory below `/`")]
    Empty,
    /// Two slashes in a row, or a slash at the end.
    #[error("path `{0}` has an empty part: remove doubled and trailing slashes")]
    EmptyPart(String),
    /// A part is `.` or `..`.
    #[error("path `{0}` has a part `.` or `..`: write the path out from the root of the repo")]
    DotPart(String),
    /// A NUL byte.
    #[error("path holds a NUL byte: no file system accepts that")]
    Nul,
    /// More than [`PATH_BYTES_MAX`] bytes.
    #[error("path has {0} bytes: at most {PATH_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// Bytes that are not UTF-8.
    #[error("path is not UTF-8: rename the file")]
    NotUtf8,
}

impl FilePath {
    /// Parses and normalizes; one leading slash is dropped.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        let relative = text.strip_prefix('/').unwrap_or(text);
        if relative.is_empty() {
            return Err(PathError::Empty);
        }
        if relative.len() > PATH_BYTES_MAX * 4 {
            return Err(PathError::TooLong(relative.len()));
        }
        let normal: Arc<str> = if relative.is_ascii() || is_nfc(relative) {
            relative.into()
        } else {
            relative.nfc().collect::<String>().into()
        };
        if normal.len() > PATH_BYTES_MAX {
            return Err(PathError::TooLong(normal.len()));
        }
        if normal.contains('\0') {
            return Err(PathError::Nul);
        }
        for part in normal.split('/') {
            match part {
                "" => return Err(PathError::EmptyPart(excerpt(&normal))),
                "." | ".." => return Err(PathError::DotPart(excerpt(&normal))),
                _ => {}
            }
        }
        Ok(Self(normal))
    }

    /// Parses bytes, as file systems and archives deliver them.
    pub fn parse_bytes(bytes: &[u8]) -> Result<Self, PathError> {
        Self::parse(std::str::from_utf8(bytes).map_err(|_| PathError::NotUtf8)?)
    }

    /// The path without leading slash.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last part.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// The directory that holds this path; `None` at the top.
    pub fn parent(&self) -> Option<FilePath> {
        self.0.rsplit_once('/').map(|(parent, _)| Self(parent.into()))
    }

    /// This path with more parts behind it.
    pub fn join(&self, rest: &str) -> Result<FilePath, PathError> {
        Self::parse(&format!("{}/{rest}", self.0))
    }

    /// What follows `directory/`, if this path lies below it.
    pub fn strip_directory<'a>(&'a self, directory: &FilePath) -> Option<&'a str> {
        self.0.strip_prefix(directory.as_str())?.strip_prefix('/')
    }

    /// A path that no file has, for the impossible case of a node without items.
    pub(crate) fn nowhere() -> Self {
        Self(Arc::from(""))
    }

    /// The directories above, from the top down.
    pub fn ancestors(&self) -> impl Iterator<Item = &str> {
        self.0.match_indices('/').map(|(at, _)| &self.0[..at])
    }
}

fn excerpt(path: &str) -> String {
    path.chars().take(200).collect()
}

impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl Borrow<str> for FilePath {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for FilePath {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl FromStr for FilePath {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl Serialize for FilePath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for FilePath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}
