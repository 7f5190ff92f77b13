//! Connections to services in pods. The agent beside the service listens for the plane, hears the word of its pool, connects to the
//! service's own loopback, and passes on what comes from there on.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::worker::capability::WORD_BYTES;
use crate::worker::protocol::CONNECTED;

/// A pod that is gone does not answer at all.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// Connects to the service behind that agent.
///
/// # Errors
/// `ConnectionRefused` when nothing listens at the service's port; others when the agent is gone, or is none.
pub async fn connect(agent: SocketAddr, word: &[u8; WORD_BYTES]) -> io::Result<TcpStream> {
    tokio::time::timeout(CONNECT_WITHIN, ask(agent, word)).await?
}

async fn ask(agent: SocketAddr, word: &[u8; WORD_BYTES]) -> io::Result<TcpStream> {
    let mut connection = TcpStream::connect(agent).await?;
    connection.set_nodelay(true)?;
    connection.write_all(word).await?;
    match connection.read_u8().await? {
        CONNECTED => Ok(connection),
        _ => Err(io::ErrorKind::ConnectionRefused.into()),
    }
}
