//! Which blocks a read touches, and which to fetch before they are asked for: a reader that goes on where it stopped gets
//! a window ahead of it that doubles; one that jumps gets what it asks for and nothing more.

use std::ops::Range;

/// Bytes of a block: what is fetched and kept as one.
pub const BLOCK: u64 = 1 << 20;
/// The largest window, in blocks.
pub const WINDOW_MAX: u64 = 32;
/// Reads of one reader reach us in parallel, so one may overtake the one before it by this much.
const OVERTAKES: u64 = 2 * BLOCK;

/// How many blocks a file of that size has.
pub fn blocks_of(size: u64) -> u64 {
    size.div_ceil(BLOCK)
}

/// The blocks that a read touches; none behind the end.
pub fn touched(offset: u64, length: u64, size: u64) -> Range<u64> {
    let end = offset.saturating_add(length).min(size);
    if offset >= end {
        return 0..0;
    }
    offset / BLOCK..end.div_ceil(BLOCK)
}

/// The bytes of a run of blocks.
pub fn bytes_of(blocks: &Range<u64>, size: u64) -> Range<u64> {
    (blocks.start * BLOCK).min(size)..(blocks.end * BLOCK).min(size)
}

/// One reader of one open file.
#[derive(Debug, Default)]
pub struct Reader {
    expected: u64,
    window: u64,
    asked_to: u64,
}

impl Reader {
    /// Notes a read; answers which blocks behind it to fetch now. `most` is the largest window, in blocks.
    pub fn read(&mut self, offset: u64, length: u64, size: u64, most: u64) -> Range<u64> {
        let goes_on = offset != 0 && offset.abs_diff(self.expected) <= OVERTAKES;
        let end = offset.saturating_add(length).min(size);
        self.expected = if goes_on { self.expected.max(end) } else { end };
        let here = end.div_ceil(BLOCK);
        if !goes_on {
            (self.window, self.asked_to) = (0, here);
            return 0..0;
        }
        self.window = (self.window * 2).clamp(2, WINDOW_MAX).min(most);
        self.asked_to = self.asked_to.max(here);
        // In large steps: a request for each block costs more than the block.
        if self.asked_to > here + self.window / 2 {
            return 0..0;
        }
        let from = self.asked_to;
        let to = (here + self.window).min(blocks_of(size)).max(from);
        self.asked_to = to;
        from..to
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: u64 = 128 << 10;

    #[test]
    fn a_read_touches_the_blocks_that_it_lies_in() {
        assert_eq!(touched(0, 1, 10), 0..1);
        assert_eq!(touched(BLOCK - 1, 2, 3 * BLOCK), 0..2);
        assert_eq!(touched(BLOCK, STEP, 3 * BLOCK), 1..2);
        assert_eq!(touched(2 * BLOCK, 9 * BLOCK, 2 * BLOCK + 5), 2..3);
        for nothing in [
            touched(10, 5, 10),
            touched(0, 0, 10),
            touched(0, 4, 0),
            touched(u64::MAX, 9, 10),
        ] {
            assert!(nothing.is_empty());
        }
        assert_eq!(bytes_of(&(1..3), 2 * BLOCK + 5), BLOCK..2 * BLOCK + 5);
        assert_eq!((blocks_of(0), blocks_of(1), blocks_of(BLOCK + 1)), (0, 1, 2));
    }

    /// Reads a file from the beginning to the end; gives the runs that were fetched ahead.
    fn stream(size: u64, most: u64) -> Vec<Range<u64>> {
        let mut reader = Reader::default();
        (0..size.div_ceil(STEP))
            .map(|n| reader.read(n * STEP, STEP, size, most))
            .filter(|run| !run.is_empty())
            .collect()
    }

    #[test]
    fn a_stream_fetches_every_block_behind_the_first_once_and_in_large_runs() {
        let size = 200 * BLOCK + 7;
        let runs = stream(size, WINDOW_MAX);
        let mut expected = 1;
        for run in &runs {
            assert_eq!(run.start, expected, "{runs:?}");
            expected = run.end;
        }
        assert_eq!(expected, blocks_of(size));
        assert!(runs.len() < 25, "{runs:?}");
        assert!(stream(size, 4).iter().all(|run| run.end - run.start <= 4));
        assert!(stream(STEP, WINDOW_MAX).is_empty(), "one read is no stream");
        assert!(stream(10 * BLOCK, 0).is_empty(), "no memory, no window");
    }

    #[test]
    fn reads_that_overtake_each_other_are_one_stream() {
        let mut reader = Reader::default();
        let size = 50 * BLOCK;
        reader.read(0, STEP, size, WINDOW_MAX);
        let mut fetched = 0;
        for n in [2_u64, 1, 4, 3, 6, 5, 8, 7] {
            let run = reader.read(n * STEP, STEP, size, WINDOW_MAX);
            fetched += run.end - run.start;
        }
        assert!(fetched >= 16, "{fetched}");
    }

    #[test]
    fn a_reader_that_jumps_fetches_nothing_ahead() {
        let mut reader = Reader::default();
        let size = 1000 * BLOCK;
        for n in [500_u64, 20, 999, 3, 700] {
            assert!(reader.read(n * BLOCK, STEP, size, WINDOW_MAX).is_empty());
        }
        // One that then goes on is a stream from there.
        assert!(!reader.read(700 * BLOCK + STEP, STEP, size, WINDOW_MAX).is_empty());
    }
}
