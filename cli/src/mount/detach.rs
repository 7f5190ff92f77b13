//! `mount --detach`: this binary once more, in a session of its own, and waiting until it has mounted.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Seek};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use contract::problem::Problem;
use tokio::io::{AsyncBufReadExt, BufReader};

use super::{Mount, Shown};
use crate::failure::{Failure, Outcome, io};

/// Where a detached mount on that directory writes what goes wrong.
pub(super) fn log(cache: &Path, point: &Path) -> PathBuf {
    let name = blake3::hash(point.as_os_str().as_encoded_bytes()).to_hex();
    cache.join("mounts").join(format!("{}.log", &name[..16]))
}

/// The log, empty; where there is no place for it, a file without a name.
fn open_log(path: &Path) -> std::io::Result<File> {
    let named = path
        .parent()
        .ok_or_else(|| std::io::ErrorKind::NotFound.into())
        .and_then(|directory| DirBuilder::new().recursive(true).mode(0o700).create(directory))
        .and_then(|()| {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(true).mode(0o600);
            options.open(path)
        });
    named.or_else(|_| tempfile::tempfile())
}

/// Starts it and waits until it says that it has mounted.
///
/// # Errors
/// What it could not do.
pub(super) async fn start(arguments: &Mount, pinned: &str, point: &Path, cache: &Path) -> Outcome<Shown> {
    let path = log(cache, point);
    let log = open_log(&path).map_err(io("open", &path))?;
    let said = log.try_clone().map_err(io("open", &path))?;
    let failed = |e| Failure::new("the mount did not start", e, "start it without --detach");
    let own = std::env::current_exe().map_err(failed)?;
    let mut command = tokio::process::Command::new(own);
    command
        .args(["mount", "--detached", "--json", pinned])
        .arg(point)
        .args(["--cache-size", &arguments.cache_size.to_string()])
        .args(["--memory", &arguments.memory.to_string()])
        .args(["--patience", &arguments.patience.as_secs().to_string()])
        .args(arguments.allow_other.then_some("--allow-other"))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log);
    let mut child = command.spawn().map_err(failed)?;
    let mut line = String::new();
    if let Some(out) = child.stdout.take() {
        BufReader::new(out).read_line(&mut line).await.map_err(failed)?;
    }
    if let Ok(shown) = serde_json::from_str(&line) {
        return Ok(shown);
    }
    let _ = child.wait().await;
    Err(why(said, &path))
}

/// The last thing that it said is the problem that ended it.
fn why(mut said: File, log: &Path) -> Failure {
    let mut text = String::new();
    let read = said.rewind().and_then(|()| said.read_to_string(&mut text));
    let last = text.lines().next_back().filter(|_| read.is_ok()).unwrap_or_default();
    match serde_json::from_str::<Problem>(last) {
        Ok(problem) => Failure::from_problem(problem),
        Err(_) => Failure::new(
            "the mount did not start",
            "its process has ended",
            format!("look into {}, or start it without --detach", log.display()),
        ),
    }
}
