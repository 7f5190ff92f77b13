//! What a write session shares between its tasks: the open pack, the packs on their way, and what
//! has been stored lately. Full packs are sealed and written in the background while the next fills.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::runtime::Handle;

use crate::buffer::Frozen;
use crate::digest::Digest;
use crate::entry::{BlockRef, Extent};
use crate::error::{Result, StorageError};
use crate::index;
use crate::location::{Location, PackRef};
use crate::pack::PieceKind;
use crate::samples::{FindPacks, PackSamples, Samples};
use crate::slot::PackSlot;
use crate::storage::{Shared, UPLOAD_UNIT_BYTES};
use crate::writer::WriteReport;

/// A generation of the window of known chunks; two are kept: about 25 MiB at most.
const WINDOW_CHUNKS: usize = 1 << 17;
/// So many blocks of extents are remembered: those of some 100 GiB.
const BLOCKS_MAX: usize = 1 << 12;
/// What a session writes after so many bytes is not worth keeping in this machine's page cache.
const BULK_BYTES: u64 = 256 << 20;
const WINDOW_CHUNKS_MIN: usize = 1 << 12;
const PACK_BYTES_MIN: usize = 512 << 10;
/// The indexes of so many packs are read for one batch of samples.
const FOUND_PACKS_MAX: usize = 8;

static SESSIONS: AtomicUsize = AtomicUsize::new(0);

/// One write session.
pub(crate) struct Session {
    pub(crate) shared: Arc<Shared>,
    id: usize,
    salt: Option<Digest>,
    runtime: Handle,
    state: Mutex<State>,
    /// Held while flushing: whoever comes meanwhile is flushed together with the next one.
    flushing: tokio::sync::Mutex<()>,
    find: OnceLock<FindPacks>,
    /// Held while packs are looked for: whoever comes meanwhile may need what is being learned.
    finding: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    open: Option<Arc<PackSlot>>,
    waiting: Vec<Arc<PackSlot>>,
    /// The pack sealed last, which the next one may refer to.
    sealed: Option<Arc<PackSlot>>,
    known: Window,
    /// Blocks of extents by what they hold.
    blocks: HashMap<Digest, BlockRef>,
    /// Names of all packs that were sealed.
    packs: Vec<Digest>,
    samples: Samples,
    report: WriteReport,
    failed: Option<StorageError>,
}

/// Chunks seen lately; bounded by forgetting the older half.
#[derive(Default)]
struct Window {
    young: HashMap<Digest, Location>,
    old: HashMap<Digest, Location>,
}

impl Window {
    fn get(&self, digest: &Digest) -> Option<&Location> {
        self.young.get(digest).or_else(|| self.old.get(digest))
    }

    fn insert(&mut self, digest: Digest, location: Location, most: usize) {
        if self.young.len() >= most {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(digest, location);
    }
}

impl Session {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        shared.pool.enter();
        Self {
            salt: shared.salt(),
            shared,
            id: SESSIONS.fetch_add(1, Ordering::Relaxed),
            runtime: Handle::current(),
            state: Mutex::default(),
            flushing: tokio::sync::Mutex::default(),
            find: OnceLock::new(),
            finding: tokio::sync::Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic between the lines of a short section below leaves at most a piece that nothing refers to.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores a chunk of a file, or finds that it is stored already.
    pub(crate) fn chunk(&self, digest: Digest, bytes: &[u8]) -> Result<Extent> {
        self.chunk_into(&mut self.state(), digest, bytes)
    }

    /// Stores chunks one behind the other, with nothing of others between them: what belongs together is read together.
    pub(crate) fn chunks<'b>(&self, chunks: impl Iterator<Item = (Digest, &'b [u8])>) -> Result<Vec<Extent>> {
        let mut state = self.state();
        chunks
            .map(|(digest, bytes)| self.chunk_into(&mut state, digest, bytes))
            .collect()
    }

    fn chunk_into(&self, state: &mut State, digest: Digest, bytes: &[u8]) -> Result<Extent> {
        if self.finds() {
            state.samples.ask(&digest);
        }
        if let Some(location) = state.known.get(&digest)
            && location.length as usize == bytes.len()
        {
            let location = location.clone();
            state.report.bytes_deduplicated += bytes.len() as u64;
            return Ok(Extent { location, digest });
        }
        let location = self
            .append(state, PieceKind::Chunk, bytes.len(), |_| Ok((bytes, digest)))?
            .0;
        state.samples.stored(&digest);
        state.report.bytes_new += bytes.len() as u64;
        state.known.insert(digest, location.clone(), self.window_chunks());
        Ok(Extent { location, digest })
    }

    /// Stores a piece of another pack as it is.
    pub(crate) fn piece(&self, kind: PieceKind, digest: Digest, bytes: &[u8]) -> Result<Location> {
        let appended = self.append(&mut self.state(), kind, bytes.len(), |_| Ok((bytes, digest)));
        appended.map(|(location, _)| location)
    }

    /// Stores a record that refers to other pieces; `encode` learns which pack it will lie in.
    pub(crate) fn record(
        &self,
        kind: PieceKind,
        encode: impl FnOnce(&PackSlot) -> Result<(Vec<u8>, Digest)>,
    ) -> Result<(Location, Digest)> {
        let mut state = self.state();
        self.append(&mut state, kind, 64 << 10, encode)
    }

    fn append<B: AsRef<[u8]>>(
        &self,
        state: &mut State,
        kind: PieceKind,
        room: usize,
        encode: impl FnOnce(&PackSlot) -> Result<(B, Digest)>,
    ) -> Result<(Location, Digest)> {
        if let Some(error) = &state.failed {
            return Err(error.clone());
        }
        let full = state
            .open
            .as_ref()
            .is_some_and(|slot| slot.len() + room > self.pack_bytes());
        if full {
            self.seal(state);
            state.waiting.retain(|slot| !slot.is_durable());
            if let Some(error) = state.waiting.iter().find_map(|slot| slot.failure()) {
                state.failed = Some(error.clone());
                return Err(error);
            }
        }
        let slot = state
            .open
            .get_or_insert_with(|| Arc::new(PackSlot::new(self.id, &self.shared.pool, self.salt)));
        let (bytes, digest) = encode(slot)?;
        let bytes = bytes.as_ref();
        let offset = slot.append(kind, digest, bytes)?;
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        Ok((
            Location {
                pack: PackRef::Written(Arc::clone(slot)),
                offset,
                length,
            },
            digest,
        ))
    }

    /// Many sessions at once fill smaller packs, so that they do not fill the memory.
    fn pack_bytes(&self) -> usize {
        self.shared.pool.part(PACK_BYTES_MIN, self.shared.options.pack_bytes)
    }

    fn window_chunks(&self) -> usize {
        self.shared.pool.part(WINDOW_CHUNKS_MIN, WINDOW_CHUNKS)
    }

    /// Closes the open pack, if there is one, and starts writing it.
    fn seal(&self, state: &mut State) {
        let Some(slot) = state.open.take() else { return };
        let Some((id, bytes)) = slot.seal(self.shared.store.key()) else {
            return;
        };
        self.shared.in_flight().insert(id, Arc::clone(&slot));
        state.report.packs += 1;
        state.packs.push(id);
        state.samples.sealed(id);
        state.waiting.push(Arc::clone(&slot));
        self.shared.unsettled.send_modify(|held| *held += bytes.len());
        let previous = state.sealed.replace(Arc::clone(&slot));
        let upload = Upload {
            shared: Arc::clone(&self.shared),
            id,
            length: bytes.len(),
            bulk: state.report.bytes_new > BULK_BYTES,
            slot,
            previous,
            outcome: None,
        };
        self.runtime.spawn(upload.run(bytes));
    }

    /// Waits while too many packs are on their way.
    pub(crate) async fn room(&self) {
        let most = self.shared.options.packs_in_flight * self.shared.options.pack_bytes;
        // An error would mean that the sender, which we hold, is gone.
        let _ = self.shared.unsettled.subscribe().wait_for(|held| *held <= most).await;
    }

    /// Lets packs be looked for by samples of what comes; the first who is given finds them.
    pub(crate) fn find_with(&self, find: FindPacks) {
        // A second one knows no other packs.
        let _ = self.find.set(find);
    }

    /// Whether packs are looked for.
    pub(crate) fn finds(&self) -> bool {
        self.find.get().is_some()
    }

    /// Lets these chunks be looked for before they come.
    pub(crate) fn ask<'d>(&self, digests: impl IntoIterator<Item = &'d Digest>) {
        let mut state = self.state();
        digests.into_iter().for_each(|digest| state.samples.ask(digest));
    }

    /// Looks for the packs that may hold the samples that came since the last time, and learns what is in them. A pack
    /// that is not there or is damaged is as good as none.
    pub(crate) async fn find(&self) {
        let Some(find) = self.find.get() else { return };
        let _turn = self.finding.lock().await;
        let asked = self.state().samples.take_asked();
        if asked.is_empty() {
            return;
        }
        let mut read = 0;
        let packs = find(asked).await;
        self.state().samples.answered(!packs.is_empty());
        for pack in packs {
            if read == FOUND_PACKS_MAX {
                return;
            }
            if self.shared.is_suspect_pack(&pack) || !self.state().samples.learned.insert(pack) {
                continue;
            }
            read += 1;
            // What a pack that was repacked had is kept where its forward leads: that may go while the pack is still there.
            if !matches!(self.shared.forward(pack).await, Ok(None)) {
                continue;
            }
            let Ok(pieces) = index::pieces(&self.shared, pack).await else {
                continue;
            };
            let chunks = pieces.into_iter().filter(|(_, piece)| piece.kind == PieceKind::Chunk);
            self.learn(chunks.map(|(offset, piece)| Extent {
                location: Location {
                    pack: PackRef::Stored(pack),
                    offset,
                    length: piece.length,
                },
                digest: piece.digest,
            }));
        }
    }

    /// Samples of all packs that were sealed.
    pub(crate) fn samples(&self) -> Vec<PackSamples> {
        self.state().samples.packs()
    }

    /// Notes chunks that are stored already, in a file that is likely to be similar to what comes.
    pub(crate) fn learn(&self, extents: impl IntoIterator<Item = Extent>) {
        let most = self.window_chunks();
        let mut state = self.state();
        for extent in extents {
            if !self.shared.is_suspect(&extent.location) {
                state.known.insert(extent.digest, extent.location, most);
            }
        }
    }

    /// Notes a block of extents that is stored already.
    pub(crate) fn learn_block(&self, content: Digest, block: BlockRef) {
        let mut state = self.state();
        if state.blocks.len() < BLOCKS_MAX && !self.shared.is_suspect(&block.location) {
            state.blocks.insert(content, block);
        }
    }

    /// A stored block of extents that holds this.
    pub(crate) fn known_block(&self, content: &Digest) -> Option<BlockRef> {
        self.state().blocks.get(content).cloned()
    }

    /// How many bytes are in the pack that is being filled.
    pub(crate) fn open_bytes(&self) -> usize {
        self.state().open.as_ref().map_or(0, |slot| slot.len())
    }

    /// Removes every pack that this session wrote, and lets it write no more. Without a salt they may be somebody else's
    /// too, so they stay.
    pub(crate) async fn discard(&self) -> Result<()> {
        let _turn = self.flushing.lock().await;
        let (waiting, packs) = {
            let mut state = self.state();
            state.open = None;
            state.known = Window::default();
            state.blocks.clear();
            state.failed.get_or_insert(StorageError::Cancelled);
            (std::mem::take(&mut state.waiting), std::mem::take(&mut state.packs))
        };
        for slot in waiting {
            // Whether it arrived or not, it is not on its way any more.
            let _ = slot.settled().await;
        }
        if self.salt.is_none() {
            return Ok(());
        }
        // One that the store does not remove now keeps none of the others, and is tried again by the next call.
        let mut outcome = Ok(());
        for id in packs {
            if let Err(error) = self.shared.store.delete_pack(id).await {
                self.state().packs.push(id);
                outcome = Err(error);
            }
        }
        outcome
    }

    /// Returns when everything that was stored before the call is durable.
    pub(crate) async fn flush(&self) -> Result<WriteReport> {
        let _turn = self.flushing.lock().await;
        self.write_out().await.map(|(report, _)| report)
    }

    /// The same; the packs that are durable now are not taken back any more, and the names of those that were not among an
    /// earlier answer are returned.
    pub(crate) async fn settle(&self) -> Result<Vec<Digest>> {
        let _turn = self.flushing.lock().await;
        let (_, packs) = self.write_out().await?;
        Ok(self.state().packs.drain(..packs).collect())
    }

    /// Writes everything out; answers how many of the packs that may be taken back are durable.
    async fn write_out(&self) -> Result<(WriteReport, usize)> {
        let (waiting, report, packs) = {
            let mut state = self.state();
            if let Some(error) = &state.failed {
                return Err(error.clone());
            }
            self.seal(&mut state);
            (state.waiting.clone(), state.report, state.packs.len())
        };
        for slot in waiting {
            if let Err(error) = slot.settled().await {
                self.state().failed = Some(error.clone());
                return Err(error);
            }
        }
        self.state().waiting.retain(|slot| !slot.is_durable());
        Ok((report, packs))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.shared.pool.leave();
    }
}

/// Settles its slot whatever happens, also when the task dies.
struct Upload {
    shared: Arc<Shared>,
    id: Digest,
    length: usize,
    bulk: bool,
    slot: Arc<PackSlot>,
    previous: Option<Arc<PackSlot>>,
    outcome: Option<Result<()>>,
}

impl Upload {
    async fn run(mut self, bytes: Frozen) {
        // A pack may exceed its nominal size by its index; the last unit is not worth waiting for.
        let most = self.shared.options.packs_in_flight * (self.shared.options.pack_bytes / UPLOAD_UNIT_BYTES).max(1);
        let units = (self.length / UPLOAD_UNIT_BYTES).clamp(1, most);
        let Ok(permit) = self
            .shared
            .uploads
            .acquire_many(u32::try_from(units).unwrap_or(u32::MAX))
            .await
        else {
            return;
        };
        let damaged = self.shared.is_suspect_pack(&self.id);
        let mut outcome = self.shared.store.put_pack(self.id, bytes, damaged, self.bulk).await;
        drop(permit);
        // A pack may refer to earlier ones of its session, so it counts as durable only after them: whoever can store
        // a reference to a root knows that everything below it is safe too.
        if let (Ok(()), Some(previous)) = (&outcome, self.previous.take()) {
            outcome = previous.settled().await;
        }
        self.outcome = Some(outcome);
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.slot
            .settle(self.outcome.take().unwrap_or(Err(StorageError::Cancelled)));
        // Another session may have sealed the same content meanwhile; then its pack stands there.
        let mut in_flight = self.shared.in_flight();
        if in_flight
            .get(&self.id)
            .is_some_and(|slot| Arc::ptr_eq(slot, &self.slot))
        {
            in_flight.remove(&self.id);
        }
        drop(in_flight);
        self.shared.unsettled.send_modify(|held| *held -= self.length);
    }
}
