//! The edge to the kernel: what it asks for as calls of the view, and what the view answers in the kernel's words. What is
//! known is answered on the spot, all else by a task, so that nothing waits for anything else.

use std::ffi::OsStr;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig,
    LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyStatfs, Request,
};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::source::Source;
use super::standing::YES_COUNTS;
use super::tree::{Entry, Inode, Kind, ROOT};
use super::view::{Trouble, View};

/// How long the kernel answers by itself. A commit never changes, but names and sizes must not outlive the right to read.
const TTL: Duration = YES_COUNTS;
/// Lines of a directory for one answer: more than fit.
const LINES: usize = 1024;
/// Requests that the kernel may have on their way, of its own read-ahead.
const BACKGROUND: u16 = 64;
/// What programs read at once, when they ask.
const READ_SIZE: u32 = 128 << 10;
const STATFS_BLOCK: u32 = 4096;

/// What holds for all of the commit.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    /// When it was finished: the time of everything in it.
    pub time: SystemTime,
    /// Bytes of all files.
    pub bytes: u64,
    /// How many files.
    pub files: u64,
    /// Who mounts it.
    pub uid: u32,
    /// And the group.
    pub gid: u32,
}

/// A view as a file system.
pub struct Mounted<S> {
    view: Arc<View<S>>,
    facts: Facts,
    runtime: Handle,
    ended: watch::Sender<bool>,
}

impl<S: Source> Mounted<S> {
    /// A file system; `ended` turns true when the kernel let go of it.
    pub fn new(view: Arc<View<S>>, facts: Facts, runtime: Handle, ended: watch::Sender<bool>) -> Self {
        Self {
            view,
            facts,
            runtime,
            ended,
        }
    }

    /// Answers at once if the right is known and the answer is at hand, else by a task that waits for both.
    fn answer<R, T, F>(
        &self,
        reply: R,
        at_hand: impl FnOnce(&View<S>) -> Option<Result<T, Trouble>>,
        wait: impl FnOnce(Arc<View<S>>) -> F,
        done: impl FnOnce(R, Result<T, Errno>) + Send + 'static,
    ) where
        R: Send + 'static,
        T: Send + 'static,
        F: Future<Output = Result<T, Trouble>> + Send + 'static,
    {
        let known = match self.view.may_read_now() {
            Some(Ok(())) => at_hand(&self.view),
            Some(Err(trouble)) => Some(Err(trouble)),
            None => None,
        };
        match known {
            Some(answer) => done(reply, answer.map_err(errno)),
            None => {
                let waiting = wait(self.view.clone());
                self.runtime.spawn(async move {
                    let answer = waiting.await;
                    done(reply, answer.map_err(errno));
                });
            }
        }
    }

    fn lines<R: Send + 'static>(
        &self,
        directory: Inode,
        offset: u64,
        reply: R,
        done: impl FnOnce(R, Result<Vec<Entry>, Errno>) + Send + 'static,
    ) {
        // Two lines of the kernel's come first.
        let from = usize::try_from(offset.saturating_sub(2)).unwrap_or(usize::MAX);
        self.answer(
            reply,
            |view| view.listed(directory, from, LINES).map(Ok),
            |view| async move { view.list(directory, from, LINES).await },
            done,
        );
    }

    /// The lines that every directory begins with, from that one on.
    fn own_lines(&self, directory: Inode, offset: u64) -> Vec<(u64, Inode, &'static str)> {
        let own = [(1, directory, "."), (2, self.view.parent(directory), "..")];
        own.into_iter().filter(|line| line.0 > offset).collect()
    }
}

impl Facts {
    fn attributes(&self, inode: Inode, kind: Kind) -> FileAttr {
        let (size, perm, kind) = match kind {
            Kind::Directory => (0, 0o555, FileType::Directory),
            Kind::File(file) if file.executable => (file.size, 0o555, FileType::RegularFile),
            Kind::File(file) => (file.size, 0o444, FileType::RegularFile),
        };
        FileAttr {
            ino: INodeNo(inode),
            size,
            blocks: size.div_ceil(512),
            atime: self.time,
            mtime: self.time,
            ctime: self.time,
            crtime: self.time,
            kind,
            perm,
            // Of a directory: how many are in it is not known.
            nlink: 1,
            uid: self.uid,
            gid: self.gid,
            rdev: 0,
            blksize: READ_SIZE,
            flags: 0,
        }
    }
}

fn errno(trouble: Trouble) -> Errno {
    match trouble {
        Trouble::Absent => Errno::ENOENT,
        Trouble::Denied => Errno::EACCES,
        Trouble::Away => Errno::EIO,
        Trouble::IsDirectory => Errno::EISDIR,
        Trouble::NotDirectory => Errno::ENOTDIR,
    }
}

fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::Directory => FileType::Directory,
        Kind::File(_) => FileType::RegularFile,
    }
}

impl<S: Source> Filesystem for Mounted<S> {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = [
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_ASYNC_DIO,
        ];
        for flag in wanted {
            // What an older kernel does not know, it does without.
            let _ = config.add_capabilities(flag);
        }
        let _ = config.set_max_background(BACKGROUND);
        Ok(())
    }

    fn destroy(&mut self) {
        let _ = self.ended.send(true);
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        // Names in a commit are UTF-8.
        let Some(name) = name.to_str().map(str::to_owned) else {
            return reply.error(Errno::ENOENT);
        };
        let (facts, wanted) = (self.facts, name.clone());
        self.answer(
            reply,
            |view| view.known(parent.0, &wanted),
            |view| async move { view.look_up(parent.0, &name).await },
            move |reply, found| match found {
                Ok((inode, kind)) => reply.entry(&TTL, &facts.attributes(inode, kind), Generation(0)),
                Err(errno) => reply.error(errno),
            },
        );
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let facts = self.facts;
        if inode == INodeNo::ROOT {
            // Tells nothing, and without it the mount point itself could not be looked at.
            return reply.attr(&TTL, &facts.attributes(ROOT, Kind::Directory));
        }
        self.answer(
            reply,
            |view| Some(view.kind(inode.0).ok_or(Trouble::Absent)),
            |view| async move {
                view.may_read().await?;
                view.kind(inode.0).ok_or(Trouble::Absent)
            },
            move |reply, kind| match kind {
                Ok(kind) => reply.attr(&TTL, &facts.attributes(inode.0, kind)),
                Err(errno) => reply.error(errno),
            },
        );
    }

    fn open(&self, _: &Request, inode: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.answer(
            reply,
            |view| Some(view.open(inode.0)),
            |view| async move {
                view.may_read().await?;
                view.open(inode.0)
            },
            |reply, handle| match handle {
                Ok(handle) => {
                    let flags = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH;
                    reply.opened(FileHandle(handle), flags);
                }
                Err(errno) => reply.error(errno),
            },
        );
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some(open) = self.view.opened(handle.0) else {
            return reply.error(Errno::EBADF);
        };
        let (reading, size) = (open.clone(), u64::from(size));
        self.answer(
            reply,
            |view| view.read_at_hand(&open, offset, size).map(Ok),
            |view| async move { view.read(&reading, offset, size).await },
            |reply, bytes| match bytes {
                Ok(bytes) => reply.data(&bytes),
                Err(errno) => reply.error(errno),
            },
        );
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.view.close(handle.0);
        reply.ok();
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.answer(
            reply,
            |_| Some(Ok(())),
            |view| async move { view.may_read().await },
            |reply, allowed| match allowed {
                Ok(()) => {
                    let flags = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR;
                    reply.opened(FileHandle(0), flags);
                }
                Err(errno) => reply.error(errno),
            },
        );
    }

    fn readdir(&self, _: &Request, inode: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        for (next, inode, name) in self.own_lines(inode.0, offset) {
            let _ = reply.add(INodeNo(inode), next, FileType::Directory, name);
        }
        let first = offset.max(2) + 1;
        self.lines(inode.0, offset, reply, move |mut reply, lines| match lines {
            Ok(lines) => {
                for (next, line) in (first..).zip(&lines) {
                    if reply.add(INodeNo(line.inode), next, file_type(line.kind), &*line.name) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(errno) => reply.error(errno),
        });
    }

    fn readdirplus(&self, _: &Request, inode: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        let facts = self.facts;
        for (next, inode, name) in self.own_lines(inode.0, offset) {
            let about = facts.attributes(inode, Kind::Directory);
            let _ = reply.add(INodeNo(inode), next, name, &TTL, &about, Generation(0));
        }
        let first = offset.max(2) + 1;
        self.lines(inode.0, offset, reply, move |mut reply, lines| match lines {
            Ok(lines) => {
                for (next, line) in (first..).zip(&lines) {
                    let about = facts.attributes(line.inode, line.kind);
                    if reply.add(about.ino, next, &*line.name, &TTL, &about, Generation(0)) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(errno) => reply.error(errno),
        });
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let blocks = self.facts.bytes.div_ceil(u64::from(STATFS_BLOCK));
        reply.statfs(blocks, 0, 0, self.facts.files, 0, STATFS_BLOCK, 255, STATFS_BLOCK);
    }
}
