//! Which isolation this machine allows. Found by running a trial datum, not by asking: Ubuntu's AppArmor, for one, lets
//! a user namespace be made and then denies the mount in it.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::run::{Exit, Limits, Network, Run};
use crate::running::spawn;

/// How user code is kept apart from the host, in order of preference. Part of a job's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isolation {
    /// Namespaces made by root; the code runs as an id of its own per organization.
    Root,
    /// Namespaces made by an ordinary user through a user namespace.
    UserNamespace,
    /// `bwrap`, where it is allowed to do what we are not.
    Bubblewrap,
    /// None: a directory per datum, `PFS` in the environment, limits, and all processes killed at the end.
    Plain,
}

impl Isolation {
    /// All of them, best first.
    pub const ALL: [Self; 4] = [Self::Root, Self::UserNamespace, Self::Bubblewrap, Self::Plain];

    /// The name shown by `howdah doctor` and kept in job records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Root => "namespaces",
            Self::UserNamespace => "user-namespaces",
            Self::Bubblewrap => "bubblewrap",
            Self::Plain => "none",
        }
    }
}

/// What the trials found.
#[derive(Clone, Debug)]
pub struct Examination {
    pub chosen: Isolation,
    /// What is better than `chosen` and why it does not work here.
    pub refused: Vec<(Isolation, String)>,
}

/// The best isolation that runs a trial datum.
pub fn probe(sandbox_binary: &Path) -> Isolation {
    examine(sandbox_binary).chosen
}

/// As `probe`, with the reasons for `howdah doctor`.
pub fn examine(sandbox_binary: &Path) -> Examination {
    let root = nix::unistd::geteuid().is_root();
    let mut refused = Vec::new();
    for isolation in Isolation::ALL {
        let result = match isolation {
            Isolation::Plain => {
                return Examination {
                    chosen: isolation,
                    refused,
                };
            }
            Isolation::Root if !root => Err("needs root".to_owned()),
            // Root in a user namespace or in bwrap would still be the host's root to the host's files.
            Isolation::UserNamespace | Isolation::Bubblewrap if root => Err("is for ordinary users".to_owned()),
            _ => trial(sandbox_binary, isolation),
        };
        match result {
            Ok(()) => {
                return Examination {
                    chosen: isolation,
                    refused,
                };
            }
            Err(reason) => refused.push((isolation, reason)),
        }
    }
    Examination {
        chosen: Isolation::Plain,
        refused,
    }
}

/// Runs a datum that copies an input to the output, without a network.
fn trial(sandbox_binary: &Path, isolation: Isolation) -> Result<(), String> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let unique = format!(
        "howdah-probe-{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    );
    let directory = Scratch(std::env::temp_dir().join(unique));
    let run = Run {
        command: ["/bin/sh", "-c", "cat /pfs/in/probe > /pfs/out/probe"]
            .map(str::to_owned)
            .to_vec(),
        pfs: directory.0.join("pfs"),
        inputs: vec!["in".to_owned()],
        scratch: directory.0.join("tmp"),
        network: Network::None,
        limits: Limits {
            wall: Some(Duration::from_secs(20)),
            ..Limits::default()
        },
        ..Run::default()
    };
    let prepared = fs::create_dir(&directory.0)
        .and_then(|()| fs::create_dir_all(run.pfs.join("in")))
        .and_then(|()| fs::create_dir(run.pfs.join("out")))
        .and_then(|()| fs::create_dir(&run.scratch))
        .and_then(|()| fs::write(run.pfs.join("in/probe"), "seen"))
        // As a worker does: what the command may read must not depend on the umask of who asks.
        .and_then(|()| fs::set_permissions(run.pfs.join("in"), fs::Permissions::from_mode(0o755)))
        .and_then(|()| fs::set_permissions(run.pfs.join("in/probe"), fs::Permissions::from_mode(0o444)));
    prepared.map_err(|source| format!("cannot prepare `{}`: {source}", directory.0.display()))?;
    let mut running = spawn(sandbox_binary, isolation, &run).map_err(|error| error.to_string())?;
    let mut said = String::new();
    if let Some(mut stderr) = running.stderr.take() {
        let _ = stderr.read_to_string(&mut said);
    }
    let outcome = running.wait();
    match outcome.exit {
        Exit::Code(0) if fs::read(run.pfs.join("out/probe")).is_ok_and(|seen| seen == b"seen") => Ok(()),
        Exit::SandboxFailed(reason) => Err(format!("{reason} {}", said.trim()).trim().to_owned()),
        other => Err(format!("the trial ended with {other:?}: {}", said.trim())),
    }
}

/// A directory that goes when the trial is over.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
