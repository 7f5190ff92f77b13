//! A service of its own for one story, and people who use it through the `howdah` binary.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// How long any one condition may take before the story fails.
pub const LIMIT: Duration = Duration::from_secs(120);

/// The folder of the binaries that this test was built with.
pub fn binaries() -> PathBuf {
    let test = std::env::current_exe().expect("a test knows where it lies");
    let folder = test
        .parent()
        .and_then(Path::parent)
        .expect("it lies in target/<profile>/deps")
        .to_owned();
    for name in ["howdah", "howdah-control-plane", "howdah-data-plane", "howdah-sandbox"] {
        assert!(
            folder.join(name).exists(),
            "`{name}` is not built: run `cargo test --workspace`, not one package alone"
        );
    }
    folder
}

/// An embedded service with a home of its own; stopped when dropped.
pub struct Service {
    pub home: TempDir,
    pub listen: String,
    pub files: TempDir,
}

impl Service {
    /// Starts one on a free port.
    pub fn start() -> Self {
        let service = Self::prepare();
        service.up();
        service
    }

    /// Makes the home, starts nothing.
    pub fn prepare() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("there is a free port");
        let listen = listener.local_addr().expect("it has an address").to_string();
        Self {
            home: temp("howdah-e2e"),
            listen,
            files: temp("howdah-files"),
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.listen)
    }

    pub fn up(&self) {
        let output = self.operator(["up", "--detach", "--listen", &self.listen]);
        assert!(
            output.status.success(),
            "`howdah up` failed: {}\n{}",
            text(&output.stderr),
            self.logs()
        );
    }

    pub fn down(&self) -> Output {
        self.operator(["down"])
    }

    /// Runs `howdah` as whoever operates the service.
    pub fn operator<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Output {
        self.operator_with(args, &[])
    }

    /// The same with extra environment.
    pub fn operator_with<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>, env: &[(&str, &str)]) -> Output {
        let mut command = self.command(self.home.path());
        command
            .args(args)
            .envs(env.iter().copied())
            .output()
            .expect("`howdah` can be started")
    }

    fn command(&self, config: &Path) -> Command {
        let mut command = Command::new(binaries().join("howdah"));
        command
            .env("HOWDAH_HOME", self.home.path().join("service"))
            .env("HOWDAH_CONFIG_HOME", config)
            .env("NO_COLOR", "1")
            .current_dir(self.files.path())
            .stdin(Stdio::null());
        // Whatever whoever runs the tests uses themselves.
        for name in [
            "HOWDAH_URL",
            "HOWDAH_TOKEN",
            "HOWDAH_ORG",
            "HOWDAH_PROJECT",
            "HOWDAH_BIN_DIR",
            "DATABASE_URL",
        ] {
            command.env_remove(name);
        }
        command
    }

    /// Somebody without an account.
    pub fn stranger(&self, name: &str) -> Person<'_> {
        let config = self.home.path().join("people").join(name);
        fs::create_dir_all(&config).expect("a folder can be made");
        Person {
            service: self,
            name: name.to_owned(),
            config,
        }
    }

    /// Somebody with an account, logged in.
    pub fn person(&self, name: &str, organization: Option<&str>) -> Person<'_> {
        let person = self.stranger(name);
        let email = person.email();
        let mut args = vec!["signup", "--email", &email, "--password-stdin"];
        if let Some(organization) = organization {
            args.extend(["--org", organization]);
        }
        let output = person.run_with(args, b"correct horse battery\n", &[]);
        assert!(
            output.status.success(),
            "sign-up of {name} failed: {}\n{}",
            text(&output.stderr),
            self.logs()
        );
        person
    }

    /// Writes a file among the story's files; gives its absolute path.
    pub fn file(&self, path: &str, content: &[u8]) -> String {
        let path = self.files.path().join(path);
        fs::create_dir_all(path.parent().expect("a file has a folder")).expect("a folder can be made");
        fs::write(&path, content).expect("a file can be written");
        path.to_string_lossy().into_owned()
    }

    /// The same, and anybody may execute it.
    pub fn script(&self, path: &str, content: &str) -> String {
        use std::os::unix::fs::PermissionsExt;
        let path = self.file(path, content.as_bytes());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a mode can be set");
        path
    }

    /// How many packs there are in the buckets of this service.
    pub fn packs(&self) -> usize {
        let mut folders = vec![self.home.path().join("service")];
        let mut found = 0;
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    folders.push(entry.path());
                } else if folder.ends_with("packs") {
                    found += 1;
                }
            }
        }
        found
    }

    /// Process ids of this service whose command line holds all of these words.
    pub fn processes(&self, words: &[&str]) -> Vec<i32> {
        let home = self.home.path().to_string_lossy().into_owned();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").expect("there is a /proc").flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else {
                continue;
            };
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if words.iter().all(|word| line.contains(word)) && self.is_below_us(pid, &home, &line) {
                found.push(pid);
            }
        }
        found
    }

    /// Whether a process belongs to this service: its home is in its command line, environment or its parent's.
    fn is_below_us(&self, pid: i32, home: &str, line: &str) -> bool {
        if line.contains(home) {
            return true;
        }
        let mut pid = pid;
        for _ in 0..8 {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            if String::from_utf8_lossy(&environment).contains(home) {
                return true;
            }
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let parent = status
                .lines()
                .find_map(|l| l.strip_prefix("PPid:"))
                .and_then(|p| p.trim().parse().ok());
            match parent {
                Some(parent) if parent > 1 && parent != i32::try_from(std::process::id()).unwrap_or(0) => pid = parent,
                _ => return false,
            }
        }
        false
    }

    /// Ends of all logs, for a failing story.
    pub fn logs(&self) -> String {
        let mut all = String::new();
        for entry in fs::read_dir(self.home.path().join("service/log"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let log = fs::read_to_string(entry.path()).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let end = lines[lines.len().saturating_sub(15)..].join("\n");
            all.push_str(&format!("── {}\n{end}\n", entry.file_name().to_string_lossy()));
        }
        all
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        let output = self.down();
        if !output.status.success() && !std::thread::panicking() {
            panic!("`howdah down` failed: {}", text(&output.stderr));
        }
    }
}

/// Somebody who uses the service through the command line.
pub struct Person<'s> {
    pub service: &'s Service,
    pub name: String,
    config: PathBuf,
}

impl Person<'_> {
    pub fn email(&self) -> String {
        format!("{}@example.test", self.name)
    }

    /// Runs `howdah` with text on its standard input and extra environment.
    pub fn run_with<S: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = S>,
        stdin: &[u8],
        env: &[(&str, &str)],
    ) -> Output {
        let mut command = self.service.command(&self.config);
        command
            .args(args)
            .envs(env.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("`howdah` can be started");
        let mut input = child.stdin.take().expect("it has a standard input");
        // A command that does not read its input may close it first.
        let _ = input.write_all(stdin);
        drop(input);
        child.wait_with_output().expect("it ends")
    }

    /// Where the credentials are, and what else the command remembers.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Begins to run it.
    pub fn spawn(&self, args: &[&str]) -> std::process::Child {
        let mut command = self.service.command(&self.config);
        command.args(args).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().expect("`howdah` can be started")
    }

    /// Runs it and gives what happened.
    pub fn attempt(&self, args: &[&str]) -> Output {
        self.run_with(args, b"", &[])
    }

    /// Runs it, expects success, gives standard output.
    pub fn run(&self, args: &[&str]) -> String {
        let output = self.attempt(args);
        assert!(
            output.status.success(),
            "`howdah {}` as {} ended with {:?}\nstdout: {}\nstderr: {}",
            args.join(" "),
            self.name,
            output.status.code(),
            text(&output.stdout),
            text(&output.stderr),
        );
        text(&output.stdout)
    }

    /// Runs it with `--json`, expects success, gives the document.
    pub fn json(&self, args: &[&str]) -> Value {
        let mut all = args.to_vec();
        all.push("--json");
        let answer = self.run(&all);
        serde_json::from_str(&answer).unwrap_or_else(|e| panic!("`howdah {}`: {e}: {answer}", all.join(" ")))
    }

    /// The same where it prints one document a line.
    pub fn json_lines(&self, args: &[&str]) -> Vec<Value> {
        let mut all = args.to_vec();
        all.push("--json");
        self.run(&all)
            .lines()
            .map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}")))
            .collect()
    }

    /// Expects that exit code; gives standard error.
    pub fn fails(&self, code: i32, args: &[&str]) -> String {
        let output = self.attempt(args);
        assert_eq!(
            output.status.code(),
            Some(code),
            "`howdah {}` as {}: wrong exit code\nstdout: {}\nstderr: {}",
            args.join(" "),
            self.name,
            text(&output.stdout),
            text(&output.stderr),
        );
        text(&output.stderr)
    }

    /// Joins an organization of somebody else.
    pub fn joins(&self, host: &Person<'_>, organization: &str) {
        let invitation = host.json(&["org", "invite", &self.email(), "--role", "member"]);
        let token = invitation["token"].as_str().expect("an invitation has a token");
        self.run(&["org", "accept", token]);
        self.run(&["org", "use", organization]);
    }
}

/// Standard output or error as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Waits for a condition.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < LIMIT, "did not happen within {LIMIT:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A folder of its own that every user of the machine may enter: PostgreSQL and user code have users of their own.
fn temp(prefix: &str) -> TempDir {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::Builder::new()
        .prefix(prefix)
        .tempdir()
        .expect("a temporary folder can be made");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("a mode can be set");
    folder
}
