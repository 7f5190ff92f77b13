//! The worker's end of the connection to the shim.

use std::io;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use shim::wire::{self, Command, Ended, Frame, HEADER_BYTES, Kind, Order, Report, VERSION};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::worker::output::RunLog;

/// So often is it tried to connect: the other container may start later, or again.
const RETRY: Duration = Duration::from_millis(100);
/// What a stream of the command may be ahead of the log.
const PIPE_BYTES: usize = 64 << 10;
/// How long a command that was killed may take to be reported, before the connection is given up, which kills it too.
const KILL_PATIENCE: Duration = Duration::from_secs(30);

/// A connection that controls the other container.
pub struct Line {
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    boot: String,
}

/// Why it is not known how a command ended.
pub enum Broken {
    /// The connection ended without a word.
    Gone,
    /// The container was told to stop.
    Leaving,
    /// The shim did not take the order.
    Refused(String),
}

impl Line {
    /// Connects, as soon as there is somebody to connect to.
    pub async fn connect(socket: &Path) -> Self {
        let mut told = false;
        loop {
            match Self::try_connect(socket).await {
                Ok(line) => return line,
                Err(error) if !told => {
                    told = true;
                    tracing::info!("waiting for the container of the code: {error}");
                }
                Err(_) => {}
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn try_connect(socket: &Path) -> io::Result<Self> {
        let (mut from, to) = UnixStream::connect(socket).await?.into_split();
        match report(&read(&mut from).await?)? {
            Report::Hello { version: VERSION, boot } => Ok(Self { from, to, boot }),
            other => Err(io::Error::other(format!("the shim says {other:?}"))),
        }
    }

    /// Another one each time that the container was started.
    pub fn boot(&self) -> &str {
        &self.boot
    }

    /// Whether the other end is there still; nothing is expected to come.
    pub fn is_there(&self) -> bool {
        let nothing = self.from.try_read(&mut [0]);
        nothing.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Runs a command and keeps what it prints; kills it when `over` returns.
    ///
    /// # Errors
    /// When its end is not known. The line is of no use then.
    pub async fn run(
        &mut self,
        command: Box<Command>,
        log: &RunLog<'_>,
        over: impl Future<Output = ()>,
    ) -> Result<Ended, Broken> {
        send(&mut self.to, &Order::Run(command)).await?;
        let (out, out_end) = tokio::io::duplex(PIPE_BYTES);
        let (err, err_end) = tokio::io::duplex(PIPE_BYTES);
        let from = &mut self.from;
        let all = async {
            let (ended, (), ()) = tokio::join!(
                follow(from, out, err),
                log.drain("stdout", out_end),
                log.drain("stderr", err_end)
            );
            ended
        };
        tokio::pin!(all);
        tokio::select! {
            ended = &mut all => ended,
            () = over => {
                send(&mut self.to, &Order::Kill).await?;
                tokio::time::timeout(KILL_PATIENCE, all).await.unwrap_or(Err(Broken::Gone))
            }
        }
    }
}

impl From<io::Error> for Broken {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

async fn send(to: &mut OwnedWriteHalf, order: &impl Serialize) -> Result<(), Broken> {
    let bytes = wire::encode_json(order).map_err(|error| Broken::Refused(error.to_string()))?;
    Ok(to.write_all(&bytes).await?)
}

/// Reads frames until the command has ended. Both streams end with it.
async fn follow(
    from: &mut OwnedReadHalf,
    mut out: tokio::io::DuplexStream,
    mut err: tokio::io::DuplexStream,
) -> Result<Ended, Broken> {
    loop {
        let frame = read(from).await?;
        match frame.kind {
            Kind::Stdout => out.write_all(&frame.payload).await?,
            Kind::Stderr => err.write_all(&frame.payload).await?,
            Kind::Json => match report(&frame)? {
                Report::Ended(ended) => return Ok(ended),
                Report::Leaving => return Err(Broken::Leaving),
                Report::Refused(reason) => return Err(Broken::Refused(reason)),
                Report::Hello { .. } | Report::Busy => return Err(Broken::Gone),
            },
        }
    }
}

async fn read(from: &mut OwnedReadHalf) -> io::Result<Frame> {
    let mut header = [0; HEADER_BYTES];
    from.read_exact(&mut header).await?;
    let (kind, length) = wire::decode_header(header)?;
    let mut payload = vec![0; length];
    from.read_exact(&mut payload).await?;
    Ok(Frame { kind, payload })
}

fn report(frame: &Frame) -> io::Result<Report> {
    match frame.kind {
        Kind::Json => Ok(serde_json::from_slice(&frame.payload)?),
        Kind::Stdout | Kind::Stderr => Err(io::Error::other("no command runs that could print")),
    }
}
