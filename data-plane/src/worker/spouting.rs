//! Commits that a spout's command asks for. It writes a line to the pipe `/pfs/commit` and reads the answer, one line, from
//! `/pfs/committed`: the commit's id once everything is durable, or `error: ` and why. What lay in `/pfs/out` when the line was
//! read is moved at once out of the command's sight (in a pod, which shares all of `/pfs`, out of its way), so `/pfs/out` is empty
//! again and only that is in the commit.
//!
//! What may pass is tried again for as long as the command runs, which holds its next line back. A line that begins with
//! `key=WORD ` names its commit: a second one of that key is answered with the first one's commit.

use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use storage::{Writer, encode_entries};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::deliver::{LIST_BYTES_MAX, Stored, store_received};
use super::desk::JobShared;
use super::execute::Bench;
use super::inputs::Place;
use super::plane::Plane;
use super::protocol::{CommitRequest, DatumTask};

/// Names below `/pfs`: where it asks, and where it is answered.
pub const PIPES: [&str; 2] = ["commit", "committed"];
/// A longer line is no message.
const LINE_BYTES_MAX: usize = 8 << 10;
const KEY_BYTES_MAX: usize = 1024;
/// After something that may pass.
const RETRY_LEAST: Duration = Duration::from_millis(100);
const RETRY_MOST: Duration = Duration::from_secs(5);
/// A commit that makes the plane fail is given up after so many tries.
const TRIES: u32 = 20;
/// Between an answer and the next line that is read.
const COMMITS_APART: Duration = Duration::from_millis(50);
/// The same after refusals: each doubles it up to this.
const REFUSALS_APART: Duration = Duration::from_secs(2);
/// What is written at once to a pipe is there whole or not at all.
const ANSWER_BYTES_MAX: usize = 4000;
/// No pipe holds more, whatever its code made of it.
const PIPE_BYTES_MAX: usize = 1 << 20;

/// The pipes of one run.
pub struct Pipes {
    asked: pipe::Receiver,
    /// Both ends: what the command did not read goes before the next answer.
    answers: std::fs::File,
}

impl Pipes {
    /// Makes them.
    pub fn make(place: &Place) -> io::Result<Self> {
        let [ask, answer] = PIPES.map(|name| place.pfs.join(name));
        for path in [&ask, &answer] {
            nix::unistd::mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR)?;
            // The command runs as another id; nobody else gets to the directory.
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
        }
        // Both ends are held, so nobody waits for the other to open one, and neither ends.
        let mut both = pipe::OpenOptions::new();
        both.read_write(true);
        Ok(Self {
            asked: both.open_receiver(&ask)?,
            answers: std::fs::OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(OFlag::O_NONBLOCK.bits())
                .open(&answer)?,
        })
    }

    /// Answers a line. Whose code fills the pipe itself cannot be answered, and waits for ever; it was told nothing wrong.
    fn answer(&mut self, text: &str) -> io::Result<()> {
        let mut old = [0; 4096];
        for _ in 0..PIPE_BYTES_MAX / old.len() {
            if !matches!(self.answers.read(&mut old), Ok(n) if n > 0) {
                break;
            }
        }
        let mut line = String::new();
        for c in text.chars() {
            if line.len() + c.len_utf8() >= ANSWER_BYTES_MAX {
                break;
            }
            line.push(if c == '\n' { ' ' } else { c });
        }
        line.push('\n');
        match self.answers.write(line.as_bytes())? {
            written if written == line.len() => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }
}

/// Lines out of what is read, none longer than is allowed.
#[derive(Default)]
struct Lines {
    bytes: Vec<u8>,
    too_long: bool,
}

impl Lines {
    /// The next line that is complete, or what is wrong with it.
    fn next(&mut self) -> Option<Result<String, String>> {
        let Some(end) = self.bytes.iter().position(|byte| *byte == b'\n') else {
            if self.bytes.len() > LINE_BYTES_MAX {
                self.too_long = true;
                self.bytes.clear();
            }
            return None;
        };
        let mut line: Vec<u8> = self.bytes.drain(..=end).collect();
        line.pop();
        if std::mem::take(&mut self.too_long) || line.len() > LINE_BYTES_MAX {
            return Some(Err(format!("a message has {LINE_BYTES_MAX} bytes at most")));
        }
        match String::from_utf8(line) {
            Ok(line) if !line.contains('\0') => Some(Ok(line)),
            _ => Some(Err("a message must be a line of text in UTF-8".to_owned())),
        }
    }
}

/// The key and the message of a line.
fn parsed(line: &str) -> Result<(Option<&str>, &str), String> {
    let Some(rest) = line.strip_prefix("key=") else {
        return Ok((None, line));
    };
    let (key, message) = rest.split_once(' ').unwrap_or((rest, ""));
    match key.len() {
        1..=KEY_BYTES_MAX => Ok((Some(key), message)),
        _ => Err(format!(
            "a key has 1 to {KEY_BYTES_MAX} bytes without blanks: `key=WORD message`"
        )),
    }
}

/// One run of a spout.
#[derive(Clone, Copy)]
pub struct Spout<'a> {
    /// Where it runs.
    pub bench: &'a Bench,
    /// Whom to ask.
    pub plane: &'a Plane,
    /// Its job.
    pub job: &'a JobShared,
    /// Its run.
    pub datum: &'a DatumTask,
    /// Its directories.
    pub place: &'a Place,
    /// Ends the run.
    pub stop: &'a CancellationToken,
}

/// Why files were not stored.
enum Unstored {
    /// The user's affair.
    Refused(String),
    /// It may pass.
    Lost(String),
}

impl Spout<'_> {
    /// Makes the commits that the command asks for, one after the other. Ends with the pipe only; drop it when the command
    /// has ended.
    pub async fn commit_when_asked(&self, mut pipes: Pipes) {
        let mut lines = Lines::default();
        let mut read = [0; 4096];
        let mut number = 0_u64;
        let mut pause = COMMITS_APART;
        loop {
            while let Some(line) = lines.next() {
                number += 1;
                let answer = self.answer_to(line, number).await;
                pause = match answer {
                    Ok(_) => COMMITS_APART,
                    Err(_) => (pause * 2).min(REFUSALS_APART),
                };
                let text = answer.unwrap_or_else(|why| format!("error: {why}"));
                if let Err(error) = pipes.answer(&text) {
                    tracing::warn!("a spout could not be answered: {error}");
                }
                tokio::time::sleep(pause).await;
            }
            match pipes.asked.read(&mut read).await {
                Ok(n) if n > 0 => lines.bytes.extend_from_slice(&read[..n]),
                _ => return,
            }
        }
    }

    /// What lies in `/pfs/out` is taken first: whatever the answer is, nothing of it is in the next commit.
    async fn answer_to(&self, line: Result<String, String>, number: u64) -> Result<String, String> {
        let taken = self.place.aside.join(format!(".taken-{number}"));
        let (out, to) = (self.place.pfs.join("out"), taken.clone());
        let moved = tokio::task::spawn_blocking(move || take(&out, &to)).await;
        let answer = match moved.map_err(io::Error::other) {
            Ok(Ok(Ok(moved))) => self.commit(line, moved, &taken).await,
            Ok(Ok(Err(error))) => Err(format!("/pfs/out cannot be taken: {error}")),
            Ok(Err(error)) | Err(error) => {
                self.stop.cancel();
                Err(format!("/pfs/out cannot be emptied: {error}"))
            }
        };
        // What stays is removed with the run.
        let _ = tokio::task::spawn_blocking(move || sandbox::discard(&taken)).await;
        answer
    }

    async fn commit(&self, line: Result<String, String>, moved: usize, taken: &Path) -> Result<String, String> {
        let line = line?;
        let (key, message) = parsed(&line)?;
        if moved == 0 && key.is_none() {
            return Err("there is nothing in /pfs/out".to_owned());
        }
        let outputs = hex::encode(self.store(taken).await?);
        let request = CommitRequest {
            worker: self.bench.config.worker,
            job: self.datum.job,
            run: self.datum.run,
            request: Uuid::from_bytes(self.bench.environment.random()),
            key: key.map(str::to_owned),
            message: message.to_owned(),
            outputs,
        };
        let (mut pause, mut failures) = (RETRY_LEAST, 0);
        loop {
            match self.plane.commit(&request).await {
                Ok(answer) => return Ok(answer.commit.to_string()),
                Err(refusal) => {
                    failures += u32::from(refusal.is_internal());
                    if refusal.is_final() || failures >= TRIES {
                        return Err(refusal.to_string());
                    }
                    tracing::debug!("a commit of a spout is tried again: {refusal}");
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MOST);
        }
    }

    /// Makes the files durable; answers their list. What a try that failed left in the bucket is taken back.
    async fn store(&self, taken: &Path) -> Result<Vec<u8>, String> {
        let (mut pause, mut failures) = (RETRY_LEAST, 0);
        loop {
            let writer = self.bench.storage.writer();
            let wrong = match self.store_once(&writer, taken).await {
                Ok(list) => return Ok(list),
                Err(wrong) => wrong,
            };
            if let Err(error) = writer.discard().await {
                tracing::debug!("what a spout's failed commit stored is left to the collection: {error}");
            }
            match wrong {
                Unstored::Refused(reason) => return Err(reason),
                Unstored::Lost(reason) if failures >= TRIES => return Err(format!("it could not be stored: {reason}")),
                Unstored::Lost(reason) => tracing::debug!("storing what a spout made is tried again: {reason}"),
            }
            failures += 1;
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MOST);
        }
    }

    async fn store_once(&self, writer: &Writer, taken: &Path) -> Result<Vec<u8>, Unstored> {
        let mut wrote = false;
        let entries = match store_received(writer, taken, self.job.disk_bytes_max(), &mut wrote).await {
            Stored::Entries(entries) => entries,
            // The file of a command that goes on: it may do anything to it.
            Stored::Refused(reason) | Stored::Unreadable(reason) => return Err(Unstored::Refused(reason)),
            Stored::Lost(reason) => return Err(Unstored::Lost(reason)),
        };
        if wrote && let Err(error) = writer.flush().await {
            return Err(Unstored::Lost(error.to_string()));
        }
        match encode_entries(&entries) {
            Ok(list) if list.len() > LIST_BYTES_MAX => Err(Unstored::Refused(format!(
                "the list of its {} files has {} bytes, at most {LIST_BYTES_MAX} can be kept: commit more often",
                entries.len(),
                list.len()
            ))),
            Ok(list) => Ok(list),
            Err(error) => Err(Unstored::Refused(error.to_string())),
        }
    }
}

/// Moves everything in `/pfs/out` to a new directory beside it; answers how many entries of the top there were. What its code holds open it may go on writing to. What cannot be moved is removed (the inner error).
///
/// In a pod code sees both, and may put links in their places: `/pfs/out` is the directory that was opened and no other, and
/// nothing of another file system is moved through `to`.
///
/// # Errors
/// When something is left in `/pfs/out`, or it is no directory any more.
fn take(out: &Path, to: &Path) -> io::Result<io::Result<usize>> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
    let opened = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits())
        .open(out)?;
    let out = PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd()));
    let mut moved = 0;
    let mut wrong = std::fs::create_dir(to).err();
    for entry in std::fs::read_dir(&out)? {
        let name = entry?.file_name();
        let from = out.join(&name);
        if wrong.is_none() {
            match std::fs::rename(&from, to.join(&name)) {
                Ok(()) => {
                    moved += 1;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => wrong = Some(error),
            }
        }
        remove(&from)?;
    }
    Ok(wrong.map_or(Ok(moved), Err))
}

fn remove(path: &Path) -> io::Result<()> {
    let removed = match std::fs::symlink_metadata(path) {
        Ok(entry) if entry.is_dir() => sandbox::discard(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(parts: &[&[u8]]) -> Vec<Result<String, String>> {
        let mut lines = Lines::default();
        let mut all = Vec::new();
        for part in parts {
            lines.bytes.extend_from_slice(part);
            while let Some(line) = lines.next() {
                all.push(line);
            }
        }
        all
    }

    #[test]
    fn lines_are_put_together_and_those_that_are_none_are_refused_alone() {
        let long = vec![b'x'; LINE_BYTES_MAX + 1];
        let found = lines(&[b"a b", b"\n\nc\n", &long, &long, b"\nlast\n", b"\xff\n", b"rest"]);
        let said: Vec<Option<&str>> = found.iter().map(|l| l.as_deref().ok()).collect();
        assert_eq!(said, [Some("a b"), Some(""), Some("c"), None, Some("last"), None]);
    }

    #[test]
    fn what_is_committed_is_taken_out_of_the_directory_itself_and_through_no_link() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::create_dir_all(at("out/deep")).unwrap();
        std::fs::write(at("out/deep/file"), "x").unwrap();
        assert_eq!(take(&at("out"), &at("taken")).unwrap().unwrap(), 1);
        assert!(at("taken/deep/file").exists() && at("out").is_dir());
        assert_eq!(take(&at("out"), &at("nothing")).unwrap().unwrap(), 0);
        // What code of a pod could put there to have the agent move or remove its own files.
        std::fs::create_dir(at("ours")).unwrap();
        std::fs::write(at("ours/secret"), "x").unwrap();
        std::fs::remove_dir(at("out")).unwrap();
        std::os::unix::fs::symlink(at("ours"), at("out")).unwrap();
        assert!(take(&at("out"), &at("other")).is_err());
        assert!(at("ours/secret").exists());
    }

    #[test]
    fn a_line_may_begin_with_a_key() {
        assert_eq!(parsed("key=o-1 up to 1"), Ok((Some("o-1"), "up to 1")));
        assert_eq!(parsed("key=o-1"), Ok((Some("o-1"), "")));
        assert_eq!(parsed("no key=1"), Ok((None, "no key=1")));
        assert!(parsed("key= x").is_err() && parsed(&format!("key={}", "k".repeat(2000))).is_err());
    }
}
