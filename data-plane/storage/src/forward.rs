//! Forwards: small records that say where bytes of a pack lie now. What is still needed of a sparse pack is copied into
//! other packs; nothing that refers to it is rewritten, so references go on naming the old pack, and whoever does not find
//! it there asks for its forward.
//!
//! A forward leads straight to where the bytes are, never to another forward: when they move again it is replaced, whole,
//! by one that leads there. Either version is right as long as the pack that it leads to is there, which is longer than a
//! collection of garbage waits.

use std::collections::BTreeMap;

use crate::codec::{DecodeError, Input, put_digest, put_number};
use crate::digest::Digest;

const HEADER: &[u8; 8] = b"HWDFWRD\x01";

/// Bytes of the old pack that lie side by side in another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    length: u32,
    pack: Digest,
    offset: u32,
}

/// Where bytes of one pack lie now. Runs do not overlap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Forward {
    runs: BTreeMap<u32, Run>,
}

/// Bytes of the old pack, and where they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    /// Where they begin in the old pack.
    pub(crate) from: u32,
    pub(crate) length: u32,
    /// The pack that holds them.
    pub(crate) pack: Digest,
    /// Where they begin there.
    pub(crate) offset: u32,
}

impl Forward {
    /// Where a piece of the old pack is, if that is known.
    pub(crate) fn find(&self, offset: u32, length: u32) -> Option<(Digest, u32)> {
        let (from, run) = self.runs.range(..=offset).next_back()?;
        let inside = offset - from;
        (u64::from(inside) + u64::from(length) <= u64::from(run.length)).then(|| (run.pack, run.offset + inside))
    }

    /// What is known of these bytes of the old pack, in order.
    pub(crate) fn parts(&self, from: u32, to: u32) -> Vec<Part> {
        let first = self.runs.range(..=from).next_back().map_or(from, |(at, _)| *at);
        self.runs
            .range(first..to.max(first))
            .filter_map(|(at, run)| {
                let begin = from.max(*at);
                let end = to.min(at.saturating_add(run.length));
                (begin < end).then(|| Part {
                    from: begin,
                    length: end - begin,
                    pack: run.pack,
                    offset: run.offset + (begin - at),
                })
            })
            .collect()
    }

    /// Whether all these bytes of the old pack were moved.
    pub(crate) fn has_all(&self, from: u64, to: u64) -> bool {
        let (Ok(from), Ok(to)) = (u32::try_from(from), u32::try_from(to)) else {
            return false;
        };
        let moved: u64 = self.parts(from, to).iter().map(|part| u64::from(part.length)).sum();
        moved == u64::from(to.saturating_sub(from))
    }

    /// The packs that it leads to.
    pub(crate) fn packs(&self) -> std::collections::HashSet<Digest> {
        self.runs.values().map(|run| run.pack).collect()
    }

    /// The parts that are in this pack.
    pub(crate) fn leading_to(&self, pack: Digest) -> Vec<Part> {
        let all = self.parts(0, u32::MAX);
        all.into_iter().filter(|part| part.pack == pack).collect()
    }

    /// Notes where a piece of the old pack is now, whatever was known of it.
    pub(crate) fn insert(&mut self, part: Part) {
        let end = part.from.saturating_add(part.length);
        for known in self.parts(part.from, end) {
            self.cut(known, part.from, end);
        }
        let mut run = Run {
            length: part.length,
            pack: part.pack,
            offset: part.offset,
        };
        let mut from = part.from;
        // What follows seamlessly on both sides is one run.
        if let Some((at, before)) = self.runs.range(..from).next_back().map(|(at, run)| (*at, *run))
            && before.pack == run.pack
            && at + before.length == from
            && before.offset + before.length == run.offset
        {
            run.length += before.length;
            run.offset = before.offset;
            from = at;
        }
        self.runs.insert(from, run);
    }

    /// Takes the bytes from `from` to `end` out of the run that holds this part of them.
    fn cut(&mut self, known: Part, from: u32, end: u32) {
        let Some((at, run)) = self.runs.range(..=known.from).next_back().map(|(at, run)| (*at, *run)) else {
            return;
        };
        self.runs.remove(&at);
        if at < from {
            self.runs.insert(
                at,
                Run {
                    length: from - at,
                    ..run
                },
            );
        }
        let until = at.saturating_add(run.length);
        if end < until {
            self.runs.insert(
                end,
                Run {
                    length: until - end,
                    offset: run.offset + (end - at),
                    ..run
                },
            );
        }
    }

    /// Memory that it takes, about.
    pub(crate) fn weight(&self) -> usize {
        self.runs.len() * (size_of::<(u32, Run)>() + 8) + 64
    }

    /// The stored form; `old` is the pack whose bytes it leads to.
    pub(crate) fn encode(&self, old: &Digest) -> Vec<u8> {
        let mut packs: Vec<Digest> = self.packs().into_iter().collect();
        packs.sort_unstable();
        let mut out = Vec::with_capacity(self.runs.len() * 12 + packs.len() * 32 + 96);
        out.extend_from_slice(HEADER);
        put_digest(&mut out, old);
        put_number(&mut out, packs.len() as u64);
        for pack in &packs {
            put_digest(&mut out, pack);
        }
        put_number(&mut out, self.runs.len() as u64);
        let mut before = 0_u32;
        for (from, run) in &self.runs {
            put_number(&mut out, u64::from(from - before));
            put_number(&mut out, u64::from(run.length));
            put_number(&mut out, packs.binary_search(&run.pack).unwrap_or_default() as u64);
            put_number(&mut out, u64::from(run.offset));
            before = *from;
        }
        let checksum = Digest::of(&out);
        put_digest(&mut out, &checksum);
        out
    }

    /// Reads the stored form of the forward of the pack `old`.
    pub(crate) fn decode(bytes: &[u8], old: &Digest) -> Result<Self, DecodeError> {
        let Some((content, checksum)) = bytes.split_last_chunk::<32>() else {
            return Err(DecodeError::new("it is too short"));
        };
        if Digest::of(content).as_bytes() != checksum {
            return Err(DecodeError::new("it does not match its checksum"));
        }
        let mut input = Input::new(content);
        if input.take(HEADER.len())? != HEADER {
            return Err(DecodeError::new("it does not begin as a forward begins"));
        }
        if input.digest()? != *old {
            return Err(DecodeError::new("it is that of another pack"));
        }
        let count = input.length()?;
        let mut packs = Vec::with_capacity(input.plausible(count, 32));
        for _ in 0..count {
            packs.push(input.digest()?);
        }
        let mut runs = BTreeMap::new();
        let (mut before, mut end) = (0_u32, 0_u32);
        for _ in 0..input.length()? {
            let behind = || DecodeError::new("a run ends behind every pack");
            let from = before.checked_add(input.number_u32()?).ok_or_else(behind)?;
            let length = input.number_u32()?;
            let pack = packs.get(input.length()?).copied();
            let run = Run {
                length,
                pack: pack.ok_or_else(|| DecodeError::new("a run leads to a pack that is not listed"))?,
                offset: input.number_u32()?,
            };
            if from < end {
                return Err(DecodeError::new("its runs overlap"));
            }
            end = from.checked_add(length).ok_or_else(behind)?;
            run.offset.checked_add(length).ok_or_else(behind)?;
            runs.insert(from, run);
            before = from;
        }
        input.finish()?;
        Ok(Self { runs })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pack(number: u8) -> Digest {
        Digest::from_bytes([number; 32])
    }

    proptest! {
        #[test]
        fn every_byte_is_where_it_was_noted_last_and_the_stored_form_says_the_same(
            parts in prop::collection::vec((0..60u32, 1..20u32, 0..3u8, 0..100u32), 0..20),
        ) {
            let mut forward = Forward::default();
            let mut model: BTreeMap<u32, (Digest, u32)> = BTreeMap::new();
            for (from, length, number, offset) in parts {
                forward.insert(Part { from, length, pack: pack(number), offset });
                model.extend((0..length).map(|n| (from + n, (pack(number), offset + n))));
            }
            let stored = Forward::decode(&forward.encode(&pack(9)), &pack(9)).unwrap();
            prop_assert_eq!(&stored, &forward);
            for at in 0..100 {
                prop_assert_eq!(forward.find(at, 1), model.get(&at).copied());
                for to in at + 1..100 {
                    let found: BTreeMap<u32, (Digest, u32)> = forward
                        .parts(at, to)
                        .iter()
                        .flat_map(|part| (0..part.length).map(|n| (part.from + n, (part.pack, part.offset + n))))
                        .collect();
                    prop_assert!(found.iter().eq(model.range(at..to)));
                }
            }
        }

        #[test]
        fn no_damaged_forward_is_believed(byte in 0..200usize, bit in 0..8u8) {
            let mut forward = Forward::default();
            for from in [0, 50, 70] {
                forward.insert(Part { from, length: 10, pack: pack(1), offset: from * 2 });
            }
            let mut stored = forward.encode(&pack(9));
            prop_assert!(Forward::decode(&stored, &pack(8)).is_err());
            let at = byte % stored.len();
            stored[at] ^= 1 << bit;
            prop_assert!(Forward::decode(&stored, &pack(9)).is_err());
            prop_assert!(Forward::decode(&stored[..at], &pack(9)).is_err());
        }
    }

    #[test]
    fn pieces_that_stay_side_by_side_are_one_run() {
        let mut forward = Forward::default();
        for from in [8, 108, 208] {
            forward.insert(Part {
                from,
                length: 100,
                pack: pack(1),
                offset: from + 1000,
            });
        }
        assert_eq!(forward.runs.len(), 1);
        assert_eq!(forward.find(108, 200), Some((pack(1), 1108)));
        assert_eq!(forward.find(108, 201), None);
    }
}
