//! How a large upload is divided into parts that the service keeps, so that it can be taken up again where it broke off.
//! A part is named by the files in it as they are on the disk: one that changed since is another part and is sent again.

use std::collections::HashMap;
use std::ops::Range;

use contract::api::UploadPart;

use super::sources::Source;

/// A file of this size is a part of its own, and is kept in pieces.
const LARGE_BYTES: u64 = 64 << 20;
/// Smaller files are kept together, this many bytes or files.
const PART_BYTES: u64 = 48 << 20;
const PART_FILES: usize = 10_000;

/// What the service holds of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    /// So many bytes from the beginning; more than none only of a large file.
    First(u64),
    Whole,
}

/// Files that are sent one after another.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) key: [u8; 32],
    pub(super) sources: Range<usize>,
    pub(super) bytes: u64,
    pub(super) held: Held,
}

impl Part {
    pub(super) fn is_large(&self) -> bool {
        self.bytes >= LARGE_BYTES && self.sources.len() == 1
    }
}

/// Divides sources in their order.
pub(super) fn divide(sources: &[Source]) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut open = Opened::at(0);
    for (place, source) in sources.iter().enumerate() {
        let large = source.size() >= LARGE_BYTES;
        if large || open.bytes >= PART_BYTES || place - open.from >= PART_FILES {
            open.close(place, &mut parts);
            open = Opened::at(place);
        }
        open.add(source);
        if large {
            open.close(place + 1, &mut parts);
            open = Opened::at(place + 1);
        }
    }
    open.close(sources.len(), &mut parts);
    parts
}

struct Opened {
    from: usize,
    bytes: u64,
    key: blake3::Hasher,
}

impl Opened {
    fn at(from: usize) -> Self {
        Self {
            from,
            bytes: 0,
            key: blake3::Hasher::new_derive_key("howdah 2026 part of an upload"),
        }
    }

    fn add(&mut self, source: &Source) {
        self.bytes += source.size();
        self.key.update(&(source.path.len() as u64).to_le_bytes());
        self.key.update(source.path.as_bytes());
        self.key.update(&source.size().to_le_bytes());
        self.key.update(&[u8::from(source.executable)]);
        for number in source.identity {
            self.key.update(&number.to_le_bytes());
        }
    }

    fn close(self, to: usize, parts: &mut Vec<Part>) {
        if self.from < to {
            parts.push(Part {
                key: *self.key.finalize().as_bytes(),
                sources: self.from..to,
                bytes: self.bytes,
                held: Held::First(0),
            });
        }
    }
}

/// What all these files are, in a few digits.
pub(super) fn digest(parts: &[Part], message: &str) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&part.key);
    }
    hasher.update(message.as_bytes());
    hasher.finalize().to_string()
}

/// Notes what is kept; answers how many bytes of the files are there.
pub(super) fn note(parts: &mut [Part], kept: &[UploadPart]) -> u64 {
    let mut pieces: HashMap<(&str, u64), u64> = HashMap::new();
    let mut whole = std::collections::HashSet::new();
    for part in kept {
        if part.whole {
            whole.insert(part.key.as_str());
        } else {
            pieces.insert((&part.key, part.from), part.to);
        }
    }
    let mut there = 0;
    for part in parts {
        let key = hex::encode(part.key);
        part.held = if whole.contains(key.as_str()) {
            there += part.bytes;
            Held::Whole
        } else {
            let mut to = 0;
            while let Some(next) = pieces.get(&(key.as_str(), to)).filter(|next| **next > to) {
                to = *next;
            }
            // Pieces of more than there is are of no file of ours.
            let to = if part.is_large() && to <= part.bytes { to } else { 0 };
            there += to;
            Held::First(to)
        };
    }
    there
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, size: u64) -> Source {
        Source::for_test(path, size)
    }

    fn kept(part: &Part, whole: bool, from: u64, to: u64) -> UploadPart {
        let key = hex::encode(part.key);
        UploadPart { key, whole, from, to }
    }

    #[test]
    fn large_files_stand_alone_and_small_ones_together() {
        let mut sources = vec![source("a", 5), source("b", 100 << 20), source("c", 1)];
        sources.extend((0..10_001).map(|n| source(&format!("d{n}"), 2)));
        let parts = divide(&sources);
        let ranges: Vec<_> = parts.iter().map(|p| (p.sources.clone(), p.bytes)).collect();
        assert_eq!(
            ranges,
            [(0..1, 5), (1..2, 100 << 20), (2..10_002, 19_999), (10_002..10_004, 4)]
        );
        assert!(parts[1].is_large() && !parts[0].is_large());
        assert!(divide(&[]).is_empty());
    }

    #[test]
    fn a_file_that_changed_is_in_another_part_and_the_others_stay() {
        let sources = |second: u64| vec![source("a", 60 << 20), source("b", second), source("c", 70 << 20)];
        let (before, after) = (divide(&sources(50 << 20)), divide(&sources(51 << 20)));
        assert_eq!(before[0].key, after[0].key);
        assert_ne!(before[1].key, after[1].key);
        assert_eq!(before[2].key, after[2].key);
        assert_ne!(digest(&before, ""), digest(&after, ""));
        assert_ne!(digest(&before, ""), digest(&before, "message"));
    }

    #[test]
    fn pieces_count_as_far_as_they_are_without_a_gap() {
        let mut parts = divide(&[source("a", 5), source("b", 100), source("c", 300 << 20)]);
        let told = [
            kept(&parts[0], true, 0, 105),
            kept(&parts[1], false, 50, 60),
            kept(&parts[1], false, 0, 20),
            kept(&parts[1], false, 20, 45),
        ];
        assert_eq!(note(&mut parts, &told), 150);
        assert_eq!((parts[0].held, parts[1].held), (Held::Whole, Held::First(45)));
        assert_eq!(note(&mut parts, &[]), 0);
    }
}
