//! Commits that a spout's command asks for. It writes a line to the pipe `/pfs/commit` and reads the answer, one line, from
//! `/pfs/committed`: the commit's id once everything is durable, or `error: ` and why. What lay in `/pfs/out` when the line was
//! read is moved out of the command's sight at once, so `/pfs/out` is empty again and only that is in the commit.
//!
//! What may pass is tried again for as long as the command runs, which holds its next line back. A line that begins with
//! `key=WORD ` names its commit: a second one of that key is answered with the first one's commit.

use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use sandbox::Run;
use storage::encode_entries;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use uuid::Uuid;

use super::deliver::{Entries, LIST_BYTES_MAX, Stored, store_received};
use super::desk::JobShared;
use super::execute::Bench;
use super::inputs::Place;
use super::plane::Plane;
use super::protocol::{CommitRequest, DatumTask};

/// Names below `/pfs`.
const ASK: &str = "commit";
const ANSWER: &str = "committed";
/// A longer line is no message.
const LINE_BYTES_MAX: usize = 8 << 10;
const KEY_BYTES_MAX: usize = 1024;
/// After something that may pass.
const RETRY_LEAST: Duration = Duration::from_millis(100);
const RETRY_MOST: Duration = Duration::from_secs(5);
/// A commit that makes the plane fail is given up after so many tries.
const TRIES: u32 = 20;

/// The pipes of one run.
pub struct Pipes {
    asked: pipe::Receiver,
    /// Both ends: what the command did not read goes before the next answer.
    answers: std::fs::File,
}

impl Pipes {
    /// Makes them, and shows them to the command.
    pub fn make(place: &Place, run: &mut Run, last_key: Option<String>) -> io::Result<Self> {
        let [ask, answer] = [ASK, ANSWER].map(|name| place.pfs.join(name));
        for (path, name) in [(&ask, ASK), (&answer, ANSWER)] {
            nix::unistd::mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR)?;
            // The command runs as another id; nobody else gets to the directory.
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
            run.inputs.push(name.to_owned());
        }
        if let Some(key) = last_key {
            run.env.push(("HOWDAH_LAST_KEY".to_owned(), key));
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

    fn answer(&mut self, text: &str) {
        let mut old = [0; 4096];
        while matches!(self.answers.read(&mut old), Ok(n) if n > 0) {}
        let line: String = text
            .chars()
            .map(|c| if c == '\n' { ' ' } else { c })
            .take(3000)
            .collect();
        if let Err(error) = self.answers.write_all(format!("{line}\n").as_bytes()) {
            // The command waits for ever then; it was told nothing wrong.
            tracing::error!("a spout could not be answered: {error}");
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
}

impl Spout<'_> {
    /// Makes the commits that the command asks for, one after the other. Ends with the pipe only; drop it when the command
    /// has ended.
    pub async fn commit_when_asked(&self, mut pipes: Pipes) {
        let mut lines = Lines::default();
        let mut read = [0; 4096];
        let mut number = 0_u64;
        loop {
            while let Some(line) = lines.next() {
                number += 1;
                let taken = self.place.root.join(format!("taken-{number}"));
                let answer = match line {
                    Ok(line) => self.commit(&line, &taken).await,
                    Err(wrong) => Err(wrong),
                };
                // What stays is removed with the run.
                let _ = tokio::task::spawn_blocking(move || sandbox::discard(&taken)).await;
                match answer {
                    Ok(commit) => pipes.answer(&commit),
                    Err(why) => pipes.answer(&format!("error: {why}")),
                }
            }
            match pipes.asked.read(&mut read).await {
                Ok(n) if n > 0 => lines.bytes.extend_from_slice(&read[..n]),
                _ => return,
            }
        }
    }

    async fn commit(&self, line: &str, taken: &Path) -> Result<String, String> {
        let (key, message) = parsed(line)?;
        let (out, to) = (self.place.pfs.join("out"), taken.to_owned());
        let moved = tokio::task::spawn_blocking(move || take(&out, &to)).await;
        match moved {
            Ok(Ok(0)) if key.is_none() => return Err("there is nothing in /pfs/out".to_owned()),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(format!("/pfs/out cannot be taken: {error}")),
            Err(error) => return Err(error.to_string()),
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

    /// Makes the files durable; answers their list.
    async fn store(&self, taken: &Path) -> Result<Vec<u8>, String> {
        let mut pause = RETRY_LEAST;
        loop {
            let lost = match self.store_once(taken).await? {
                Ok(entries) => match encode_entries(&entries) {
                    Ok(list) if list.len() > LIST_BYTES_MAX => {
                        return Err(format!(
                            "the list of its {} files has {} bytes, at most {LIST_BYTES_MAX} can be kept: commit more often",
                            entries.len(),
                            list.len()
                        ));
                    }
                    Ok(list) => return Ok(list),
                    Err(error) => return Err(error.to_string()),
                },
                Err(lost) => lost,
            };
            tracing::debug!("storing what a spout made is tried again: {lost}");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MOST);
        }
    }

    /// The files, or (as the inner error) what may pass.
    async fn store_once(&self, taken: &Path) -> Result<Result<Entries, String>, String> {
        let writer = self.bench.storage.writer();
        let mut wrote = false;
        let entries = match store_received(&writer, taken, self.job.disk_bytes_max(), &mut wrote).await {
            Stored::Entries(entries) => entries,
            Stored::Refused(reason) => return Err(reason),
            Stored::Lost(reason) => return Ok(Err(reason)),
        };
        if wrote && let Err(error) = writer.flush().await {
            return Ok(Err(error.to_string()));
        }
        Ok(Ok(entries))
    }
}

/// Moves everything in `/pfs/out` to a new directory beside it, which the command does not see; answers how many entries of the
/// top there were. What its code holds open it may go on writing to.
fn take(out: &PathBuf, to: &Path) -> io::Result<usize> {
    std::fs::create_dir(to)?;
    let mut moved = 0;
    for entry in std::fs::read_dir(out)? {
        let name = entry?.file_name();
        std::fs::rename(out.join(&name), to.join(&name))?;
        moved += 1;
    }
    Ok(moved)
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
    fn a_line_may_begin_with_a_key() {
        assert_eq!(parsed("key=o-1 up to 1"), Ok((Some("o-1"), "up to 1")));
        assert_eq!(parsed("key=o-1"), Ok((Some("o-1"), "")));
        assert_eq!(parsed("no key=1"), Ok((None, "no key=1")));
        assert!(parsed("key= x").is_err() && parsed(&format!("key={}", "k".repeat(2000))).is_err());
    }
}
