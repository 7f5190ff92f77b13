//! Files that a client on this machine hands over instead of sending what is in them: it opens the file and passes the open
//! file through a socket of this machine under a ticket, and the archive that it puts says, where the bytes would be, that
//! ticket. The plane reads the file where it lies, and tells through the same connection how far it has come.
//!
//! Nothing is gained by handing over what one cannot open, and a file that nobody's archive names is only closed again: who
//! may put what where is decided by the request, as ever.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use chassis::process::Shutdown;
use contract::problem::ProblemKind;
use contract::upload::Ticket;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use storage::{Input, LocalFile, StorageError};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::failure::{Answer, Failure};
use crate::plane::Plane;

/// Files that wait for their archive.
const WAITING_MAX: usize = 64;
/// So long a file waits for its archive, and an archive for its file.
const PATIENCE: Duration = Duration::from_secs(5);
/// Names are random; who plays with a seed draws the same ones.
const NAMES_TRIED: usize = 32;
/// What was accepted says its ticket within that time.
const GREETING: Duration = Duration::from_secs(5);
/// So many may be saying it at once.
const GREETINGS_MAX: usize = 32;
/// Who does not listen for so long is gone.
const LISTENS_WITHIN: Duration = Duration::from_secs(60);

/// Files that were handed over and wait for their archive.
#[derive(Default)]
pub struct Handovers {
    name: OnceLock<String>,
    waiting: Mutex<HashMap<Ticket, Handed>>,
    arrivals: watch::Sender<u64>,
}

struct Handed {
    file: File,
    size: u64,
    to: UnixStream,
}

/// A file that was handed over, for the request whose archive names it.
pub struct HandedFile(LocalFile);

impl Input for HandedFile {
    async fn fill(&mut self, memory: Vec<u8>, target: usize) -> Result<(Vec<u8>, bool), StorageError> {
        self.0.fill(memory, target).await.map_err(|error| match error {
            StorageError::Source(error) => unreadable(&error.to_string()).into(),
            other => other,
        })
    }
}

/// What may succeed when the bytes are sent.
fn unreadable(why: &str) -> Failure {
    let detail = format!("a file that was handed over cannot be read here: {why}");
    Failure::new(ProblemKind::UpstreamTimeout, detail).hint("send its bytes")
}

impl Handovers {
    /// The name of the socket that takes files, if there is one.
    pub fn name(&self) -> Option<String> {
        self.name.get().cloned()
    }

    /// The bytes of the file that was handed over under that ticket; waits for it, since it comes by another way.
    ///
    /// # Errors
    /// `upstream-timeout` when none comes, or it is too short: the bytes themselves would do.
    pub async fn take(&self, ticket: &Ticket, bytes: std::ops::Range<u64>) -> Answer<HandedFile> {
        let mut arrivals = self.arrivals.subscribe();
        let arrived = async {
            loop {
                if let Some(handed) = self.waiting().remove(ticket) {
                    return Some(handed);
                }
                arrivals.changed().await.ok()?;
            }
        };
        let handed = tokio::time::timeout(PATIENCE, arrived).await.ok().flatten();
        let handed = handed.ok_or_else(|| unreadable("it did not come"))?;
        if handed.size < bytes.end {
            return Err(unreadable("it is shorter than the archive says"));
        }
        let (read, told) = watch::channel(0);
        tokio::spawn(tell(handed.to, told));
        Ok(HandedFile(LocalFile::new(handed.file, bytes, read)))
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, HashMap<Ticket, Handed>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a file for its archive, for a while. Who finds no room is told by the end of the connection and sends the bytes.
    async fn keep(&self, ticket: Ticket, handed: Handed) {
        {
            let mut waiting = self.waiting();
            if waiting.len() >= WAITING_MAX || waiting.contains_key(&ticket) {
                return;
            }
            waiting.insert(ticket, handed);
        }
        self.arrivals.send_modify(|n| *n += 1);
        tokio::time::sleep(PATIENCE).await;
        self.waiting().remove(&ticket);
    }
}

/// Tells how many bytes were read, as often as the other side takes it, until the file is let go of.
async fn tell(mut to: UnixStream, mut told: watch::Receiver<u64>) {
    while told.changed().await.is_ok() {
        let read = *told.borrow_and_update();
        let written = tokio::time::timeout(LISTENS_WITHIN, to.write_all(&read.to_le_bytes())).await;
        if !matches!(written, Ok(Ok(()))) {
            return;
        }
    }
}

/// Takes files until the shutdown begins, where the configuration says that clients may be on this machine.
pub async fn follow(plane: Plane, shutdown: Shutdown) {
    if !plane.config.handover {
        return;
    }
    let Some(listener) = open(&plane) else { return };
    let greetings = Arc::new(Semaphore::new(GREETINGS_MAX));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.begun() => return,
        };
        match accepted {
            Ok((connection, _)) => {
                let plane = plane.clone();
                let Ok(permit) = Arc::clone(&greetings).try_acquire_owned() else {
                    continue;
                };
                tokio::spawn(async move {
                    let greeted = tokio::time::timeout(GREETING, greet(connection, permit)).await;
                    if let Ok(Ok(Some((ticket, handed)))) = greeted {
                        plane.handovers.keep(ticket, handed).await;
                    }
                });
            }
            // No file descriptors are left: there will be.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

fn open(plane: &Plane) -> Option<UnixListener> {
    for _ in 0..NAMES_TRIED {
        let name = format!("howdah-{}", hex::encode(plane.environment.random::<16>()));
        match listen(&name) {
            Ok(listener) => {
                let _ = plane.handovers.name.set(name);
                return Some(listener);
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => {
                tracing::info!("files of this machine are not taken by handing them over: {error}");
                return None;
            }
        }
    }
    None
}

/// The name is not in the file system: a client of another user can use it, and nobody who is not on this machine.
#[cfg(target_os = "linux")]
fn listen(name: &str) -> io::Result<UnixListener> {
    use std::os::linux::net::SocketAddrExt;
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
    let listener = std::os::unix::net::UnixListener::bind_addr(&address)?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

#[cfg(not(target_os = "linux"))]
fn listen(_: &str) -> io::Result<UnixListener> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Takes a file, if it is one. What is asked of one whose file system does not answer holds the permit until it does.
async fn greet(connection: UnixStream, permit: OwnedSemaphorePermit) -> io::Result<Option<(Ticket, Handed)>> {
    loop {
        connection.readable().await?;
        let received = connection.try_io(Interest::READABLE, || receive(&connection));
        let (ticket, file) = match received {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            received => received?,
        };
        // Anything else may never come to its end, or begin somewhere else than a file does.
        let looking = tokio::task::spawn_blocking(move || {
            let metadata = file.metadata();
            drop(permit);
            metadata.map(|metadata| (file, metadata))
        });
        let (file, metadata) = looking.await.map_err(io::Error::other)??;
        let (size, to) = (metadata.len(), connection);
        return Ok(metadata.is_file().then_some((ticket, Handed { file, size, to })));
    }
}

/// One message: a ticket, and beside it an open file.
fn receive(connection: &UnixStream) -> io::Result<(Ticket, File)> {
    let mut ticket = [0; Ticket::BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let parts = &mut [IoSliceMut::new(&mut ticket)];
    let received = recvmsg(connection, parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut file: Option<OwnedFd> = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(files) = message {
            file = files.into_iter().next().or(file);
        }
    }
    match file {
        Some(file) if received.bytes == Ticket::BYTES => Ok((Ticket::from_bytes(ticket), File::from(file))),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}
