//! Lines of user code on their way to the plane: collected here, sent every half second or with the next completion.
//! Capped per run, so that a command that prints without end fills neither memory nor database.
//!
//! One request with lines is under way at a time: those of a datum are with the plane before the datum is settled, and
//! they come in the order in which they were printed.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use chassis::Environment;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

use super::protocol::{DatumTask, SentLine};
use super::secrets;

/// A longer line is cut into pieces of this size.
const LINE_BYTES_MAX: u64 = 8 << 10;
/// So many lines of one run are kept.
const LINES_MAX: i32 = 10_000;
/// So many bytes of one run are kept.
const BYTES_MAX: usize = 2 << 20;

/// So many bytes of lines go into one request.
const REQUEST_BYTES_MAX: usize = 4 << 20;
/// What a line takes in a request besides its text.
const LINE_OVERHEAD: usize = 300;

/// What was printed and not sent yet.
#[derive(Default)]
pub struct Outbox {
    lines: Mutex<VecDeque<SentLine>>,
    turn: tokio::sync::Mutex<()>,
}

/// The turn to send lines.
pub struct Sending<'a> {
    outbox: &'a Outbox,
    _turn: tokio::sync::MutexGuard<'a, ()>,
}

impl Sending<'_> {
    /// The oldest lines, as many as fit into a request.
    pub fn take(&self) -> Vec<SentLine> {
        let mut lines = self.outbox.lines();
        let mut bytes = 0;
        let fits = |line: &&SentLine| {
            bytes += line.text.len() + LINE_OVERHEAD;
            bytes <= REQUEST_BYTES_MAX
        };
        let count = lines.iter().take_while(fits).count().max(1).min(lines.len());
        lines.drain(..count).collect()
    }

    /// Puts back what could not be sent.
    pub fn put_back(&self, lines: Vec<SentLine>) {
        let mut kept = self.outbox.lines();
        for line in lines.into_iter().rev() {
            kept.push_front(line);
        }
    }
}

impl Outbox {
    fn lines(&self) -> MutexGuard<'_, VecDeque<SentLine>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the turn to send lines.
    pub async fn begin(&self) -> Sending<'_> {
        Sending {
            outbox: self,
            _turn: self.turn.lock().await,
        }
    }

    fn push(&self, line: SentLine) {
        self.lines().push_back(line);
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.lines().is_empty()
    }
}

/// The lines of one run, numbered over both streams.
pub struct RunLog<'a> {
    outbox: &'a Outbox,
    environment: &'a Environment,
    datum: &'a DatumTask,
    so_far: Mutex<(i32, usize)>,
    masks: Vec<String>,
}

impl<'a> RunLog<'a> {
    /// An empty log.
    pub fn new(outbox: &'a Outbox, environment: &'a Environment, datum: &'a DatumTask) -> Self {
        Self {
            outbox,
            environment,
            datum,
            so_far: Mutex::new((0, 0)),
            masks: Vec::new(),
        }
    }

    /// Keeps no line with one of these texts: something else stands in their place.
    pub fn hiding(mut self, masks: Vec<String>) -> Self {
        self.masks = masks;
        self
    }

    /// Keeps a line, or a note instead of the first one that is too much.
    pub fn line(&self, stream: &str, text: &str) {
        let number = {
            let mut so_far = self.so_far.lock().unwrap_or_else(PoisonError::into_inner);
            if so_far.0 > LINES_MAX {
                return;
            }
            let number = so_far.0;
            so_far.0 += 1;
            so_far.1 += text.len();
            if so_far.1 > BYTES_MAX {
                so_far.0 = LINES_MAX + 1;
            }
            number
        };
        let full = number == LINES_MAX || number > 0 && self.is_full();
        let (stream, text) = if full {
            (
                "system",
                "more was printed than is kept of one run; write it to a file in /pfs/out instead",
            )
        } else {
            (stream, text)
        };
        self.outbox.push(SentLine {
            job: self.datum.job,
            key: self.datum.key.clone(),
            run: self.datum.run,
            line: number,
            at: self.environment.now(),
            stream: stream.to_owned(),
            // PostgreSQL's texts hold no NUL.
            text: text.replace('\0', "\u{fffd}"),
        });
    }

    fn is_full(&self) -> bool {
        self.so_far.lock().unwrap_or_else(PoisonError::into_inner).0 > LINES_MAX
    }

    /// Reads a stream to its end, line by line. What is not UTF-8 is shown with replacement characters.
    pub async fn drain(&self, stream: &str, from: impl AsyncRead + Unpin) {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        loop {
            line.clear();
            match (&mut from).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            let text = secrets::masked(String::from_utf8_lossy(&line).into_owned(), &self.masks);
            self.line(stream, text.trim_end_matches(['\n', '\r']));
        }
    }
}
