//! Where the bytes of a file come from that is stored: a stream, or a file of this machine.

use std::fs::File;
use std::future::Future;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use crate::error::{Result, StorageError};

/// Bytes of a file in their order. Everything that can be read is one.
pub trait Input: Send {
    /// Memory with the next bytes, `target` of them unless they end before, and whether they do. What `memory` held does
    /// not matter.
    fn fill(&mut self, memory: Vec<u8>, target: usize) -> impl Future<Output = Result<(Vec<u8>, bool)>> + Send;
}

impl<R: AsyncRead + Send + Unpin> Input for R {
    async fn fill(&mut self, mut memory: Vec<u8>, target: usize) -> Result<(Vec<u8>, bool)> {
        memory.clear();
        memory.reserve(target);
        while memory.len() < target {
            let room = (target - memory.len()) as u64;
            let read = (&mut *self).take(room).read_buf(&mut memory).await;
            match read {
                Ok(0) => return Ok((memory, true)),
                Ok(_) => {}
                Err(error) => return Err(StorageError::Source(Arc::new(error))),
            }
        }
        Ok((memory, false))
    }
}

/// A part of a file of this machine, read where it lies: straight into the memory that it is cut in.
pub struct LocalFile {
    file: Arc<File>,
    rest: Range<u64>,
    read: watch::Sender<u64>,
}

impl LocalFile {
    /// These bytes of a file. How many were read is told to `read`; when nobody listens any more, that is an error.
    pub fn new(file: File, bytes: Range<u64>, read: watch::Sender<u64>) -> Self {
        Self {
            file: Arc::new(file),
            rest: bytes,
            read,
        }
    }
}

impl Input for LocalFile {
    async fn fill(&mut self, memory: Vec<u8>, target: usize) -> Result<(Vec<u8>, bool)> {
        if self.read.is_closed() {
            let gone = io::Error::new(io::ErrorKind::BrokenPipe, "whoever handed the file over is gone");
            return Err(StorageError::Source(Arc::new(gone)));
        }
        let left = self.rest.end.saturating_sub(self.rest.start);
        let length = usize::try_from(left).unwrap_or(target).min(target);
        let (file, at) = (Arc::clone(&self.file), self.rest.start);
        let reading = spawn_blocking(move || read_at(&file, at, memory, length));
        let memory = reading.await.map_err(|_| StorageError::Cancelled)?;
        let memory = memory.map_err(|error| StorageError::Source(Arc::new(error)))?;
        self.rest.start += length as u64;
        self.read.send_modify(|read| *read += length as u64);
        Ok((memory, self.rest.start >= self.rest.end))
    }
}

fn read_at(file: &File, at: u64, mut memory: Vec<u8>, length: usize) -> io::Result<Vec<u8>> {
    // What is there of it from the time before need not be cleared.
    memory.resize(length, 0);
    file.read_exact_at(&mut memory, at)?;
    Ok(memory)
}
