//! A file told by what it has in common with the one that it replaces. It is read once to find that out, and what is new of
//! it a second time to be sent.

use std::collections::HashMap;
use std::io::{self, Read};

use chunks::Cutter;
use contract::upload::{DELTA_COPIES_MAX, Step};

use super::bases::Base;

const READ_BYTES: usize = 4 << 20;
/// When nothing of so many bytes is known, the file is taken for a new one.
const HOPELESS_BYTES: u64 = 64 << 20;
/// Below that it is not worth a second reading.
const SAVED_BYTES_MIN: u64 = 128 << 10;

struct Steps<'b> {
    base: &'b Base,
    index: HashMap<[u8; 32], usize>,
    steps: Vec<Step>,
    /// The chunk of the base behind the last one that was met.
    next: usize,
    copied: u64,
    read: u64,
}

impl Steps<'_> {
    fn chunk(&mut self, chunk: &[u8]) {
        let digest = *blake3::hash(chunk).as_bytes();
        self.read += chunk.len() as u64;
        let same = |at: &usize| {
            let known = self.base.chunks.get(*at);
            known.is_some_and(|known| known.digest == digest && known.length as usize == chunk.len())
        };
        // What is there several times is taken in order, so that steps become long.
        let met = Some(self.next).filter(same);
        let met = met.or_else(|| self.index.get(&digest).copied().filter(same));
        match met {
            Some(at) => self.copy(at),
            None => self.literal(chunk.len() as u64),
        }
    }

    fn copy(&mut self, at: usize) {
        let known = self.base.chunks[at];
        let (from, bytes) = (known.offset, u64::from(known.length));
        self.next = at + 1;
        self.copied += bytes;
        if let Some(Step::Copy { offset, length }) = self.steps.last_mut()
            && *offset + *length == from
        {
            *length += bytes;
        } else {
            self.steps.push(Step::Copy {
                offset: from,
                length: bytes,
            });
        }
    }

    fn literal(&mut self, bytes: u64) {
        if let Some(Step::Literal { length }) = self.steps.last_mut() {
            *length += bytes;
        } else {
            self.steps.push(Step::Literal { length: bytes });
        }
    }
}

/// The steps that make the file of its base; `None` when little would be saved.
///
/// # Errors
/// When the file cannot be read, or ends before `size` bytes.
pub(super) fn find(file: &mut impl Read, size: u64, base: &Base) -> io::Result<Option<Vec<Step>>> {
    let index = base.chunks.iter().enumerate().rev();
    let mut found = Steps {
        base,
        index: index.map(|(at, chunk)| (chunk.digest, at)).collect(),
        steps: Vec::new(),
        next: 0,
        copied: 0,
        read: 0,
    };
    let mut cutter = Cutter::default();
    let mut buffer = vec![0; READ_BYTES];
    let mut left = size;
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(READ_BYTES).min(READ_BYTES);
        let read = match file.read(&mut buffer[..most]) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        if read == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it became shorter"));
        }
        left -= read as u64;
        cutter.push(&buffer[..read], |chunk| {
            found.chunk(chunk);
            Ok::<(), io::Error>(())
        })?;
        if found.copied == 0 && found.read >= HOPELESS_BYTES {
            return Ok(None);
        }
    }
    cutter.finish(|chunk| {
        found.chunk(chunk);
        Ok::<(), io::Error>(())
    })?;
    let steps = (found.steps.len() * Step::BYTES) as u64;
    let worth = found.copied >= SAVED_BYTES_MIN + steps && found.copied <= base.size.saturating_mul(DELTA_COPIES_MAX);
    Ok(Some(found.steps).filter(|_| worth))
}

#[cfg(test)]
mod tests {
    use super::super::bases::Chunk;
    use super::*;

    fn noise(seed: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }

    fn base(bytes: &[u8]) -> Base {
        let mut base = Base {
            size: bytes.len() as u64,
            chunks: Vec::new(),
        };
        let mut offset = 0;
        let cut = chunks::cut_all(bytes, |chunk| {
            let length = u32::try_from(chunk.len()).map_err(|_| ())?;
            base.chunks.push(Chunk {
                offset,
                length,
                digest: *blake3::hash(chunk).as_bytes(),
            });
            offset += u64::from(length);
            Ok::<(), ()>(())
        });
        assert_eq!(cut, Ok(()));
        base
    }

    /// What the steps make, and how many bytes of it are sent.
    fn made(steps: &[Step], new: &[u8], old: &[u8]) -> (Vec<u8>, u64) {
        let (mut made, mut sent) = (Vec::new(), 0);
        for step in steps {
            match *step {
                Step::Literal { length } => {
                    sent += length;
                    made.extend_from_slice(&new[made.len()..][..length as usize]);
                }
                Step::Copy { offset, length } => made.extend_from_slice(&old[offset as usize..][..length as usize]),
            }
        }
        (made, sent)
    }

    #[test]
    fn what_was_inserted_moved_and_cut_away_is_told_in_few_bytes() {
        let old = noise(1, 8 << 20);
        for (what, new) in [
            ("insertion", [&old[..3 << 20], b"x", &old[3 << 20..]].concat()),
            ("swap", [&old[4 << 20..], &old[..4 << 20]].concat()),
            ("cut", [&old[..1 << 20], &old[2 << 20..]].concat()),
            ("longer", [&old[..], &noise(2, 200_000)[..]].concat()),
        ] {
            let steps = find(&mut &new[..], new.len() as u64, &base(&old)).unwrap().unwrap();
            let (same, sent) = made(&steps, &new, &old);
            assert!(same == new, "{what}");
            assert!(sent < 800_000 && steps.len() < 8, "{what}: {sent} bytes in {steps:?}");
        }
        let all = find(&mut &old[..], old.len() as u64, &base(&old)).unwrap().unwrap();
        let length = old.len() as u64;
        assert_eq!(all, [Step::Copy { offset: 0, length }]);
    }

    #[test]
    fn what_is_new_or_would_be_copied_too_often_is_sent_whole() {
        let old = noise(1, 1 << 20);
        let new = noise(2, 3 << 20);
        assert_eq!(find(&mut &new[..], new.len() as u64, &base(&old)).unwrap(), None);
        let often = old.repeat(3);
        assert_eq!(find(&mut &often[..], often.len() as u64, &base(&old)).unwrap(), None);
        let refused = find(&mut &old[..], old.len() as u64 + 1, &base(&old)).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::UnexpectedEof);
    }
}
