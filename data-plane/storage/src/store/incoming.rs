//! Packs that clients put into the bucket themselves: to a place of their own, from which a pack is copied to where packs are and
//! only then read, since nobody but us can write there. What is believed of it is what was read.

use std::time::{Duration, SystemTime};

use bytes::BytesMut;
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStoreExt;
use object_store::path::Path as ObjectPath;
use object_store::signer::Method;

use super::{Store, failed, object_path};
use crate::digest::Digest;
use crate::error::{Result, StorageError};
use crate::pack::{HEADER, Piece, PieceKind, encode_end};

const INCOMING: &str = "incoming";

/// The digest of a file as far as it has been read.
#[derive(Debug, Clone, Default)]
pub struct Whole(pub(crate) Box<blake3::Hasher>);

/// What a pack is to be that a client puts.
pub(crate) struct Expected<'a> {
    pub(crate) id: Digest,
    pub(crate) pieces: &'a [Piece],
    pub(crate) length: u64,
}

impl Store {
    /// The same store, into which clients put packs themselves with what this signs.
    #[must_use]
    pub fn with_signer(self, signer: std::sync::Arc<dyn object_store::signer::Signer>) -> Self {
        Self {
            signer: Some(signer),
            ..self
        }
    }

    pub(crate) fn takes_packs(&self) -> bool {
        self.signer.is_some()
    }

    /// Where a client may put a pack, for that long. A secret.
    pub(crate) async fn sign(&self, upload: &str, id: Digest, expires_in: Duration) -> Result<String> {
        let path = incoming_path(upload, id);
        let missing = || StorageError::Store {
            action: "write",
            object: path.to_string(),
            message: "clients cannot put into this store".to_owned(),
        };
        let signer = self.signer.as_ref().ok_or_else(missing)?;
        let signed = signer.signed_url(Method::PUT, &path, expires_in).await;
        signed
            .map(|url| url.to_string())
            .map_err(|error| failed("write", path.as_ref(), &error))
    }

    /// How many bytes a client has put there, if it has.
    pub(crate) async fn incoming_size(&self, upload: &str, id: Digest) -> Result<Option<u64>> {
        let path = incoming_path(upload, id);
        match self.objects.head(&path).await {
            Ok(found) => Ok(Some(found.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(failed("read", path.as_ref(), &error)),
        }
    }

    /// Copies what a client has put to where packs are.
    pub(crate) async fn copy_incoming(&self, upload: &str, id: Digest) -> Result<()> {
        let path = incoming_path(upload, id);
        let copied = self.objects.copy(&path, &object_path(id)).await;
        copied.map_err(|error| failed("write", path.as_ref(), &error))
    }

    /// Reads a stored pack from its first byte to its last; `Err` in the answer says what is not as expected.
    pub(crate) async fn check_pack(&self, expected: &Expected<'_>, whole: &mut Whole) -> Result<Result<(), String>> {
        let path = object_path(expected.id);
        let broken = |error: &object_store::Error| failed("read", path.as_ref(), error);
        let found = self.objects.get(&path).await.map_err(|error| broken(&error))?;
        if found.meta.size != expected.length {
            return Ok(Err(format!("it has {} bytes", found.meta.size)));
        }
        let key = self.key().map(|key| key.of(expected.id));
        let mut stream = found.into_stream();
        let mut held = BytesMut::new();
        let mut at = 0_u64;
        let (end, _) = encode_end(expected.pieces);
        let parts = std::iter::once(Part::Exactly(HEADER))
            .chain(expected.pieces.iter().map(Part::Piece))
            .chain(std::iter::once(Part::Exactly(&end)));
        for part in parts {
            let length = part.length();
            while held.len() < length {
                match stream.try_next().await.map_err(|error| broken(&error))? {
                    Some(bytes) => held.extend_from_slice(&bytes),
                    None => return Ok(Err(format!("it ends after {} bytes", at + held.len() as u64))),
                }
            }
            let mut bytes = held.split_to(length);
            if let Some(key) = &key {
                key.apply(at, &mut bytes);
            }
            if !part.is(&bytes, whole) {
                return Ok(Err(format!("what begins at its byte {at} is something else")));
            }
            at += length as u64;
        }
        Ok(Ok(()))
    }

    /// Removes what a client has put for an upload: this one, or everything.
    pub(crate) async fn remove_incoming(&self, upload: &str, id: Option<Digest>) -> Result<()> {
        let below = match id {
            Some(id) => return self.remove(incoming_path(upload, id)).await,
            None => ObjectPath::from_iter([INCOMING, upload]),
        };
        self.remove_below(&below, None).await.map(drop)
    }

    /// Removes what clients put before then and nobody took; how much it was.
    pub(crate) async fn remove_incoming_before(&self, before: SystemTime) -> Result<u64> {
        self.remove_below(&ObjectPath::from(INCOMING), Some(before)).await
    }

    async fn remove_below(&self, below: &ObjectPath, before: Option<SystemTime>) -> Result<u64> {
        let mut listed = self.objects.list(Some(below));
        let mut removed = 0;
        while let Some(object) = listed.next().await {
            let object = object.map_err(|error| failed("list", below.as_ref(), &error))?;
            if before.is_none_or(|before| SystemTime::from(object.last_modified) < before) {
                self.remove(object.location).await?;
                removed += object.size;
            }
        }
        Ok(removed)
    }

    async fn remove(&self, path: ObjectPath) -> Result<()> {
        match self.objects.delete(&path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(failed("delete", path.as_ref(), &error)),
        }
    }
}

/// A part of a pack that is read.
enum Part<'a> {
    Exactly(&'a [u8]),
    Piece(&'a Piece),
}

impl Part<'_> {
    fn length(&self) -> usize {
        match self {
            Self::Exactly(bytes) => bytes.len(),
            Self::Piece(piece) => piece.length as usize,
        }
    }

    /// Whether these bytes are it; chunks go into the digest of the whole.
    fn is(&self, bytes: &[u8], whole: &mut Whole) -> bool {
        match self {
            Self::Exactly(expected) => *expected == bytes,
            Self::Piece(piece) if piece.kind == PieceKind::Chunk => {
                whole.0.update(bytes);
                Digest::of(bytes) == piece.digest
            }
            // A salt has no bytes, and a digest that is nobody's.
            Self::Piece(piece) => piece.kind == PieceKind::Salt,
        }
    }
}

fn incoming_path(upload: &str, id: Digest) -> ObjectPath {
    ObjectPath::from_iter([INCOMING, upload, id.to_string().as_str()])
}
