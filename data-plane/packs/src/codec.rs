//! Reading and writing of small binary records: LEB128 numbers and length-checked slices. Decoders
//! never trust a length: a slice is taken only if it is there, a vector grows only as items decode.

use crate::digest::Digest;

/// Why a record does not decode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DecodeError(pub String);

impl DecodeError {
    /// With this reason.
    pub fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}

/// A cursor over bytes that may be hostile.
pub struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    /// At the beginning of these bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next bytes.
    ///
    /// # Errors
    /// When there are fewer.
    pub fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let Some((head, tail)) = self.rest.split_at_checked(length) else {
            return Err(DecodeError(format!(
                "{length} bytes expected, {} left",
                self.rest.len()
            )));
        };
        self.rest = tail;
        Ok(head)
    }

    /// The next byte.
    ///
    /// # Errors
    /// When there is none.
    pub fn byte(&mut self) -> Result<u8, DecodeError> {
        Ok(self.take(1)?[0])
    }

    /// A number that [`put_number`] wrote.
    ///
    /// # Errors
    /// When it is cut off or too large.
    pub fn number(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::new("a number has more than 64 bits"))
    }

    /// The same of 32 bits.
    ///
    /// # Errors
    /// As [`Input::number`].
    pub fn number_u32(&mut self) -> Result<u32, DecodeError> {
        u32::try_from(self.number()?).map_err(|_| DecodeError::new("a number has more than 32 bits"))
    }

    /// The same as a count of what is in memory.
    ///
    /// # Errors
    /// As [`Input::number`].
    pub fn length(&mut self) -> Result<usize, DecodeError> {
        usize::try_from(self.number()?).map_err(|_| DecodeError::new("a length exceeds the address space"))
    }

    /// A digest.
    ///
    /// # Errors
    /// When it is cut off.
    pub fn digest(&mut self) -> Result<Digest, DecodeError> {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.take(32)?);
        Ok(Digest::from_bytes(bytes))
    }

    /// How many items to reserve room for: what is claimed, but no more than the bytes left can hold.
    pub fn plausible(&self, claimed: usize, bytes_per_item_min: usize) -> usize {
        claimed.min(self.rest.len() / bytes_per_item_min.max(1))
    }

    /// Says that nothing may follow.
    ///
    /// # Errors
    /// When something does.
    pub fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(DecodeError(format!("{} bytes too many", self.rest.len())))
        }
    }
}

/// Appends a number as LEB128.
pub fn put_number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a digest.
pub fn put_digest(out: &mut Vec<u8>, digest: &Digest) {
    out.extend_from_slice(digest.as_bytes());
}

/// Appends a text as what it shares with the text before it, and the rest.
pub fn put_text_after(out: &mut Vec<u8>, before: &str, text: &str) {
    let shared = before.bytes().zip(text.bytes()).take_while(|(a, b)| a == b).count();
    put_number(out, shared as u64);
    put_number(out, (text.len() - shared) as u64);
    out.extend_from_slice(&text.as_bytes()[shared..]);
}

/// Reads what [`put_text_after`] wrote; at most `bytes_max` bytes in all.
///
/// # Errors
/// When it is cut off, too long or no text.
pub fn text_after(input: &mut Input<'_>, before: &str, bytes_max: usize) -> Result<String, DecodeError> {
    let shared = input.length()?;
    let length = input.length()?;
    if shared > before.len() || length > bytes_max || shared + length > bytes_max {
        return Err(DecodeError::new("a path is longer than allowed"));
    }
    let rest = input.take(length)?;
    let mut bytes = Vec::with_capacity(shared + length);
    bytes.extend_from_slice(&before.as_bytes()[..shared]);
    bytes.extend_from_slice(rest);
    String::from_utf8(bytes).map_err(|_| DecodeError::new("a path is not UTF-8"))
}
