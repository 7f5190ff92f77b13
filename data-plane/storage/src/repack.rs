//! Repacking: what is still needed of sparse packs is copied into new ones, forwards say where it is now, and the old
//! packs become garbage like any other.
//!
//! Dying between any two steps is harmless: new packs that no forward leads to are garbage, a forward is written when
//! what it leads to is durable, and an old pack goes no sooner than a later collection finds nothing that needs it.

use bytes::Bytes;

use crate::collect::{Marking, PackInfo};
use crate::digest::Digest;
use crate::error::Result;
use crate::forward::{Forward, Part};
use crate::index;
use crate::location::Location;
use crate::pack::Piece;
use crate::session::Session;
use crate::storage::{Shared, Storage};

/// So much is read at once.
const READ_BYTES_MAX: u64 = 2 << 20;
/// A pack is sparse when less than one part in so many of it is needed.
const SPARSE: u64 = 2;

/// A pack of which little is needed.
pub struct SparsePack {
    info: PackInfo,
    live: Vec<(u32, Piece)>,
}

impl SparsePack {
    /// Its name.
    pub fn id(&self) -> Digest {
        self.info.id
    }

    /// Its size in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.info.size_bytes
    }

    /// Bytes of it that are needed.
    pub fn live_bytes(&self) -> u64 {
        self.live.iter().map(|(_, piece)| u64::from(piece.length)).sum()
    }
}

impl Storage {
    /// Whether a pack is one that is worth repacking. Damaged ones are left as they are.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn sparse_pack(&self, marking: &Marking, info: PackInfo) -> Result<Option<SparsePack>> {
        let needed = marking.bytes_of(info.id);
        if needed == 0 || needed >= info.size_bytes / SPARSE {
            return Ok(None);
        }
        let found = self.live(marking, info).await?;
        Ok(found
            .filter(|(pack, all)| pack.live_bytes() < all / SPARSE)
            .map(|(pack, _)| pack))
    }

    /// The same of a pack that is to go whatever else it holds, if there is anything in it that is not needed.
    ///
    /// # Errors
    /// As [`Storage::sparse_pack`].
    pub async fn purged_pack(&self, marking: &Marking, info: PackInfo) -> Result<Option<SparsePack>> {
        let found = self.live(marking, info).await?;
        Ok(found
            .filter(|(pack, all)| pack.live_bytes() < *all)
            .map(|(pack, _)| pack))
    }

    /// What is needed of a pack, if anything, and bytes of all its pieces: the index does not count, since of very small pieces it is
    /// most of the pack, and would be again.
    async fn live(&self, marking: &Marking, info: PackInfo) -> Result<Option<(SparsePack, u64)>> {
        let pieces = match index::read(marking.store(), info.id).await {
            Ok(pieces) => pieces,
            Err(error) if error.is_damage() => return Ok(None),
            Err(error) => return Err(error),
        };
        let all: u64 = pieces.iter().map(|(_, piece)| u64::from(piece.length)).sum();
        let live = pieces
            .into_iter()
            .filter(|(offset, piece)| piece.length > 0 && marking.has(info.id, *offset))
            .collect();
        let found = SparsePack { info, live };
        Ok((found.live_bytes() > 0).then_some((found, all)))
    }

    /// Copies what is needed of these packs and leaves forwards; returns how many bytes were copied. Hold garbage
    /// collection meanwhile. Pieces that turn out to be damaged stay where they are.
    ///
    /// # Errors
    /// When the store does not answer or is full: some may have been moved then, which is as good as all or none.
    pub async fn repack(&self, marking: &Marking, packs: &[SparsePack]) -> Result<u64> {
        let writer = self.writer();
        let mut moved = Vec::with_capacity(packs.len());
        for pack in packs {
            moved.push(copy(marking.store(), &writer.session, pack).await?);
        }
        writer.flush().await?;
        let mut copied = 0;
        for (pack, pieces) in packs.iter().zip(&moved) {
            copied += pieces.iter().map(|(_, to)| to.length()).sum::<u64>();
            for name in marking.names_of(pack.info.id) {
                self.forward_to(name, pack.info.id, pieces).await?;
            }
        }
        Ok(copied)
    }

    /// Lets the forward of `name` lead to where these pieces of `pack` are now. Entries for what was not moved stay.
    async fn forward_to(&self, name: Digest, pack: Digest, pieces: &[(u32, Location)]) -> Result<()> {
        let known = self.shared.read_forward(name).await?;
        let mut forward = known.unwrap_or_default();
        if name == pack {
            for (offset, to) in pieces {
                forward.insert(part(*offset, to)?);
            }
        } else {
            for run in forward.leading_to(pack) {
                let first = pieces.partition_point(|(offset, _)| *offset < run.offset);
                let inside = |(offset, _): &&(u32, Location)| offset - run.offset < run.length;
                for (offset, to) in pieces[first..].iter().take_while(inside) {
                    forward.insert(part(run.from + (offset - run.offset), to)?);
                }
            }
        }
        self.shared.put_forward(name, forward).await
    }

    /// The packs that have forwards.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn forwards(&self) -> Result<Vec<Digest>> {
        use futures::TryStreamExt;
        self.shared.store.list_forwards().try_collect().await
    }

    /// The packs that the forward of a pack leads to.
    ///
    /// # Errors
    /// When it is damaged or the store does not answer.
    pub async fn forward_packs(&self, name: Digest) -> Result<Vec<Digest>> {
        let forward = self.shared.read_forward(name).await?;
        Ok(forward.map_or_else(Vec::new, |forward| forward.packs().into_iter().collect()))
    }

    /// Removes the forward of a pack; fine if it is not there. Only when nothing needs what it leads to.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn remove_forward(&self, name: Digest) -> Result<()> {
        self.shared.forget_forward(name);
        self.shared.store.delete_forward(name).await
    }
}

fn part(from: u32, to: &Location) -> Result<Part> {
    Ok(Part {
        from,
        length: to.length,
        pack: to.durable_pack()?,
        offset: to.offset,
    })
}

/// Appends the needed pieces of a pack to the session's packs: where each was, where it is now.
async fn copy(shared: &Shared, session: &Session, pack: &SparsePack) -> Result<Vec<(u32, Location)>> {
    let mut moved = Vec::with_capacity(pack.live.len());
    let mut rest = &pack.live[..];
    while let Some((first, _)) = rest.first() {
        let mut end = u64::from(*first);
        let together = rest.iter().take_while(|(offset, piece)| {
            let here = u64::from(*offset) + u64::from(piece.length);
            let takes =
                u64::from(*offset) == end && (end == u64::from(*first) || here - u64::from(*first) <= READ_BYTES_MAX);
            if takes {
                end = here;
            }
            takes
        });
        let (batch, behind) = rest.split_at(together.count());
        session.room().await;
        let bytes = match shared.store.get_range(pack.info.id, u64::from(*first), end).await {
            Ok(bytes) => bytes,
            Err(error) if error.is_damage() => return Ok(moved),
            Err(error) => return Err(error),
        };
        for (offset, piece) in batch {
            if let Some(to) = keep(session, &bytes, (offset - first) as usize, piece)? {
                moved.push((*offset, to));
            } else {
                shared.suspect(pack.info.id);
                tracing::warn!(pack = %pack.info.id, "a pack is damaged at byte {offset}; it is left as it is");
            }
        }
        rest = behind;
    }
    Ok(moved)
}

/// Stores a piece anew if its bytes are what they should be.
fn keep(session: &Session, bytes: &Bytes, from: usize, piece: &Piece) -> Result<Option<Location>> {
    let bytes = &bytes[from..from + piece.length as usize];
    if Digest::of(bytes) != piece.digest {
        return Ok(None);
    }
    session.piece(piece.kind, piece.digest, bytes).map(Some)
}

impl Shared {
    /// The forward of a pack as the store has it.
    pub(crate) async fn read_forward(&self, name: Digest) -> Result<Option<Forward>> {
        let Some(bytes) = self.store.get_forward(name).await? else {
            return Ok(None);
        };
        let decoded = Forward::decode(&bytes, &name);
        decoded.map(Some).map_err(|error| crate::StorageError::Forward {
            pack: name,
            what: error.0,
        })
    }

    async fn put_forward(&self, name: Digest, forward: Forward) -> Result<()> {
        let stored = self.store.put_forward(name, forward.encode(&name).into()).await;
        // Whether it was stored or not: the next who asks looks.
        self.forget_forward(name);
        stored
    }
}
