//! The work of one import: from addresses to files that are stored, with what each came from.

use std::collections::HashSet;
use std::future::ready;
use std::sync::Arc;

use contract::api::ImportedSource;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use storage::{FileEntry, FilePath, StorageError, TreeRef};
use tokio_util::io::StreamReader;

use super::http::Web;
use super::location::Location;
use super::progress::Progress;
use super::resume::{Identity, Reading, Remote};
use super::running::Turn;
use super::s3::{Access, Bucket};
use super::{Importer, Trouble, source_failed};
use crate::failure::{Answer, Failure};
use crate::files::change::{FileChange, Puts};
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

/// What an address gives.
enum Given {
    /// A file that is stored.
    File(FilePath, FileEntry),
    /// What all of them came from; the last.
    Source(ImportedSource),
}

/// What is below a key of a bucket, on its way.
struct Below {
    import: Arc<Import>,
    directory: Option<FilePath>,
    shown: String,
    fetched: BoxStream<'static, Answer<Option<(FilePath, FileEntry, Identity)>>>,
    /// The file before the one that comes next.
    held: Option<(FilePath, FileEntry)>,
    /// Of names, tags and sizes.
    tags: blake3::Hasher,
    files: u64,
    bytes: u64,
    ended: bool,
}

impl Below {
    async fn step(mut self) -> Answer<Option<(Given, Self)>> {
        Ok(self.next().await?.map(|given| (given, self)))
    }

    async fn next(&mut self) -> Answer<Option<Given>> {
        while let Some(file) = self.fetched.try_next().await? {
            let Some((path, entry, identity)) = file else { continue };
            let tag = identity.etag.unwrap_or_default();
            self.tags.update(format!("{path}\0{tag}\0{}\n", entry.size).as_bytes());
            // What some tools put where a directory is made: an empty object of the directory's name.
            let is_marker =
                |(before, marker): &(FilePath, FileEntry)| marker.size == 0 && path.strip_directory(before).is_some();
            let before = self.held.take().filter(|before| !is_marker(before));
            self.held = Some((path, entry));
            if let Some(before) = before {
                return Ok(Some(self.give(before)));
            }
        }
        if let Some(last) = self.held.take() {
            return Ok(Some(self.give(last)));
        }
        if std::mem::replace(&mut self.ended, true) {
            return Ok(None);
        }
        if self.files == 0 {
            return Err(source_failed(format!("there is nothing below `{}`", self.shown)));
        }
        let identity = Identity {
            etag: Some(self.tags.finalize().to_hex().to_string()),
            ..Identity::default()
        };
        let (shown, sum) = (std::mem::take(&mut self.shown), (self.files, self.bytes));
        let source = self.import.source(shown, self.directory.as_ref(), sum, identity);
        Ok(Some(Given::Source(source)))
    }

    fn give(&mut self, (path, entry): (FilePath, FileEntry)) -> Given {
        self.files += 1;
        self.bytes += entry.size;
        Given::File(path, entry)
    }
}

/// An import under way.
pub(super) struct Import {
    pub(super) plane: Plane,
    pub(super) writer: Stored,
    /// The tree that is there: what the files have in common with it is not stored again.
    pub(super) base: TreeRef,
    pub(super) append: bool,
    pub(super) progress: Arc<Progress>,
    /// One of those that its principal may run at once.
    pub(super) _turn: Turn,
}

impl Import {
    /// Fetches everything; of very many files few are in memory. What is appended is, and of that [`Progress`] takes few.
    ///
    /// # Errors
    /// `source-failed`, `too-large`, `invalid` for names that are no paths, storage's failures.
    pub(super) async fn fetch(self: &Arc<Self>, orders: Vec<Order>) -> Answer<(Vec<FileChange>, Vec<ImportedSource>)> {
        let (mut puts, mut appended) = (Puts::new(&self.plane.storage, &self.writer), Vec::new());
        let mut sources = Vec::with_capacity(orders.len());
        let orders = orders.into_iter().enumerate();
        let given = orders.map(|(place, order)| Arc::clone(self).order(place, order));
        let mut given = stream::iter(given).flatten_unordered(SOURCES_AT_ONCE);
        while let Some((place, given)) = given.try_next().await? {
            match given {
                Given::File(path, entry) if self.append => appended.push((place, FileChange::Append(path, entry))),
                Given::File(path, entry) => puts.push(path, entry).await?,
                Given::Source(source) => sources.push((place, source)),
            }
        }
        if let Some(path) = puts.twice().await? {
            return Err(Failure::invalid(format!("two sources hold `/{path}`")).hint("put them one after the other"));
        }
        // In the order that was asked for.
        sources.sort_by_key(|(place, _)| *place);
        appended.sort_by_key(|(place, _)| *place);
        let mut changes = puts.changes();
        changes.extend(appended.into_iter().map(|(_, change)| change));
        Ok((changes, sources.into_iter().map(|(_, source)| source).collect()))
    }

    /// What the address at this place gives.
    fn order(self: Arc<Self>, place: usize, order: Order) -> BoxStream<'static, Answer<(usize, Given)>> {
        let shown = order.shown;
        let given = match order.what {
            What::File(remote, path) => stream::once(async move {
                let file = self.file(&remote, &path, true).await?;
                let (entry, identity) = file.ok_or_else(|| failure(Trouble::Marker, &remote))?;
                let source = self.source(shown, Some(&path), (1, entry.size), identity);
                let given = [Given::File(path, entry), Given::Source(source)];
                Ok::<_, Failure>(stream::iter(given.map(Ok)))
            })
            .try_flatten()
            .boxed(),
            What::Below(bucket, key, directory) => match self.below(&bucket, &key, directory, shown) {
                Ok(below) => stream::try_unfold(below, Below::step).boxed(),
                Err(failure) => stream::once(ready(Err(failure))).boxed(),
            },
        };
        given.map_ok(move |given| (place, given)).boxed()
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

    /// Everything below a key.
    fn below(self: Arc<Self>, bucket: &Bucket, key: &str, directory: Option<FilePath>, shown: String) -> Answer<Below> {
        let (import, into) = (Arc::clone(&self), directory.clone());
        let work = bucket.list(key)?.map(move |listed| {
            let (import, directory) = (Arc::clone(&import), into.clone());
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
        Ok(Below {
            import: self,
            directory,
            shown,
            fetched: work.buffered(OBJECTS_AT_ONCE).boxed(),
            held: None,
            tags: blake3::Hasher::new(),
            files: 0,
            bytes: 0,
            ended: false,
        })
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
