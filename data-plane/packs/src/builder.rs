//! A pack of chunks alone, built in memory: its name is known once its salt is, and its salt may be given last.

use crate::cipher::PackKey;
use crate::digest::Digest;
use crate::pack::{HEADER, Piece, PieceKind, encode_end};

/// No pack is larger.
pub const PACK_BYTES_MAX: usize = 64 << 20;

/// A chunk as it is told of: its length and digest.
pub type Chunk = (u32, Digest);

/// The pieces of a pack of these chunks that nobody else writes: a salt, then the chunks.
pub fn pieces_of(salt: Digest, chunks: &[Chunk]) -> Vec<Piece> {
    let first = Piece {
        kind: PieceKind::Salt,
        length: 0,
        digest: salt,
    };
    let chunks = chunks.iter().map(|(length, digest)| Piece {
        kind: PieceKind::Chunk,
        length: *length,
        digest: *digest,
    });
    std::iter::once(first).chain(chunks).collect()
}

/// A pack that is being filled.
#[derive(Debug)]
pub struct Builder {
    bytes: Vec<u8>,
    chunks: Vec<Chunk>,
}

/// A pack as it is to lie in the bucket.
#[derive(Debug)]
pub struct Sealed {
    /// Its name.
    pub id: Digest,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl Builder {
    /// An empty one, with room for so many bytes.
    pub fn with_room(bytes: usize) -> Self {
        let mut builder = Self {
            bytes: Vec::with_capacity(bytes),
            chunks: Vec::new(),
        };
        builder.bytes.extend_from_slice(HEADER);
        builder
    }

    /// Appends a chunk, which is no longer than a pack.
    pub fn push(&mut self, chunk: &[u8]) {
        let length = u32::try_from(chunk.len()).unwrap_or(u32::MAX);
        self.bytes.extend_from_slice(chunk);
        self.chunks.push((length, Digest::of(chunk)));
    }

    /// Bytes of the chunks.
    pub fn content_bytes(&self) -> usize {
        self.bytes.len() - HEADER.len()
    }

    /// The chunks, in order.
    pub fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }

    /// Gives the pack its end and its name, and encrypts it where it is with the key of that name.
    pub fn seal(self, salt: Digest, key: Option<&PackKey>) -> Sealed {
        let (end, id) = encode_end(&pieces_of(salt, &self.chunks));
        let mut bytes = self.bytes;
        bytes.extend_from_slice(&end);
        if let Some(key) = key {
            key.apply(0, &mut bytes);
        }
        Sealed { id, bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cipher::DataKey;
    use crate::pack::{TRAILER_BYTES, decode_index, decode_trailer};

    #[test]
    fn a_pack_says_at_its_end_what_is_in_it_and_is_another_one_with_another_salt() {
        let salt = Digest::of(b"salt");
        let build = |salt, key: Option<&PackKey>| {
            let mut builder = Builder::with_room(100);
            builder.push(b"one");
            builder.push(b"three");
            assert_eq!(builder.content_bytes(), 8);
            builder.seal(salt, key)
        };
        let plain = build(salt, None);
        let (rest, trailer) = plain.bytes.split_at(plain.bytes.len() - TRAILER_BYTES);
        let (length, id) = decode_trailer(trailer).unwrap();
        let index = &rest[rest.len() - length as usize..];
        assert_eq!((id, Digest::of(index)), (plain.id, plain.id));
        let chunks = [(3, Digest::of(b"one")), (5, Digest::of(b"three"))];
        assert_eq!(decode_index(index).unwrap(), pieces_of(salt, &chunks));
        assert_eq!(&rest[HEADER.len()..HEADER.len() + 8], b"onethree");
        assert_ne!(build(Digest::of(b"other"), None).id, plain.id);

        let key = DataKey::new([7; 32]).of(plain.id);
        let mut secret = build(salt, Some(&key));
        assert_eq!((secret.id, secret.bytes.len()), (plain.id, plain.bytes.len()));
        assert_ne!(secret.bytes, plain.bytes);
        PackKey::from_hex(&key.to_hex()).unwrap().apply(0, &mut secret.bytes);
        assert_eq!(secret.bytes, plain.bytes);
    }
}
