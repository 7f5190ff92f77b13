//! The tar stream, as chunks for the connection. Contents go from the disk into the chunk that is sent: one copy.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use bytes::{Bytes, BytesMut};
use indicatif::ProgressBar;
use tar::{EntryType, Header};
use tokio::sync::mpsc::Sender;

use super::sources::{Content, Source};
use crate::failure::{Failure, Outcome, io as io_failure};

const CHUNK: usize = 512 << 10;
const BLOCK: u64 = 512;

type Chunk = Result<Bytes, io::Error>;

/// Sends the archive. When a source fails, the stream breaks off, so that the other side sees no end and keeps nothing.
pub(super) fn write(sources: Vec<Source>, to: &Sender<Chunk>, bar: &ProgressBar) -> Outcome {
    let written = send_all(sources, to, bar);
    if written.is_err() {
        let _ = to.blocking_send(Err(io::Error::other("a source could not be read")));
    }
    written
}

fn send_all(sources: Vec<Source>, to: &Sender<Chunk>, bar: &ProgressBar) -> Outcome {
    let mut builder = tar::Builder::new(Chunks {
        to,
        held: BytesMut::with_capacity(CHUNK),
    });
    for source in sources {
        append(&mut builder, &source, bar)?;
    }
    let mut chunks = builder.into_inner().map_err(stopped)?;
    chunks.flush().map_err(stopped)
}

fn append(builder: &mut tar::Builder<Chunks<'_>>, source: &Source, bar: &ProgressBar) -> Outcome {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_size(source.size());
    header.set_mode(if source.executable { 0o755 } else { 0o644 });
    let (mut file, shown) = match &source.content {
        Content::Kept(file) => (file.try_clone().map_err(stopped)?, "standard input".to_owned()),
        Content::At(at) => (
            File::open(at).map_err(io_failure("read", at))?,
            at.display().to_string(),
        ),
    };
    // Only the header, with a long name where needed: the content follows by a shorter way.
    builder
        .append_data(&mut header, &source.path, io::empty())
        .map_err(|e| Failure::new(format!("cannot put {shown}"), e, "choose a shorter or simpler path"))?;
    let chunks = builder.get_mut();
    let mut left = source.size();
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK - chunks.held.len());
        let read = chunks
            .fill(&mut file, most)
            .map_err(|e| io_failure("read", Path::new(&shown))(e))?;
        if read == 0 {
            return Err(Failure::new(
                format!("cannot put {shown}"),
                "it became shorter while it was read",
                "repeat the command when nothing writes to it",
            ));
        }
        left -= read as u64;
        bar.inc(read as u64);
        chunks.send_if_full().map_err(stopped)?;
    }
    let over = source.size() % BLOCK;
    if over > 0 {
        let padding = usize::try_from(BLOCK - over).unwrap_or(0);
        chunks.write_all(&[0; BLOCK as usize][..padding]).map_err(stopped)?;
    }
    Ok(())
}

/// The connection is gone; why is what its own side says.
fn stopped(error: io::Error) -> Failure {
    Failure::new("the upload broke off", error, "repeat the command")
}

struct Chunks<'a> {
    to: &'a Sender<Chunk>,
    held: BytesMut,
}

impl Chunks<'_> {
    /// Reads straight into the chunk.
    fn fill(&mut self, file: &mut File, most: usize) -> io::Result<usize> {
        let from = self.held.len();
        self.held.resize(from + most, 0);
        let read = loop {
            match file.read(&mut self.held[from..]) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                done => break done,
            }
        };
        self.held.truncate(from + read.as_ref().copied().unwrap_or(0));
        read
    }

    fn send_if_full(&mut self) -> io::Result<()> {
        if self.held.len() < CHUNK { Ok(()) } else { self.send() }
    }

    fn send(&mut self) -> io::Result<()> {
        let full = std::mem::replace(&mut self.held, BytesMut::with_capacity(CHUNK));
        if full.is_empty() {
            return Ok(());
        }
        self.to
            .blocking_send(Ok(full.freeze()))
            .map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the connection was closed"))
    }
}

impl Write for Chunks<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(CHUNK - self.held.len());
        self.held.extend_from_slice(&bytes[..taken]);
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
        write(sources, &to, &ProgressBar::hidden()).unwrap_or_else(|e| panic!("{e:?}"));
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
}
