//! The work of one import: from addresses to files that are stored, with what each came from.

use std::collections::HashSet;
use std::sync::Arc;

use contract::api::ImportedSource;
use futures::stream::{StreamExt, TryStreamExt};
use storage::{FileEntry, FilePath, StorageError, TreeRef};
use tokio_util::io::StreamReader;

use super::http::Web;
use super::location::Location;
use super::progress::Progress;
use super::resume::{Identity, Reading, Remote};
use super::s3::{Access, Bucket};
use super::{Importer, Trouble, source_failed};
use crate::failure::{Answer, Failure};
use crate::files::listing::directory_path;
use crate::files::stored::Stored;
use crate::plane::Plane;

/// Addresses of one import that are read at once.
const SOURCES_AT_ONCE: usize = 4;
/// Objects below one address that are read at once.
const OBJECTS_AT_ONCE: usize = 16;
/// So often a source that changed, or that can't be read from its middle, is read from its beginning.
const BEGINNINGS_MAX: usize = 4;

/// An address as it was asked for.
pub(super) struct Asked {
    pub(super) url: String,
    pub(super) recursive: bool,
}

/// One address with the place that it goes to.
pub(super) struct Order {
    shown: String,
    what: What,
}

enum What {
    File(Remote, FilePath),
    Below(Bucket, String, Option<FilePath>),
}

/// What is to be fetched. A single file goes to the path itself, or into it when it ends in `/`; several go into it.
///
/// # Errors
/// `invalid` for addresses that cannot be read or may not be reached, and for two files of one name.
pub(super) fn plan(importer: &Importer, asked: &[Asked], path: &str, access: &Access) -> Answer<Vec<Order>> {
    let directory = directory_path(path)?;
    let exact = asked.len() == 1 && !path.is_empty() && !path.ends_with('/');
    let mut orders = Vec::with_capacity(asked.len());
    let mut taken = HashSet::new();
    for source in asked {
        let location = Location::parse(&source.url)?;
        let shown = location.shown();
        if location.is_directory() != source.recursive {
            return Err(recursion(&shown, &location));
        }
        let what = match &location {
            Location::Bucket { bucket, key } if source.recursive => {
                What::Below(Bucket::new(importer, bucket, access)?, key.clone(), directory.clone())
            }
            _ => {
                let path = match &directory {
                    Some(path) if exact => path.clone(),
                    Some(directory) => directory.join(&location.file_name()?)?,
                    None => FilePath::parse(&location.file_name()?)?,
                };
                if !taken.insert(path.clone()) {
                    return Err(Failure::invalid(format!("two sources would become `/{path}`"))
                        .hint("put them into different directories, into an open commit: `howdah commit start`"));
                }
                let remote = match location {
                    Location::Web(url) => Remote::Web(Web::new(importer, url)?),
                    Location::Bucket { bucket, key } => {
                        Remote::Object(Bucket::new(importer, &bucket, access)?.object(&key)?)
                    }
                };
                What::File(remote, path)
            }
        };
        orders.push(Order { shown, what });
    }
    Ok(orders)
}

fn recursion(shown: &str, location: &Location) -> Failure {
    if location.is_directory() {
        return Failure::invalid(format!("`{shown}` is everything below it")).hint("repeat with -r");
    }
    match location {
        Location::Web(_) => Failure::invalid(format!("what is below `{shown}` is not known"))
            .hint("only `s3://` addresses can be put with what is below; name each file"),
        Location::Bucket { .. } => Failure::invalid(format!("`{shown}` is one object"))
            .hint("end the prefix in `/` to put everything below it"),
    }
}

/// A file that is stored.
pub(super) type Fetched = (FilePath, FileEntry);

/// An import under way.
pub(super) struct Import {
    pub(super) plane: Plane,
    pub(super) writer: Stored,
    /// The tree that is there: what the files have in common with it is not stored again.
    pub(super) base: TreeRef,
    pub(super) append: bool,
    pub(super) progress: Arc<Progress>,
}

impl Import {
    /// Fetches everything, in the order that was asked for.
    ///
    /// # Errors
    /// `source-failed`, `too-large`, `invalid` for names that are no paths, storage's failures.
    pub(super) async fn fetch(self: &Arc<Self>, orders: Vec<Order>) -> Answer<(Vec<Fetched>, Vec<ImportedSource>)> {
        let (mut files, mut sources) = (Vec::new(), Vec::with_capacity(orders.len()));
        let work = orders.into_iter().map(|order| Arc::clone(self).order(order));
        let mut done = futures::stream::iter(work).buffered(SOURCES_AT_ONCE);
        while let Some((fetched, source)) = done.try_next().await? {
            files.extend(fetched);
            sources.push(source);
        }
        if !self.append {
            let mut paths = HashSet::with_capacity(files.len());
            if let Some((twice, _)) = files.iter().find(|(path, _)| !paths.insert(path)) {
                return Err(
                    Failure::invalid(format!("two sources hold `/{twice}`")).hint("put them one after the other")
                );
            }
        }
        Ok((files, sources))
    }

    async fn order(self: Arc<Self>, order: Order) -> Answer<(Vec<Fetched>, ImportedSource)> {
        match order.what {
            What::File(remote, path) => {
                let file = self.file(&remote, &path, true).await?;
                let (entry, identity) = file.ok_or_else(|| failure(Trouble::Marker, &remote))?;
                let source = self.source(order.shown, Some(&path), (1, entry.size), identity);
                Ok((vec![(path, entry)], source))
            }
            What::Below(bucket, key, directory) => {
                let (files, tags) = Arc::clone(&self)
                    .below(&bucket, &key, directory.as_ref(), &order.shown)
                    .await?;
                let identity = Identity {
                    etag: Some(tags),
                    ..Identity::default()
                };
                let bytes = files.iter().map(|(_, entry)| entry.size).sum();
                let sum = (files.len() as u64, bytes);
                Ok((files, self.source(order.shown, directory.as_ref(), sum, identity)))
            }
        }
    }

    fn source(
        &self,
        url: String,
        path: Option<&FilePath>,
        (files, size_bytes): (u64, u64),
        identity: Identity,
    ) -> ImportedSource {
        ImportedSource {
            url,
            path: path.map_or_else(|| "/".to_owned(), |path| format!("/{path}")),
            files,
            size_bytes,
            etag: identity.etag,
            version: identity.version,
            fetched_at: self.plane.now(),
        }
    }

    /// Everything below a key, and a digest of the names, tags and sizes.
    async fn below(
        self: Arc<Self>,
        bucket: &Bucket,
        key: &str,
        directory: Option<&FilePath>,
        shown: &str,
    ) -> Answer<(Vec<Fetched>, String)> {
        let work = bucket.list(key)?.map(|listed| {
            let (import, directory) = (Arc::clone(&self), directory.cloned());
            async move {
                let (object, name) = listed?;
                let path = match directory {
                    None => FilePath::parse(&name)?,
                    Some(directory) => directory.join(&name)?,
                };
                let file = import.file(&Remote::Object(object), &path, false).await?;
                Ok::<_, Failure>(file.map(|(entry, identity)| (path, entry, identity)))
            }
        });
        let mut done = work.buffered(OBJECTS_AT_ONCE);
        let mut files: Vec<Fetched> = Vec::new();
        let mut tags = blake3::Hasher::new();
        while let Some(file) = done.try_next().await? {
            let Some((path, entry, identity)) = file else { continue };
            // What some tools put where a directory is made: an empty object of the directory's name.
            if files
                .last()
                .is_some_and(|(before, marker)| marker.size == 0 && path.strip_directory(before).is_some())
            {
                files.pop();
            }
            let tag = identity.etag.unwrap_or_default();
            tags.update(format!("{path}\0{tag}\0{}\n", entry.size).as_bytes());
            files.push((path, entry));
        }
        if files.is_empty() {
            return Err(source_failed(format!("there is nothing below `{shown}`")));
        }
        Ok((files, tags.finalize().to_hex().to_string()))
    }

    /// One file, as it was at one moment: when it changes while it is read, it is read again. `None` for a directory's marker.
    async fn file(&self, remote: &Remote, path: &FilePath, counted: bool) -> Answer<Option<(FileEntry, Identity)>> {
        let importer = &self.plane.importer;
        let _turn = importer.fetches.acquire().await.map_err(Failure::internal)?;
        let before = match self.append {
            true => None,
            false => self.plane.storage.get(&self.base, path).await?,
        };
        for beginning in 0..BEGINNINGS_MAX {
            let progress = Arc::clone(&self.progress);
            let reading = match Reading::begin(remote.clone(), &importer.patience, progress).await {
                Ok(reading) => reading,
                Err(Trouble::Marker) => return Ok(None),
                Err(trouble) => return Err(failure(trouble, remote)),
            };
            let identity = reading.identity().clone();
            if let Some(size) = identity.size.filter(|_| counted && beginning == 0) {
                self.progress.expect(size)?;
            }
            let bytes = Box::pin(reading.stream().map_err(std::io::Error::other));
            let source = StreamReader::new(bytes);
            let written = match &before {
                None => self.writer.write_file(source, false).await,
                Some(before) => self.writer.write_file_over(before, source, false).await,
            };
            match written {
                Ok(entry) => {
                    self.progress.done()?;
                    return Ok(Some((entry, identity)));
                }
                Err(StorageError::Source(error)) => {
                    let trouble = error.get_ref().and_then(|e| e.downcast_ref::<Trouble>());
                    match trouble {
                        Some(Trouble::Changed) => {}
                        Some(other) => return Err(failure(other.clone(), remote)),
                        None => return Err(StorageError::Source(error).into()),
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(failure(Trouble::Changed, remote))
    }
}

fn failure(trouble: Trouble, remote: &Remote) -> Failure {
    match trouble {
        Trouble::Final(failure) => failure,
        Trouble::Broken(why) => source_failed(format!("`{}` could not be read: {why}", remote.shown())),
        Trouble::Marker => source_failed(format!("`{}` marks a directory", remote.shown())),
        Trouble::Changed => source_failed(format!(
            "`{}` changed while it was read, or breaks off and can't be read from its middle; it was begun {BEGINNINGS_MAX} times",
            remote.shown()
        )),
    }
}
