//! The unpacked images of one machine, `images/<digest>/rootfs`, each fetched once however many datums wait for it. An image
//! is unpacked beside the others and takes its name when it is whole and on the disk, so that a crash leaves nothing half.
//! Those that were not used for long go, and when space is needed those that nobody uses now.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, FutureExt, Shared};
use futures::{StreamExt, TryStreamExt};
use nix::sys::stat::futimens;
use nix::sys::statvfs::statvfs;
use nix::sys::time::TimeSpec;

use super::manifest::{Blob, Manifest};
use super::unpack::{Bounds, Unpacking, read_inside};
use super::users::{self, User};
use super::{Digest, ImageError, ImageReference, ImageSettings, Images};

/// Of one image.
const BOUNDS: Bounds = Bounds {
    bytes: 20 << 30,
    entries: 2_000_000,
    free_bytes: 1 << 30,
};
/// Layers that are fetched at once.
const LAYERS_AT_ONCE: usize = 3;
/// An image that was not used for that long goes when another one comes.
const UNUSED_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// Bytes of a list of users or groups.
const USERS_BYTES_MAX: u64 = 1 << 20;
/// Where images are that are not whole; removed at start.
const INCOMING: &str = "incoming";
const CONFIG: &str = "config.json";
const ROOTFS: &str = "rootfs";

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
}

#[derive(Default)]
struct Known {
    ready: HashMap<Digest, Arc<Unpacked>>,
    fetching: HashMap<Digest, Fetching>,
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
        })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The image, if it is here.
    pub fn ready(&self, digest: &Digest) -> Option<Arc<Unpacked>> {
        let mut known = self.known();
        let place = self.directory.join(digest.hex());
        let found = match known.ready.get(digest) {
            Some(found) => Arc::clone(found),
            None => Arc::new(load(&place, None)?),
        };
        touch(&place.join(CONFIG));
        known.ready.insert(digest.clone(), Arc::clone(&found));
        Some(found)
    }

    /// The image, fetched if it is not here; who asks meanwhile waits for the same. Goes on when nobody waits any more.
    ///
    /// # Errors
    /// Why it could not be fetched; whoever asks next begins anew.
    pub async fn get(
        self: &Arc<Self>,
        reference: &ImageReference,
        digest: &Digest,
    ) -> Result<Arc<Unpacked>, ImageError> {
        if let Some(found) = self.ready(digest) {
            return Ok(found);
        }
        let fetching = {
            let mut known = self.known();
            let begin = || {
                let (store, reference, digest) = (Arc::clone(self), reference.at(digest.clone()), digest.clone());
                let task = tokio::spawn(async move {
                    let fetched = store.fetch(&reference, &digest).await;
                    let mut known = store.known();
                    known.fetching.remove(&digest);
                    if let Ok(found) = &fetched {
                        known.ready.insert(digest, Arc::clone(found));
                    }
                    fetched
                });
                let ended = async {
                    task.await
                        .unwrap_or_else(|error| Err(ImageError::Disk(error.to_string())))
                };
                ended.boxed().shared()
            };
            known.fetching.entry(digest.clone()).or_insert_with(begin).clone()
        };
        fetching.await
    }

    async fn fetch(&self, reference: &ImageReference, digest: &Digest) -> Result<Arc<Unpacked>, ImageError> {
        let began = Instant::now();
        let registry = &self.images.registry;
        let (_, manifest) = registry.manifest(reference, None).await?;
        let config = registry.small_blob(reference, &manifest.config, None).await?;
        self.make_room(manifest.layers.iter().map(|layer| layer.size).sum())?;
        let incoming = self.directory.join(INCOMING).join(digest.hex());
        let made = async {
            sandbox::discard(&incoming)
                .and_then(|()| fs::create_dir(&incoming))
                .map_err(|error| disk(&error))?;
            self.layers(reference, &manifest, &incoming).await?;
            let place = self.directory.join(digest.hex());
            let (owner, from) = (self.owner, incoming.clone());
            let unpacked = tokio::task::spawn_blocking(move || unpack(&from, &manifest, &config, owner, &place)).await;
            unpacked.map_err(|error| ImageError::Disk(error.to_string()))?
        };
        let made = made.await;
        if let Err(error) = sandbox::discard(&incoming) {
            tracing::warn!("`{}` could not be removed: {error}", incoming.display());
        }
        let bytes = made?;
        let found = load(&self.directory.join(digest.hex()), Some((bytes, began.elapsed())));
        found
            .map(Arc::new)
            .ok_or_else(|| ImageError::Disk(format!("`{reference}` is gone again")))
    }

    /// Fetches the layers into files named by their place.
    async fn layers(&self, reference: &ImageReference, manifest: &Manifest, into: &Path) -> Result<(), ImageError> {
        let layers = manifest.layers.iter().enumerate();
        let fetches: Vec<BoxFuture<'_, Result<(), ImageError>>> = layers
            .map(|(at, layer)| self.layer(reference, layer, into.join(at.to_string())).boxed())
            .collect();
        let fetched = futures::stream::iter(fetches).buffer_unordered(LAYERS_AT_ONCE);
        fetched.try_collect().await
    }

    async fn layer(&self, reference: &ImageReference, layer: &Blob, into: PathBuf) -> Result<(), ImageError> {
        let mut file = File::create_new(into).map_err(|error| disk(&error))?;
        self.images.registry.blob(reference, layer, None, &mut file).await
    }

    /// Removes images that nobody uses: those unused for long, then as many as it takes. `wanted` are bytes that come.
    fn make_room(&self, wanted: u64) -> Result<(), ImageError> {
        let mut known = self.known();
        let mut idle = self.idle(&known).map_err(|error| disk(&error))?;
        // Unused for longest first.
        idle.sort_by_key(|(unused, _)| std::cmp::Reverse(*unused));
        for (unused, name) in idle {
            if unused < UNUSED_MAX && self.free()? >= BOUNDS.free_bytes.saturating_add(wanted.saturating_mul(4)) {
                break;
            }
            known.ready.retain(|digest, _| digest.hex() != name);
            // Under another name at once: what is left of it is no image.
            let (from, to) = (
                self.directory.join(&name),
                self.directory.join(INCOMING).join(format!("old-{name}")),
            );
            fs::rename(from, &to)
                .and_then(|()| sandbox::discard(&to))
                .map_err(|error| disk(&error))?;
            tracing::info!(
                "removed the image {name}, which was not used for {} s",
                unused.as_secs()
            );
        }
        if self.free()? < BOUNDS.free_bytes.saturating_add(wanted) {
            return Err(ImageError::Disk(format!(
                "there is no room for an image whose layers have {wanted} bytes"
            )));
        }
        Ok(())
    }

    /// Images that no run uses, with how long ago one did.
    fn idle(&self, known: &Known) -> io::Result<Vec<(Duration, String)>> {
        let mut idle = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let used = known
                .ready
                .iter()
                .any(|(digest, image)| digest.hex() == name && Arc::strong_count(image) > 1);
            let Ok(config) = fs::metadata(entry.path().join(CONFIG)) else {
                continue;
            };
            if !used {
                idle.push((config.modified()?.elapsed().unwrap_or_default(), name));
            }
        }
        Ok(idle)
    }

    fn free(&self) -> Result<u64, ImageError> {
        let found = statvfs(&self.directory).map_err(|errno| disk(&errno.into()))?;
        Ok(found.blocks_available().saturating_mul(found.fragment_size()))
    }
}

/// Unpacks the layers that lie in `from`, and gives the whole its name. Answers its bytes.
fn unpack(
    from: &Path,
    manifest: &Manifest,
    config: &[u8],
    owner: Option<(u32, u32)>,
    place: &Path,
) -> Result<u64, ImageError> {
    let whole = from.join("whole");
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
    fs::write(whole.join(CONFIG), config).map_err(|error| disk(&error))?;
    // Before it has its name: one that has is whole after a power failure too.
    let directory = File::open(&whole).map_err(|error| disk(&error))?;
    nix::unistd::syncfs(&directory).map_err(|errno| disk(&errno.into()))?;
    fs::rename(&whole, place).map_err(|error| disk(&error))?;
    Ok(unpacking.bytes())
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
