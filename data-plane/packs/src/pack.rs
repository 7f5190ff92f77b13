//! Packs: immutable objects that hold many chunks, tree nodes and extent blocks back to back, with
//! an index at the end. A pack is named by the digest of its index, which lists the digest of every
//! piece: the name covers the content, yet is known the moment the pack is sealed, and records
//! inside a pack can refer to their neighbours ("this pack") before the name exists.

use crate::codec::{DecodeError, Input, put_digest, put_number};
use crate::digest::Digest;

/// First bytes of a pack.
pub const HEADER: &[u8; 8] = b"HWDPACK\x01";
/// Last bytes of a pack, behind the length of the index and its digest.
const FOOTER: &[u8; 8] = b"\x01KCAPDWH";
/// Bytes of the trailer: index length (8), index digest (32), footer (8).
pub const TRAILER_BYTES: usize = 48;

/// What a piece of a pack is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PieceKind {
    /// Bytes of files.
    Chunk,
    /// A node of a tree.
    Node,
    /// A part of the extent list of a large file.
    Extents,
    /// No bytes: its digest is unlike that of any other session, so that no two sessions ever write packs of one name,
    /// and what one of them takes back is nobody else's.
    Salt,
}

/// One line of a pack's index; pieces lie back to back behind the header, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// What it is.
    pub kind: PieceKind,
    /// How many bytes.
    pub length: u32,
    /// BLAKE3 of the stored bytes.
    pub digest: Digest,
}

/// Index and trailer for these pieces, and the name of the pack.
pub fn encode_end(pieces: &[Piece]) -> (Vec<u8>, Digest) {
    let mut index = Vec::with_capacity(pieces.len() * 37 + TRAILER_BYTES + 8);
    put_number(&mut index, pieces.len() as u64);
    for piece in pieces {
        index.push(piece.kind as u8);
        put_number(&mut index, u64::from(piece.length));
        put_digest(&mut index, &piece.digest);
    }
    let id = Digest::of(&index);
    let length = index.len() as u64;
    index.extend_from_slice(&length.to_le_bytes());
    put_digest(&mut index, &id);
    index.extend_from_slice(FOOTER);
    (index, id)
}

/// Reads a trailer: how many bytes the index has, and its digest.
///
/// # Errors
/// When it is none.
pub fn decode_trailer(bytes: &[u8]) -> Result<(u64, Digest), DecodeError> {
    let mut input = Input::new(bytes);
    let mut length = [0; 8];
    length.copy_from_slice(input.take(8)?);
    let digest = input.digest()?;
    if input.take(8)? != FOOTER {
        return Err(DecodeError::new("the trailer does not end as a pack ends"));
    }
    input.finish()?;
    Ok((u64::from_le_bytes(length), digest))
}

/// Reads an index that has been checked against its digest.
///
/// # Errors
/// When it is none.
pub fn decode_index(bytes: &[u8]) -> Result<Vec<Piece>, DecodeError> {
    let mut input = Input::new(bytes);
    let count = input.length()?;
    let mut pieces = Vec::with_capacity(input.plausible(count, 34));
    for _ in 0..count {
        let kind = match input.byte()? {
            0 => PieceKind::Chunk,
            1 => PieceKind::Node,
            2 => PieceKind::Extents,
            3 => PieceKind::Salt,
            other => return Err(DecodeError(format!("a piece has the unknown kind {other}"))),
        };
        pieces.push(Piece {
            kind,
            length: input.number_u32()?,
            digest: input.digest()?,
        });
    }
    input.finish()?;
    Ok(pieces)
}
