//! A shim, and workers that connect to it.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Program, Stdio};
use std::time::Duration;

use sandbox::Limits;
use shim::wire::{self, Command, Ended, Kind, Order, Report};
use testkit::wait::wait_until_blocking;

pub const LIMIT: Duration = Duration::from_secs(60);

pub struct Rig {
    pub directory: tempfile::TempDir,
    pub shim: Child,
}

/// What came of a command.
#[derive(Debug)]
pub struct Ran {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub ended: Ended,
}

impl Ran {
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

impl Rig {
    pub fn start() -> Self {
        let directory = testkit::temporary_directory();
        let out = directory.path().join("pfs/out");
        std::fs::create_dir_all(&out).unwrap();
        // As volumes are: whoever runs there may write.
        std::fs::set_permissions(&out, std::fs::Permissions::from_mode(0o777)).unwrap();
        let shim = Self::spawn(directory.path());
        let rig = Self { directory, shim };
        rig.until_it_listens();
        rig
    }

    fn spawn(directory: &Path) -> Child {
        Program::new(env!("CARGO_BIN_EXE_howdah-shim"))
            .args(["serve", "--socket"])
            .arg(directory.join("shim.sock"))
            .arg("--scratch")
            .arg(directory.join("tmp"))
            .env("OF_THE_IMAGE", "yes")
            .env("HOME", "/")
            .env("KUBERNETES_SERVICE_HOST", "10.0.0.1")
            .current_dir("/usr")
            .stdin(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// As the container is started again after it was killed.
    pub fn restart(&mut self) {
        let _ = self.shim.kill();
        self.shim.wait().unwrap();
        self.shim = Self::spawn(self.directory.path());
        self.until_it_listens();
    }

    fn until_it_listens(&self) {
        wait_until_blocking("the shim to listen", LIMIT, || {
            UnixStream::connect(self.socket())
                .is_ok_and(|mut first| matches!(said(&mut first), Some(Report::Hello { .. })))
        });
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("shim.sock")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A connection that controls, once those before are over.
    pub fn connect(&self) -> UnixStream {
        let mut connected = None;
        wait_until_blocking("a connection", LIMIT, || {
            let Ok(mut connection) = UnixStream::connect(self.socket()) else {
                return false;
            };
            let greeted = matches!(said(&mut connection), Some(Report::Hello { .. }));
            if greeted {
                connected = Some(connection);
            }
            greeted
        });
        connected.unwrap()
    }

    pub fn shell(&self, script: &str) -> Command {
        self.command(&["/bin/sh", "-c", script])
    }

    pub fn command(&self, argv: &[&str]) -> Command {
        Command {
            argv: argv.iter().map(|part| (*part).to_owned()).collect(),
            env: vec![("WHO".to_owned(), "ada".to_owned())],
            working_dir: None,
            stdin: Vec::new(),
            pfs: self.path("pfs"),
            secrets: Vec::new(),
            limits: Limits::default(),
            printed_bytes_max: 1 << 20,
        }
    }

    /// Runs a shell script to its end over a connection of its own.
    pub fn run(&self, script: &str) -> Ran {
        let mut connection = self.connect();
        order(&mut connection, &Order::Run(Box::new(self.shell(script))));
        follow(&mut connection)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = self.shim.kill();
        let _ = self.shim.wait();
    }
}

pub fn order(connection: &mut UnixStream, order: &Order) {
    wire::write(connection, order).unwrap();
}

/// The next report; nothing at the end of the connection.
pub fn said(connection: &mut UnixStream) -> Option<Report> {
    let frame = wire::read(connection).ok()?;
    assert_eq!(frame.kind, Kind::Json, "{frame:?}");
    Some(serde_json::from_slice(&frame.payload).unwrap())
}

/// All that a command prints until it has ended.
pub fn follow(connection: &mut UnixStream) -> Ran {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    loop {
        let frame = wire::read(connection).unwrap();
        match frame.kind {
            Kind::Stdout => stdout.extend(frame.payload),
            Kind::Stderr => stderr.extend(frame.payload),
            Kind::Json => match serde_json::from_slice(&frame.payload).unwrap() {
                Report::Ended(ended) => return Ran { stdout, stderr, ended },
                other => panic!("{other:?}"),
            },
        }
    }
}

/// Waits until the command has printed a line; answers it.
pub fn printed(connection: &mut UnixStream) -> String {
    let mut text = Vec::new();
    while !text.ends_with(b"\n") {
        let frame = wire::read(connection).unwrap();
        assert_eq!(frame.kind, Kind::Stdout, "{frame:?}");
        text.extend(frame.payload);
    }
    String::from_utf8(text).unwrap().trim().to_owned()
}
