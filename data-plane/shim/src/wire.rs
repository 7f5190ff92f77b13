//! What passes over the socket between a worker and the shim. A frame is one byte that says what it is, the length of its
//! payload (4 bytes, little-endian) and the payload: an [`Order`] one way; a [`Report`] the other, both as JSON, or bytes that the
//! command printed, as they are.
//!
//! The shim greets first. Then comes one [`Order::Run`], what the command prints, and one [`Report::Ended`]; then the next. The
//! end of the connection kills what runs.

use std::io::{self, Read, Write};
use std::path::PathBuf;

use sandbox::{Exit, Limits, SecretFiles};
use serde::{Deserialize, Serialize};

/// What the two ends agree on. The shim of a pod is of the same version as its worker.
pub const VERSION: u32 = 1;
/// Bytes of a payload, far above what command lines and environments may hold.
pub const PAYLOAD_BYTES_MAX: usize = 64 << 20;
/// Bytes before a payload.
pub const HEADER_BYTES: usize = 5;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An order or a report.
    Json,
    /// What the command wrote to its standard output.
    Stdout,
    /// What it wrote to its standard error.
    Stderr,
}

/// What the shim is asked for.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Run a command. One that comes while another one runs is refused.
    Run(Box<Command>),
    /// Kill what runs; it is reported as ended.
    Kill,
    /// Kill what runs, and end.
    End,
}

/// A command to run. It has no `Debug`: secrets are in it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Variables besides those of the container.
    pub env: Vec<(String, String)>,
    /// Where it starts; `None`: where the image says.
    pub working_dir: Option<String>,
    /// Lines of its standard input.
    pub stdin: Vec<String>,
    /// The directory that is `/pfs`. Where it is another one, `/pfs/` in arguments and standard input stands for it.
    pub pfs: PathBuf,
    /// Files that are there while the command runs.
    pub secrets: Vec<SecretFiles>,
    /// Upper bounds.
    pub limits: Limits,
    /// So many bytes that it prints are passed on; of the rest only the number is told.
    pub printed_bytes_max: u64,
}

/// What the shim says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// The first word of a connection that controls.
    Hello {
        /// [`VERSION`].
        version: u32,
        /// Another one each time that the container is started: a connection that ended under another boot took its container
        /// along.
        boot: String,
    },
    /// The only word of another connection while one controls.
    Busy,
    /// The command ended, and nothing of it is left.
    Ended(Ended),
    /// An order that makes no sense now.
    Refused(String),
    /// The container was told to stop, and is about to.
    Leaving,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    /// The way.
    pub exit: Exit,
    /// Processor time of all its processes, microseconds.
    pub cpu_us: u64,
    /// The largest resident set of one of them, bytes.
    pub max_rss_bytes: u64,
    /// From its start to its end, microseconds.
    pub wall_us: u64,
    /// Bytes that it printed beyond what is passed on.
    pub left_out_bytes: u64,
}

/// A whole frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub kind: Kind,
    /// Its payload.
    pub payload: Vec<u8>,
}

impl Kind {
    fn byte(self) -> u8 {
        match self {
            Self::Json => 0,
            Self::Stdout => 1,
            Self::Stderr => 2,
        }
    }
}

/// A frame as bytes.
///
/// # Errors
/// When the payload is too large.
pub fn encode(kind: Kind, payload: &[u8]) -> io::Result<Vec<u8>> {
    if payload.len() > PAYLOAD_BYTES_MAX {
        return Err(too_large(payload.len()));
    }
    let length = u32::try_from(payload.len()).map_err(|_| too_large(payload.len()))?;
    let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
    bytes.push(kind.byte());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(payload);
    Ok(bytes)
}

/// An order or report as bytes.
///
/// # Errors
/// When it is too large.
pub fn encode_json(value: &impl Serialize) -> io::Result<Vec<u8>> {
    encode(Kind::Json, &serde_json::to_vec(value)?)
}

/// What a frame is and how long its payload is.
///
/// # Errors
/// When it is none.
pub fn decode_header(header: [u8; HEADER_BYTES]) -> io::Result<(Kind, usize)> {
    let [kind, length @ ..] = header;
    let kind = match kind {
        0 => Kind::Json,
        1 => Kind::Stdout,
        2 => Kind::Stderr,
        other => return Err(io::Error::other(format!("no frame begins with {other}"))),
    };
    match usize::try_from(u32::from_le_bytes(length)) {
        Ok(length) if length <= PAYLOAD_BYTES_MAX => Ok((kind, length)),
        Ok(length) => Err(too_large(length)),
        Err(error) => Err(io::Error::other(error)),
    }
}

fn too_large(length: usize) -> io::Error {
    io::Error::other(format!(
        "a frame of {length} bytes is more than the {PAYLOAD_BYTES_MAX} that one may have"
    ))
}

/// Reads a frame.
///
/// # Errors
/// At the end of the stream, and when what comes is no frame.
pub fn read(from: &mut impl Read) -> io::Result<Frame> {
    let mut header = [0; HEADER_BYTES];
    from.read_exact(&mut header)?;
    let (kind, length) = decode_header(header)?;
    let mut payload = Vec::new();
    from.take(length as u64).read_to_end(&mut payload)?;
    if payload.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Frame { kind, payload })
}

/// Writes a report or an order.
///
/// # Errors
/// When the other end is gone.
pub fn write(to: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    to.write_all(&encode_json(value)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_as_they_were_written_and_no_further() {
        let mut bytes = encode_json(&Report::Leaving).unwrap();
        bytes.extend(encode(Kind::Stderr, b"\xff\n").unwrap());
        let mut rest = bytes.as_slice();
        let first = read(&mut rest).unwrap();
        let report: Report = serde_json::from_slice(&first.payload).unwrap();
        assert_eq!((first.kind, report), (Kind::Json, Report::Leaving));
        let second = read(&mut rest).unwrap();
        assert_eq!((second.kind, second.payload.as_slice()), (Kind::Stderr, &b"\xff\n"[..]));
        assert!(rest.is_empty() && read(&mut rest).is_err());
    }

    #[test]
    fn what_is_no_frame_is_refused_before_memory_is_taken_for_it() {
        for bytes in [
            &[7, 0, 0, 0, 0][..],
            &[0, 255, 255, 255, 255],
            &[0, 5, 0, 0, 0, b'{'],
            &[0, 1],
        ] {
            assert!(read(&mut &*bytes).is_err(), "{bytes:?}");
        }
    }
}
