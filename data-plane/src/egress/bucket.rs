//! Egress into a bucket: an object for each file. Small ones in one request, several at once; large ones in parts, of which
//! two are on their way while the next is read.

use std::collections::HashSet;

use bytes::BytesMut;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::aws::AmazonS3;
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload};
use provenance::spec::{BUCKET_KEYS, BucketTarget};
use secrecy::SecretString;
use storage::{FileEntry, FilePath};
use tokio::sync::SemaphorePermit;
use tokio::task::JoinSet;

use super::{MEMORY, SELF, Sending, Trouble, queries};
use crate::failure::{Answer, Failure};
use crate::imports::address::Refused;
use crate::imports::s3::{Access, Bucket, endpoint_url};
use crate::imports::{Importer, find, innermost};

/// So many files are looked at, written down and sent together.
const PAGE: usize = 1000;
/// So many requests of a job are under way at once.
const AT_ONCE: usize = 16;
const MIB: usize = 1 << 20;
/// Files up to this size are sent in one request.
const WHOLE: u64 = 8 << 20;
/// Parts of larger ones have this size, and more where there would be too many of them.
const PART: u64 = 8 << 20;
const PARTS_MOST: u64 = 9_000;
/// Parts of a file that are on their way at once.
const PARTS_AT_ONCE: usize = 2;
/// What S3 admits for the name of an object.
const KEY_BYTES: usize = 1024;

/// Whether the bucket may be reached at all.
pub(super) fn check(importer: &Importer, target: &BucketTarget) -> Answer<()> {
    if let Some(endpoint) = &target.endpoint {
        endpoint_url(importer, endpoint)?;
    }
    Ok(())
}

/// Where objects go.
struct Place<'a> {
    sending: &'a Sending<'a>,
    store: &'a AmazonS3,
    target: &'a BucketTarget,
}

/// Sends what is not there, and then removes what was sent before and is not in the output any more. `progress` is set once
/// something was done that need not be done again.
pub(super) async fn send(sending: &Sending<'_>, target: &BucketTarget, progress: &mut bool) -> Result<(), Trouble> {
    let mut keys = sending.keys().await?;
    let [id, secret, token] = BUCKET_KEYS.map(|name| keys.remove(name));
    if id.is_none() || secret.is_none() {
        let why = format!(
            "its secret needs the keys `{}` and `{}`: `howdah secret set`",
            BUCKET_KEYS[0], BUCKET_KEYS[1]
        );
        return Err(Trouble::Final(why));
    }
    let access = Access {
        access_key_id: id,
        secret_access_key: secret.map(SecretString::from),
        session_token: token.map(SecretString::from),
        region: target.region.clone(),
        endpoint: target.endpoint.clone(),
    };
    let bucket = Bucket::new(&sending.plane.importer, &target.bucket, &access)?;
    let place = Place {
        sending,
        store: bucket.store(),
        target,
    };
    place.put(progress).await?;
    place.remove(progress).await
}

impl Place<'_> {
    async fn put(&self, progress: &mut bool) -> Result<(), Trouble> {
        let plane = self.sending.plane;
        let mut pages = plane.storage.list(self.sending.tree, None, None).try_chunks(PAGE);
        while let Some(page) = pages.next().await {
            let mut page = page.map_err(|e| e.1)?;
            for (path, _) in &page {
                self.key(path.as_str())?;
            }
            let mut conn = plane.pool.acquire().await.map_err(Failure::from)?;
            let paths: Vec<&str> = page.iter().map(|(path, _)| path.as_str()).collect();
            let there = queries::there(&mut conn, &SELF, self.sending.place, &paths).await?;
            let same = |path: &FilePath, file: &FileEntry| {
                let known = there.get(path.as_str());
                known.is_some_and(|known| known == file.digest.as_bytes())
            };
            page.retain(|(path, file)| !same(path, file));
            if page.is_empty() {
                continue;
            }
            let paths: Vec<&str> = page.iter().map(|(path, _)| path.as_str()).collect();
            queries::begin(&mut conn, &SELF, self.sending.place, &paths).await?;
            drop(conn);
            let (mut sent, mut trouble) = (Vec::new(), None);
            {
                let puts: Vec<BoxFuture<'_, _>> = page
                    .iter()
                    .map(|(path, file)| async move { (path, file, self.put_one(path, file).await) }.boxed())
                    .collect();
                let mut puts = futures::stream::iter(puts).buffer_unordered(AT_ONCE);
                while let Some((path, file, put)) = puts.next().await {
                    match put {
                        Ok(()) => sent.push((path.as_str(), file.digest.as_bytes().as_slice())),
                        Err(why) => {
                            trouble = Some(why);
                            break;
                        }
                    }
                }
            }
            // What arrived need not be sent again, whatever became of the others.
            *progress |= !sent.is_empty();
            let mut conn = plane.pool.acquire().await.map_err(Failure::from)?;
            queries::done(&mut conn, &SELF, self.sending.place, &sent).await?;
            if let Some(trouble) = trouble {
                return Err(trouble);
            }
        }
        Ok(())
    }

    /// Removes what this pipeline has put there and the output does not hold.
    async fn remove(&self, progress: &mut bool) -> Result<(), Trouble> {
        let plane = self.sending.plane;
        let mut files = plane.storage.list(self.sending.tree, None, None);
        let mut next = files.try_next().await?;
        let mut after = String::new();
        loop {
            let mut conn = plane.pool.acquire().await.map_err(Failure::from)?;
            let rows = queries::list(&mut conn, &SELF, self.sending.place, &after, PAGE as i64).await?;
            drop(conn);
            let Some(last) = rows.last() else {
                return Ok(());
            };
            after.clone_from(last);
            let mut gone: HashSet<&str> = HashSet::new();
            for row in &rows {
                while next.as_ref().is_some_and(|(path, _)| path.as_str() < row.as_str()) {
                    next = files.try_next().await?;
                }
                if next.as_ref().is_none_or(|(path, _)| path.as_str() != row) {
                    gone.insert(row);
                }
            }
            if gone.is_empty() {
                continue;
            }
            let keys: Vec<Path> = gone.iter().map(|path| self.key(path)).collect::<Result<_, _>>()?;
            let mut removals = self.store.delete_stream(futures::stream::iter(keys).map(Ok).boxed());
            while let Some(removed) = removals.next().await {
                match removed {
                    Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                    Err(error) => return Err(self.trouble(&error)),
                }
            }
            *progress = true;
            let gone: Vec<&str> = gone.into_iter().collect();
            let mut conn = plane.pool.acquire().await.map_err(Failure::from)?;
            queries::forget(&mut conn, &SELF, self.sending.place, &gone).await?;
        }
    }

    /// The name of a file's object.
    fn key(&self, path: &str) -> Result<Path, Trouble> {
        let key = match self.target.prefix.as_str() {
            "" => path.to_owned(),
            prefix => format!("{prefix}/{path}"),
        };
        let parsed = Path::parse(&key).ok().filter(|_| key.len() <= KEY_BYTES);
        parsed.ok_or_else(|| {
            Trouble::Final(format!(
                "`/{path}` can be no object's name, which has at most {KEY_BYTES} bytes and no control characters; have the code write it under another name"
            ))
        })
    }

    async fn put_one(&self, path: &FilePath, file: &FileEntry) -> Result<(), Trouble> {
        let key = self.key(path.as_str())?;
        if file.size > WHOLE {
            return self.put_large(&key, file).await;
        }
        let _room = self.room(file.size).await?;
        let bytes = self.sending.plane.storage.read_all(file).await?;
        let put = self.store.put(&key, PutPayload::from_bytes(bytes)).await;
        put.map(drop).map_err(|error| self.trouble(&error))
    }

    async fn put_large(&self, key: &Path, file: &FileEntry) -> Result<(), Trouble> {
        let size = usize::try_from(PART.max(file.size.div_ceil(PARTS_MOST))).unwrap_or(usize::MAX);
        let _room = self.room(size as u64 * (PARTS_AT_ONCE as u64 + 1)).await?;
        let upload = self
            .store
            .put_multipart(key)
            .await
            .map_err(|error| self.trouble(&error))?;
        let mut upload = Parts(Some(upload));
        let mut under_way: JoinSet<object_store::Result<()>> = JoinSet::new();
        let mut bytes = self.sending.plane.storage.read(file, 0..file.size);
        let mut part = BytesMut::with_capacity(size);
        loop {
            let piece = bytes.try_next().await?;
            let ended = piece.is_none();
            let mut piece = piece.unwrap_or_default();
            while !piece.is_empty() || ended && !part.is_empty() {
                part.extend_from_slice(&piece.split_to(piece.len().min(size - part.len())));
                if part.len() < size && !ended {
                    break;
                }
                while under_way.len() >= PARTS_AT_ONCE {
                    self.joined(under_way.join_next().await)?;
                }
                let full = std::mem::replace(&mut part, BytesMut::with_capacity(if ended { 0 } else { size }));
                if let Some(upload) = &mut upload.0 {
                    under_way.spawn(upload.put_part(PutPayload::from_bytes(full.freeze())));
                }
            }
            if ended {
                break;
            }
        }
        while let Some(done) = under_way.join_next().await {
            self.joined(Some(done))?;
        }
        if let Some(upload) = &mut upload.0 {
            upload.complete().await.map_err(|error| self.trouble(&error))?;
        }
        // It is an object now: there is nothing to take back.
        upload.0 = None;
        Ok(())
    }

    fn joined(&self, done: Option<Result<object_store::Result<()>, tokio::task::JoinError>>) -> Result<(), Trouble> {
        match done {
            None | Some(Ok(Ok(()))) => Ok(()),
            Some(Ok(Err(error))) => Err(self.trouble(&error)),
            Some(Err(error)) => Err(Failure::internal(error).into()),
        }
    }

    /// Waits for memory.
    async fn room(&self, bytes: u64) -> Answer<SemaphorePermit<'_>> {
        let units = usize::try_from(bytes)
            .unwrap_or(usize::MAX)
            .div_ceil(MIB)
            .clamp(1, MEMORY);
        let units = u32::try_from(units).unwrap_or(1);
        self.sending
            .plane
            .egress
            .0
            .acquire_many(units)
            .await
            .map_err(Failure::internal)
    }

    fn trouble(&self, error: &object_store::Error) -> Trouble {
        use object_store::Error as E;
        if let Some(why) = find::<Refused>(error) {
            return Trouble::Final(format!("{why}; who operates the service can allow it"));
        }
        match error {
            E::NotFound { .. } => Trouble::Final("there is no such bucket; make it, or correct `egress`".to_owned()),
            E::PermissionDenied { .. } | E::Unauthenticated { .. } => Trouble::Final(
                "its secret's keys may not write there; let them put and delete objects, or set others by `howdah secret set`"
                    .to_owned(),
            ),
            other => Trouble::Passing(innermost(other)),
        }
    }
}

/// An upload in parts, whose parts are taken back unless it is completed.
struct Parts(Option<Box<dyn MultipartUpload>>);

impl Drop for Parts {
    fn drop(&mut self) {
        let (Some(mut upload), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) else {
            return;
        };
        runtime.spawn(async move {
            // The bucket's own rule for what is left of uploads takes it else.
            let _ = upload.abort().await;
        });
    }
}
