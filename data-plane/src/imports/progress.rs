//! How far an import is: counted where bytes arrive, told to who waits for it.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use contract::api::ImportLine;
use contract::problem::ProblemKind;

use crate::failure::{Answer, Failure};

/// Files of one import.
const FILES_MAX: u64 = 1_000_000;
/// Files of one import that appends: what goes behind which file is held in memory until all of it is there.
const APPENDED_MAX: u64 = 10_000;

/// The counts of one import.
pub struct Progress {
    files: AtomicU64,
    bytes: AtomicU64,
    expected: AtomicU64,
    /// Sources that have not said how large they are.
    silent: AtomicUsize,
    bytes_max: u64,
    append: bool,
}

impl Progress {
    /// Nothing is here; of so many sources, which may be appended to what is there.
    pub fn new(sources: usize, bytes_max: u64, append: bool) -> Self {
        Self {
            files: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            expected: AtomicU64::new(0),
            silent: AtomicUsize::new(sources),
            bytes_max,
            append,
        }
    }

    /// A source has said how large it is.
    ///
    /// # Errors
    /// `too-large`.
    pub fn expect(&self, bytes: u64) -> Answer<()> {
        self.silent.fetch_sub(1, Ordering::Relaxed);
        let before = self.expected.fetch_add(bytes, Ordering::Relaxed);
        self.within(before.saturating_add(bytes))
    }

    /// Bytes have arrived.
    ///
    /// # Errors
    /// `too-large`.
    pub fn arrived(&self, bytes: u64) -> Answer<()> {
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.within(before.saturating_add(bytes))
    }

    /// They have to be fetched once more.
    pub fn lost(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// A file is here.
    ///
    /// # Errors
    /// `too-large`.
    pub fn done(&self) -> Answer<()> {
        let before = self.files.fetch_add(1, Ordering::Relaxed);
        if self.append && before >= APPENDED_MAX {
            let what = format!(
                "one import may append {APPENDED_MAX} files at most, since they are held in memory; nothing was committed"
            );
            return Err(Failure::new(ProblemKind::TooLarge, what).hint(
                "import without `--append`, or fewer files at a time, into an open commit: `howdah commit start`",
            ));
        }
        if before < FILES_MAX {
            return Ok(());
        }
        Err(Failure::new(
            ProblemKind::TooLarge,
            format!("one import may fetch {FILES_MAX} files at most; nothing was committed"),
        )
        .hint("import one prefix after the other, into an open commit: `howdah commit start`"))
    }

    fn within(&self, bytes: u64) -> Answer<()> {
        if bytes <= self.bytes_max {
            return Ok(());
        }
        Err(Failure::new(
            ProblemKind::TooLarge,
            format!(
                "one import may fetch {} bytes at most; nothing was committed",
                self.bytes_max
            ),
        )
        .hint("import less at a time, into an open commit: `howdah commit start`"))
    }

    /// The line that tells it.
    pub fn line(&self) -> ImportLine {
        let known = self.silent.load(Ordering::Relaxed) == 0;
        ImportLine::Progress {
            files: self.files.load(Ordering::Relaxed),
            size_bytes: self.bytes.load(Ordering::Relaxed),
            size_bytes_total: known.then(|| self.expected.load(Ordering::Relaxed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_all_sources_together_are_limited_and_fewer_are_appended() {
        for (append, most) in [(false, FILES_MAX), (true, APPENDED_MAX)] {
            let progress = Progress::new(2, u64::MAX, append);
            for _ in 0..most {
                progress.done().unwrap();
            }
            let refused = progress.done().unwrap_err();
            assert_eq!(refused.kind(), ProblemKind::TooLarge);
            assert!(refused.detail().contains(&most.to_string()), "{}", refused.detail());
        }
    }
}
