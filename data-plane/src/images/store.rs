//! The unpacked images of one machine, `images/<digest>/rootfs`, each fetched once however many datums wait for it. An image
//! is unpacked beside the others and takes its name when it is whole and on the disk, so that a crash leaves nothing half.
//! Those that were not used for long go, and when space is needed those that nobody uses now.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, FutureExt, Shared};
use futures::{StreamExt, TryStreamExt};
use nix::sys::stat::futimens;
use nix::sys::statvfs::statvfs;
use nix::sys::time::TimeSpec;
use tokio::sync::Semaphore;

use super::askers::Asker;
use super::manifest::{Blob, Manifest};
use super::unpack::{Bounds, Unpacking, read_inside};
use super::users::{self, User};
use super::{Credentials, Digest, ImageError, ImageReference, ImageSettings, Images};

/// Of one image.
const BOUNDS: Bounds = Bounds {
    bytes: 20 << 30,
    entries: 2_000_000,
    free_bytes: 1 << 30,
};
/// Images that are fetched at once, and layers of one of them.
const IMAGES_AT_ONCE: usize = 3;
const LAYERS_AT_ONCE: usize = 3;
/// Of what images take that nobody uses now: that much, or this part of the disk where that is less.
const KEPT_BYTES: u64 = 10 << 30;
const KEPT_PART: u64 = 10;
/// Of what images take that are in use: this part of the disk.
const USED_PART: u64 = 4;
/// What an image takes unpacked is guessed as so many times its layers.
const UNPACKED_TIMES: u64 = 2;
/// For that long nobody asks again for an image that cannot be had.
const HOPELESS_FOR: Duration = Duration::from_secs(60);
/// So long the next one waits who asks for an image whose registry did not answer, doubled with each time.
const PAUSE_LEAST: Duration = Duration::from_secs(1);
const PAUSE_MOST: Duration = Duration::from_secs(60);
/// Failures that are remembered.
const FAILURES_MAX: usize = 1000;
/// An image that was not used for that long goes when another one comes.
const UNUSED_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// Bytes of a list of users or groups.
const USERS_BYTES_MAX: u64 = 1 << 20;
/// Where images are that are not whole; removed at start.
const INCOMING: &str = "incoming";
/// One of these that is unpacked, beside its layers.
const WHOLE: &str = "whole";
const CONFIG: &str = "config.json";
const ROOTFS: &str = "rootfs";
/// What it takes on the disk.
const BYTES: &str = "bytes";

/// Where layers come from, and who asks for them.
type Origin<'a> = (&'a ImageReference, Option<&'a Credentials>);
type Fetching = Shared<BoxFuture<'static, Result<Arc<Unpacked>, ImageError>>>;

/// An image on this machine.
#[derive(Debug)]
pub struct Unpacked {
    /// Its files.
    pub rootfs: PathBuf,
    /// What it says of how it is run.
    pub settings: ImageSettings,
    passwd: String,
    group: String,
    /// Bytes of its layers and how long it took, when it was fetched just now.
    pub fetched: Option<(u64, Duration)>,
}

impl Unpacked {
    /// Who runs the code: the spec's user, or the image's.
    ///
    /// # Errors
    /// The name that the image does not know.
    pub fn user(&self, wanted: Option<&str>) -> Result<User, String> {
        users::find(wanted.unwrap_or(self.settings.user()), &self.passwd, &self.group)
    }
}

/// The images of one machine.
pub struct Store {
    directory: PathBuf,
    owner: Option<(u32, u32)>,
    images: Images,
    known: Mutex<Known>,
    places: Semaphore,
    removed: AtomicU64,
}

/// An image, and who asks for it: what one may not have, another one may.
type Asked = (Digest, Asker);

#[derive(Default)]
struct Known {
    ready: HashMap<Digest, Arc<Unpacked>>,
    fetching: HashMap<Asked, Fetching>,
    failed: HashMap<Asked, Failed>,
}

/// A fetch that failed.
#[derive(Clone)]
struct Failed {
    error: ImageError,
    until: Instant,
    times: u32,
}

/// What is to be done for an image.
enum Step {
    Done(Result<Arc<Unpacked>, ImageError>),
    WaitFor(Fetching),
    WaitUntil(Instant),
}

/// An image that nobody uses now.
struct Idle {
    name: String,
    unused: Duration,
    bytes: u64,
}

impl Store {
    /// Opens the store, which is this process's alone. `owner` is the id that code runs as, where that is not the caller.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn open(directory: PathBuf, owner: Option<(u32, u32)>, images: Images) -> io::Result<Self> {
        sandbox::discard(&directory.join(INCOMING))?;
        fs::create_dir_all(directory.join(INCOMING))?;
        Ok(Self {
            directory,
            owner,
            images,
            known: Mutex::default(),
            places: Semaphore::new(IMAGES_AT_ONCE),
            removed: AtomicU64::new(0),
        })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self, digest: &Digest) -> PathBuf {
        self.directory.join(digest.hex())
    }

    /// Does what waits for the disk.
    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, ImageError> + Send + 'static,
    ) -> Result<T, ImageError> {
        let store = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || work(&store)).await;
        done.map_err(|error| ImageError::Disk(error.to_string()))?
    }

    /// The image, if it is here and this one had it already.
    pub async fn ready(
        self: &Arc<Self>,
        reference: &ImageReference,
        digest: &Digest,
        who: Option<&Credentials>,
    ) -> Option<Arc<Unpacked>> {
        let (digest, asker) = (digest.clone(), Asker::of(reference, who));
        let found = self
            .blocking(move |store| Ok(store.look_for(&mut store.known(), &digest, &asker)))
            .await;
        found.ok().flatten()
    }

    /// The image, if this one had it already.
    fn look_for(&self, known: &mut Known, digest: &Digest, asker: &Asker) -> Option<Arc<Unpacked>> {
        if !asker.had(&self.place(digest)) {
            return None;
        }
        self.look(known, digest)
    }

    /// The image, if it is here, for one who has been found to have it.
    fn admit(&self, known: &mut Known, digest: &Digest, asker: &Asker) -> Result<Option<Arc<Unpacked>>, ImageError> {
        let found = self.look(known, digest);
        if found.is_some() {
            asker.note(&self.place(digest)).map_err(|error| disk(&error))?;
        }
        Ok(found)
    }

    /// What is known of an image counts only while it is there.
    fn look(&self, known: &mut Known, digest: &Digest) -> Option<Arc<Unpacked>> {
        let place = self.place(digest);
        let config = place.join(CONFIG);
        if !config.exists() {
            known.ready.remove(digest);
            return None;
        }
        let found = match known.ready.get(digest) {
            Some(found) => Arc::clone(found),
            None => Arc::new(load(&place, None)?),
        };
        touch(&config);
        known.ready.insert(digest.clone(), Arc::clone(&found));
        Some(found)
    }

    /// The image, fetched if it is not here or this one never had it; who asks meanwhile waits for the same. Goes on when nobody waits any more.
    ///
    /// # Errors
    /// Why it could not be fetched. One that cannot be had is not asked for again for a while; otherwise who asks next waits
    /// for a moment and begins anew.
    pub async fn get(
        self: &Arc<Self>,
        reference: &ImageReference,
        digest: &Digest,
        who: Option<&Credentials>,
    ) -> Result<Arc<Unpacked>, ImageError> {
        loop {
            let (runtime, wanted) = (
                tokio::runtime::Handle::current(),
                (reference.at(digest.clone()), digest.clone(), who.cloned()),
            );
            let store = Arc::clone(self);
            let step = self.blocking(move |_| Ok(store.step(&runtime, wanted))).await?;
            match step {
                Step::Done(found) => return found,
                Step::WaitFor(fetching) => return fetching.await,
                Step::WaitUntil(until) => tokio::time::sleep_until(until.into()).await,
            }
        }
    }

    fn step(
        self: &Arc<Self>,
        runtime: &tokio::runtime::Handle,
        wanted: (ImageReference, Digest, Option<Credentials>),
    ) -> Step {
        let (reference, digest, who) = wanted;
        let asked = (digest.clone(), Asker::of(&reference, who.as_ref()));
        let mut known = self.known();
        if let Some(found) = self.look_for(&mut known, &digest, &asked.1) {
            return Step::Done(Ok(found));
        }
        if let Some(fetching) = known.fetching.get(&asked) {
            return Step::WaitFor(fetching.clone());
        }
        let failed = known.failed.get(&asked).filter(|failed| failed.until > Instant::now());
        match failed {
            Some(failed) if failed.error.may_pass() => return Step::WaitUntil(failed.until),
            Some(failed) => return Step::Done(Err(failed.error.clone())),
            None => {}
        }
        let (store, key) = (Arc::clone(self), asked.clone());
        let task = runtime.spawn(async move {
            let fetched = store.fetch(&reference, &digest, who.as_ref()).await;
            let mut known = store.known();
            known.fetching.remove(&asked);
            known.note(asked, fetched.as_ref().err());
            fetched
        });
        let ended = async {
            task.await
                .unwrap_or_else(|error| Err(ImageError::Disk(error.to_string())))
        };
        let fetching = ended.boxed().shared();
        known.fetching.insert(key, fetching.clone());
        Step::WaitFor(fetching)
    }

    async fn fetch(
        self: &Arc<Self>,
        reference: &ImageReference,
        digest: &Digest,
        who: Option<&Credentials>,
    ) -> Result<Arc<Unpacked>, ImageError> {
        let closed = |error: tokio::sync::AcquireError| ImageError::Disk(error.to_string());
        let _place = self.places.acquire().await.map_err(closed)?;
        let began = Instant::now();
        let registry = &self.images.registry;
        let (_, manifest) = registry.manifest(reference, who).await?;
        let config = registry.small_blob(reference, &manifest.config, who).await?;
        let wanted = bytes_of(&manifest)?;
        let asker = Asker::of(reference, who);
        if let Some(found) = self.shown((reference, who), &manifest, digest).await? {
            return Ok(found);
        }
        // Two may fetch the same image, each with its own right to it.
        let number = self.removed.fetch_add(1, Ordering::Relaxed);
        let incoming = self.directory.join(INCOMING).join(format!("{number}-{}", digest.hex()));
        let empty = incoming.clone();
        self.blocking(move |store| {
            store.make_room(wanted)?;
            sandbox::discard(&empty)
                .and_then(|()| fs::create_dir(&empty))
                .map_err(|error| disk(&error))
        })
        .await?;
        let (from, digest) = (incoming.clone(), digest.clone());
        let made = match self.layers((reference, who), &manifest, &incoming).await {
            Ok(()) => {
                self.blocking(move |store| {
                    if let Some(found) = store.admit(&mut store.known(), &digest, &asker)? {
                        return Ok(found);
                    }
                    let (bytes, disk_bytes) = unpack(&from, &manifest, &config, store.owner)?;
                    store.keep_within(disk_bytes)?;
                    store.publish(&from.join(WHOLE), (&digest, &asker), (bytes, began.elapsed()))
                })
                .await
            }
            Err(error) => Err(error),
        };
        self.blocking(move |_| {
            if let Err(error) = sandbox::discard(&incoming) {
                tracing::warn!("`{}` could not be removed: {error}", incoming.display());
            }
            Ok(())
        })
        .await?;
        made
    }

    /// The image that is here, if it came from that registry once and that shows each of its layers to this one as well. Of
    /// another registry, which may say what it likes, the layers themselves are wanted.
    async fn shown(
        self: &Arc<Self>,
        (reference, who): Origin<'_>,
        manifest: &Manifest,
        digest: &Digest,
    ) -> Result<Option<Arc<Unpacked>>, ImageError> {
        let (asker, digest) = (Asker::of(reference, who), digest.clone());
        let (known, place) = (asker.clone(), self.place(&digest));
        if !self.blocking(move |_| Ok(known.names_registry_of(&place))).await? {
            return Ok(None);
        }
        for layer in &manifest.layers {
            self.images.registry.shows(reference, layer, who).await?;
        }
        self.blocking(move |store| store.admit(&mut store.known(), &digest, &asker))
            .await
    }

    /// Gives a whole image its name. Nobody removes one meanwhile; one that is there already is as good.
    fn publish(
        &self,
        whole: &Path,
        (digest, asker): (&Digest, &Asker),
        fetched: (u64, Duration),
    ) -> Result<Arc<Unpacked>, ImageError> {
        let mut known = self.known();
        if let Some(found) = self.admit(&mut known, digest, asker)? {
            return Ok(found);
        }
        asker.note(whole).map_err(|error| disk(&error))?;
        let place = self.place(digest);
        // What has the name and is no image.
        self.put_aside(digest.hex()).map_err(|error| disk(&error))?;
        fs::rename(whole, &place).map_err(|error| disk(&error))?;
        let found = load(&place, Some(fetched));
        let found = Arc::new(found.ok_or_else(|| ImageError::Disk("an image is gone again".to_owned()))?);
        known.ready.insert(digest.clone(), Arc::clone(&found));
        Ok(found)
    }

    /// Fetches the layers into files named by their place.
    async fn layers(&self, from: Origin<'_>, manifest: &Manifest, into: &Path) -> Result<(), ImageError> {
        let layers = manifest.layers.iter().enumerate();
        let fetches: Vec<BoxFuture<'_, Result<(), ImageError>>> = layers
            .map(|(at, layer)| self.layer(from, layer, into.join(at.to_string())).boxed())
            .collect();
        let fetched = futures::stream::iter(fetches).buffer_unordered(LAYERS_AT_ONCE);
        fetched.try_collect().await
    }

    async fn layer(&self, (reference, who): Origin<'_>, layer: &Blob, into: PathBuf) -> Result<(), ImageError> {
        let mut file = tokio::fs::File::create_new(into).await.map_err(|error| disk(&error))?;
        let room = || match self.free()? < BOUNDS.free_bytes {
            true => Err(ImageError::Disk("the disk is nearly full".to_owned())),
            false => Ok(()),
        };
        self.images
            .registry
            .blob(reference, layer, who, (&mut file, &room))
            .await
    }

    /// Removes images that nobody uses: those unused for long, then as many as it takes for layers of `wanted` bytes.
    fn make_room(&self, wanted: u64) -> Result<(), ImageError> {
        let unpacked = BOUNDS.free_bytes.saturating_add(wanted.saturating_mul(UNPACKED_TIMES));
        let used = self
            .remove(|idle, so_far| Ok(idle.unused >= UNUSED_MAX || self.free()?.saturating_add(so_far) < unpacked))?;
        if used > self.disk_bytes()? / USED_PART {
            return Err(ImageError::Disk(format!(
                "images that run now take {used} bytes, as much of the disk as they may: it is tried again"
            )));
        }
        if self.free()? < BOUNDS.free_bytes.saturating_add(wanted) {
            return Err(ImageError::Disk(format!(
                "there is no room for an image whose layers have {wanted} bytes"
            )));
        }
        Ok(())
    }

    /// Removes images that nobody uses until all of them, with the `wanted` bytes of a new one, are within the bound.
    fn keep_within(&self, wanted: u64) -> Result<(), ImageError> {
        let most = KEPT_BYTES.min(self.disk_bytes()? / KEPT_PART);
        let mut all = wanted.saturating_add(self.kept().map_err(|error| disk(&error))?);
        self.remove(|idle, _| {
            let much = all > most;
            all = all.saturating_sub(if much { idle.bytes } else { 0 });
            Ok(much)
        })?;
        Ok(())
    }

    /// Removes images that nobody uses, unused for longest first, while `goes` says so, which is told the bytes that went
    /// before. Answers the bytes of those in use. They change their names under the lock, and are deleted without it.
    fn remove(&self, mut goes: impl FnMut(&Idle, u64) -> Result<bool, ImageError>) -> Result<u64, ImageError> {
        let mut gone = Vec::new();
        let used = {
            let mut known = self.known();
            let (mut idle, used) = self.idle(&known).map_err(|error| disk(&error))?;
            idle.sort_by_key(|image| std::cmp::Reverse(image.unused));
            let mut so_far = 0;
            for image in idle {
                if !goes(&image, so_far)? {
                    break;
                }
                known.ready.retain(|digest, _| digest.hex() != image.name);
                gone.extend(self.put_aside(&image.name).map_err(|error| disk(&error))?);
                so_far += image.bytes;
                let (name, unused) = (image.name, image.unused.as_secs());
                tracing::info!("removed the image {name}, which was not used for {unused} s");
            }
            used
        };
        for path in gone {
            sandbox::discard(&path).map_err(|error| disk(&error))?;
        }
        Ok(used)
    }

    /// Another name at once: what is left of it is no image. Answers that name, if there was something.
    fn put_aside(&self, name: &str) -> io::Result<Option<PathBuf>> {
        let number = self.removed.fetch_add(1, Ordering::Relaxed);
        let to = self.directory.join(INCOMING).join(format!("old-{number}-{name}"));
        match fs::rename(self.directory.join(name), &to) {
            Ok(()) => Ok(Some(to)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Images that no run uses, and the bytes of the others.
    fn idle(&self, known: &Known) -> io::Result<(Vec<Idle>, u64)> {
        let (mut idle, mut used_bytes) = (Vec::new(), 0);
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let Ok(config) = fs::metadata(entry.path().join(CONFIG)) else {
                continue;
            };
            let bytes = kept_bytes(&entry.path());
            let used = known
                .ready
                .iter()
                .any(|(digest, image)| digest.hex() == name && Arc::strong_count(image) > 1);
            if used {
                used_bytes += bytes;
                continue;
            }
            let unused = config.modified()?.elapsed().unwrap_or_default();
            idle.push(Idle { name, unused, bytes });
        }
        Ok((idle, used_bytes))
    }

    /// Bytes of all images here.
    fn kept(&self) -> io::Result<u64> {
        let mut all = 0;
        for entry in fs::read_dir(&self.directory)? {
            all += kept_bytes(&entry?.path());
        }
        Ok(all)
    }

    fn free(&self) -> Result<u64, ImageError> {
        let found = statvfs(&self.directory).map_err(|errno| disk(&errno.into()))?;
        Ok(found.blocks_available().saturating_mul(found.fragment_size()))
    }

    fn disk_bytes(&self) -> Result<u64, ImageError> {
        let found = statvfs(&self.directory).map_err(|errno| disk(&errno.into()))?;
        Ok(found.blocks().saturating_mul(found.fragment_size()))
    }
}

impl Known {
    /// Remembers how a fetch ended.
    fn note(&mut self, asked: Asked, error: Option<&ImageError>) {
        let before = self.failed.remove(&asked).map_or(0, |failed| failed.times);
        let Some(error) = error.cloned() else { return };
        if self.failed.len() >= FAILURES_MAX {
            self.failed.clear();
        }
        let pause = match error.may_pass() {
            true => PAUSE_LEAST.saturating_mul(1 << before.min(16)).min(PAUSE_MOST),
            false => HOPELESS_FOR,
        };
        let failed = Failed {
            error,
            until: Instant::now() + pause,
            times: before + 1,
        };
        self.failed.insert(asked, failed);
    }
}

/// Bytes of the layers, as the manifest says.
fn bytes_of(manifest: &Manifest) -> Result<u64, ImageError> {
    let mut layers = manifest.layers.iter();
    let sum = layers.try_fold(0_u64, |sum, layer| sum.checked_add(layer.size));
    sum.filter(|sum| *sum <= BOUNDS.bytes).ok_or_else(|| {
        let most = BOUNDS.bytes;
        ImageError::Unfit(format!("the layers of the image have more than {most} bytes"))
    })
}

fn kept_bytes(place: &Path) -> u64 {
    let text = fs::read_to_string(place.join(BYTES)).unwrap_or_default();
    text.parse().unwrap_or(0)
}

/// Unpacks the layers that lie in `from` beside them. Answers the bytes of the layers and those on the disk.
fn unpack(
    from: &Path,
    manifest: &Manifest,
    config: &[u8],
    owner: Option<(u32, u32)>,
) -> Result<(u64, u64), ImageError> {
    let whole = from.join(WHOLE);
    fs::create_dir(&whole).map_err(|error| disk(&error))?;
    let diff_ids = ImageSettings::parse(config)?.diff_ids(manifest.layers.len())?;
    let rootfs = whole.join(ROOTFS);
    let mut unpacking = Unpacking::begin(&rootfs, owner, BOUNDS)?;
    for (at, diff_id) in diff_ids.iter().enumerate() {
        let layer = from.join(at.to_string());
        unpacking.layer(File::open(&layer).map_err(|error| disk(&error))?, diff_id)?;
        fs::remove_file(&layer).map_err(|error| disk(&error))?;
    }
    sandbox::prepare_rootfs(&rootfs, owner).map_err(|error| disk(&error))?;
    let bytes = unpacking.disk_bytes();
    fs::write(whole.join(BYTES), bytes.to_string()).map_err(|error| disk(&error))?;
    fs::write(whole.join(CONFIG), config).map_err(|error| disk(&error))?;
    // Before it has its name: one that has is whole after a power failure too.
    let directory = File::open(&whole).map_err(|error| disk(&error))?;
    nix::unistd::syncfs(&directory).map_err(|errno| disk(&errno.into()))?;
    Ok((unpacking.bytes(), bytes))
}

fn load(place: &Path, fetched: Option<(u64, Duration)>) -> Option<Unpacked> {
    let config = fs::read(place.join(CONFIG)).ok()?;
    let rootfs = place.join(ROOTFS);
    Some(Unpacked {
        settings: ImageSettings::parse(&config).ok()?,
        passwd: read_inside(&rootfs, "etc/passwd", USERS_BYTES_MAX),
        group: read_inside(&rootfs, "etc/group", USERS_BYTES_MAX),
        rootfs,
        fetched,
    })
}

/// Notes that it is used now; only the order of removal depends on it.
fn touch(config: &Path) {
    if let Ok(file) = File::open(config) {
        let _ = futimens(&file, &TimeSpec::UTIME_NOW, &TimeSpec::UTIME_NOW);
    }
}

fn disk(error: &io::Error) -> ImageError {
    ImageError::Disk(format!("an image could not be kept: {error}"))
}
