//! Lines of user code on their way to the plane: collected here, sent with the next heartbeat or completion. Capped per
//! run, so that a command that prints without end fills neither memory nor database.

use std::sync::{Mutex, PoisonError};

use chassis::Environment;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

use super::protocol::{DatumTask, SentLine};

/// A longer line is cut into pieces of this size.
const LINE_BYTES_MAX: u64 = 8 << 10;
/// So many lines of one run are kept.
const LINES_MAX: i32 = 10_000;
/// So many bytes of one run are kept.
const BYTES_MAX: usize = 2 << 20;

/// What was printed and not sent yet.
#[derive(Default)]
pub struct Outbox(Mutex<Vec<SentLine>>);

impl Outbox {
    /// Everything so far.
    pub fn take(&self) -> Vec<SentLine> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts back what could not be sent.
    pub fn put_back(&self, lines: Vec<SentLine>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let newer = std::mem::replace(&mut *kept, lines);
        kept.extend(newer);
    }

    fn push(&self, line: SentLine) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

/// The lines of one run, numbered over both streams.
pub struct RunLog<'a> {
    outbox: &'a Outbox,
    environment: &'a Environment,
    datum: &'a DatumTask,
    so_far: Mutex<(i32, usize)>,
}

impl<'a> RunLog<'a> {
    /// An empty log.
    pub fn new(outbox: &'a Outbox, environment: &'a Environment, datum: &'a DatumTask) -> Self {
        Self {
            outbox,
            environment,
            datum,
            so_far: Mutex::new((0, 0)),
        }
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
            let text = String::from_utf8_lossy(&line);
            self.line(stream, text.trim_end_matches(['\n', '\r']));
        }
    }
}
