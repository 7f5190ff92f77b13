//! Which buckets are encrypted, and with which key: one is from its first pack or never; an object beside the packs says which, and
//! how its key is known again.

use std::sync::Arc;

use futures::TryStreamExt;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStoreExt, PutMode, PutPayload};
use packs::DataKey;

use super::{Store, failed};
use crate::error::{Result, StorageError};
use crate::pack::HEADER;

/// The object that says how a bucket's packs are stored.
const FORMAT: &str = "format";
const PLAIN: &str = "howdah bucket 1\nencryption none\n";

/// What stands in a bucket that has this key.
fn format_of(key: &DataKey) -> String {
    format!("howdah bucket 1\nencryption aes-256-ctr\nkey {}\n", key.check())
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
        if format != format_of(&key) {
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
                format_of(key)
            }
            (Some(key), None, _) => format_of(key),
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
