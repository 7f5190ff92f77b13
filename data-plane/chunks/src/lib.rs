//! Where a file is cut into chunks: where its content says. Whoever stores files and whoever looks what of a file is stored
//! already cut by this crate alike, so that they find the same chunks.

#![warn(missing_docs)]

use fastcdc::v2020::FastCDC;

/// Half of the average: bytes in front of the least end are passed over, which is most of the speed.
const BYTES_MIN: usize = 32 << 10;
const BYTES_AVERAGE: usize = 64 << 10;
/// The longest chunk.
pub const BYTES_MAX: usize = 256 << 10;

/// The length of the first chunk of these bytes, which are all there are, or at least [`BYTES_MAX`]. 0 only of nothing.
pub fn cut(bytes: &[u8]) -> usize {
    if bytes.len() <= BYTES_MIN {
        return bytes.len();
    }
    let chunker = FastCDC::new(bytes, BYTES_MIN, BYTES_AVERAGE, BYTES_MAX);
    chunker.cut(0, bytes.len()).1
}

/// Cuts bytes that come in pieces; where they come in pieces makes no difference.
#[derive(Debug, Default)]
pub struct Cutter {
    /// What has not been cut yet.
    carry: Vec<u8>,
}

impl Cutter {
    /// Takes the next bytes; hands on all chunks whose ends no later byte can move.
    ///
    /// # Errors
    /// What `each` returns.
    pub fn push<E>(&mut self, bytes: &[u8], mut each: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let mut at = 0;
        if !self.carry.is_empty() {
            // The chunk across the border is put together; the others are cut where they lie.
            let mut carry = std::mem::take(&mut self.carry);
            let before = carry.len();
            carry.extend_from_slice(&bytes[..bytes.len().min(BYTES_MAX)]);
            let mut start = 0;
            while start < before && carry.len() - start >= BYTES_MAX {
                let end = start + cut(&carry[start..]);
                each(&carry[start..end])?;
                start = end;
            }
            if start < before {
                carry.drain(..start);
                self.carry = carry;
                return Ok(());
            }
            at = start - before;
        }
        while bytes.len() - at >= BYTES_MAX {
            let end = at + cut(&bytes[at..]);
            each(&bytes[at..end])?;
            at = end;
        }
        self.carry.extend_from_slice(&bytes[at..]);
        Ok(())
    }

    /// Cuts the rest.
    ///
    /// # Errors
    /// What `each` returns.
    pub fn finish<E>(self, each: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        cut_all(&self.carry, each)
    }
}

/// Cuts bytes that are all there are.
///
/// # Errors
/// What `each` returns.
pub fn cut_all<E>(bytes: &[u8], mut each: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
    let mut at = 0;
    while at < bytes.len() {
        let end = at + cut(&bytes[at..]);
        each(&bytes[at..end])?;
        at = end;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn noise(length: usize) -> Vec<u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let step = |state: &mut u64| {
            *state ^= *state << 13;
            *state ^= *state >> 7;
            *state ^= *state << 17;
            state.to_le_bytes()[3]
        };
        (0..length).map(|_| step(&mut state)).collect()
    }

    fn lengths(bytes: &[u8], piece: usize) -> Vec<usize> {
        let mut found = Vec::new();
        let mut each = |chunk: &[u8]| -> Result<(), Infallible> {
            found.push(chunk.len());
            Ok(())
        };
        let mut cutter = Cutter::default();
        for part in bytes.chunks(piece) {
            let Ok(()) = cutter.push(part, &mut each);
        }
        let Ok(()) = cutter.finish(&mut each);
        found
    }

    #[test]
    fn the_pieces_that_bytes_come_in_make_no_difference() {
        let bytes = noise(3_000_000);
        let whole = lengths(&bytes, bytes.len());
        assert_eq!(whole.iter().sum::<usize>(), bytes.len());
        assert!(whole.len() > 20 && whole.iter().all(|length| *length <= BYTES_MAX));
        for piece in [10_000, 65_536, 262_143, 262_144, 1_000_000] {
            assert_eq!(lengths(&bytes, piece), whole, "pieces of {piece}");
        }
    }

    #[test]
    fn chunks_behind_the_end_of_a_chunk_are_those_of_the_rest_alone() {
        let bytes = noise(3_000_000);
        let whole = lengths(&bytes, bytes.len());
        let first: usize = whole[..7].iter().sum();
        assert_eq!(lengths(&bytes[first..], 100_000), whole[7..]);
    }
}
