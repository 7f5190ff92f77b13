//! Packs that are encrypted where they lie, with a key of their tenant: AES-256 in counter mode, each pack under a key of its own that
//! follows from the tenant's and the pack's name, and no pack is longer encrypted, so that any range of it can be read alone.
//!
//! Whether bytes are right is told by the digests that every read checks, not by the cipher. A bucket is encrypted from its first pack
//! or never; an object beside the packs says which, and how its key is known again.

use std::fmt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use ctr::Ctr64BE;
use ctr::cipher::{KeyIvInit, StreamCipher, StreamCipherSeek};
use futures::TryStreamExt;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStoreExt, PutMode, PutPayload};

use super::{Store, failed};
use crate::digest::Digest;
use crate::error::{Result, StorageError};
use crate::pack::HEADER;

/// The object that says how a bucket's packs are stored.
const FORMAT: &str = "format";
const PLAIN: &str = "howdah bucket 1\nencryption none\n";
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

    /// What stands in a bucket that has this key: enough to know it again, not enough to guess it.
    fn format(&self) -> String {
        let check = blake3::keyed_hash(&self.0, b"howdah key check").to_hex();
        format!("howdah bucket 1\nencryption aes-256-ctr\nkey {}\n", &check[..16])
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
    /// Encrypts or decrypts bytes that lie at this place of the pack.
    pub fn apply(&self, at: u64, bytes: &mut [u8]) {
        // Under a key of its own each pack may count from zero.
        let mut stream = Ctr64BE::<aes::Aes256>::new(&self.0.into(), &[0; 16].into());
        stream.seek(at);
        stream.apply_keystream(bytes);
    }

    pub(crate) fn decrypt(&self, at: u64, bytes: Bytes) -> Bytes {
        let mut bytes = bytes
            .try_into_mut()
            .unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        self.apply(at, &mut bytes);
        bytes.freeze()
    }
}

impl Store {
    /// The same store with its packs encrypted, if it is an encrypted one or an empty one that can become it; a bucket that has packs
    /// already stays as it is. Without a key, only an unencrypted one can be had.
    ///
    /// # Errors
    /// When the bucket is encrypted with another key, or the store fails.
    pub async fn unlocked(self, key: Option<DataKey>) -> Result<Self> {
        let format = match self.format().await? {
            Some(format) => format,
            None => self.found_format(key.as_ref()).await?,
        };
        if format == PLAIN {
            return Ok(self);
        }
        let wrong = |why: &str| StorageError::Undecodable {
            what: "format of the bucket",
            why: why.to_owned(),
        };
        let key = key.ok_or_else(|| wrong("it is encrypted, and this plane has no key"))?;
        if format != key.format() {
            return Err(wrong("it is encrypted with another key, or by a newer version"));
        }
        Ok(Self {
            key: Some(Arc::new(key)),
            ..self
        })
    }

    async fn format(&self) -> Result<Option<String>> {
        let path = ObjectPath::from(FORMAT);
        let bytes = match self.objects.get(&path).await {
            Ok(found) => found.bytes().await,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => Err(error),
        };
        let bytes = bytes.map_err(|error| failed("read", FORMAT, &error))?;
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// The format of a bucket that does not say: by its first pack, or by the key if there is none. With a key it says so from now on.
    async fn found_format(&self, key: Option<&DataKey>) -> Result<String> {
        let first = self.list_packs().try_next().await?;
        let begins_plain = match &first {
            Some(pack) => self.fetch(pack.id, 0, HEADER.len() as u64).await? == HEADER[..],
            None => false,
        };
        let format = match (key, first, begins_plain) {
            (_, Some(_), true) | (None, None, _) => PLAIN.to_owned(),
            // Written by a process that died before it could say so, or somebody has removed what said so.
            (Some(key), Some(pack), false) => {
                let bytes = self.fetch(pack.id, 0, HEADER.len() as u64).await?;
                if key.of(pack.id).decrypt(0, bytes) != HEADER[..] {
                    return Ok(String::new());
                }
                key.format()
            }
            (Some(key), None, _) => key.format(),
            (None, Some(_), false) => return Ok(String::new()),
        };
        if key.is_none() {
            return Ok(format);
        }
        let (path, payload) = (ObjectPath::from(FORMAT), PutPayload::from(format.clone()));
        match self.objects.put_opts(&path, payload, PutMode::Create.into()).await {
            Ok(_) => Ok(format),
            // Another process was faster; what it says counts.
            Err(object_store::Error::AlreadyExists { .. }) => Ok(self.format().await?.unwrap_or(format)),
            Err(error) => Err(failed("write", FORMAT, &error)),
        }
    }
}
