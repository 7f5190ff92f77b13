//! What a command prints, on its way to the worker.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use crate::wire::{self, Kind};

/// Bytes that are read at a time.
const PIECE_BYTES: usize = 32 << 10;

/// The connection, for all that write to it: a frame is written as a whole.
#[derive(Clone)]
pub struct Line(Arc<Mutex<UnixStream>>);

impl Line {
    /// A connection that only this writes to.
    pub fn new(connection: UnixStream) -> Self {
        Self(Arc::new(Mutex::new(connection)))
    }

    fn connection(&self) -> MutexGuard<'_, UnixStream> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says something.
    ///
    /// # Errors
    /// When nobody is at the other end.
    pub fn say(&self, value: &impl Serialize) -> io::Result<()> {
        wire::write(&mut *self.connection(), value)
    }

    fn pass(&self, kind: Kind, bytes: &[u8]) -> io::Result<()> {
        self.connection().write_all(&wire::encode(kind, bytes)?)
    }
}

/// How much of what a command prints is passed on.
pub struct Allowance {
    most: u64,
    printed: AtomicU64,
}

impl Allowance {
    /// So many bytes of both streams together.
    pub fn new(most: u64) -> Self {
        Self {
            most,
            printed: AtomicU64::new(0),
        }
    }

    /// How many of these bytes are passed on.
    fn take(&self, bytes: usize) -> usize {
        let before = self.printed.fetch_add(bytes as u64, Ordering::Relaxed);
        let left = self.most.saturating_sub(before);
        usize::try_from(left).unwrap_or(usize::MAX).min(bytes)
    }

    /// Bytes that were not.
    pub fn left_out(&self) -> u64 {
        self.printed.load(Ordering::Relaxed).saturating_sub(self.most)
    }
}

/// Passes a stream on until its end. It is read to the end in any case: a command whose pipe is full stands still.
pub fn pass_on(mut from: impl Read, kind: Kind, line: &Line, allowance: &Allowance) {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match from.read(&mut piece) {
            Ok(0) => return,
            Ok(read) => {
                let kept = allowance.take(read);
                if kept > 0 {
                    // Nobody is there any more: what runs is being killed.
                    let _ = line.pass(kind, &piece[..kept]);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_beyond_the_allowance_is_counted_and_not_passed_on() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (line, allowance) = (Line::new(ours), Allowance::new(5));
        pass_on(&b"abc"[..], Kind::Stdout, &line, &allowance);
        pass_on(&b"defg"[..], Kind::Stderr, &line, &allowance);
        pass_on(&b"h"[..], Kind::Stdout, &line, &allowance);
        drop(line);
        let mut theirs = io::BufReader::new(theirs);
        let frames: Vec<_> = std::iter::from_fn(|| wire::read(&mut theirs).ok()).collect();
        let texts: Vec<&[u8]> = frames.iter().map(|frame| frame.payload.as_slice()).collect();
        assert_eq!(texts, [&b"abc"[..], b"de"]);
        assert_eq!(allowance.left_out(), 3);
    }
}
