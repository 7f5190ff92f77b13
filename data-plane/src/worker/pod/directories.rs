//! The directories that both containers of a pod see, with one datum in them.

use std::collections::HashSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use storage::FilePath;

use super::Pod;
use crate::worker::cache::Cache;
use crate::worker::desk::JobShared;
use crate::worker::inputs::{self, InputError, Seen, disk};

/// The directory of outputs, which may be a volume of its own.
const OUT: &str = "out";

impl Pod {
    /// Empties the directories. User code is over, and may have left anything in them.
    ///
    /// # Errors
    /// When something is left.
    pub fn empty(&self) -> Result<(), InputError> {
        // A pod whose pipeline has no code in a repo has no such directory.
        if self.code.is_dir() {
            sandbox::empty(&self.code, None).map_err(disk(&self.code))?;
        }
        let out = self.pfs.join(OUT);
        sandbox::empty(&self.pfs, Some(OUT)).map_err(disk(&self.pfs))?;
        match fs::symlink_metadata(&out) {
            // A link that code put in its place.
            Ok(found) if !found.is_dir() => fs::remove_file(&out).map_err(disk(&out))?,
            _ => {}
        }
        sandbox::empty(&out, None).map_err(disk(&out))
    }

    /// Lays out a datum: the inputs of these names below `/pfs`, and the code of a repo, if there is one, at `/code`. Call it with
    /// the turn.
    ///
    /// # Errors
    /// When the bucket or the disk is in the way.
    pub async fn lay_out(
        &self,
        cache: &Arc<Cache>,
        job: &JobShared,
        names: &[String],
        seen: &[Seen],
    ) -> Result<(), InputError> {
        tokio::task::block_in_place(|| self.empty())?;
        let (code, inputs): (Vec<Seen>, Vec<Seen>) = seen.iter().cloned().partition(|one| is_code(job, &one.name));
        let mut made = inputs::lay_out_files(cache, &self.pfs, names, &inputs, true).await?;
        let code = at_code(job, code)?;
        made.extend(inputs::lay_out_files(cache, &self.code, &[], &code, true).await?);
        tokio::task::block_in_place(|| close(&made))
    }
}

fn is_code(job: &JobShared, name: &str) -> bool {
    job.trees.iter().any(|tree| tree.code.is_some() && tree.name == name)
}

/// Files of code by their paths below what is shown: the directory that the spec names, or that of the file which it names.
fn at_code(job: &JobShared, files: Vec<Seen>) -> Result<Vec<Seen>, InputError> {
    let Some(named) = job.trees.iter().find_map(|tree| tree.code.as_deref()) else {
        return Ok(Vec::new());
    };
    let named = named.trim_matches('/');
    let is_file = files.iter().any(|one| one.path.as_str() == named);
    let shown = match is_file {
        true => named.rsplit_once('/').map_or("", |(directory, _)| directory),
        false => named,
    };
    let below = |one: Seen| {
        let path = one.path.as_str();
        let rest = match shown {
            "" => path,
            _ => path.strip_prefix(shown)?.strip_prefix('/')?,
        };
        let missing = || InputError::Missing(path.to_owned());
        Some(FilePath::parse(rest).map_err(|_| missing()).map(|path| Seen {
            name: String::new(),
            path,
            ..one
        }))
    };
    files.into_iter().filter_map(below).collect()
}

/// Takes away the right to write into directories, which code has under its own id.
fn close(made: &HashSet<PathBuf>) -> Result<(), InputError> {
    for directory in made {
        fs::set_permissions(directory, Permissions::from_mode(0o555)).map_err(disk(directory))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn whatever_code_left_is_gone_and_nothing_beyond_a_link_is() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::create_dir_all(at("pfs/in/deep")).unwrap();
        fs::write(at("pfs/in/deep/file"), "x").unwrap();
        fs::set_permissions(at("pfs/in/deep"), Permissions::from_mode(0o555)).unwrap();
        fs::create_dir_all(at("elsewhere")).unwrap();
        fs::write(at("elsewhere/kept"), "x").unwrap();
        symlink(at("elsewhere"), at("pfs/link")).unwrap();
        symlink(at("elsewhere"), at("pfs/out")).unwrap();
        fs::create_dir_all(at("code/deep")).unwrap();
        let pod = Pod::new("/nowhere".into(), at("pfs"), at("code"), 0);
        pod.empty().unwrap();
        let names = |path: PathBuf| -> Vec<_> { fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name()).collect() };
        assert_eq!(names(at("pfs")), ["out"]);
        assert!(names(at("pfs/out")).is_empty() && names(at("code")).is_empty());
        assert!(at("pfs/out").symlink_metadata().unwrap().is_dir() && at("elsewhere/kept").exists());
    }
}
