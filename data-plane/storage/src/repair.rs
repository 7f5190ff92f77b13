//! Repair: a pack whose bytes are damaged is written anew if equal bytes are found on local disk or in other packs, and one that is
//! gone or ends too early if all that is missing is found there. Nothing is believed but by its digest, and the index at the end of
//! the pack says which digests those are: where it is damaged or gone itself, and is not on local disk either, nobody knows what
//! the pack held, and only a backup helps.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use futures::TryStreamExt;

use crate::buffer::Buffer;
use crate::digest::Digest;
use crate::error::{Result, StorageError};
use crate::index;
use crate::pack::{HEADER, Piece, encode_end};
use crate::storage::{Shared, Storage};

/// By the digests of pieces that are damaged or gone: equal bytes, once they were found.
type Copies = HashMap<Digest, Option<Bytes>>;

/// Where other packs have pieces of packs that are gone, found for many of them in one pass over all indexes.
#[derive(Debug, Default)]
pub struct Elsewhere {
    /// The packs that are gone.
    of: HashSet<Digest>,
    /// By the digest of a piece that local disk does not have: a pack that has it, and from where to where.
    places: HashMap<Digest, Vec<(Digest, u64, u64)>>,
}

/// So many places of a piece are remembered: the first may be damaged too.
const PLACES_MAX: usize = 4;
/// So much is read at once.
const READ_BYTES_MAX: u64 = 2 << 20;

/// How a pack was found, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PackRepair {
    /// Nothing was wrong with it, or it is gone.
    Whole,
    /// It was written anew.
    Repaired {
        /// Pieces that were replaced by equal bytes from elsewhere.
        pieces: usize,
        /// Pieces of which no other copy was found: they stay damaged.
        lost: usize,
    },
    /// It was gone, and is there again with all of its pieces.
    Rebuilt {
        /// How many.
        pieces: usize,
    },
    /// It cannot be repaired.
    Lost {
        /// What is wrong.
        problem: String,
    },
}

/// What came of looking after a forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForwardRepair {
    /// Nothing is wrong with it.
    Whole,
    /// It was damaged and not needed, since the pack that was repacked is still there, whole; it was removed.
    Removed,
    /// It is damaged, and the pack that was repacked is gone.
    Lost,
}

impl Storage {
    /// Reads a whole pack and repairs what can be; one that is gone is whole. Hold garbage collection meanwhile.
    ///
    /// # Errors
    /// When the store does not answer or is full; damage is none.
    pub async fn repair_pack(&self, id: Digest) -> Result<PackRepair> {
        match self.shared.store.size(id).await {
            Ok(size) => self.mend(id, size, None).await,
            Err(StorageError::PackMissing { .. }) => Ok(PackRepair::Whole),
            Err(error) => Err(error),
        }
    }

    /// Where other packs have what local disk lacks of those of these packs that are gone. It stays true enough while nothing is
    /// held: a piece that is not there any more is not found.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn elsewhere(&self, packs: &[Digest]) -> Result<Elsewhere> {
        let mut elsewhere = Elsewhere::default();
        for id in packs {
            match self.shared.store.size(*id).await {
                Ok(_) => continue,
                Err(StorageError::PackMissing { .. }) => {}
                Err(error) => return Err(error),
            }
            let Some(pieces) = self.kept_pieces(*id, 0).await? else {
                continue;
            };
            let kept = self.shared.store.kept(*id).await?;
            for place in pieces.iter().filter(|(_, piece)| piece.length > 0) {
                let bytes = kept.get(u64::from(place.0), end(place));
                if bytes.is_none_or(|bytes| Digest::of(&bytes) != place.1.digest) {
                    elsewhere.places.entry(place.1.digest).or_default();
                }
            }
            elsewhere.of.insert(*id);
        }
        if elsewhere.places.is_empty() {
            return Ok(elsewhere);
        }
        let stored = &self.without_memory().shared;
        let mut all = stored.store.list_packs();
        while let Some(pack) = all.try_next().await? {
            let pieces = match index::pieces(stored, pack.id).await {
                Ok(pieces) => pieces,
                Err(error) if error.is_damage() => continue,
                Err(error) => return Err(error),
            };
            for place in pieces {
                if let Some(places) = elsewhere.places.get_mut(&place.1.digest)
                    && places.len() < PLACES_MAX
                {
                    places.push((pack.id, u64::from(place.0), end(&place)));
                }
            }
        }
        Ok(elsewhere)
    }

    /// The same of a pack that something refers to: if it is gone and was not repacked, it is written anew when all of it is found,
    /// in other packs by what was looked up in them.
    ///
    /// # Errors
    /// As [`Storage::repair_pack`].
    pub async fn repair_needed_pack(&self, id: Digest, elsewhere: &Elsewhere) -> Result<PackRepair> {
        let missing = match self.shared.store.size(id).await {
            Ok(size) => return self.mend(id, size, None).await,
            Err(missing @ StorageError::PackMissing { .. }) => missing,
            Err(error) => return Err(error),
        };
        match self.shared.read_forward(id).await {
            Ok(Some(_)) => return Ok(PackRepair::Whole),
            Ok(None) => {}
            Err(error) if error.is_damage() => {}
            Err(error) => return Err(error),
        }
        let looked_up = Some(elsewhere).filter(|elsewhere| elsewhere.of.contains(&id));
        Ok(match self.mend(id, 0, looked_up).await? {
            PackRepair::Repaired { pieces, .. } => PackRepair::Rebuilt { pieces },
            // Nothing more is known of it than that it is not there.
            PackRepair::Lost { .. } if self.kept_pieces(id, 0).await?.is_none() => lost(&missing),
            other => other,
        })
    }

    /// Looks after a pack of which the store has so many bytes.
    async fn mend(&self, id: Digest, size: u64, elsewhere: Option<&Elsewhere>) -> Result<PackRepair> {
        // Kept on local disk it may be whole while it is damaged in the store.
        let (stored, shared) = (&self.without_memory().shared, &self.shared);
        let (pieces, index_is_whole) = match index::pieces_within(stored, id, size).await {
            Ok(pieces) => (pieces, true),
            Err(error) if error.is_damage() => match self.kept_pieces(id, size).await? {
                Some(pieces) => (pieces, false),
                None => return Ok(lost(&error)),
            },
            Err(error) => return Err(error),
        };
        let frame_is_whole = match index::check_header(stored, id).await {
            Ok(()) => index_is_whole,
            Err(error) if error.is_damage() => false,
            Err(error) => return Err(error),
        };
        let (there, cut_off) = pieces.split_at(pieces.partition_point(|place| end(place) <= size));
        let mut copies: Copies = HashMap::new();
        let mut damaged = 0;
        let read = each(stored, id, there, |piece, bytes| {
            if Digest::of(bytes) != piece.digest {
                copies.insert(piece.digest, None);
                damaged += 1;
            }
        });
        match read.await {
            Ok(()) if copies.is_empty() && frame_is_whole => return Ok(PackRepair::Whole),
            Ok(()) => {}
            Err(error) if error.is_damage() => return Ok(lost(&error)),
            Err(error) => return Err(error),
        }
        let cut_off = cut_off.iter().filter(|(_, piece)| piece.length > 0);
        copies.extend(cut_off.clone().map(|(_, piece)| (piece.digest, None)));
        find_kept(shared, id, size, &pieces, &mut copies).await?;
        find_copies(stored, id, elsewhere, &mut copies).await?;
        let mut replaced = 0;
        let mut whole = Buffer::new(&shared.pool);
        whole.extend(HEADER);
        each(stored, id, there, |piece, bytes| match copies.get(&piece.digest) {
            Some(Some(copy)) if Digest::of(bytes) != piece.digest => {
                replaced += 1;
                whole.extend(copy);
            }
            _ => whole.extend(bytes),
        })
        .await?;
        let lost = damaged - replaced;
        for (_, piece) in cut_off.clone() {
            let Some(Some(copy)) = copies.get(&piece.digest) else {
                return Ok(not_found(cut_off.map(|(_, piece)| piece), &copies));
            };
            replaced += 1;
            whole.extend(copy);
        }
        if replaced == 0 && frame_is_whole {
            let problem = format!("{lost} pieces of it are damaged, and there is no copy of them");
            return Ok(PackRepair::Lost { problem });
        }
        let (end, _) = encode_end(&pieces.into_iter().map(|(_, piece)| piece).collect::<Vec<_>>());
        whole.extend(&end);
        if let Some(key) = shared.store.key() {
            whole.encrypt(&key.of(id));
        }
        shared.store.put_pack(id, whole.freeze(), true, false).await?;
        if lost == 0 {
            shared.pardon(id);
        }
        Ok(PackRepair::Repaired { pieces: replaced, lost })
    }

    /// The index of a pack whose own is damaged or gone, by what local disk has of it: at the end of that, if it is the end of the
    /// pack, or where the store says that it is.
    async fn kept_pieces(&self, id: Digest, size: u64) -> Result<Option<Vec<(u32, Piece)>>> {
        let end = self.shared.store.kept(id).await?.end();
        for size in end.into_iter().chain([size]) {
            match index::pieces_within(&self.shared, id, size).await {
                Ok(pieces) => return Ok(Some(pieces)),
                Err(error) if error.is_damage() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Looks after the forward of a pack. Hold garbage collection meanwhile.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn repair_forward(&self, name: Digest) -> Result<ForwardRepair> {
        match self.shared.read_forward(name).await {
            Ok(_) => return Ok(ForwardRepair::Whole),
            Err(error) if error.is_damage() => {}
            Err(error) => return Err(error),
        }
        let stored = &self.without_memory().shared;
        match index::read(stored, name).await {
            Ok(pieces) => {
                let mut whole = true;
                each(stored, name, &pieces, |piece, bytes| {
                    whole &= Digest::of(bytes) == piece.digest;
                })
                .await?;
                if !whole {
                    return Ok(ForwardRepair::Lost);
                }
            }
            Err(error) if error.is_damage() => return Ok(ForwardRepair::Lost),
            Err(error) => return Err(error),
        }
        self.remove_forward(name).await?;
        Ok(ForwardRepair::Removed)
    }
}

/// Where a piece ends.
fn end((offset, piece): &(u32, Piece)) -> u64 {
    u64::from(*offset) + u64::from(piece.length)
}

/// What is said of a pack that is gone or ends too early when not all of what is missing is found.
fn not_found<'a>(missing: impl Iterator<Item = &'a Piece> + Clone, copies: &Copies) -> PackRepair {
    let found = |piece: &&Piece| matches!(copies.get(&piece.digest), Some(Some(_)));
    let (all, found) = (missing.clone().count(), missing.filter(found).count());
    PackRepair::Lost {
        problem: format!("{all} pieces of it are gone, of which only {found} are on local disk or in other packs"),
    }
}

fn lost(error: &StorageError) -> PackRepair {
    PackRepair::Lost {
        problem: error.to_string(),
    }
}

/// Shows all pieces of a pack that have bytes, in order.
async fn each(shared: &Shared, id: Digest, pieces: &[(u32, Piece)], mut show: impl FnMut(&Piece, &[u8])) -> Result<()> {
    let mut rest = pieces;
    while let Some((first, _)) = rest.first() {
        let from = u64::from(*first);
        let fitting = rest.partition_point(|place| end(place) - from <= READ_BYTES_MAX);
        let (batch, behind) = rest.split_at(fitting.max(1));
        let to = batch.last().map_or(from, end);
        let bytes = if to > from {
            shared.store.get_range(id, from, to).await?
        } else {
            Bytes::new()
        };
        for (offset, piece) in batch.iter().filter(|(_, piece)| piece.length > 0) {
            let at = (offset - first) as usize;
            show(piece, &bytes[at..at + piece.length as usize]);
        }
        rest = behind;
    }
    Ok(())
}

/// Looks for bytes with these digests in what local disk has of the damaged pack itself, of which the store has `size` bytes.
async fn find_kept(
    shared: &Shared,
    damaged: Digest,
    size: u64,
    pieces: &[(u32, Piece)],
    copies: &mut Copies,
) -> Result<()> {
    let kept = shared.store.kept(damaged).await?;
    for place in pieces {
        let (from, to, digest) = (u64::from(place.0), end(place), place.1.digest);
        let Some(wanted @ None) = copies.get_mut(&digest) else {
            continue;
        };
        let bytes = match kept.get(from, to) {
            Some(bytes) => bytes,
            None if to > size => continue,
            // A part may be on local disk, and another in the store.
            None => match shared.store.get_range(damaged, from, to).await {
                Ok(bytes) => bytes,
                Err(error) if error.is_damage() => continue,
                Err(error) => return Err(error),
            },
        };
        if Digest::of(&bytes) == digest {
            *wanted = Some(bytes);
        }
    }
    Ok(())
}

/// Looks for bytes with these digests where they were looked up, or through all other packs.
async fn find_copies(
    shared: &Shared,
    damaged: Digest,
    elsewhere: Option<&Elsewhere>,
    copies: &mut Copies,
) -> Result<()> {
    if let Some(elsewhere) = elsewhere {
        return read_copies(shared, elsewhere, copies).await;
    }
    let mut packs = shared.store.list_packs();
    let mut missing = copies.values().filter(|copy| copy.is_none()).count();
    while missing > 0
        && let Some(pack) = packs.try_next().await?
    {
        if pack.id == damaged {
            continue;
        }
        let pieces = match index::pieces(shared, pack.id).await {
            Ok(pieces) => pieces,
            Err(error) if error.is_damage() => continue,
            Err(error) => return Err(error),
        };
        for (offset, piece) in pieces {
            let Entry::Occupied(mut wanted) = copies.entry(piece.digest) else {
                continue;
            };
            if wanted.get().is_some() {
                continue;
            }
            let from = u64::from(offset);
            if let Some(bytes) = read_copy(shared, pack.id, from, from + u64::from(piece.length), piece.digest).await? {
                wanted.insert(Some(bytes));
                missing -= 1;
            }
        }
    }
    Ok(())
}

/// Reads bytes with these digests where they were looked up.
async fn read_copies(shared: &Shared, elsewhere: &Elsewhere, copies: &mut Copies) -> Result<()> {
    for (digest, copy) in copies.iter_mut().filter(|(_, copy)| copy.is_none()) {
        for (pack, from, to) in elsewhere.places.get(digest).into_iter().flatten() {
            *copy = read_copy(shared, *pack, *from, *to, *digest).await?;
            if copy.is_some() {
                break;
            }
        }
    }
    Ok(())
}

/// These bytes of a pack, if they are there and have that digest.
async fn read_copy(shared: &Shared, pack: Digest, from: u64, to: u64, digest: Digest) -> Result<Option<Bytes>> {
    match shared.store.get_range(pack, from, to).await {
        Ok(bytes) => Ok(Some(bytes).filter(|bytes| Digest::of(bytes) == digest)),
        Err(error) if error.is_damage() => Ok(None),
        Err(error) => Err(error),
    }
}
