//! What lies where in a stored pack, by the index at its end.

use crate::digest::Digest;
use crate::error::{Result, StorageError};
use crate::pack::{HEADER, Piece, TRAILER_BYTES, decode_index, decode_trailer};
use crate::storage::Shared;

/// No index is longer: what claims to be must not make us fetch it.
const INDEX_BYTES_MAX: u64 = 256 << 20;

/// Reads the index of a pack and checks it against the pack's name and size: where each piece begins, and what it is.
pub(crate) async fn read(shared: &Shared, pack: Digest) -> Result<Vec<(u32, Piece)>> {
    let pieces = pieces(shared, pack).await?;
    check_header(shared, pack).await?;
    Ok(pieces)
}

/// Checks that a pack begins as packs begin.
pub(crate) async fn check_header(shared: &Shared, pack: Digest) -> Result<()> {
    if shared.store.get_range(pack, 0, HEADER.len() as u64).await? == HEADER[..] {
        return Ok(());
    }
    Err(StorageError::Corrupt {
        pack,
        offset: 0,
        what: "it does not begin as a pack begins".to_owned(),
    })
}

/// As [`read`], whatever the pack begins with.
pub(crate) async fn pieces(shared: &Shared, pack: Digest) -> Result<Vec<(u32, Piece)>> {
    let size = shared.store.size(pack).await?;
    pieces_within(shared, pack, size).await
}

/// As [`pieces`], of a pack of so many bytes.
pub(crate) async fn pieces_within(shared: &Shared, pack: Digest, size: u64) -> Result<Vec<(u32, Piece)>> {
    let corrupt = |offset: u64, what: &str| StorageError::Corrupt {
        pack,
        offset,
        what: what.to_owned(),
    };
    let trailer_at = size
        .checked_sub(TRAILER_BYTES as u64)
        .ok_or_else(|| corrupt(0, "it is too short"))?;
    let trailer = shared.store.get_range(pack, trailer_at, size).await?;
    let (length, digest) = decode_trailer(&trailer).map_err(|error| corrupt(trailer_at, &error.0))?;
    let index_at = trailer_at
        .checked_sub(length)
        .filter(|_| length <= INDEX_BYTES_MAX)
        .ok_or_else(|| corrupt(trailer_at, "its index is too long"))?;
    if length == 0 || digest != pack {
        return Err(corrupt(trailer_at, "its trailer belongs to another pack"));
    }
    let bytes = shared.store.get_range(pack, index_at, trailer_at).await?;
    if Digest::of(&bytes) != pack {
        return Err(corrupt(index_at, "its index does not match its name"));
    }
    let pieces = decode_index(&bytes).map_err(|error| corrupt(index_at, &error.0))?;
    let mut offset = HEADER.len() as u32;
    let mut placed = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let at = offset;
        offset = offset
            .checked_add(piece.length)
            .ok_or_else(|| corrupt(index_at, "its pieces are longer than any pack"))?;
        placed.push((at, piece));
    }
    if u64::from(offset) != index_at {
        return Err(corrupt(index_at, "its pieces do not add up to its size"));
    }
    Ok(placed)
}
