//! A directory's files, over as many connections as it takes: when one breaks, the next goes on behind the last whole file,
//! in the same commit. A large file that was cut comes by itself, so that it can go on in its middle.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use contract::api::{Commit, FileInfo, FileKind, Page};
use indicatif::ProgressBar;
use tokio::io::AsyncWriteExt;

use super::content::{Content, TRIES, pause};
use super::unpack::{Cut, Stopped, Unpacking, file_beside};
use crate::client::{Client, Request, blocking_reader};
use crate::failure::{Failure, Outcome, io};

/// Lines of a page.
const PAGE: u32 = 200;
const READ_BYTES: usize = 1 << 20;
/// Smaller files come once more in the next archive.
const LARGE_BYTES: u64 = 1 << 20;

/// A directory of a commit.
pub struct Directory<'a> {
    client: &'a Client,
    /// `project/repo@commit`: a branch may move between two connections.
    commit: String,
    path: &'a str,
    bar: ProgressBar,
}

impl<'a> Directory<'a> {
    /// The directory as it is now.
    ///
    /// # Errors
    /// What the service answers.
    pub async fn find(client: &'a Client, reference: &str, path: &'a str, bar: ProgressBar) -> Outcome<Self> {
        let found: Commit = client
            .plane(Request::get("/v1/commits").query("ref", reference))
            .await?;
        Ok(Self {
            client,
            commit: format!("{}/{}@{}", found.project, found.repo, found.id),
            path,
            bar,
        })
    }

    fn request(&self, address: &str) -> Request {
        let request = Request::get(address);
        request.query("ref", &self.commit).query("path", self.path)
    }

    /// Its name in the archive, of a path in the commit.
    fn name<'p>(&self, path: &'p str) -> &'p str {
        let below = self.path.trim_matches('/');
        let path = path.trim_start_matches('/');
        path.strip_prefix(below).unwrap_or(path).trim_start_matches('/')
    }

    /// Writes its files below a directory, those behind the path `after`; answers how many.
    ///
    /// # Errors
    /// What the service answers, that connections keep breaking, or what cannot be written.
    pub async fn write(&self, to: &Path, after: Option<String>) -> Outcome<u64> {
        let mut unpacking = Unpacking::new(to.to_path_buf(), self.bar.clone());
        let (mut after, mut fruitless, mut begun) = (after, 0, false);
        loop {
            let request = self.request("/v1/archive").query_if("after", after.as_ref());
            let mut failure = match self.client.download(&request).await {
                // The service answered, and no; or it cannot be reached at all.
                Err(refused) if !begun || refused.is_refusal() => return Err(refused),
                Err(unreachable) => unreachable,
                Ok(response) => {
                    begun = true;
                    let archive = blocking_reader(response);
                    let (unpacked, stopped) = off(move || {
                        let stopped = unpacking.take(archive).err();
                        (unpacking, stopped)
                    })
                    .await?;
                    unpacking = unpacked;
                    match stopped {
                        None => return Ok(unpacking.files()),
                        Some(Stopped::Failed(failure)) => return Err(failure),
                        Some(Stopped::Broke(failure)) => failure,
                    }
                }
            };
            if let Some(cut) = unpacking.cut().filter(|cut| cut.size >= LARGE_BYTES) {
                match self.fetch(&cut).await? {
                    Ok(()) => unpacking.has(cut),
                    Err(unanswered) => failure = unanswered,
                }
            }
            if let Some(last) = unpacking.last() {
                let last = format!("{}/{last}", self.path.trim_end_matches('/'));
                if after.as_ref() != Some(&last) {
                    (after, fruitless) = (Some(last), 0);
                }
            }
            if fruitless == TRIES {
                return Err(failure);
            }
            if fruitless == 0 {
                let hint = format!("{}: {}; continuing", failure.what, failure.why);
                self.client.hint(&hint);
            }
            tokio::time::sleep(pause(fruitless)).await;
            fruitless += 1;
        }
    }

    /// Writes a large file whose beginning came in an archive. A failure that is answered is one after which it may be fetched
    /// again.
    async fn fetch(&self, cut: &Cut) -> Outcome<Outcome> {
        let path = format!("{}/{}", self.path.trim_end_matches('/'), cut.name);
        let request = Request::get("/v1/content")
            .query("ref", &self.commit)
            .query("path", path);
        let response = match self.client.download(&request).await {
            Err(unanswered) if !unanswered.is_refusal() => return Ok(Err(unanswered)),
            answered => answered?,
        };
        let fresh = file_beside(&cut.path, cut.executable)?;
        let file = fresh.reopen().map_err(io("write", &cut.path))?;
        let mut file = tokio::fs::File::from_std(file);
        let mut content = Content::new(response, Some((self.client, &request)));
        let mut bytes = 0;
        while let Some(chunk) = content.next().await.map_err(given_up)? {
            file.write_all(&chunk).await.map_err(io("write", &cut.path))?;
            bytes += chunk.len() as u64;
        }
        file.flush().await.map_err(io("write", &cut.path))?;
        if bytes != cut.size {
            let why = format!("it has {bytes} bytes, and {} in the directory", cut.size);
            return Err(Failure::new(format!("cannot get {}", cut.name), why, "report this"));
        }
        fresh.persist(&cut.path).map_err(|e| io("write", &cut.path)(e.error))?;
        Ok(Ok(()))
    }

    /// The last of its first files that are all there already as they are in the commit, and how many: archives are
    /// written in order, so that is where one broke off.
    ///
    /// # Errors
    /// What the service answers.
    pub async fn is_there_up_to(&self, to: &Path) -> Outcome<Option<(String, u64)>> {
        let (mut last, mut files) = (None, 0);
        let mut cursor: Option<String> = None;
        loop {
            let request = self.request("/v1/files").query("recursive", true).query("limit", PAGE);
            let page: Page<FileInfo> = self.client.plane_page(request.query_if("cursor", cursor)).await?;
            let lines: Vec<(PathBuf, FileInfo)> = page
                .items
                .into_iter()
                .map(|line| (to.join(self.name(&line.path)), line))
                .collect();
            let (bar, all) = (self.bar.clone(), lines.len());
            let same = off(move || {
                let there = lines.into_iter().take_while(|(at, line)| is_same(at, line));
                there.inspect(|(_, line)| bar.inc(line.size_bytes)).collect::<Vec<_>>()
            })
            .await?;
            files += same.len() as u64;
            let whole = same.len() == all;
            last = same.into_iter().next_back().map(|(_, line)| line.path).or(last);
            cursor = page.next_cursor;
            if !whole || cursor.is_none() {
                return Ok(last.map(|last| (last, files)));
            }
        }
    }
}

/// When a large file does not come, the files in front of it are there.
fn given_up(failure: Failure) -> Failure {
    if failure.is_refusal() {
        return failure;
    }
    let hint = "repeat the command with --continue; see `howdah status`";
    Failure::new(failure.what, failure.why, hint).with_exit(failure.exit)
}

/// What takes long, beside the runtime's threads.
async fn off<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Outcome<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| Failure::new("the files could not be written", e, "repeat the command"))
}

/// Whether a file is there, and is what it is in the commit.
fn is_same(at: &Path, line: &FileInfo) -> bool {
    let Ok(about) = std::fs::symlink_metadata(at) else {
        return false;
    };
    let executable = about.permissions().mode() & 0o100 != 0;
    about.is_file()
        && line.kind == FileKind::File
        && (about.len(), executable) == (line.size_bytes, line.executable)
        && digest(at).is_ok_and(|digest| Some(digest) == line.digest)
}

fn digest(at: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(at)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finalize().to_hex().to_string()),
            read => hasher.update(&buffer[..read]),
        };
    }
}
