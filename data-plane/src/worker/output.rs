//! Lines of user code on their way to the plane: collected here, sent every half second or with the next completion.
//! Capped per run, so that a command that prints without end fills neither memory nor database.
//!
//! One request with lines is under way at a time: those of a datum are with the plane before the datum is settled, and
//! they come in the order in which they were printed.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use chassis::Environment;
use chrono::{DateTime, Utc};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

use super::protocol::{DatumTask, SentLine};
use super::secrets::Masks;

/// A longer line is cut into pieces of this size.
const LINE_BYTES_MAX: usize = 8 << 10;
/// So much of the beginning of one run is kept, and sent while it runs.
const FIRST: Room = Room {
    lines: 8_000,
    bytes: 1 << 20,
};
/// So much of its end, which is held here until it ends.
const LAST: Room = Room {
    lines: 2_000,
    bytes: 512 << 10,
};

/// The beginning of what a service prints, which has no end.
const LASTING: Room = Room {
    lines: 1_000_000,
    bytes: 256 << 20,
};

/// While so many bytes of what a service prints wait to be sent, it is read no further: then it waits itself.
const WAITING_BYTES_MAX: usize = 8 << 20;
/// How often it is looked whether some were sent.
const WAITING: std::time::Duration = std::time::Duration::from_millis(100);
/// So many bytes of lines go into one request.
const REQUEST_BYTES_MAX: usize = 4 << 20;
/// What a line takes in a request besides its text.
const LINE_OVERHEAD: usize = 300;

fn size(line: &SentLine) -> usize {
    line.text.len() + LINE_OVERHEAD
}

/// What was printed and not sent yet.
#[derive(Default)]
pub struct Outbox {
    lines: Mutex<VecDeque<SentLine>>,
    /// What they take together in requests.
    bytes: AtomicUsize,
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
            bytes += size(line);
            bytes <= REQUEST_BYTES_MAX
        };
        let count = lines.iter().take_while(fits).count().max(1).min(lines.len());
        let taken: Vec<SentLine> = lines.drain(..count).collect();
        let bytes = taken.iter().map(size).sum();
        self.outbox.bytes.fetch_sub(bytes, Ordering::Relaxed);
        taken
    }

    /// Puts back what could not be sent.
    pub fn put_back(&self, lines: Vec<SentLine>) {
        let mut kept = self.outbox.lines();
        for line in lines.into_iter().rev() {
            self.outbox.bytes.fetch_add(size(&line), Ordering::Relaxed);
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
        let mut lines = self.lines();
        self.bytes.fetch_add(size(&line), Ordering::Relaxed);
        lines.push_back(line);
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.lines().is_empty()
    }
}

/// How much of something is kept.
#[derive(Debug, Clone, Copy)]
struct Room {
    lines: usize,
    bytes: usize,
}

/// What one run printed: its beginning, which is sent at once, and its end, which is held back as long as more may come.
struct Kept<T> {
    first: Room,
    last: Room,
    /// Lines and bytes of the beginning.
    begun: (usize, usize),
    /// The beginning is over.
    is_full: bool,
    end: VecDeque<(T, usize)>,
    end_bytes: usize,
    /// Lines and bytes between the two, which are kept nowhere.
    left_out: (u64, u64),
}

impl<T> Kept<T> {
    fn new(first: Room, last: Room) -> Self {
        Self {
            first,
            last,
            begun: (0, 0),
            is_full: false,
            end: VecDeque::new(),
            end_bytes: 0,
            left_out: (0, 0),
        }
    }

    /// Takes a line; answers it when it is one of the beginning.
    fn take(&mut self, line: T, bytes: usize) -> Option<T> {
        self.is_full |= self.begun.0 >= self.first.lines || self.begun.1 + bytes > self.first.bytes;
        if !self.is_full {
            self.begun.0 += 1;
            self.begun.1 += bytes;
            return Some(line);
        }
        self.end.push_back((line, bytes));
        self.end_bytes += bytes;
        while self.end.len() > self.last.lines || self.end_bytes > self.last.bytes {
            let Some((_, bytes)) = self.end.pop_front() else { break };
            self.end_bytes -= bytes;
            self.left_out.0 += 1;
            self.left_out.1 += bytes as u64;
        }
        None
    }

    /// What was held back, and how much was left out before it.
    fn close(&mut self) -> ((u64, u64), Vec<T>) {
        self.end_bytes = 0;
        let end = std::mem::take(&mut self.end).into_iter().map(|(line, _)| line);
        (std::mem::take(&mut self.left_out), end.collect())
    }
}

/// A line without its number.
struct Printed {
    at: DateTime<Utc>,
    stream: &'static str,
    text: String,
}

/// The lines of one run, numbered over both streams.
pub struct RunLog<'a> {
    outbox: &'a Outbox,
    environment: &'a Environment,
    datum: &'a DatumTask,
    /// What was kept, and the number of the next line.
    state: Mutex<(Kept<Printed>, i32)>,
    masks: &'a Masks,
    /// What is printed faster than it is sent waits: without an end there is no bound to it.
    waits: bool,
}

impl<'a> RunLog<'a> {
    /// An empty log, which keeps none of what the masks find: something else stands in its place.
    pub fn new(outbox: &'a Outbox, environment: &'a Environment, datum: &'a DatumTask, masks: &'a Masks) -> Self {
        Self {
            outbox,
            environment,
            datum,
            state: Mutex::new((Kept::new(FIRST, LAST), 0)),
            masks,
            waits: false,
        }
    }

    /// An empty log of a service.
    pub fn lasting(outbox: &'a Outbox, environment: &'a Environment, datum: &'a DatumTask, masks: &'a Masks) -> Self {
        Self {
            state: Mutex::new((Kept::new(LASTING, LAST), 0)),
            waits: true,
            ..Self::new(outbox, environment, datum, masks)
        }
    }

    /// Keeps a line.
    pub fn line(&self, stream: &'static str, text: &str) {
        let line = Printed {
            at: self.environment.now(),
            stream,
            // PostgreSQL's texts hold no NUL.
            text: text.replace('\0', "\u{fffd}"),
        };
        let bytes = line.text.len();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (kept, next) = &mut *state;
        if let Some(line) = kept.take(line, bytes) {
            self.send(next, line);
        }
    }

    /// Nothing comes any more: what was held back is sent, behind a line that says how much is missing before it.
    pub fn close(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (kept, next) = &mut *state;
        let ((lines, bytes), end) = kept.close();
        if lines > 0 {
            let note = Printed {
                at: self.environment.now(),
                stream: "system",
                text: format!(
                    "{lines} lines with {bytes} bytes are left out here: of one run the first {} and the last {} lines are kept; \
                     write more to a file in /pfs/out instead",
                    FIRST.lines, LAST.lines
                ),
            };
            self.send(next, note);
        }
        for line in end {
            self.send(next, line);
        }
    }

    fn send(&self, next: &mut i32, line: Printed) {
        let number = *next;
        *next += 1;
        self.outbox.push(SentLine {
            job: self.datum.job,
            key: self.datum.key.clone(),
            run: self.datum.run,
            line: number,
            at: line.at,
            stream: line.stream.to_owned(),
            text: line.text,
        });
    }

    /// Reads a stream to its end, line by line. What is not UTF-8 is shown with replacement characters. Secrets are looked
    /// for before long lines are cut: one lies across the cut otherwise.
    pub async fn drain(&self, stream: &'static str, from: impl AsyncRead + Unpin) {
        let mut from = BufReader::new(from);
        let (mut raw, mut shown) = (Vec::new(), Vec::new());
        // A line was begun, of which nothing may be left to show.
        let mut begun = false;
        loop {
            while self.waits && self.outbox.bytes.load(Ordering::Relaxed) > WAITING_BYTES_MAX {
                tokio::time::sleep(WAITING).await;
            }
            let is_end = match (&mut from)
                .take(LINE_BYTES_MAX as u64)
                .read_until(b'\n', &mut raw)
                .await
            {
                Ok(0) | Err(_) if !begun => return,
                Ok(0) | Err(_) => true,
                Ok(_) => raw.ends_with(b"\n"),
            };
            self.masks.take(&mut raw, &mut shown, is_end);
            while shown.len() > LINE_BYTES_MAX {
                let rest = shown.split_off(LINE_BYTES_MAX);
                self.piece(stream, &shown);
                shown = rest;
            }
            if is_end {
                self.piece(stream, &shown);
                shown.clear();
            }
            begun = !is_end;
        }
    }

    fn piece(&self, stream: &'static str, bytes: &[u8]) {
        self.line(stream, String::from_utf8_lossy(bytes).trim_end_matches(['\n', '\r']));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Room = Room { lines: 3, bytes: 100 };

    fn run(lines: impl IntoIterator<Item = usize>) -> (Vec<usize>, (u64, u64), Vec<usize>) {
        let mut kept = Kept::new(SMALL, SMALL);
        let sent = lines
            .into_iter()
            .enumerate()
            .filter_map(|(n, bytes)| kept.take(n, bytes));
        let sent: Vec<usize> = sent.collect();
        let (left_out, end) = kept.close();
        (sent, left_out, end)
    }

    #[test]
    fn what_fits_is_kept_whole() {
        assert_eq!(run([1, 1]), (vec![0, 1], (0, 0), vec![]));
        assert_eq!(run([1; 6]), (vec![0, 1, 2], (0, 0), vec![3, 4, 5]));
    }

    #[test]
    fn of_much_the_beginning_and_the_end_are_kept_and_the_rest_is_counted() {
        assert_eq!(run([2; 10]), (vec![0, 1, 2], (4, 8), vec![7, 8, 9]));
    }

    #[tokio::test]
    async fn secrets_across_the_cut_of_a_long_line_and_longer_than_a_piece_are_masked() {
        let long = "k".repeat(3 * LINE_BYTES_MAX);
        let value = |text: &str| super::super::protocol::SecretFor::Variable {
            name: "A".to_owned(),
            values: vec![("k".to_owned(), super::super::protocol::Hidden(text.to_owned()))],
        };
        let masks = Masks::of(&[value("hunter2"), value(&long)]);
        let datum = DatumTask {
            job: contract::ids::JobId::from_uuid(uuid::Uuid::nil()),
            position: 0,
            key: String::new(),
            run: 1,
            inputs: Vec::new(),
        };
        for before in LINE_BYTES_MAX - 8..LINE_BYTES_MAX + 2 {
            let outbox = Outbox::default();
            let environment = Environment::system();
            let log = RunLog::new(&outbox, &environment, &datum, &masks);
            let printed = format!("{}hunter2 end\nshort\n\n{long} b\nrest", "x".repeat(before));
            log.drain("stdout", printed.as_bytes()).await;
            log.close();
            let lines: Vec<String> = outbox.lines().iter().map(|line| line.text.clone()).collect();
            assert_eq!(lines.concat(), format!("{}*** endshort*** brest", "x".repeat(before)));
            assert_eq!(&lines[lines.len() - 4..], ["short", "", "*** b", "rest"]);
        }
    }

    #[test]
    fn long_lines_fill_the_room_too() {
        // The second does not fit; nothing comes before it afterwards.
        assert_eq!(run([60, 60, 1, 60]), (vec![0], (1, 60), vec![2, 3]));
        // A line longer than the room of the end is left out alone.
        assert_eq!(run([60, 60, 101]), (vec![0], (2, 161), vec![]));
    }
}
