//! The edge to the kernel. Names are answered on the spot, contents by tasks, so that no read waits for another one.

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner, OpenFlags,
    ReplyAttr, ReplyData, ReplyDirectory, ReplyEntry, ReplyOpen, ReplyStatfs, Request,
};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::blocks::Blocks;
use super::tree::{Node, Tree};

/// Nothing of it ever changes.
const TTL: Duration = Duration::from_secs(24 * 3600);
const BLOCK_SIZE: u32 = 128 << 10;

/// One input of one datum as a file system.
pub struct Served {
    /// What is in it.
    pub tree: Tree,
    /// Where contents come from.
    pub blocks: Arc<Blocks>,
    /// Its datum is over.
    pub over: CancellationToken,
    /// Reads that go on end with an error when it is notified.
    pub cut: Arc<Notify>,
    /// Counts what is read.
    pub read: Arc<AtomicU64>,
    /// Where tasks run.
    pub runtime: Handle,
}

fn attributes(number: u64, node: &Node) -> FileAttr {
    let (size, perm, kind) = match node {
        Node::Directory { .. } => (0, 0o555, FileType::Directory),
        Node::File(file) if file.executable => (file.size, 0o555, FileType::RegularFile),
        Node::File(file) => (file.size, 0o444, FileType::RegularFile),
    };
    FileAttr {
        ino: INodeNo(number),
        size,
        blocks: size.div_ceil(512),
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind,
        perm,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}

impl Filesystem for Served {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match name.to_str().and_then(|name| self.tree.child(parent.0, name)) {
            Some((number, node)) => reply.entry(&TTL, &attributes(number, node), Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.tree.node(number.0) {
            Some(node) => reply.attr(&TTL, &attributes(number.0, node)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _: &Request, number: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.tree.node(number.0) {
            Some(Node::File(_)) => reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE),
            Some(Node::Directory { .. }) => reply.error(Errno::EISDIR),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn read(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let file = match self.tree.node(number.0) {
            Some(Node::File(file)) => file.clone(),
            _ => return reply.error(Errno::EIO),
        };
        let (blocks, over, counted) = (Arc::clone(&self.blocks), self.over.clone(), Arc::clone(&self.read));
        let cut = Arc::clone(&self.cut);
        let (ahead, next, ends) = (Arc::clone(&self.blocks), file.clone(), self.over.clone());
        self.runtime.spawn(async move {
            tokio::select! {
                () = ends.cancelled() => {}
                () = ahead.ahead(&next, offset, u64::from(size)) => {}
            }
        });
        self.runtime.spawn(async move {
            let read = tokio::select! {
                biased;
                () = over.cancelled() => None,
                () = cut.notified() => None,
                read = blocks.read(&file, offset, u64::from(size)) => Some(read),
            };
            match read {
                Some(Ok(bytes)) => {
                    counted.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                    reply.data(&bytes);
                }
                Some(Err(error)) => {
                    tracing::warn!("a lazy input could not be read: {error}");
                    reply.error(Errno::EIO);
                }
                None => reply.error(Errno::EIO),
            }
        });
    }

    fn readdir(&self, _: &Request, number: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let Some(Node::Directory { parent, entries }) = self.tree.node(number.0) else {
            return reply.error(Errno::ENOTDIR);
        };
        let own = [(".", number.0), ("..", *parent)];
        let all = own
            .into_iter()
            .chain(entries.iter().map(|(name, at)| (name.as_str(), *at)));
        let skipped = usize::try_from(offset).unwrap_or(usize::MAX);
        for (next, (name, at)) in (1..).zip(all).skip(skipped) {
            let kind = match self.tree.node(at) {
                Some(Node::File(_)) => FileType::RegularFile,
                _ => FileType::Directory,
            };
            if reply.add(INodeNo(at), next, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        reply.statfs(0, 0, 0, 0, 0, BLOCK_SIZE, 255, BLOCK_SIZE);
    }
}
