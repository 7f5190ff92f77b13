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
/// Packs that are looked at where nothing says it.
const PACKS_LOOKED_AT: usize = 32;
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
        let key = key.ok_or_else(|| wrong("its packs are encrypted or damaged, and this plane has no key"))?;
        if format != format_of(&key) {
            return Err(wrong("its packs are encrypted with another key, or by a newer version"));
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
        let said = String::from_utf8_lossy(&bytes).into_owned();
        Ok(Some(said).filter(|said| !said.is_empty()))
    }

    /// The format of a bucket that does not say: that of its packs, or by the key if there is none. From now on it says so. Some packs
    /// may be damaged, or be removed in this moment.
    async fn found_format(&self, key: Option<&DataKey>) -> Result<String> {
        let mut packs = self.list_packs();
        let mut looked_at = 0;
        let format = loop {
            let Some(pack) = packs.try_next().await? else {
                break match looked_at {
                    0 => key.map_or_else(|| PLAIN.to_owned(), format_of),
                    _ => return Ok(String::new()),
                };
            };
            looked_at += 1;
            match self.fetch(pack.id, 0, HEADER.len() as u64).await {
                Ok(bytes) if bytes == HEADER[..] => break PLAIN.to_owned(),
                Ok(bytes) => {
                    if let Some(key) = key
                        && key.of(pack.id).decrypt(0, bytes) == HEADER[..]
                    {
                        break format_of(key);
                    }
                }
                Err(error) if error.is_damage() => {}
                Err(error) => return Err(error),
            }
            if looked_at == PACKS_LOOKED_AT {
                return Ok(String::new());
            }
        };
        let (path, payload) = (ObjectPath::from(FORMAT), PutPayload::from(format.clone()));
        match self
            .objects
            .put_opts(&path, payload.clone(), PutMode::Create.into())
            .await
        {
            Ok(_) => return Ok(format),
            Err(object_store::Error::AlreadyExists { .. }) => {}
            Err(error) => return Err(failed("write", FORMAT, &error)),
        }
        // Another process was faster, and what it says counts; or the machine lost its power while one wrote it.
        if let Some(said) = self.format().await? {
            return Ok(said);
        }
        let put = self.objects.put(&path, payload).await;
        put.map(|_| format).map_err(|error| failed("write", FORMAT, &error))
    }
}
