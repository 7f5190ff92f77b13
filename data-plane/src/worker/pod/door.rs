//! The way by which the plane reaches the service in the other container. A service listens at its own loopback, which is the agent's
//! too: the agent listens at the address of the pod, and passes on what comes from whoever knows the word of its pool.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::worker::capability::{WORD_BYTES, door_word};
use crate::worker::protocol::{ADDRESS_VARIABLE, CONNECTED};

const REFUSED: u8 = 0;
/// The plane says its word at once.
const WORD_WITHIN: Duration = Duration::from_secs(10);
/// A program whose queue is full gets that long.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// Callers who have not said their word yet, and connections, together.
const CALLERS_MAX: usize = 4096;
/// No descriptors are left, or too many call.
const PAUSE: Duration = Duration::from_millis(20);

/// Listens for the plane while a service runs.
pub struct Door {
    listener: TcpListener,
    address: SocketAddr,
    word: blake3::Hash,
    port: u16,
}

impl Door {
    /// Listens at the address of this pod, for callers of the service at `port` of the loopback. Before code runs, which could else
    /// be there first.
    ///
    /// # Errors
    /// When somebody listens there.
    pub async fn open(at: u16, port: u16, capability: &str) -> io::Result<Self> {
        let pod = std::env::var(ADDRESS_VARIABLE).ok().and_then(|text| text.parse().ok());
        let pod = pod.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let listener = TcpListener::bind((pod, at)).await?;
        Ok(Self {
            address: listener.local_addr()?,
            listener,
            word: door_word(capability).into(),
            port,
        })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether somebody listens at the service's port.
    pub async fn answers(&self) -> bool {
        dial(self.port).await.is_some()
    }

    /// Lets callers through until it is dropped, and all connections with it.
    pub async fn serve(&self) {
        let mut callers = JoinSet::new();
        loop {
            while callers.try_join_next().is_some() {}
            match self.listener.accept().await {
                Ok((caller, _)) if callers.len() < CALLERS_MAX => {
                    callers.spawn(pass(caller, self.word, self.port));
                }
                Ok(_) | Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }
}

/// Carries bytes both ways, once the caller has said the word.
async fn pass(mut caller: TcpStream, word: blake3::Hash, port: u16) -> io::Result<()> {
    let mut said = [0; WORD_BYTES];
    tokio::time::timeout(WORD_WITHIN, caller.read_exact(&mut said)).await??;
    // How long it takes to compare says nothing.
    if blake3::Hash::from(said) != word {
        return Ok(());
    }
    caller.set_nodelay(true)?;
    let Some(mut service) = dial(port).await else {
        return caller.write_u8(REFUSED).await;
    };
    service.set_nodelay(true)?;
    caller.write_u8(CONNECTED).await?;
    copy_bidirectional(&mut caller, &mut service).await.map(drop)
}

/// Connects to that port of the loopback, of whichever kind of address.
async fn dial(port: u16) -> Option<TcpStream> {
    for host in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        let connected = tokio::time::timeout(CONNECT_WITHIN, TcpStream::connect((host, port))).await;
        if let Ok(Ok(connection)) = connected {
            return Some(connection);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_who_knows_the_word_of_the_pool_is_let_through() {
        let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = service.local_addr().unwrap().port();
        let door = Door::open(0, port, "capability").await.unwrap();
        assert!(door.answers().await);
        let at = door.address();
        let serving = tokio::spawn(async move {
            loop {
                let (mut connection, _) = service.accept().await.unwrap();
                // Who only asks whether anybody answers is gone already.
                let _ = connection.write_all(b"hello").await;
            }
        });
        let call = async |word: [u8; WORD_BYTES]| {
            let mut caller = TcpStream::connect(at).await.unwrap();
            caller.write_all(&word).await.unwrap();
            let mut all = Vec::new();
            caller.read_to_end(&mut all).await.unwrap();
            all
        };
        let calls = async {
            assert_eq!(call(door_word("capability")).await, b"\x01hello");
            assert_eq!(call(door_word("another")).await, b"");
            assert_eq!(call([0; WORD_BYTES]).await, b"");
            serving.abort();
            assert!(serving.await.unwrap_err().is_cancelled());
            assert_eq!(
                call(door_word("capability")).await,
                [REFUSED],
                "nothing listens any more"
            );
        };
        tokio::select! {
            () = door.serve() => {}
            () = calls => {}
        }
    }
}
