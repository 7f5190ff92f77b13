//! The bytes of files, block by block: from memory, else from the disk, else from the service; each block is fetched by
//! one request however many readers wait for it. A request that breaks goes on behind the last whole block.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use super::ahead::{BLOCK, blocks_of, bytes_of};
use super::disk::{Disk, Key};
use super::source::{PAUSE_FIRST, PAUSE_MAX, Refused, Source};
use super::tree::{Digest, File};

/// A request fetches at most so many blocks: several of them are on their way at once.
const RUN_MAX: u64 = 8;
/// Blocks on their way to the disk; when it is slower, they are not kept there.
const TO_DISK: usize = 64;

type Fetched = Option<Result<Bytes, Refused>>;

/// A file to read from.
#[derive(Debug, Clone)]
pub struct Readable {
    /// Its path in the commit.
    pub path: Arc<str>,
    /// What is known of it.
    pub file: File,
}

/// All blocks of a mount.
pub struct Blocks<S> {
    source: Arc<S>,
    memory: moka::sync::Cache<Key, Bytes>,
    disk: Option<Arc<Disk>>,
    to_disk: Option<mpsc::Sender<(Key, Bytes)>>,
    /// What is on its way.
    pending: Mutex<HashMap<Key, watch::Receiver<Fetched>>>,
    /// Nothing is kept or given away: the right to read is gone.
    revoked: Arc<AtomicBool>,
    patience: Duration,
    runtime: Handle,
}

impl<S: Source> Blocks<S> {
    /// Blocks from that source; at most `memory` bytes of them in memory. A request is repeated for as long as `patience`.
    pub fn new(source: Arc<S>, memory: u64, disk: Option<Arc<Disk>>, patience: Duration, runtime: Handle) -> Self {
        let memory = moka::sync::Cache::builder()
            .max_capacity(memory)
            .weigher(|_: &Key, block: &Bytes| u32::try_from(block.len() + 128).unwrap_or(u32::MAX))
            // Else blocks that nobody asked for yet would not be let in beside those that were.
            .eviction_policy(moka::policy::EvictionPolicy::lru())
            .build();
        let revoked = Arc::new(AtomicBool::new(false));
        let to_disk = disk.clone().map(|disk| {
            let revoked = revoked.clone();
            let (sender, mut blocks) = mpsc::channel::<(Key, Bytes)>(TO_DISK);
            runtime.spawn_blocking(move || {
                while let Some((key, block)) = blocks.blocking_recv() {
                    keep(&disk, key, &block, &revoked);
                }
            });
            sender
        });
        Self {
            source,
            memory,
            disk,
            to_disk,
            pending: Mutex::default(),
            revoked,
            patience,
            runtime,
        }
    }

    /// The block if it is in memory.
    pub fn at_hand(&self, file: &File, index: u64) -> Option<Bytes> {
        self.memory.get(&key(file, index))
    }

    /// The block.
    ///
    /// # Errors
    /// What the service refuses, or that it did not answer for too long.
    pub async fn block(self: &Arc<Self>, of: &Readable, index: u64) -> Result<Bytes, Refused> {
        let mut waiting = loop {
            if let Some(block) = self.at_hand(&of.file, index) {
                return Ok(block);
            }
            if let Some(waiting) = self.fetch(of, index..index + 1) {
                break waiting;
            }
        };
        match waiting.wait_for(Option::is_some).await {
            Ok(done) => done.clone().unwrap_or_else(|| Err(gone())),
            Err(_) => {
                self.pending().remove(&key(&of.file, index));
                Err(gone())
            }
        }
    }

    /// Fetches those of these blocks that are not in memory or on their way; answers what to wait for the first one by,
    /// nothing when it is in memory.
    pub fn fetch(self: &Arc<Self>, of: &Readable, blocks: Range<u64>) -> Option<watch::Receiver<Fetched>> {
        let (mut first, start) = (None, blocks.start);
        let mut runs: Vec<(Range<u64>, Vec<watch::Sender<Fetched>>)> = Vec::new();
        {
            let mut pending = self.pending();
            for index in blocks {
                let key = key(&of.file, index);
                if let Some(known) = pending.get(&key) {
                    first = (index == start).then(|| known.clone()).or(first);
                    continue;
                }
                if self.memory.contains_key(&key) {
                    continue;
                }
                let (sender, receiver) = watch::channel(None);
                first = (index == start).then(|| receiver.clone()).or(first);
                pending.insert(key, receiver);
                match runs.last_mut() {
                    Some((run, senders)) if run.end == index && run.end - run.start < RUN_MAX => {
                        run.end += 1;
                        senders.push(sender);
                    }
                    _ => runs.push((index..index + 1, vec![sender])),
                }
            }
        }
        for (run, senders) in runs {
            let (blocks, of) = (self.clone(), of.clone());
            self.runtime
                .spawn(async move { blocks.fetch_run(&of, run, senders).await });
        }
        first
    }

    /// Says whether the right to read is gone. While it is, what is still on its way is neither kept nor given to anybody.
    pub fn set_revoked(&self, revoked: bool) {
        self.revoked.store(revoked, Ordering::SeqCst);
    }

    /// Forgets everything of these files: the right to read them is gone, and that was said before.
    pub fn forget(&self, files: Vec<File>) {
        self.memory.invalidate_all();
        if let Some(disk) = self.disk.clone() {
            self.runtime
                .spawn_blocking(move || files.into_iter().for_each(|file| disk.forget(file)));
        }
    }

    fn pending(&self) -> std::sync::MutexGuard<'_, HashMap<Key, watch::Receiver<Fetched>>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn fetch_run(self: Arc<Self>, of: &Readable, run: Range<u64>, senders: Vec<watch::Sender<Fetched>>) {
        let kept = self.kept(of, run.clone()).await;
        let mut missing: Option<(Range<u64>, Vec<watch::Sender<Fetched>>)> = None;
        for ((index, sender), kept) in run.zip(senders).zip(kept) {
            if let Some(block) = kept {
                self.deliver(of, index, &sender, block, false);
                if let Some((run, senders)) = missing.take() {
                    self.download(of, run, senders).await;
                }
                continue;
            }
            let (run, senders) = missing.get_or_insert((index..index, Vec::new()));
            run.end = index + 1;
            senders.push(sender);
        }
        if let Some((run, senders)) = missing {
            self.download(of, run, senders).await;
        }
    }

    /// What the disk has of these blocks.
    async fn kept(&self, of: &Readable, run: Range<u64>) -> Vec<Option<Bytes>> {
        let Some(disk) = self.disk.clone() else {
            return run.map(|_| None).collect();
        };
        let (file, count) = (of.file, run.end - run.start);
        let read = self.runtime.spawn_blocking(move || {
            let read = run.map(|index| {
                let block = disk.read(key(&file, index))?;
                (block.len() as u64 == length(&file, index)).then_some(block)
            });
            read.collect()
        });
        read.await.unwrap_or_else(|_| (0..count).map(|_| None).collect())
    }

    fn deliver(&self, of: &Readable, index: u64, sender: &watch::Sender<Fetched>, block: Bytes, fresh: bool) {
        let key = key(&of.file, index);
        if self.revoked.load(Ordering::SeqCst) {
            self.pending().remove(&key);
            let _ = sender.send(Some(Err(Refused::Denied("the right to read is gone".into()))));
            return;
        }
        if let Some(to_disk) = self.to_disk.as_ref().filter(|_| fresh) {
            let _ = to_disk.try_send((key, block.clone()));
        }
        // First into the memory, then from the list: whoever does not find it there finds it here.
        self.memory.insert(key, block.clone());
        if self.revoked.load(Ordering::SeqCst) {
            self.memory.invalidate(&key);
        }
        self.pending().remove(&key);
        let _ = sender.send(Some(Ok(block)));
    }

    async fn download(&self, of: &Readable, run: Range<u64>, senders: Vec<watch::Sender<Fetched>>) {
        let mut left = run.clone();
        let mut pause = PAUSE_FIRST;
        let mut progress = Instant::now();
        let failed = loop {
            let before = left.start;
            let done = self.attempt(of, &mut left, &run, &senders).await;
            if left.start > before {
                (progress, pause) = (Instant::now(), PAUSE_FIRST);
            }
            match done {
                Ok(()) => return,
                Err(Refused::Away(_)) if progress.elapsed() + pause < self.patience => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                Err(refused) => break refused,
            }
        };
        for (index, sender) in run.zip(&senders).skip_while(|(index, _)| *index < left.start) {
            self.pending().remove(&key(&of.file, index));
            let _ = sender.send(Some(Err(failed.clone())));
        }
    }

    /// One request for the blocks that are left; each is delivered when it is whole.
    async fn attempt(
        &self,
        of: &Readable,
        left: &mut Range<u64>,
        run: &Range<u64>,
        senders: &[watch::Sender<Fetched>],
    ) -> Result<(), Refused> {
        let whole = blocks_of(of.file.size) <= 1;
        let range = bytes_of(left, of.file.size);
        let mut stream = self.source.bytes(&of.path, &of.file, (!whole).then_some(range)).await?;
        let (mut block, mut chunk) = (BytesMut::new(), Bytes::new());
        loop {
            let wanted = length(&of.file, left.start) as usize;
            if block.len() == wanted {
                let bytes = std::mem::take(&mut block).freeze();
                if whole && Digest::of(&bytes) != of.file.digest {
                    return Err(Refused::Away("the content that came is not that of the file".into()));
                }
                let sender = &senders[(left.start - run.start) as usize];
                self.deliver(of, left.start, sender, bytes, true);
                left.start += 1;
                if left.is_empty() {
                    return Ok(());
                }
                continue;
            }
            if chunk.is_empty() {
                let next = stream.next().await;
                chunk = next.unwrap_or_else(|| Err(Refused::Away("the answer ended too early".into())))?;
            }
            block.reserve(wanted - block.len());
            let part = chunk.split_to(chunk.len().min(wanted - block.len()));
            block.extend_from_slice(&part);
        }
    }
}

/// Writes a block unless the right to read is gone. Whoever takes it away says so before removing what is there: either
/// that is seen here, or what was written here is seen there.
fn keep(disk: &Disk, key: Key, block: &[u8], revoked: &AtomicBool) {
    if revoked.load(Ordering::SeqCst) {
        return;
    }
    disk.write(key, block);
    if revoked.load(Ordering::SeqCst) {
        disk.remove(key);
    }
}

fn key(file: &File, index: u64) -> Key {
    Key {
        digest: file.digest,
        index,
    }
}

/// Bytes of a block: the last one is shorter.
fn length(file: &File, index: u64) -> u64 {
    file.size.saturating_sub(index * BLOCK).min(BLOCK)
}

fn gone() -> Refused {
    Refused::Away("the request was given up".into())
}

#[cfg(test)]
mod tests;
