//! The tar stream, as chunks for the connection. Contents go from the disk into the chunk that is sent: one copy.

use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use contract::upload::{self, Step};
use indicatif::ProgressBar;
use tar::{EntryType, Header};
use tokio::sync::mpsc::Sender;

use super::bases::Bases;
use super::delta;
use super::handover::{Handed, Handover};
use super::parts::{Held, Part};
use super::reading::Reading;
use super::sources::Source;
use crate::failure::{Failure, Outcome};

const CHUNK: usize = 512 << 10;
const BLOCK: u64 = 512;
/// Smaller files are sent: it takes no longer.
const HANDED_BYTES_MIN: u64 = 64 << 20;

type Chunk = Result<Bytes, io::Error>;

/// What an archive is made of.
pub(super) struct Contents {
    pub(super) sources: Arc<Vec<Source>>,
    pub(super) parts: Arc<Vec<Part>>,
    /// The service keeps the parts.
    pub(super) keep: bool,
    pub(super) bases: Bases,
    /// Who takes large files without their bytes being sent.
    pub(super) handover: Option<Handover>,
}

/// Bytes of contents.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Count {
    /// That were sent.
    pub(super) sent: u64,
    /// That did not have to be, because the service has them from another version.
    pub(super) copied: u64,
}

/// Sends the archive. When a source fails, the stream breaks off, so that the other side sees no end and makes no commit.
pub(super) fn write(contents: Contents, to: &Sender<Chunk>, bar: &ProgressBar) -> (Count, Outcome) {
    let mut archive = Archive {
        builder: tar::Builder::new(Chunks::new(to)),
        bar,
        bases: contents.bases,
        handover: contents.handover,
        count: Count::default(),
    };
    let written = archive.all(&contents.sources, &contents.parts, contents.keep);
    if written.is_err() {
        let _ = to.blocking_send(Err(io::Error::other("a source could not be read")));
    }
    (archive.count, written)
}

struct Archive<'a> {
    builder: tar::Builder<Chunks<'a>>,
    bar: &'a ProgressBar,
    bases: Bases,
    handover: Option<Handover>,
    count: Count,
}

impl Archive<'_> {
    fn all(&mut self, sources: &[Source], parts: &[Part], keep: bool) -> Outcome {
        for part in parts {
            let Held::First(there) = part.held else {
                self.bar.inc(part.bytes);
                self.extension(EntryType::XGlobalHeader, &key(upload::HELD, part))?;
                continue;
            };
            for source in &sources[part.sources.clone()] {
                let mut records = String::new();
                if keep && part.is_large() {
                    records += &key(upload::KEY, part);
                }
                if there > 0 {
                    self.bar.inc(there);
                    records += &upload::record(upload::OFFSET, there);
                }
                self.append(source, there, records)?;
            }
            if keep && !part.is_large() {
                self.extension(EntryType::XGlobalHeader, &key(upload::END, part))?;
            }
        }
        self.builder.finish().map_err(stopped)?;
        self.builder.get_mut().flush().map_err(stopped)
    }

    /// What is behind byte `from` of a source.
    fn append(&mut self, source: &Source, from: u64, mut records: String) -> Outcome {
        let mut reading = Reading::open(source)?;
        if !records.is_empty() {
            // Its beginning is kept, or it is kept itself, by what it was when it was found.
            reading.unchanged_since(&source.identity)?;
        }
        let seen = reading.identity()?;
        let length = source.size() - from;
        // What is kept aside was read to its end if it is sent again.
        if from > 0 || !source.is_on_disk() {
            reading.seek(from)?;
        }
        if let Some(base) = self.bases.take(&source.path) {
            let steps = delta::find(&mut reading.file, length, &base).map_err(|e| reading.failed(e))?;
            reading.seek(from)?;
            if let Some(steps) = steps {
                records += &upload::record(upload::DELTA, source.size());
                self.delta(&mut reading, &records, from, &steps)?;
                // What was told of is what stood there at the first reading, what was sent stood there at the second.
                return reading.unchanged_since(&seen);
            }
        }
        if let Some(handed) = self.hand_over(&reading, length) {
            self.handed(handed, &reading, records, length)?;
            return reading.unchanged_since(&seen);
        }
        if !records.is_empty() {
            self.extension(EntryType::XHeader, &records)?;
        }
        self.header(&reading, length)?;
        self.content(&mut reading, length)?;
        reading.unchanged_since(&seen)?;
        self.pad(length)
    }

    /// Gives a large file to the service as it lies on the disk, where that can be done.
    fn hand_over(&mut self, reading: &Reading<'_>, length: u64) -> Option<Handed> {
        if length < HANDED_BYTES_MIN || !reading.source.is_on_disk() {
            return None;
        }
        let handed = self.handover.as_ref()?.give(&reading.file).ok();
        if handed.is_none() {
            self.handover = None;
        }
        handed
    }

    /// Says that a file was handed over, and waits until the service has read it.
    fn handed(&mut self, mut handed: Handed, reading: &Reading<'_>, mut records: String, length: u64) -> Outcome {
        let ticket = hex::encode(handed.ticket.as_bytes());
        records += &upload::record(upload::HANDED, format!("{ticket} {length}"));
        self.extension(EntryType::XHeader, &records)?;
        self.header(reading, 0)?;
        self.builder.get_mut().flush().map_err(stopped)?;
        let mut left = length;
        while left > 0 {
            let to = self.builder.get_ref().to;
            let read = handed.progress(|| to.is_closed());
            if read.is_err() {
                // A file that became shorter cannot be read to its end.
                reading.unchanged_since(&reading.source.identity)?;
            }
            let read = read.map_err(stopped)?;
            self.bar.inc(read);
            self.count.sent += read;
            left = left.saturating_sub(read);
        }
        Ok(())
    }

    /// The header, with a long name where needed: the content follows by a shorter way.
    fn header(&mut self, reading: &Reading<'_>, size: u64) -> Outcome {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_size(size);
        header.set_mode(if reading.source.executable { 0o755 } else { 0o644 });
        let appended = self.builder.append_data(&mut header, &reading.source.path, io::empty());
        let what = || format!("cannot put {}", reading.shown);
        appended.map_err(|e| Failure::new(what(), e, "choose a shorter or simpler path"))
    }

    fn extension(&mut self, kind: EntryType, records: &str) -> Outcome {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_size(records.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        self.builder.append(&header, records.as_bytes()).map_err(stopped)
    }

    fn delta(&mut self, reading: &mut Reading<'_>, records: &str, from: u64, steps: &[Step]) -> Outcome {
        let literals = steps.iter().filter(|step| matches!(step, Step::Literal { .. }));
        let size = (steps.len() * Step::BYTES) as u64 + literals.map(|step| step.length()).sum::<u64>();
        self.extension(EntryType::XHeader, records)?;
        self.header(reading, size)?;
        let mut at = from;
        for step in steps {
            self.builder.get_mut().write_all(&step.encode()).map_err(stopped)?;
            match step {
                Step::Literal { length } => {
                    reading.seek(at)?;
                    self.content(reading, *length)?;
                }
                Step::Copy { length, .. } => {
                    self.bar.inc(*length);
                    self.count.copied += length;
                }
            }
            at += step.length();
        }
        self.pad(size)
    }

    /// The next bytes of the source.
    fn content(&mut self, reading: &mut Reading<'_>, length: u64) -> Outcome {
        let chunks = self.builder.get_mut();
        let mut left = length;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK - chunks.length);
            let read = chunks.fill(&mut reading.file, most).map_err(|e| reading.failed(e))?;
            if read == 0 {
                return Err(reading.failed(io::ErrorKind::UnexpectedEof.into()));
            }
            left -= read as u64;
            self.bar.inc(read as u64);
            self.count.sent += read as u64;
            chunks.send_if_full().map_err(stopped)?;
        }
        Ok(())
    }

    fn pad(&mut self, size: u64) -> Outcome {
        let over = size % BLOCK;
        if over > 0 {
            let padding = usize::try_from(BLOCK - over).unwrap_or(0);
            let padded = self.builder.get_mut().write_all(&[0; BLOCK as usize][..padding]);
            padded.map_err(stopped)?;
        }
        Ok(())
    }
}

fn key(record: &str, part: &Part) -> String {
    upload::record(record, hex::encode(part.key))
}

const STOPPED: &str = "the upload broke off";

/// The connection is gone; why is what its own side says.
fn stopped(error: io::Error) -> Failure {
    Failure::new(STOPPED, error, "repeat the command")
}

/// Whether nothing is wrong with the sources.
pub(super) fn is_connection(failure: &Failure) -> bool {
    failure.what == STOPPED
}

/// Memory of chunks that were sent, to be used again: new memory for each would have to be cleared by the kernel.
type Spare = Arc<Mutex<Vec<Vec<u8>>>>;

/// The first bytes of a chunk's memory; gives it back when they are sent.
struct Filled {
    memory: Vec<u8>,
    length: usize,
    spare: Spare,
}

impl AsRef<[u8]> for Filled {
    fn as_ref(&self) -> &[u8] {
        &self.memory[..self.length]
    }
}

impl Drop for Filled {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).push(memory);
    }
}

struct Chunks<'a> {
    to: &'a Sender<Chunk>,
    spare: Spare,
    /// All of a chunk's memory, of which the first `length` bytes are to be sent.
    held: Vec<u8>,
    length: usize,
}

impl<'a> Chunks<'a> {
    fn new(to: &'a Sender<Chunk>) -> Self {
        Self {
            to,
            spare: Spare::default(),
            held: vec![0; CHUNK],
            length: 0,
        }
    }

    /// Reads straight into the chunk.
    fn fill(&mut self, file: &mut File, most: usize) -> io::Result<usize> {
        let end = CHUNK.min(self.length + most);
        let read = loop {
            match file.read(&mut self.held[self.length..end]) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                done => break done?,
            }
        };
        self.length += read;
        Ok(read)
    }

    fn send_if_full(&mut self) -> io::Result<()> {
        if self.length < CHUNK { Ok(()) } else { self.send() }
    }

    fn send(&mut self) -> io::Result<()> {
        if self.length == 0 {
            return Ok(());
        }
        let next = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let full = Filled {
            memory: std::mem::replace(&mut self.held, next.unwrap_or_else(|| vec![0; CHUNK])),
            length: std::mem::take(&mut self.length),
            spare: Arc::clone(&self.spare),
        };
        self.to
            .blocking_send(Ok(Bytes::from_owner(full)))
            .map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the connection was closed"))
    }
}

impl Write for Chunks<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(CHUNK - self.length);
        self.held[self.length..self.length + taken].copy_from_slice(&bytes[..taken]);
        self.length += taken;
        self.send_if_full()?;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_an_archive_with_the_files_in_it() {
        let home = tempfile::tempdir().unwrap();
        let big: Vec<u8> = (0..1_300_000_u32).map(|n| (n % 251) as u8).collect();
        let long = "d".repeat(150);
        std::fs::create_dir(home.path().join(&long)).unwrap();
        std::fs::write(home.path().join(&long).join("big"), &big).unwrap();
        std::fs::write(home.path().join("empty"), "").unwrap();
        std::fs::write(home.path().join("small"), "abc").unwrap();
        let given = [home.path().display().to_string()];
        let sources = super::super::sources::find(&given, Some("/t"), true).unwrap_or_else(|e| panic!("{e:?}"));
        let (to, mut from) = tokio::sync::mpsc::channel::<Chunk>(4);
        let reading = std::thread::spawn(move || {
            let mut all = Vec::new();
            while let Some(chunk) = from.blocking_recv() {
                all.extend_from_slice(&chunk.unwrap());
            }
            all
        });
        let contents = Contents {
            parts: Arc::new(super::super::parts::divide(&sources)),
            sources: Arc::new(sources),
            keep: false,
            bases: Bases::none(),
            handover: None,
        };
        let (count, written) = write(contents, &to, &ProgressBar::hidden());
        written.unwrap_or_else(|e| panic!("{e:?}"));
        assert_eq!(count.sent, 1_300_003);
        drop(to);
        let all = reading.join().unwrap();
        let mut archive = tar::Archive::new(all.as_slice());
        let found: Vec<(String, Vec<u8>)> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).unwrap();
                (entry.path().unwrap().display().to_string(), bytes)
            })
            .collect();
        let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, [format!("t/{long}/big").as_str(), "t/empty", "t/small"]);
        assert_eq!(found[0].1, big);
        assert_eq!(found[2].1, b"abc");
    }

    #[test]
    fn the_rest_of_a_file_that_is_another_by_now_is_not_sent() {
        let home = tempfile::tempdir().unwrap();
        let at = home.path().join("large");
        let write_large = |byte| {
            let file = File::create(&at).unwrap();
            file.set_len(100 << 20).unwrap();
            (&file).write_all(&[byte]).unwrap();
        };
        write_large(1);
        let given = [at.display().to_string()];
        let sources = Arc::new(super::super::sources::find(&given, None, false).unwrap_or_else(|e| panic!("{e:?}")));
        let mut parts = super::super::parts::divide(&sources);
        parts[0].held = Held::First(48 << 20);
        let send = || {
            let (to, mut from) = tokio::sync::mpsc::channel::<Chunk>(4);
            let reading = std::thread::spawn(move || while from.blocking_recv().is_some() {});
            let contents = Contents {
                parts: Arc::new(parts.clone()),
                sources: Arc::clone(&sources),
                keep: true,
                bases: Bases::none(),
                handover: None,
            };
            let (_, written) = write(contents, &to, &ProgressBar::hidden());
            drop(to);
            reading.join().unwrap();
            written
        };
        assert!(send().is_ok());
        std::fs::remove_file(&at).unwrap();
        write_large(2);
        let refused = send().err().unwrap();
        assert!(refused.why.contains("changed"), "{refused:?}");
    }
}
