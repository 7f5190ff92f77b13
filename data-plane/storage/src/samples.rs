//! Samples: one of so many chunks of a write session is noted with the pack that it lies in, so that a later session which
//! comes upon it again, in whatever file, finds that pack and knows everything that is in it.

use std::collections::HashSet;

use futures::future::BoxFuture;

use crate::digest::Digest;

/// One of so many chunks is a sample; a power of two.
const EVERY: u8 = 32;
/// So many samples are remembered as asked for; after that some may be asked for again.
const ASKED_MAX: usize = 1 << 16;
/// As many as there are in some 64 MiB of large files.
const TOGETHER_MAX: usize = 32;

/// Names the packs that may hold the chunks of these samples, the likeliest first. Only packs that stay for as long as the
/// session may store references may be named.
pub type FindPacks = Box<dyn Fn(Vec<i64>) -> BoxFuture<'static, Vec<Digest>> + Send + Sync>;

/// Samples of a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackSamples {
    /// The pack.
    pub pack: Digest,
    /// The pack with chunks that the session sealed after it.
    pub next: Option<Digest>,
    /// The first eight bytes of digests of its chunks.
    pub samples: Vec<i64>,
}

/// What stands for a chunk, if it is a sample.
pub(crate) fn sample(digest: &Digest) -> Option<i64> {
    let (first, _) = digest.as_bytes().split_first_chunk::<8>()?;
    (first[7] % EVERY == 0).then(|| i64::from_be_bytes(*first))
}

/// Samples of one session.
#[derive(Default)]
pub(crate) struct Samples {
    /// Of the open pack; `None`: there is no chunk in it.
    open: Option<Vec<i64>>,
    /// Of the packs that hold chunks, in the order in which they were sealed.
    sealed: Vec<(Digest, Vec<i64>)>,
    asked: HashSet<i64>,
    /// Packs whose chunks were learned.
    pub(crate) learned: HashSet<Digest>,
    to_ask: Vec<i64>,
    /// So many are asked for together, at least: 0 = 1.
    together: usize,
}

impl Samples {
    /// Notes a chunk that was put into the open pack.
    pub(crate) fn stored(&mut self, digest: &Digest) {
        self.open.get_or_insert_default().extend(sample(digest));
    }

    /// The open pack was sealed under this name.
    pub(crate) fn sealed(&mut self, pack: Digest) {
        if let Some(samples) = self.open.take() {
            self.sealed.push((pack, samples));
        }
    }

    /// Lets a chunk be asked for, unless it was already.
    pub(crate) fn ask(&mut self, digest: &Digest) {
        let Some(sample) = sample(digest) else { return };
        if self.asked.len() >= ASKED_MAX {
            self.asked.clear();
        }
        if self.asked.insert(sample) {
            self.to_ask.push(sample);
        }
    }

    /// What is to be asked for now. In what is new all along it is asked seldom.
    pub(crate) fn take_asked(&mut self) -> Vec<i64> {
        if self.to_ask.len() < self.together {
            return Vec::new();
        }
        std::mem::take(&mut self.to_ask)
    }

    /// Something was found, or nothing.
    pub(crate) fn answered(&mut self, found: bool) {
        self.together = if found {
            1
        } else {
            (self.together * 2).clamp(1, TOGETHER_MAX)
        };
    }

    /// All packs that hold chunks.
    pub(crate) fn packs(&self) -> Vec<PackSamples> {
        let next = self.sealed.iter().skip(1).map(|(pack, _)| Some(*pack)).chain([None]);
        let packs = self.sealed.iter().zip(next);
        packs
            .map(|((pack, samples), next)| PackSamples {
                pack: *pack,
                next,
                samples: samples.clone(),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_new_all_along_is_asked_for_seldom_and_after_a_find_at_once() {
        let mut samples = Samples::default();
        let mut next = 0_u64;
        let mut asked_after = |samples: &mut Samples, found: bool| {
            for count in 1.. {
                // Its last byte says that it is one.
                let mut digest = [0; 32];
                digest[..8].copy_from_slice(&(next * u64::from(EVERY)).to_be_bytes());
                next += 1;
                samples.ask(&Digest::from_bytes(digest));
                let asked = samples.take_asked();
                if !asked.is_empty() {
                    samples.answered(found);
                    assert_eq!(asked.len(), count);
                    return count;
                }
            }
            0
        };
        let new: Vec<usize> = (0..8).map(|_| asked_after(&mut samples, false)).collect();
        assert_eq!(new, [1, 1, 2, 4, 8, 16, 32, 32]);
        let again: Vec<usize> = (0..3).map(|_| asked_after(&mut samples, true)).collect();
        assert_eq!(again, [32, 1, 1]);
    }
}
