//! What passes over the socket between a worker and `howdah-sandbox`: one length-prefixed `Spec` and the bytes of
//! standard input one way, lines of `Report` the other. The socket is also the life line: each side takes its end for
//! the death of the other.

use std::io::{self, Read, Write};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::run::{Image, Limits, Network, Port, SecretFiles};

/// Largest specification read; far above what command lines and environments may hold.
const SPEC_BYTES_MAX: u32 = 64 << 20;

/// A `Run` with host paths made absolute and standard input moved out of the JSON.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Spec {
    pub command: Vec<String>,
    pub stdin: StdinSpec,
    pub env: Vec<(String, String)>,
    pub working_dir: String,
    pub pfs: PathBuf,
    pub inputs: Vec<String>,
    pub scratch: PathBuf,
    pub uid_gid: (u32, u32),
    pub masked: Vec<PathBuf>,
    pub visible: Vec<PathBuf>,
    pub shown: Vec<(PathBuf, String)>,
    pub secrets: Vec<SecretFiles>,
    pub network: Network,
    pub port: Option<Port>,
    pub limits: Limits,
    pub image: Option<Image>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StdinSpec {
    Empty,
    /// So many bytes follow the specification.
    Inline(u64),
    File(PathBuf),
}

/// One line from the sandbox to the worker.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Report {
    Finished {
        end: End,
        cpu_us: u64,
        max_rss_bytes: u64,
        wall_us: u64,
    },
    /// The kernel killed something of the run at its memory limit.
    OutOfMemory,
    Failed(String),
    /// What was asked for cannot be done, here or elsewhere.
    Refused(String),
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum End {
    Code(i32),
    Signal(i32),
    TimedOut,
    MemoryExceeded,
}

/// Sends the specification and the inline standard input.
pub(crate) fn send(to: &mut impl Write, spec: &Spec, stdin: &[u8]) -> io::Result<()> {
    let json = serde_json::to_vec(spec)?;
    let length = u32::try_from(json.len()).map_err(io::Error::other)?;
    let mut message = Vec::with_capacity(4 + json.len() + stdin.len());
    message.extend_from_slice(&length.to_le_bytes());
    message.extend_from_slice(&json);
    message.extend_from_slice(stdin);
    to.write_all(&message)
}

/// Reads what `send` wrote.
pub(crate) fn receive(from: &mut impl Read) -> io::Result<(Spec, Vec<u8>)> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length > SPEC_BYTES_MAX {
        return Err(io::Error::other(format!(
            "the specification has {length} bytes, more than {SPEC_BYTES_MAX}"
        )));
    }
    let mut json = vec![0; length as usize];
    from.read_exact(&mut json)?;
    let spec: Spec = serde_json::from_slice(&json)?;
    let mut stdin = Vec::new();
    if let StdinSpec::Inline(bytes) = spec.stdin {
        from.take(bytes).read_to_end(&mut stdin)?;
        if stdin.len() as u64 != bytes {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
    }
    Ok((spec, stdin))
}

/// Writes one report line.
pub(crate) fn report(to: &mut impl Write, report: &Report) -> io::Result<()> {
    let mut line = serde_json::to_vec(report)?;
    line.push(b'\n');
    to.write_all(&line)
}
