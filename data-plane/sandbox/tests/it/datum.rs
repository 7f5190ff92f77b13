//! A datum in a temporary directory, and a run of it with everything it said.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use sandbox::{Exit, Image, Isolation, Network, Outcome, Run, Running, examine, spawn};
use tempfile::TempDir;

/// Names another copy of `howdah-sandbox` than the one Cargo built, for a user who cannot reach that.
pub const BINARY_VARIABLE: &str = "HOWDAH_SANDBOX_UNDER_TEST";

/// Names an isolation that the probe takes only where better ones are refused.
pub const ISOLATION_VARIABLE: &str = "HOWDAH_SANDBOX_TEST_ISOLATION";

/// Names the unpacked image that all commands run in; without it they run among the programs of the host.
pub const IMAGE_VARIABLE: &str = "HOWDAH_SANDBOX_TEST_IMAGE";

/// The id of user code, where root runs the tests.
pub const OWNER: (u32, u32) = (20_017, 20_018);

/// The image that is tested.
pub fn image() -> Option<PathBuf> {
    std::env::var_os(IMAGE_VARIABLE).map(PathBuf::from)
}

/// Whether a test is of the host's programs alone; says so when it is not its turn.
pub fn among_the_hosts_programs() -> bool {
    let among = image().is_none();
    if !among {
        println!("this is a test of the host's programs: nothing to test in an image");
    }
    among
}

pub fn binary() -> PathBuf {
    std::env::var_os(BINARY_VARIABLE).map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_howdah-sandbox")), PathBuf::from)
}

/// The isolation of this machine for this user, tried once.
pub fn isolation() -> Isolation {
    static CHOSEN: OnceLock<Isolation> = OnceLock::new();
    *CHOSEN.get_or_init(|| {
        if let Ok(name) = std::env::var(ISOLATION_VARIABLE) {
            let named = Isolation::ALL.into_iter().find(|isolation| isolation.as_str() == name);
            return named.expect("the name of an isolation");
        }
        let examination = examine(&binary());
        println!("isolation {} ({:?})", examination.chosen.as_str(), examination.refused);
        examination.chosen
    })
}

/// Whether there is isolation to test; says so when not.
pub fn isolated() -> bool {
    let isolated = isolation() != Isolation::Plain;
    if !isolated {
        println!("this machine lets this user make no namespaces: nothing to test");
    }
    isolated
}

/// A directory of the test and a run in it, which tests change at will before they start it.
pub struct Datum {
    pub directory: TempDir,
    pub isolation: Isolation,
    pub run: Run,
}

/// Whether `bwrap` is tested, whose view differs in what does no harm: more devices, `/run`, a first process of its own.
pub fn bubblewrap() -> bool {
    isolation() == Isolation::Bubblewrap
}

pub struct Said {
    pub outcome: Outcome,
    pub stdout: String,
    pub stderr: String,
}

impl Datum {
    /// One input `in` with the file `a` ("input"), and an empty `out`.
    pub fn new(command: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let run = Run {
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            pfs: directory.path().join("pfs"),
            inputs: vec!["in".to_owned()],
            scratch: directory.path().join("scratch"),
            uid_gid: Some(OWNER),
            network: Network::None,
            image: image().map(|rootfs| Image {
                rootfs,
                writes: directory.path().join("writes"),
                user: (1000, 1000),
            }),
            ..Run::default()
        };
        let writes = directory.path().join("writes");
        for path in [run.pfs.join("in"), run.pfs.join("out"), run.scratch.clone(), writes] {
            fs::create_dir_all(path).expect("directories of the datum");
        }
        fs::write(run.pfs.join("in/a"), "input").expect("an input file");
        Self {
            directory,
            isolation: isolation(),
            run,
        }
    }

    pub fn shell(script: &str) -> Self {
        Self::new(&["/bin/sh", "-c", script])
    }

    pub fn bash(script: &str) -> Self {
        Self::new(&["/bin/bash", "-c", script])
    }

    pub fn out(&self, path: &str) -> PathBuf {
        self.run.pfs.join("out").join(path)
    }

    pub fn start(&self) -> Running {
        spawn(&binary(), self.isolation, &self.run).expect("start the sandbox")
    }

    pub fn run(&self) -> Said {
        said(self.start())
    }

    /// Runs, asserts success and returns what it printed.
    pub fn printed(&self) -> String {
        let said = self.run();
        assert_eq!(
            said.outcome.exit,
            Exit::Code(0),
            "stdout {} stderr {}",
            said.stdout,
            said.stderr
        );
        said.stdout
    }
}

/// Drains both streams and waits.
pub fn said(mut running: Running) -> Said {
    let mut stdout = running.stdout.take().expect("a pipe");
    let mut stderr = running.stderr.take().expect("a pipe");
    let errors = thread::spawn(move || {
        let mut text = Vec::new();
        stderr.read_to_end(&mut text).map(|_| text)
    });
    let mut text = Vec::new();
    stdout.read_to_end(&mut text).expect("read standard output");
    let outcome = running.wait();
    let errors = errors.join().expect("the reader").expect("read standard error");
    Said {
        outcome,
        stdout: String::from_utf8_lossy(&text).into_owned(),
        stderr: String::from_utf8_lossy(&errors).into_owned(),
    }
}

/// The processes of the host whose command line holds `marker`.
pub fn processes_with(marker: &str) -> Vec<String> {
    let own = std::process::id().to_string();
    let entries = fs::read_dir("/proc").expect("list /proc").filter_map(Result::ok);
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()) && *name != own)
        .filter(|pid| {
            let line = fs::read(Path::new("/proc").join(pid).join("cmdline")).unwrap_or_default();
            line.windows(marker.len()).any(|window| window == marker.as_bytes())
        })
        .collect()
}

/// Waits for a condition, at most 20 seconds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "waited in vain for: {what}"
        );
        thread::park_timeout(Duration::from_millis(5));
    }
}

/// A number that is unique among the tests of this process and likely on this machine, for `sleep`.
pub fn marker() -> String {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(1);
    let next = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    format!("9{:08}.{next:04}", std::process::id())
}
