//! Brings up the loopback of a network namespace, so that programs that talk to themselves over 127.0.0.1 work.

use std::io;

use socket2::{Domain, Protocol, Socket, Type};

/// `AF_NETLINK`, the routing family in it, and `SOCK_RAW`.
const NETLINK: i32 = 16;
const ROUTE: i32 = 0;
const RAW: i32 = 3;
const RTM_NEWLINK: u16 = 16;
const NLM_F_REQUEST: u16 = 1;
/// In a new namespace the loopback is always the first interface.
const LOOPBACK_INDEX: i32 = 1;
const IFF_UP: u32 = 1;

/// Sends the kernel one message: set the flag `UP` of interface 1. The kernel acts before `send` returns.
pub(super) fn bring_up() -> io::Result<()> {
    let socket = Socket::new(Domain::from(NETLINK), Type::from(RAW), Some(Protocol::from(ROUTE)))?;
    socket.send(&message()).map(drop)
}

/// `struct nlmsghdr` followed by `struct ifinfomsg`, in the machine's byte order.
fn message() -> Vec<u8> {
    let mut message = Vec::with_capacity(32);
    message.extend(32_u32.to_ne_bytes());
    message.extend(RTM_NEWLINK.to_ne_bytes());
    message.extend(NLM_F_REQUEST.to_ne_bytes());
    // Sequence number and sender, then family, padding and type: all unset.
    message.extend([0; 12]);
    message.extend(LOOPBACK_INDEX.to_ne_bytes());
    // The flags, and which of them to change.
    message.extend(IFF_UP.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes());
    message
}
