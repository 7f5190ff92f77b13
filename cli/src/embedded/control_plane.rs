//! The control plane as a child: found beside this binary, told its configuration through a pipe, its output in a log file.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use contract::config::{ControlPlaneConfig, KEPT_VARIABLES};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, Command};

use crate::failure::{Failure, Outcome, io};
use crate::settings::variable;

/// The programs of the service.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    pub(crate) control_plane: PathBuf,
    pub(crate) data_plane: PathBuf,
    pub(crate) sandbox: PathBuf,
}

impl Programs {
    /// Finds them beside this binary (links resolved), or in `HOWDAH_BIN_DIR`.
    ///
    /// # Errors
    /// When one is missing.
    pub(crate) fn find() -> Outcome<Self> {
        let directory = match variable("HOWDAH_BIN_DIR") {
            Some(directory) => PathBuf::from(directory),
            None => own_directory()?,
        };
        let program = |name: &str| {
            let path = directory.join(name);
            if path.is_file() {
                return Ok(path);
            }
            Err(Failure::new(
                format!("the program `{name}` is missing"),
                format!("there is no {}", path.display()),
                "build everything with `cargo build --release --workspace`, or set HOWDAH_BIN_DIR to where the programs are",
            ))
        };
        Ok(Self {
            control_plane: program("howdah-control-plane")?,
            data_plane: program("howdah-data-plane")?,
            sandbox: program("howdah-sandbox")?,
        })
    }
}

fn own_directory() -> Outcome<PathBuf> {
    let unknown = |e| {
        Failure::new(
            "the service's programs were not found",
            e,
            "set HOWDAH_BIN_DIR to where they are",
        )
    };
    let own = std::env::current_exe()
        .and_then(|path| path.canonicalize())
        .map_err(unknown)?;
    Ok(own.parent().map(Path::to_path_buf).unwrap_or_default())
}

/// Certificates of a database server that `DATABASE_URL` names.
const CERTIFICATES: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];

/// Starts it. Dropping the returned pipe stops it; it is apart from the child because waiting for a child closes its
/// standard input.
///
/// # Errors
/// When it cannot be started.
pub(super) async fn start(program: &Path, config: &ControlPlaneConfig, log: &Path) -> Outcome<(Child, ChildStdin)> {
    let failed = |e: &dyn std::fmt::Display| {
        Failure::new(
            "the control plane did not start",
            e,
            format!("look into {}", log.display()),
        )
    };
    let out = append(log)?;
    let copy = out.try_clone().map_err(io("open", log))?;
    let kept = KEPT_VARIABLES.iter().chain(&CERTIFICATES);
    let mut command = Command::new(program);
    // A group of its own: Ctrl-C at the terminal is for the supervisor, which stops its children in order.
    // The configuration says all that it needs; what else stands in our environment may be a secret (`DATABASE_URL`,
    // `HOWDAH_TOKEN`). The home tells people and tests whose process it is.
    command
        .arg("serve")
        .env_clear()
        .envs(kept.filter_map(|name| Some((name, std::env::var_os(name)?))))
        .env("HOWDAH_HOME", &config.home)
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(out)
        .stderr(copy)
        .current_dir(&config.home);
    let mut child = command.spawn().map_err(|e| failed(&e))?;
    let mut line = serde_json::to_vec(config).map_err(|e| failed(&e))?;
    line.push(b'\n');
    let mut pipe = child.stdin.take().ok_or_else(|| failed(&"it has no standard input"))?;
    // One that died at once is noticed by whoever waits for it, with its log.
    let _ = pipe.write_all(&line).await;
    let _ = pipe.flush().await;
    Ok((child, pipe))
}

fn append(log: &Path) -> Outcome<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(log)
        .map_err(io("open", log))
}

/// Whether the service at that address answers.
pub(crate) async fn answers(url: &str) -> bool {
    let client = reqwest::Client::builder()
        .timeout(Duration::from_secs(2))
        .no_proxy()
        .build();
    let Ok(client) = client else { return false };
    let answer = client.get(format!("{url}/readyz")).send().await;
    answer.is_ok_and(|a| a.status().is_success())
}

/// The last lines of a log, in one line.
pub(super) fn tail(log: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        let from = file.metadata()?.len().saturating_sub(2000);
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let mut lines: Vec<&str> = text.lines().rev().filter(|l| !l.trim().is_empty()).take(3).collect();
    lines.reverse();
    lines.join(" | ")
}
