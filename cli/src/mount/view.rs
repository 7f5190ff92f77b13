//! What the mount shows: names, numbers and bytes, each only as long as the commit may be read. Knows nothing of the kernel.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::ahead::{BLOCK, Reader, WINDOW_MAX, touched};
use super::blocks::{Blocks, Readable};
use super::source::{Refused, Source, patiently};
use super::standing::{Answer, Now, Standing};
use super::tree::{Child, Entry, Inode, Kind, Next, Tree, joined};

/// How often the plane is asked while the mount is in use: well before an answer stops counting.
const ASK_EVERY: Duration = Duration::from_secs(20);
/// The same thing is said once in this time.
const SAY_AGAIN: Duration = Duration::from_secs(10);
/// A file up to this size is fetched ahead when the files of its directory are opened one after another.
const SMALL: u64 = 256 << 10;
/// Directories whose listing goes on at the same time.
const LISTINGS: usize = 64;

/// Why a call of the kernel gets nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// There is nothing of that name.
    Absent,
    /// The commit may not be read (any more).
    Denied,
    /// The service does not answer.
    Away,
    /// A directory where a file is needed.
    IsDirectory,
    /// A file where a directory is needed.
    NotDirectory,
}

/// An open file.
pub struct Open {
    inode: Inode,
    readable: Readable,
    reader: Mutex<Reader>,
}

/// Called with the numbers of open files when the right to read is gone.
type Revoked = Box<dyn Fn(Vec<Inode>) + Send + Sync>;

/// A mounted commit.
pub struct View<S> {
    tree: RwLock<Tree>,
    source: Arc<S>,
    blocks: Arc<Blocks<S>>,
    standing: Mutex<Standing>,
    asking: tokio::sync::Mutex<()>,
    listing: Vec<tokio::sync::Mutex<()>>,
    open: Mutex<HashMap<u64, Arc<Open>>>,
    handles: AtomicU64,
    /// Who opens the files of a directory one after another: a file is what a block is to a reader.
    walks: Mutex<HashMap<Inode, Reader>>,
    used: AtomicBool,
    /// In bytes; windows of all readers take a quarter of it at most.
    memory: u64,
    patience: Duration,
    revoked: OnceLock<Revoked>,
    said: Mutex<Option<(Instant, String)>>,
}

impl<S: Source> View<S> {
    /// A view that was allowed just now.
    pub fn new(source: Arc<S>, blocks: Arc<Blocks<S>>, memory: u64, patience: Duration) -> Self {
        Self {
            tree: RwLock::new(Tree::new()),
            source,
            blocks,
            standing: Mutex::new(Standing::allowed(Instant::now())),
            asking: tokio::sync::Mutex::default(),
            listing: (0..LISTINGS).map(|_| tokio::sync::Mutex::default()).collect(),
            open: Mutex::default(),
            handles: AtomicU64::new(1),
            walks: Mutex::default(),
            used: AtomicBool::new(false),
            memory,
            patience,
            revoked: OnceLock::new(),
            said: Mutex::default(),
        }
    }

    /// What to do with open files when the right to read is gone.
    pub fn when_revoked(&self, then: Revoked) {
        let _ = self.revoked.set(then);
    }

    fn tree(&self) -> RwLockReadGuard<'_, Tree> {
        self.tree.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn tree_mut(&self) -> RwLockWriteGuard<'_, Tree> {
        self.tree.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the commit may be read, if that is known without asking.
    pub fn may_read_now(&self) -> Option<Result<(), Trouble>> {
        self.used.store(true, Ordering::Relaxed);
        match held(&self.standing).now(Instant::now()) {
            Now::Counts(Answer::Yes) => Some(Ok(())),
            Now::Counts(Answer::No) => Some(Err(Trouble::Denied)),
            Now::Counts(Answer::Silence) => Some(Err(Trouble::Away)),
            Now::Ask => None,
        }
    }

    /// Whether the commit may be read; asks the plane when the last answer does not count any more.
    ///
    /// # Errors
    /// When it may not, or nobody answers.
    pub async fn may_read(&self) -> Result<(), Trouble> {
        // Whoever waits here finds the answer that another one got.
        let _alone = self.asking.lock().await;
        match self.may_read_now() {
            Some(known) => known,
            None => self.ask(self.patience).await,
        }
    }

    async fn ask(&self, patience: Duration) -> Result<(), Trouble> {
        let asked = Instant::now();
        let answer = patiently(patience, || self.source.may_read()).await;
        match answer {
            Ok(()) => {
                self.heard(Answer::Yes, asked);
                Ok(())
            }
            Err(refused) => Err(self.note(&refused)),
        }
    }

    /// Notes an answer; true when it turned a yes into a no.
    fn heard(&self, answer: Answer, asked: Instant) -> bool {
        let mut standing = held(&self.standing);
        match answer {
            Answer::Yes => self.blocks.set_revoked(false),
            Answer::No => self.blocks.set_revoked(true),
            Answer::Silence => {}
        }
        standing.heard(answer, asked, Instant::now())
    }

    /// What follows from a refusal, for all reads and for this one.
    fn note(&self, refused: &Refused) -> Trouble {
        let now = Instant::now();
        match refused {
            Refused::Nothing => Trouble::Absent,
            Refused::Denied(why) => {
                self.say(&format!("the commit may not be read any more: {why}"));
                if self.heard(Answer::No, now) {
                    self.blocks.forget(self.tree().files().collect());
                    if let Some(then) = self.revoked.get() {
                        then(held(&self.open).values().map(|open| open.inode).collect());
                    }
                }
                Trouble::Denied
            }
            Refused::Away(why) => {
                self.say(&format!("the service does not give what was asked for: {why}"));
                self.heard(Answer::Silence, now);
                Trouble::Away
            }
            Refused::Stale => {
                self.say("the service does not go on with a listing that it began");
                Trouble::Away
            }
        }
    }

    fn say(&self, text: &str) {
        let mut said = held(&self.said);
        let now = Instant::now();
        let again = said
            .as_ref()
            .is_some_and(|(at, last)| last == text && now.saturating_duration_since(*at) < SAY_AGAIN);
        if !again {
            eprintln!("howdah mount: {text}");
            *said = Some((now, text.to_owned()));
        }
    }

    /// Asks the plane from time to time while the mount is in use. One that nobody uses lets the plane sleep: whoever uses
    /// it next waits for an answer first.
    pub async fn watch(&self) {
        let mut timer = tokio::time::interval(ASK_EVERY);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        timer.tick().await;
        loop {
            timer.tick().await;
            let in_use = self.used.swap(false, Ordering::Relaxed) || !held(&self.open).is_empty();
            if in_use {
                let _alone = self.asking.lock().await;
                let _ = self.ask(Duration::ZERO).await;
            }
        }
    }

    /// What a number stands for.
    pub fn kind(&self, inode: Inode) -> Option<Kind> {
        self.tree().kind(inode)
    }

    /// The directory that a directory lies in.
    pub fn parent(&self, inode: Inode) -> Inode {
        self.tree().parent(inode)
    }

    /// A name in a directory, if it is known.
    pub fn known(&self, directory: Inode, name: &str) -> Option<Result<(Inode, Kind), Trouble>> {
        let tree = self.tree();
        match tree.child(directory, name) {
            Child::Is(inode) => Some(tree.kind(inode).map(|kind| (inode, kind)).ok_or(Trouble::Absent)),
            Child::Absent => Some(Err(Trouble::Absent)),
            Child::AskAlone | Child::ListFirst => None,
        }
    }

    /// A name in a directory.
    ///
    /// # Errors
    /// `Absent`, `Denied`, `Away`.
    pub async fn look_up(&self, directory: Inode, name: &str) -> Result<(Inode, Kind), Trouble> {
        self.may_read().await?;
        if self.tree().child(directory, name) == Child::ListFirst {
            self.list_further(directory, 1).await?;
        }
        if let Some(known) = self.known(directory, name) {
            return known;
        }
        let path = joined(&self.tree().path(directory), name);
        let page = match patiently(self.patience, || self.source.look(&path)).await {
            // Nothing there, or no right to know.
            Err(Refused::Nothing) => {
                self.ask(self.patience).await?;
                return Err(Trouble::Absent);
            }
            other => other.map_err(|refused| self.note(&refused))?,
        };
        let itself = page.items.iter().find(|info| info.path == path);
        let kind = match itself {
            Some(info) => Kind::of(info).ok_or(Trouble::Away)?,
            None => Kind::Directory,
        };
        Ok((self.tree_mut().add(directory, name, kind), kind))
    }

    /// Lines of a directory, if they are known.
    pub fn listed(&self, directory: Inode, from: usize, most: usize) -> Option<Vec<Entry>> {
        let tree = self.tree();
        let whole = tree.next(directory) == Next::Nothing;
        (whole || tree.listed(directory) >= from.saturating_add(most)).then(|| tree.entries(directory, from, most))
    }

    /// Lines of a directory from that one on, at most so many; none at the end.
    ///
    /// # Errors
    /// `NotDirectory`, `Denied`, `Away`.
    pub async fn list(&self, directory: Inode, from: usize, most: usize) -> Result<Vec<Entry>, Trouble> {
        self.may_read().await?;
        match self.kind(directory) {
            Some(Kind::Directory) => {}
            Some(Kind::File(_)) => return Err(Trouble::NotDirectory),
            None => return Err(Trouble::Absent),
        }
        self.list_further(directory, from.saturating_add(1)).await?;
        Ok(self.tree().entries(directory, from, most))
    }

    /// Goes on with a listing until so many lines are known.
    async fn list_further(&self, directory: Inode, lines: usize) -> Result<(), Trouble> {
        let _alone = self.listing[directory as usize % LISTINGS].lock().await;
        let path = self.tree().path(directory);
        let mut again = false;
        while self.tree().listed(directory) < lines {
            let next = self.tree().next(directory);
            let Next::Page(cursor) = &next else { break };
            match patiently(self.patience, || self.source.page(&path, cursor.as_deref())).await {
                Ok(page) => self.tree_mut().add_page(directory, &next, &page),
                Err(Refused::Stale) if !again => {
                    again = true;
                    self.tree_mut().relist(directory);
                }
                // A directory that was listed above is there: no right to know of it.
                Err(Refused::Nothing) => {
                    self.ask(self.patience).await?;
                    return Err(Trouble::Absent);
                }
                Err(refused) => return Err(self.note(&refused)),
            }
        }
        Ok(())
    }

    /// Opens a file; the handle is for `opened` and `close`.
    ///
    /// # Errors
    /// `Absent`, `IsDirectory`.
    pub fn open(&self, inode: Inode) -> Result<u64, Trouble> {
        let tree = self.tree();
        let file = match tree.kind(inode) {
            Some(Kind::File(file)) => file,
            Some(Kind::Directory) => return Err(Trouble::IsDirectory),
            None => return Err(Trouble::Absent),
        };
        let handle = self.handles.fetch_add(1, Ordering::Relaxed);
        let open = Open {
            inode,
            readable: Readable {
                path: tree.path(inode).into(),
                file,
            },
            reader: Mutex::default(),
        };
        held(&self.open).insert(handle, Arc::new(open));
        if file.size <= SMALL {
            self.fetch_siblings(&tree, inode);
        }
        Ok(handle)
    }

    /// Begins to fetch the small files that come next in a directory whose files are opened in order.
    fn fetch_siblings(&self, tree: &Tree, inode: Inode) {
        let directory = tree.parent(inode);
        let Some(position) = tree.position(inode) else { return };
        let (position, listed) = (position as u64, tree.listed(directory) as u64);
        let most = (self.memory / 8 / SMALL).min(WINDOW_MAX);
        let ahead = {
            let mut walks = held(&self.walks);
            let walk = walks.entry(directory).or_default();
            walk.read(position * BLOCK, BLOCK, listed * BLOCK, most)
        };
        for next in tree.entries(directory, ahead.start as usize, (ahead.end - ahead.start) as usize) {
            if let Kind::File(file) = next.kind
                && (1..=SMALL).contains(&file.size)
            {
                let path = tree.path(next.inode).into();
                self.blocks.fetch(&Readable { path, file }, 0..1);
            }
        }
    }

    /// The open file of a handle.
    pub fn opened(&self, handle: u64) -> Option<Arc<Open>> {
        held(&self.open).get(&handle).cloned()
    }

    /// Closes a handle.
    pub fn close(&self, handle: u64) {
        held(&self.open).remove(&handle);
    }

    /// Notes a read, begins to fetch what it and its followers need, and answers it if everything is in memory.
    pub fn read_at_hand(&self, open: &Open, offset: u64, length: u64) -> Option<Bytes> {
        let (of, size) = (&open.readable, open.readable.file.size);
        let readers = held(&self.open).len().max(1) as u64;
        let most = (self.memory / 4 / BLOCK / readers).min(WINDOW_MAX);
        let blocks = touched(offset, length, size);
        let mut parts = Vec::with_capacity(2);
        for index in blocks.clone() {
            match self.blocks.at_hand(&of.file, index) {
                Some(block) => parts.push(part(&block, index, offset, length)),
                None => break,
            }
        }
        let at_hand = parts.len() as u64 == blocks.end - blocks.start;
        if !at_hand {
            self.blocks.fetch(of, blocks);
        }
        let ahead = held(&open.reader).read(offset, length, size, most);
        self.blocks.fetch(of, ahead);
        at_hand.then(|| together(parts))
    }

    /// The bytes of a read.
    ///
    /// # Errors
    /// `Denied`, `Away`; `Absent` when the file was purged.
    pub async fn read(&self, open: &Open, offset: u64, length: u64) -> Result<Bytes, Trouble> {
        self.may_read().await?;
        let of = &open.readable;
        let mut parts = Vec::with_capacity(2);
        for index in touched(offset, length, of.file.size) {
            match self.blocks.block(of, index).await {
                Ok(block) => parts.push(part(&block, index, offset, length)),
                // It was listed: either it was purged since, or the right to know of it is gone.
                Err(Refused::Nothing) => {
                    self.ask(self.patience).await?;
                    return Err(Trouble::Absent);
                }
                Err(refused) => return Err(self.note(&refused)),
            }
        }
        Ok(together(parts))
    }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a read takes of a block.
fn part(block: &Bytes, index: u64, offset: u64, length: u64) -> Bytes {
    let begin = index * BLOCK;
    let from = offset.saturating_sub(begin).min(block.len() as u64);
    let to = (offset.saturating_add(length).saturating_sub(begin)).min(block.len() as u64);
    block.slice(from as usize..to.max(from) as usize)
}

fn together(mut parts: Vec<Bytes>) -> Bytes {
    match parts.len() {
        0 => Bytes::new(),
        1 => parts.remove(0),
        _ => parts.concat().into(),
    }
}

#[cfg(test)]
mod tests;
