//! Packs that clients put into the store themselves: what they may be, and how one becomes a piece of a file.

use std::time::Duration;
use std::time::SystemTime;

use packs::pieces_of;

use crate::digest::Digest;
use crate::entry::{Content, Extent, FileEntry};
use crate::error::{Result, StorageError};
use crate::location::{Location, PackRef};
use crate::pack::{HEADER, Piece, TRAILER_BYTES, decode_index, encode_end};
use crate::storage::Storage;
use crate::store::{PackKey, Whole};

/// No chunk but the last of a pack is shorter: a list of chunks must not be longer than what it lists is worth.
const CHUNK_BYTES_MIN: u32 = 32 << 10;

/// A pack that a client is going to put: a salt that is nobody else's, and chunks of a file in order.
#[derive(Debug, Clone)]
pub struct IncomingPack {
    id: Digest,
    pieces: Vec<Piece>,
    length: u64,
    bytes: u64,
}

/// What became of a pack that was put.
#[derive(Debug)]
pub enum Taken {
    /// It is a piece of a file now, and this is the digest of the file up to its end.
    Piece(FileEntry, Whole),
    /// It is not what was announced, and gone.
    Wrong(String),
}

impl IncomingPack {
    /// A pack of these chunks; why it cannot be one otherwise.
    pub fn new(salt: Digest, chunks: &[(u32, Digest)]) -> Result<Self, String> {
        let (most, mut bytes) = (chunks::BYTES_MAX, 0_u64);
        for (at, (length, _)) in chunks.iter().enumerate() {
            let too_short = *length < CHUNK_BYTES_MIN && at + 1 < chunks.len();
            if *length == 0 || too_short || *length as usize > most {
                return Err(format!(
                    "chunk {at} of the pack has {length} bytes: {CHUNK_BYTES_MIN} to {most} are allowed, of the last fewer"
                ));
            }
            bytes += u64::from(*length);
        }
        let pieces = pieces_of(salt, chunks);
        let (end, id) = encode_end(&pieces);
        let length = HEADER.len() as u64 + bytes + end.len() as u64;
        if bytes == 0 || length > packs::PACK_BYTES_MAX as u64 {
            return Err(format!(
                "the pack has {length} bytes: it must hold a chunk and be no larger than {} bytes",
                packs::PACK_BYTES_MAX
            ));
        }
        Ok(Self {
            id,
            pieces,
            length,
            bytes,
        })
    }

    /// The pack that this is the index of.
    ///
    /// # Errors
    /// When it is none of such a pack.
    pub fn from_index(index: &[u8]) -> Result<Self, StorageError> {
        let wrong = |why: String| StorageError::Undecodable {
            what: "index of a pack",
            why,
        };
        let pieces = decode_index(index).map_err(|error| wrong(error.0))?;
        let (salt, chunks) = pieces
            .split_first()
            .ok_or_else(|| wrong("it lists nothing".to_owned()))?;
        let chunks: Vec<_> = chunks.iter().map(|chunk| (chunk.length, chunk.digest)).collect();
        Self::new(salt.digest, &chunks).map_err(wrong)
    }

    /// Its index.
    pub fn index(&self) -> Vec<u8> {
        let (mut end, _) = encode_end(&self.pieces);
        end.truncate(end.len() - TRAILER_BYTES);
        end
    }

    /// Its name.
    pub fn id(&self) -> Digest {
        self.id
    }

    /// How many bytes it has.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// How many bytes of the file are in it.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The piece of a file that it is. As all pieces it is named by the digests of its chunks.
    fn entry(&self) -> FileEntry {
        let mut content = blake3::Hasher::new();
        let mut offset = u32::try_from(HEADER.len()).unwrap_or(u32::MAX);
        let mut extents = Vec::with_capacity(self.pieces.len());
        for piece in self.pieces.iter().filter(|piece| piece.length > 0) {
            content.update(piece.digest.as_bytes());
            extents.push(Extent {
                location: Location {
                    pack: PackRef::Stored(self.id),
                    offset,
                    length: piece.length,
                },
                digest: piece.digest,
            });
            offset += piece.length;
        }
        FileEntry {
            size: self.bytes,
            digest: content.finalize().into(),
            executable: false,
            content: Content::Extents(extents),
        }
    }
}

impl Storage {
    /// Whether clients may put packs into the store themselves.
    pub fn takes_packs(&self) -> bool {
        self.shared.store.takes_packs()
    }

    /// Where the pack is to be put within that time, and what it is to be encrypted with: secrets of who may write it.
    ///
    /// # Errors
    /// When the store takes none.
    pub async fn place(
        &self,
        upload: &str,
        pack: &IncomingPack,
        expires_in: Duration,
    ) -> Result<(String, Option<PackKey>)> {
        let store = &self.shared.store;
        let url = store.sign(upload, pack.id, expires_in).await?;
        Ok((url, store.key().map(|key| key.of(pack.id))))
    }

    /// How many bytes have been put there for the pack, if it was put.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn incoming_size(&self, upload: &str, pack: Digest) -> Result<Option<u64>> {
        self.shared.store.incoming_size(upload, pack).await
    }

    /// Takes a pack over that was put: nobody can change it any more, then every byte of it is read and checked. `whole` is the
    /// digest of the file in front of it. Must be called once at most for each pack: another call would replace what is there.
    ///
    /// # Errors
    /// When the store does not answer; the pack is gone then too, or nothing refers to it.
    pub async fn take_over(&self, upload: &str, pack: &IncomingPack, mut whole: Whole) -> Result<Taken> {
        let store = &self.shared.store;
        store.copy_incoming(upload, pack.id).await?;
        let expected = crate::store::Expected {
            id: pack.id,
            pieces: &pack.pieces,
            length: pack.length,
        };
        let checked = store.check_pack(&expected, &mut whole).await;
        if !matches!(checked, Ok(Ok(()))) {
            store.delete_pack(pack.id).await?;
        }
        Ok(match checked? {
            Ok(()) => Taken::Piece(pack.entry(), whole),
            Err(why) => Taken::Wrong(why),
        })
    }

    /// Removes what was put for an upload: one pack, or all.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn remove_incoming(&self, upload: &str, pack: Option<Digest>) -> Result<()> {
        if !self.takes_packs() {
            return Ok(());
        }
        self.shared.store.remove_incoming(upload, pack).await
    }

    /// Removes what was put before then, by the store's clock, and never taken over; how many bytes.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn remove_incoming_before(&self, before: SystemTime) -> Result<u64> {
        self.shared.store.remove_incoming_before(before).await
    }
}
