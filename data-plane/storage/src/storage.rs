//! The entry point: a store with its caches, and every operation on trees and files.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use futures::stream::BoxStream;
use moka::sync::Cache;
use packs::PACK_BYTES_MAX;
use tokio::sync::{Semaphore, watch};

use crate::buffer::{Pool, Readers};
use crate::collect::{Marking, PackInfo};
use crate::digest::Digest;
use crate::entry::{BlockRef, FileEntry};
use crate::error::{Result, StorageError};
use crate::extents::Block;
use crate::forward::{self, Forward};
use crate::location::{Location, PackRef};
use crate::path::FilePath;
use crate::slot::{PackSlot, SlotBytes};
use crate::store::Store;
use crate::tree::node::Node;
use crate::tree::{self, Change, DirectoryEntry, Finding, Names, SubtreeSummary, TreeChange, TreeRef};
use crate::writer::Writer;
use crate::{batch, reader};

/// Limits of a [`Storage`].
#[derive(Debug, Clone)]
pub struct Options {
    /// Memory for decoded tree nodes and extent blocks, in bytes.
    pub cache_bytes: u64,
    /// A pack is sealed when it reaches this size; at most 64 MiB.
    pub pack_bytes: usize,
    /// The bytes of so many full packs may wait for the disk or the object store; writers wait when there are more.
    pub packs_in_flight: usize,
    /// Random bytes of this process: sessions that are salted with them write packs that no other session writes, which
    /// is what lets them take packs back ([`Writer::discard`]). `None`: equal content makes equal packs.
    pub seed: Option<[u8; 32]>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cache_bytes: 48 << 20,
            pack_bytes: 24 << 20,
            packs_in_flight: 2,
            seed: None,
        }
    }
}

/// Nodes that a check needs again while it walks one tree.
const CHECK_CACHE_BYTES: u64 = 8 << 20;
/// Memory for what says where bytes of repacked packs are.
const FORWARDS_BYTES_MAX: u64 = 8 << 20;
/// So many damaged packs are remembered; when there are more, restoring is the remedy.
const SUSPECTS_MAX: usize = 10_000;
/// What one permit to upload stands for.
pub(crate) const UPLOAD_UNIT_BYTES: usize = 1 << 20;
const PACK_BYTES_MIN: usize = 64 << 10;

/// Versioned storage over a [`Store`]. Cheap to clone.
#[derive(Clone)]
pub struct Storage {
    pub(crate) shared: Arc<Shared>,
}

/// What all operations and write sessions of a storage share.
pub(crate) struct Shared {
    pub(crate) store: Store,
    pub(crate) options: Options,
    cache: Cache<(Digest, u32), Cached>,
    subtrees: Cache<(Digest, Option<FilePath>), Option<SubtreeSummary>>,
    /// Where bytes of repacked packs are, as far as anybody asked.
    forwards: Cache<Digest, Arc<Forward>>,
    /// Bytes of sealed packs that are still in memory.
    pub(crate) unsettled: watch::Sender<usize>,
    /// How much may be on its way to the store at once, in units of [`UPLOAD_UNIT_BYTES`]: few large packs or many
    /// small ones.
    pub(crate) uploads: Semaphore,
    pub(crate) pool: Arc<Pool>,
    pub(crate) readers: Arc<Readers>,
    /// Sealed packs that are not durable yet: records that refer to them by name can be read already.
    in_flight: Mutex<HashMap<Digest, Arc<PackSlot>>>,
    /// Packs that were found damaged or missing: what lies in them is not reused, so that putting a file again heals it.
    suspects: Arc<Mutex<HashSet<Digest>>>,
    sessions: AtomicU64,
}

#[derive(Clone)]
enum Cached {
    Node(Arc<Node>),
    Block(Arc<Block>),
}

impl Cached {
    fn weight(&self) -> u32 {
        let bytes = match self {
            Self::Node(node) => node.weight(),
            Self::Block(block) => block.weight(),
        };
        u32::try_from(bytes + 128).unwrap_or(u32::MAX)
    }
}

impl Storage {
    /// Opens storage; nothing is read.
    pub fn new(store: Store, options: Options) -> Self {
        Self::open(store, options, Arc::default())
    }

    fn open(store: Store, mut options: Options, suspects: Arc<Mutex<HashSet<Digest>>>) -> Self {
        options.pack_bytes = options.pack_bytes.clamp(PACK_BYTES_MIN, PACK_BYTES_MAX);
        options.packs_in_flight = options.packs_in_flight.max(1);
        let cache = Cache::builder()
            .max_capacity(options.cache_bytes)
            .weigher(|_, cached: &Cached| cached.weight())
            .build();
        let uploads = Semaphore::new(options.packs_in_flight * options.pack_bytes.div_ceil(UPLOAD_UNIT_BYTES));
        let subtrees = Cache::new(20_000);
        let forwards = Cache::builder()
            .max_capacity(FORWARDS_BYTES_MAX)
            .weigher(|_, forward: &Arc<Forward>| u32::try_from(forward.weight()).unwrap_or(u32::MAX))
            .build();
        let unsettled = watch::Sender::new(0);
        let shared = Shared {
            store,
            options,
            cache,
            subtrees,
            forwards,
            unsettled,
            uploads,
            pool: Arc::default(),
            readers: Arc::default(),
            in_flight: Mutex::default(),
            suspects,
            sessions: AtomicU64::new(0),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    pub(crate) fn over(shared: &Arc<Shared>) -> Self {
        Self {
            shared: Arc::clone(shared),
        }
    }

    /// The same store without what this one remembers, in memory or on disk, so that everything is read anew: for checks. What they find damaged
    /// this one knows of too.
    pub fn without_memory(&self) -> Self {
        let options = Options {
            cache_bytes: CHECK_CACHE_BYTES,
            ..self.shared.options.clone()
        };
        Self::open(
            self.shared.store.without_cache(),
            options,
            Arc::clone(&self.shared.suspects),
        )
    }

    /// Begins to find out what is still needed.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn marking(&self) -> Result<Marking> {
        let forwards = self.forwards().await?;
        Ok(Marking::new(self.without_memory().shared, forwards))
    }

    /// All packs that are there, in no order.
    pub fn packs(&self) -> BoxStream<'static, Result<PackInfo>> {
        self.shared.store.list_packs()
    }

    /// Removes a pack; fine if it is not there. Only for one that nothing refers to, and nothing can come to refer to.
    pub async fn remove_pack(&self, id: Digest) -> Result<()> {
        self.shared.store.delete_pack(id).await
    }

    /// Whether a pack is there.
    pub async fn has_pack(&self, id: Digest) -> Result<bool> {
        match self.shared.store.size(id).await {
            Ok(_) => Ok(true),
            Err(StorageError::PackMissing { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// What time it is where the packs are, which need not be what time it is here.
    pub async fn store_time(&self) -> Result<SystemTime> {
        self.shared.store.time().await
    }

    /// Where the packs are.
    pub fn store(&self) -> &Store {
        &self.shared.store
    }

    /// Begins a write session. Must be called inside a Tokio runtime.
    pub fn writer(&self) -> Writer {
        Writer::new(Arc::clone(&self.shared))
    }

    /// One write session's part of `most` bytes, at least `least`: less when there are many sessions at once.
    pub fn part(&self, least: usize, most: usize) -> usize {
        self.shared.pool.part(least, most)
    }

    /// The file at this path.
    pub async fn get(&self, tree: &TreeRef, path: &FilePath) -> Result<Option<FileEntry>> {
        tree::cursor::get(&self.shared, tree, path.as_str()).await
    }

    /// The bytes of a file in this range, clamped to its size. Each chunk is verified before it is yielded.
    pub fn read(&self, file: &FileEntry, range: Range<u64>) -> BoxStream<'static, Result<Bytes>> {
        reader::read(&self.shared, file, range)
    }

    /// Length and digest of each chunk of a file, in order. Of a file that stands in its entry itself: that one.
    pub fn chunks(&self, file: &FileEntry) -> BoxStream<'static, Result<(u32, Digest)>> {
        reader::chunks(&self.shared, file)
    }

    /// The whole file in memory; for small files.
    pub async fn read_all(&self, file: &FileEntry) -> Result<Bytes> {
        let mut parts = self.read(file, 0..file.size);
        let Some(first) = parts.try_next().await? else {
            return Ok(Bytes::new());
        };
        let Some(second) = parts.try_next().await? else {
            return Ok(first);
        };
        let mut all = BytesMut::from(first);
        all.extend_from_slice(&second);
        while let Some(part) = parts.try_next().await? {
            all.extend_from_slice(&part);
        }
        Ok(all.freeze())
    }

    /// The whole contents of many small files, each with its index in `files`, in whatever order reads fastest: files
    /// that were stored together are fetched together. Hold each until it is used, so mind the sum of their sizes.
    pub fn read_many(&self, files: Vec<FileEntry>) -> BoxStream<'static, Result<(usize, Bytes)>> {
        batch::read_many(&self.shared, files)
    }

    /// Files in path order: all, or the file `prefix`, or what lies below the directory `prefix`; only those behind
    /// `after`.
    pub fn list(
        &self,
        tree: &TreeRef,
        prefix: Option<&FilePath>,
        after: Option<&FilePath>,
    ) -> BoxStream<'static, Result<(FilePath, FileEntry)>> {
        tree::cursor::list(&self.shared, tree, prefix, after)
    }

    /// The files and directories right in a directory (`None`: the root) that come behind the name `after`, at most
    /// `limit`. In path order, in which a directory counts as its name with `/` behind. Costs seeks, not scans.
    pub async fn list_directory(
        &self,
        tree: &TreeRef,
        directory: Option<&FilePath>,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<DirectoryEntry>> {
        let names = Names { after, beginning: "" };
        self.list_names(tree, directory, names, limit).await
    }

    /// The files and directories right in a directory (`None`: the root) that have these names, at most `limit`. In path
    /// order, in which a directory counts as its name with `/` behind. Costs seeks, not scans: neither what is below a
    /// directory nor names that are not wanted are walked over.
    pub async fn list_names(
        &self,
        tree: &TreeRef,
        directory: Option<&FilePath>,
        names: Names<'_>,
        limit: usize,
    ) -> Result<Vec<DirectoryEntry>> {
        tree::directory::list(&self.shared, tree, directory, names, limit).await
    }

    /// Whether a path is a file or a directory; `None` if nothing is there.
    pub async fn kind(&self, tree: &TreeRef, path: &FilePath) -> Result<Option<tree::EntryKind>> {
        tree::directory::kind(&self.shared, tree, path).await
    }

    /// How many files lie below a directory (`None`: in the tree), and the sum of their sizes. Costs two seeks.
    pub async fn directory_size(&self, tree: &TreeRef, directory: Option<&FilePath>) -> Result<(u64, u64)> {
        match directory {
            None => Ok((tree.files(), tree.bytes())),
            Some(directory) => tree::directory::size(&self.shared, tree, directory).await,
        }
    }

    /// Digest, size and count of a file, of everything below a directory, or (`None`) of the whole tree; `None` if
    /// nothing is there. A directory is scanned once per tree; answers are remembered.
    pub async fn subtree_digest(&self, tree: &TreeRef, path: Option<&FilePath>) -> Result<Option<SubtreeSummary>> {
        let key = (tree.digest(), path.cloned());
        if let Some(known) = self.shared.subtrees.get(&key) {
            return Ok(known);
        }
        let summary = tree::directory::summary(&self.shared, tree, path).await?;
        self.shared.subtrees.insert(key, summary);
        Ok(summary)
    }

    /// What differs, in path order. Reads only nodes that differ.
    pub fn diff(&self, a: &TreeRef, b: &TreeRef) -> BoxStream<'static, Result<Change>> {
        tree::diff::diff(&self.shared, a, b)
    }

    /// The tree after these changes, in order, later ones win. Costs are proportional to the changes (and to the files
    /// in deleted directories). Nodes are written through `writer`: flush it before storing the tree's reference.
    pub async fn apply(&self, writer: &Writer, base: &TreeRef, changes: Vec<TreeChange>) -> Result<TreeRef> {
        tree::change::apply(&self.shared, writer, base, changes).await
    }

    /// The digest that a tree of exactly these files would have, computed without reading or writing.
    pub fn digest_of(&self, files: &std::collections::BTreeMap<FilePath, FileEntry>) -> Digest {
        tree::build::digest_of(files)
    }

    /// Checks everything reachable from a durable tree and says what is wrong; `deep` reads all content as well.
    pub async fn verify(&self, tree: &TreeRef, deep: bool) -> Result<Vec<Finding>> {
        tree::verify::verify(&self.shared, tree, deep).await
    }

    /// The same of files that are in no tree.
    pub async fn verify_files(&self, files: &[(FilePath, FileEntry)], deep: bool) -> Result<Vec<Finding>> {
        tree::verify::verify_files(&self.shared, files, deep).await
    }
}

impl Shared {
    /// The stored bytes at a location, wherever they are now. Not verified.
    pub(crate) async fn bytes(&self, location: &Location) -> Result<Bytes> {
        let id = match &location.pack {
            PackRef::Stored(id) => *id,
            PackRef::Written(slot) => match slot.read(location.offset, location.length)? {
                SlotBytes::Memory(bytes) => return Ok(bytes),
                SlotBytes::Stored(id) => id,
            },
        };
        if location.length == 0 {
            return Ok(Bytes::new());
        }
        self.range(id, location.offset(), location.end()).await
    }

    /// What makes the packs of the next session unlike those of any other.
    pub(crate) fn salt(&self) -> Option<Digest> {
        let seed = self.options.seed?;
        let serial = self.sessions.fetch_add(1, Ordering::Relaxed);
        let mut hasher = blake3::Hasher::new_keyed(&seed);
        hasher.update(&serial.to_le_bytes());
        Some(hasher.finalize().into())
    }

    /// Whether bytes of this pack were found damaged or missing.
    pub(crate) fn is_suspect(&self, location: &Location) -> bool {
        self.has_suspects() && location.pack().is_some_and(|id| self.is_suspect_pack(&id))
    }

    /// The same of a pack by its name.
    pub(crate) fn is_suspect_pack(&self, id: &Digest) -> bool {
        self.suspects().contains(id)
    }

    /// Whether damage was found at all.
    pub(crate) fn has_suspects(&self) -> bool {
        !self.suspects().is_empty()
    }

    pub(crate) fn suspect(&self, pack: Digest) {
        let mut suspects = self.suspects();
        if suspects.len() < SUSPECTS_MAX {
            suspects.insert(pack);
        }
    }

    /// A pack was made whole.
    pub(crate) fn pardon(&self, pack: Digest) {
        self.suspects().remove(&pack);
    }

    fn suspects(&self) -> MutexGuard<'_, HashSet<Digest>> {
        self.suspects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of a pack by its name: from memory while it is on its way, else from the store. Not verified.
    pub(crate) async fn range(&self, id: Digest, from: u64, to: u64) -> Result<Bytes> {
        let in_flight = self.in_flight().get(&id).cloned();
        if let Some(slot) = in_flight
            && let (Ok(offset), Ok(length)) = (u32::try_from(from), u32::try_from(to - from))
            && let SlotBytes::Memory(bytes) = slot.read(offset, length)?
        {
            return Ok(bytes);
        }
        let read = self.stored(id, from, to).await;
        if read.as_ref().is_err_and(StorageError::is_damage) {
            self.suspect(id);
        }
        read
    }

    /// Bytes of a stored pack, or of those that hold them since it was repacked.
    async fn stored(&self, id: Digest, from: u64, to: u64) -> Result<Bytes> {
        if let Some(forward) = self.forwards.get(&id)
            && forward.has_all(from, to)
        {
            match self.through(&forward, id, from, to, false).await {
                Err(error) if error.is_damage() => {}
                read => return read,
            }
        }
        match self.store.get_range(id, from, to).await {
            Err(error) if error.is_damage() => {
                // What is known of its forward may have been replaced since, or not be about all of this.
                self.forget_forward(id);
                match self.forward(id).await? {
                    Some(forward) => self.through(&forward, id, from, to, true).await,
                    None => Err(error),
                }
            }
            read => read,
        }
    }

    /// The forward of a pack, if it has one.
    pub(crate) async fn forward(&self, id: Digest) -> Result<Option<Arc<Forward>>> {
        if let Some(known) = self.forwards.get(&id) {
            return Ok(Some(known));
        }
        let found = self.read_forward(id).await?.map(Arc::new);
        if let Some(forward) = &found {
            self.forwards.insert(id, Arc::clone(forward));
        }
        Ok(found)
    }

    pub(crate) fn forget_forward(&self, id: Digest) {
        self.forwards.invalidate(&id);
    }

    /// Bytes of a pack from where its forward says they are. With `gaps`, what lies between the pieces that are asked for
    /// may be gone: it is zeros, which who does ask for it finds not to be what its digest says.
    async fn through(&self, forward: &Forward, id: Digest, from: u64, to: u64, gaps: bool) -> Result<Bytes> {
        let missing = || StorageError::PackMissing { pack: id };
        let (begin, end) = (
            u32::try_from(from).map_err(|_| missing())?,
            u32::try_from(to).map_err(|_| missing())?,
        );
        let parts = forward.parts(begin, end);
        let read = |part: forward::Part| {
            let at = u64::from(part.offset);
            self.store.get_range(part.pack, at, at + u64::from(part.length))
        };
        if let [part] = &parts[..]
            && part.length == end - begin
        {
            return read(*part).await;
        }
        let mut all = BytesMut::zeroed((end - begin) as usize);
        let mut found = Err(missing());
        for part in parts {
            match read(part).await {
                Ok(bytes) => {
                    let inside = (part.from - begin) as usize;
                    all[inside..inside + bytes.len()].copy_from_slice(&bytes);
                    found = Ok(());
                }
                Err(StorageError::PackMissing { .. }) if gaps => {}
                Err(error) => return Err(error),
            }
        }
        found.map(|()| all.freeze())
    }

    pub(crate) fn in_flight(&self) -> MutexGuard<'_, HashMap<Digest, Arc<PackSlot>>> {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node, from the cache or from its pack; verified against the digest its parent knows.
    pub(crate) async fn node(&self, location: &Location, digest: Digest) -> Result<Arc<Node>> {
        if let Some(node) = self.cached_node(location) {
            return self.checked(node, location, digest);
        }
        let bytes = self.bytes(location).await?;
        self.take_node(location, digest, &bytes)
    }

    /// Decodes, verifies and remembers a node whose bytes have been fetched.
    pub(crate) fn take_node(&self, location: &Location, digest: Digest, bytes: &[u8]) -> Result<Arc<Node>> {
        let node = Node::decode(bytes, &location.pack).map_err(|error| self.corrupt(location, &error.0))?;
        let node = self.checked(Arc::new(node), location, digest)?;
        self.remember_node(location, &node);
        Ok(node)
    }

    fn checked(&self, node: Arc<Node>, location: &Location, digest: Digest) -> Result<Arc<Node>> {
        if node.digest == digest {
            Ok(node)
        } else {
            Err(self.corrupt(location, "a node does not match its digest"))
        }
    }

    pub(crate) fn cached_node(&self, location: &Location) -> Option<Arc<Node>> {
        match self.cache.get(&cache_key(location)) {
            Some(Cached::Node(node)) => Some(node),
            _ => None,
        }
    }

    pub(crate) fn remember_node(&self, location: &Location, node: &Arc<Node>) {
        self.cache.insert(cache_key(location), Cached::Node(Arc::clone(node)));
    }

    /// An extent block, verified.
    pub(crate) async fn block(&self, block: &BlockRef) -> Result<Arc<Block>> {
        let key = cache_key(&block.location);
        if let Some(Cached::Block(known)) = self.cache.get(&key) {
            return Ok(known);
        }
        let bytes = self.bytes(&block.location).await?;
        if Digest::of(&bytes) != block.digest {
            return Err(self.corrupt(&block.location, "an extent block does not match its digest"));
        }
        let decoded = Block::decode(&bytes, block.height, &block.location.pack)
            .map_err(|error| self.corrupt(&block.location, &error.0))?;
        let decoded = Arc::new(decoded);
        self.cache.insert(key, Cached::Block(Arc::clone(&decoded)));
        Ok(decoded)
    }

    /// The error for bytes that are not what they should be.
    pub(crate) fn corrupt(&self, location: &Location, what: &str) -> StorageError {
        let pack = location.pack().unwrap_or_default();
        self.store.forget(pack);
        self.suspect(pack);
        StorageError::Corrupt {
            pack,
            offset: location.offset(),
            what: what.to_owned(),
        }
    }
}

fn cache_key(location: &Location) -> (Digest, u32) {
    let pack = match &location.pack {
        PackRef::Stored(id) => *id,
        PackRef::Written(slot) => slot.cache_key(),
    };
    (pack, location.offset)
}
