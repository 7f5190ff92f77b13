//! Two datums that write the same path: the output could not be put together, so the job fails and names them.

use std::collections::BTreeMap;

/// A file in a datum's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputPath<'a> {
    /// The datum, by whatever the caller knows it by (a key, hex, or an index).
    pub datum: &'a str,
    /// The absolute path.
    pub path: &'a str,
}

/// Two datums in each other's way.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the datums {first} and {second} both write `{path}`: let each write to a path of its own, for example one that begins with its input's name"
)]
pub struct Collision {
    /// The path, or the one of two that is a directory for the other datum.
    pub path: String,
    /// The datum that comes first.
    pub first: String,
    /// The other one.
    pub second: String,
}

/// The first collision among the outputs of a job: a path written by two datums, or one datum's file where another has a
/// directory. `None` = they fit together.
pub fn collision<'a>(outputs: impl IntoIterator<Item = OutputPath<'a>>) -> Option<Collision> {
    let mut files: BTreeMap<&str, &str> = BTreeMap::new();
    let told = |path: &str, a: &str, b: &str| {
        let (first, second) = if a <= b { (a, b) } else { (b, a) };
        Some(Collision {
            path: path.to_owned(),
            first: first.to_owned(),
            second: second.to_owned(),
        })
    };
    for output in outputs {
        match files.insert(output.path, output.datum) {
            Some(other) if other != output.datum => return told(output.path, other, output.datum),
            _ => {}
        }
    }
    for (path, datum) in &files {
        let above = path.match_indices('/').skip(1).map(|(at, _)| &path[..at]);
        for directory in above {
            if let Some(other) = files.get(directory) {
                return told(directory, other, datum);
            }
        }
    }
    None
}
