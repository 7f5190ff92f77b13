//! Hands a large file over to a service on this machine: the open file goes through a socket, and the service reads it where it
//! lies, at the speed of the disk. Where that cannot be done the bytes are sent.

use std::fs::File;
use std::io::{self, IoSlice, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use contract::upload::Ticket;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

/// So often it is looked whether the request goes on.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A socket that takes files.
#[derive(Debug, Clone)]
pub(super) struct Handover {
    name: String,
}

/// A file that the service is reading.
pub(super) struct Handed {
    pub(super) ticket: Ticket,
    from: UnixStream,
    read: u64,
}

impl Handover {
    pub(super) fn to(name: String) -> Self {
        Self { name }
    }

    /// Whether the socket is on this machine.
    pub(super) fn is_here(&self) -> bool {
        connect(&self.name).is_ok()
    }

    /// Hands an open file over.
    ///
    /// # Errors
    /// When there is no such socket on this machine, or it takes nothing.
    pub(super) fn give(&self, file: &File) -> io::Result<Handed> {
        let to = connect(&self.name)?;
        to.set_read_timeout(Some(LOOK_EVERY))?;
        let ticket = Ticket::from_bytes(rand::random());
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let files = [file.as_fd()];
        if !control.push(SendAncillaryMessage::ScmRights(&files)) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let sent = sendmsg(
            &to,
            &[IoSlice::new(ticket.as_bytes())],
            &mut control,
            SendFlags::NOSIGNAL,
        )?;
        if sent != Ticket::BYTES {
            return Err(io::ErrorKind::WriteZero.into());
        }
        Ok(Handed {
            ticket,
            from: to,
            read: 0,
        })
    }
}

#[cfg(target_os = "linux")]
fn connect(name: &str) -> io::Result<UnixStream> {
    use std::os::linux::net::SocketAddrExt;
    let to = UnixStream::connect_addr(&std::os::unix::net::SocketAddr::from_abstract_name(name)?)?;
    // The name is no secret, and whoever listens by it gets to read the file.
    let listener = rustix::net::sockopt::socket_peercred(&to)?.uid;
    if listener.is_root() || listener == rustix::process::geteuid() {
        return Ok(to);
    }
    Err(io::ErrorKind::PermissionDenied.into())
}

#[cfg(not(target_os = "linux"))]
fn connect(_: &str) -> io::Result<UnixStream> {
    Err(io::ErrorKind::Unsupported.into())
}

impl Handed {
    /// How many more bytes the service has read since the last time; waits until there are some.
    ///
    /// # Errors
    /// When the service lets go of the file, or `ended` says that nobody waits for it any more.
    pub(super) fn progress(&mut self, ended: impl Fn() -> bool) -> io::Result<u64> {
        let mut told = [0; 8];
        let mut held = 0;
        while held < told.len() {
            match self.from.read(&mut told[held..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => held += read,
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut if ended() => {
                        return Err(io::ErrorKind::BrokenPipe.into());
                    }
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted => {}
                    _ => return Err(error),
                },
            }
        }
        let read = u64::from_le_bytes(told);
        let more = read.saturating_sub(self.read);
        self.read = read;
        Ok(more)
    }
}
