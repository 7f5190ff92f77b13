//! Packs that are encrypted where they lie, with a key of their tenant: AES-256 in counter mode, each pack under a key of its own that
//! follows from the tenant's and the pack's name, and no pack is longer encrypted, so that any range of it can be read alone.
//!
//! Whether bytes are right is told by the digests that every read checks, not by the cipher.

use std::fmt;

use bytes::{Bytes, BytesMut};
use ctr::Ctr64BE;
use ctr::cipher::{KeyIvInit, StreamCipher, StreamCipherSeek};

use crate::digest::Digest;

const KEY_BYTES: usize = 32;

/// The key of one tenant's packs. Never printed.
#[derive(Clone)]
pub struct DataKey([u8; KEY_BYTES]);

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKey(…)")
    }
}

impl DataKey {
    /// A key of these bytes.
    pub fn new(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// A key from 64 hexadecimal digits; `None`: it is something else.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut bytes = [0; KEY_BYTES];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        Some(Self(bytes))
    }

    /// The key of one pack.
    pub fn of(&self, pack: Digest) -> PackKey {
        let mut derived = blake3::Hasher::new_keyed(&self.0);
        derived.update(b"howdah pack\0").update(pack.as_bytes());
        PackKey(derived.finalize().into())
    }

    /// By what it is known again; not enough to guess it.
    pub fn check(&self) -> String {
        blake3::keyed_hash(&self.0, b"howdah key check").to_hex()[..16].to_owned()
    }
}

/// The key of one pack, of which nothing follows for others. Never printed.
#[derive(Clone)]
pub struct PackKey([u8; KEY_BYTES]);

impl fmt::Debug for PackKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PackKey(…)")
    }
}

impl PackKey {
    /// A key from 64 hexadecimal digits; `None`: it is something else.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut bytes = [0; KEY_BYTES];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        Some(Self(bytes))
    }

    /// The key as [`PackKey::from_hex`] reads it, for who may write this pack.
    pub fn to_hex(&self) -> String {
        hex::encode(self.0)
    }

    /// Encrypts or decrypts bytes that lie at this place of the pack.
    pub fn apply(&self, at: u64, bytes: &mut [u8]) {
        // Under a key of its own each pack may count from zero.
        let mut stream = Ctr64BE::<aes::Aes256>::new(&self.0.into(), &[0; 16].into());
        stream.seek(at);
        stream.apply_keystream(bytes);
    }

    /// The same of bytes that may be shared.
    pub fn decrypt(&self, at: u64, bytes: Bytes) -> Bytes {
        let mut bytes = bytes
            .try_into_mut()
            .unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        self.apply(at, &mut bytes);
        bytes.freeze()
    }
}
