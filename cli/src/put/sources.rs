//! What is put where: each source with the path it gets.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::failure::{Failure, Outcome, io};

/// A file on its way.
#[derive(Debug)]
pub(super) struct Source {
    /// Where it goes, without the slash at the front.
    pub(super) path: String,
    pub(super) content: Content,
    size: u64,
    pub(super) executable: bool,
    /// What changes with the file: the times of its content and of its entry, and which file it is.
    pub(super) identity: Identity,
}

/// What changes with a file.
pub(super) type Identity = [i128; 3];

#[derive(Debug)]
pub(super) enum Content {
    At(PathBuf),
    /// Standard input, kept aside first: a tar header needs the size.
    Kept(File),
}

impl Source {
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Whether it can be read a second time by the same name.
    pub(super) fn is_on_disk(&self) -> bool {
        matches!(self.content, Content::At(_))
    }

    #[cfg(test)]
    pub(super) fn for_test(path: &str, size: u64) -> Self {
        Self {
            path: path.to_owned(),
            content: Content::At(path.into()),
            size,
            executable: false,
            identity: [0; 3],
        }
    }
}

/// Finds all files. A single file goes to the path itself (or into it, when it ends in `/`); what a directory holds goes
/// below the path.
pub(super) fn find(given: &[String], path: Option<&str>, recursive: bool) -> Outcome<Vec<Source>> {
    let mut found = Vec::new();
    let several = given.len() > 1;
    for source in given {
        if source == "-" {
            found.push(standard_input(path)?);
            continue;
        }
        let at = Path::new(source);
        let metadata = at.metadata().map_err(io("read", at))?;
        if metadata.is_dir() {
            if !recursive {
                return Err(Failure::usage(
                    format!("cannot put {source}"),
                    "it is a directory",
                    "repeat with -r",
                ));
            }
            walk(at, &below(path), &mut found)?;
        } else {
            found.push(file(at, name_of(at, path, several)?, &metadata)?);
        }
    }
    Ok(found)
}

fn below(path: Option<&str>) -> String {
    path.unwrap_or_default().trim_matches('/').to_owned()
}

fn join(directory: &str, name: &str) -> String {
    if directory.is_empty() {
        name.to_owned()
    } else {
        format!("{directory}/{name}")
    }
}

fn name_of(at: &Path, path: Option<&str>, several: bool) -> Outcome<String> {
    match path {
        Some(path) if !several && !path.ends_with('/') => Ok(below(Some(path))),
        _ => Ok(join(&below(path), text(at.file_name().map(Path::new).unwrap_or(at))?)),
    }
}

fn text(path: &Path) -> Outcome<&str> {
    path.to_str().ok_or_else(|| {
        Failure::usage(
            format!("cannot put {}", path.display()),
            "its name is not UTF-8",
            "rename it",
        )
    })
}

fn file(at: &Path, path: String, metadata: &std::fs::Metadata) -> Outcome<Source> {
    use std::os::unix::fs::PermissionsExt;
    if !metadata.is_file() {
        return Err(Failure::usage(
            format!("cannot put {}", at.display()),
            "it is neither a file nor a directory",
            "put its content by `-`",
        ));
    }
    Ok(Source {
        path,
        content: Content::At(at.to_path_buf()),
        size: metadata.len(),
        executable: metadata.permissions().mode() & 0o111 != 0,
        identity: identity(metadata),
    })
}

/// In the order of names, so that the same directory gives the same stream.
fn walk(directory: &Path, to: &str, found: &mut Vec<Source>) -> Outcome {
    let entries = std::fs::read_dir(directory).map_err(io("read", directory))?;
    let mut entries = entries.collect::<Result<Vec<_>, _>>().map_err(io("read", directory))?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let at = entry.path();
        let name = entry.file_name();
        let to = join(to, text(Path::new(&name))?);
        let kind = entry.file_type().map_err(io("read", &at))?;
        if kind.is_dir() {
            walk(&at, &to, found)?;
            continue;
        }
        // A link to a file is its content; a link to a directory could lead anywhere, also back here.
        let metadata = at.metadata().map_err(io("read", &at))?;
        if metadata.is_dir() {
            eprintln!("left out {}: a link to a directory", at.display());
        } else if metadata.is_file() {
            found.push(file(&at, to, &metadata)?);
        } else {
            eprintln!("left out {}: neither a file nor a directory", at.display());
        }
    }
    Ok(())
}

fn standard_input(path: Option<&str>) -> Outcome<Source> {
    let name = path.filter(|p| !p.ends_with('/')).ok_or_else(|| {
        Failure::usage(
            "cannot put standard input",
            "it has no name",
            "name it: `howdah put REPO@BRANCH:/PATH -`",
        )
    })?;
    let kept = |e| Failure::new("cannot keep standard input", e, "free some space in TMPDIR");
    let mut file = tempfile::tempfile().map_err(kept)?;
    let size = std::io::copy(&mut std::io::stdin().lock(), &mut file).map_err(kept)?;
    std::io::Seek::rewind(&mut file).map_err(kept)?;
    Ok(Source {
        path: below(Some(name)),
        content: Content::Kept(file),
        size,
        executable: false,
        identity: [0; 3],
    })
}

/// Of a file as it is now.
pub(super) fn identity(metadata: &std::fs::Metadata) -> Identity {
    use std::os::unix::fs::MetadataExt;
    let time = |seconds: i64, nanoseconds: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
    [
        time(metadata.mtime(), metadata.mtime_nsec()),
        time(metadata.ctime(), metadata.ctime_nsec()),
        i128::from(metadata.ino()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(given: &[&Path], path: Option<&str>) -> Vec<String> {
        let given: Vec<String> = given.iter().map(|p| p.display().to_string()).collect();
        let found = find(&given, path, true).unwrap_or_else(|e| panic!("{e:?}"));
        found.into_iter().map(|s| s.path).collect()
    }

    #[test]
    fn sources_get_their_paths() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        std::fs::create_dir_all(at("d/e")).unwrap();
        for name in ["d/b", "d/a", "d/e/c", "f"] {
            std::fs::write(at(name), "x").unwrap();
        }
        assert_eq!(paths(&[&at("f")], None), ["f"]);
        assert_eq!(paths(&[&at("f")], Some("/x/y")), ["x/y"]);
        assert_eq!(paths(&[&at("f")], Some("/x/")), ["x/f"]);
        assert_eq!(paths(&[&at("f"), &at("d/a")], Some("/x")), ["x/f", "x/a"]);
        assert_eq!(paths(&[&at("d")], None), ["a", "b", "e/c"]);
        assert_eq!(paths(&[&at("d")], Some("/t")), ["t/a", "t/b", "t/e/c"]);
    }

    #[test]
    fn a_directory_needs_to_be_asked_for() {
        let home = tempfile::tempdir().unwrap();
        let failure = find(&[home.path().display().to_string()], None, false).unwrap_err();
        assert_eq!(failure.exit, crate::failure::Exit::Usage);
    }
}
