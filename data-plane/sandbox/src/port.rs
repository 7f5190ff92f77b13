//! A port of a run, reached from outside its network namespace: the first process of the namespace connects to the port in
//! there and hands the connected socket out through a socket of the host's file system. A socket stays in the namespace
//! that it was made in, so bytes then flow without anybody in between.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType, recvmsg, sendmsg, socket_with,
};

/// What comes with a connected socket, and without one when nothing listens.
const CONNECTED: [u8; 1] = [1];
const REFUSED: [u8; 1] = [0];
/// A program whose queue is full gets that long, then the next caller has his turn.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// Longer than a queue of callers before this one should take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Connects to the port of a running command through the socket that its `Run::port` named. Blocks.
///
/// # Errors
/// `ConnectionRefused` when nothing listens at the port; others when the run is over.
pub fn connect(socket: &Path) -> io::Result<TcpStream> {
    let (_directory, short) = short(socket)?;
    let asked = ask(&short)?;
    asked.set_read_timeout(Some(ANSWER_WITHIN))?;
    let mut answer = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let parts = &mut [IoSliceMut::new(&mut answer)];
    recvmsg(&asked, parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut connected: Option<OwnedFd> = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(sockets) = message {
            connected = sockets.into_iter().next().or(connected);
        }
    }
    connected
        .map(TcpStream::from)
        .ok_or_else(|| io::ErrorKind::ConnectionRefused.into())
}

/// Waits no longer than anybody should for a place in the queue either: without a limit `connect` does.
fn ask(short: &Path) -> io::Result<UnixStream> {
    let asked = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&asked, Timeout::Send, Some(ANSWER_WITHIN))?;
    rustix::net::connect(&asked, &SocketAddrUnix::new(short)?)?;
    Ok(asked.into())
}

/// Listens at that path, for whoever runs as the same user or as root.
pub(crate) fn listen(socket: &Path) -> io::Result<UnixListener> {
    let (_directory, short) = short(socket)?;
    UnixListener::bind(short)
}

/// A path by which the kernel takes a socket of any directory: names of sockets have 108 bytes at most.
fn short(socket: &Path) -> io::Result<(File, PathBuf)> {
    let (Some(directory), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let directory = File::open(directory)?;
    let path = Path::new("/proc/self/fd")
        .join(directory.as_raw_fd().to_string())
        .join(name);
    Ok((directory, path))
}

/// Hands out connections to that port for as long as the process lives.
pub(crate) fn serve(listener: &UnixListener, port: u16) {
    loop {
        match listener.accept() {
            // Who is gone already needs no answer.
            Ok((caller, _)) => drop(answer(&caller, port)),
            // No descriptors are left: there will be, or the run ends.
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn answer(caller: &UnixStream, port: u16) -> rustix::io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let connected = dial(port);
    let sockets: Vec<_> = connected.iter().map(AsFd::as_fd).collect();
    let told = match sockets.is_empty() {
        true => REFUSED,
        false if control.push(SendAncillaryMessage::ScmRights(&sockets)) => CONNECTED,
        false => REFUSED,
    };
    sendmsg(caller, &[IoSlice::new(&told)], &mut control, SendFlags::NOSIGNAL)
}

fn dial(port: u16) -> Option<TcpStream> {
    let hosts = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    let connect = |host| TcpStream::connect_timeout(&SocketAddr::new(host, port), CONNECT_WITHIN).ok();
    hosts.into_iter().find_map(connect)
}
