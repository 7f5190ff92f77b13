//! Forwards in the store: one small object each, beside the packs, put as durably as they are.

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStoreExt, PutPayload};

use super::{Store, failed};
use crate::digest::Digest;
use crate::error::{Result, StorageError};

pub(super) const FORWARDS: &str = "forwards";

impl Store {
    /// Stores the forward of a pack in place of an earlier one.
    pub(crate) async fn put_forward(&self, old: Digest, bytes: Bytes) -> Result<()> {
        if let Some(local) = &self.local {
            let local = std::sync::Arc::clone(local);
            return tokio::task::spawn_blocking(move || local.put(FORWARDS, old, &[bytes], false))
                .await
                .unwrap_or(Err(StorageError::Cancelled));
        }
        let path = object_path(old);
        let put = self.objects.put(&path, PutPayload::from_bytes(bytes)).await;
        put.map(|_| ()).map_err(|error| failed("write", path.as_ref(), &error))
    }

    /// The forward of a pack, if it has one.
    pub(crate) async fn get_forward(&self, old: Digest) -> Result<Option<Bytes>> {
        let path = object_path(old);
        let read = match self.objects.get(&path).await {
            Ok(found) => found.bytes().await,
            Err(error) => Err(error),
        };
        match read {
            Ok(bytes) => Ok(Some(bytes)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(failed("read", path.as_ref(), &error)),
        }
    }

    /// Removes the forward of a pack; fine if there is none.
    pub(crate) async fn delete_forward(&self, old: Digest) -> Result<()> {
        let path = object_path(old);
        match self.objects.delete(&path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(failed("delete", path.as_ref(), &error)),
        }
    }

    /// The packs that have forwards; other objects are passed over.
    pub(crate) fn list_forwards(&self) -> BoxStream<'static, Result<Digest>> {
        let listed = self.objects.list(Some(&ObjectPath::from(FORWARDS)));
        listed
            .try_filter_map(|object| async move { Ok(object.location.filename().and_then(|name| name.parse().ok())) })
            .map_err(|error| failed("list", FORWARDS, &error))
            .boxed()
    }
}

fn object_path(old: Digest) -> ObjectPath {
    ObjectPath::from_iter([FORWARDS, old.to_string().as_str()])
}
