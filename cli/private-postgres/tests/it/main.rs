//! Real clusters in temporary directories, as whatever user the tests run as.

#![expect(clippy::unwrap_used, reason = "a test that fails may panic, its helpers included")]

use std::path::Path;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use private_postgres::{Cluster, Options};

struct Stopped(Cluster);

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = self.0.stop();
    }
}

fn start(directory: &Path) -> Stopped {
    Stopped(Cluster::ensure_started(directory, &Options::TEST).unwrap_or_else(|e| panic!("{e}")))
}

/// `psql` is not among the programs of every installation, so the answer is read from the socket by hand: a server that
/// asks for a password answers the startup message with an authentication request.
fn asks_for_a_password(cluster: &Cluster) -> bool {
    use std::io::{Read, Write};
    let url = cluster.url();
    let socket = url.expose().split("host=").nth(1).unwrap();
    let mut stream = std::os::unix::net::UnixStream::connect(format!("{socket}/.s.PGSQL.5432")).unwrap();
    let body = b"\0\x03\0\0user\0howdah\0database\0postgres\0\0";
    let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
    stream.write_all(&[&length, body.as_slice()].concat()).unwrap();
    let mut answer = [0; 9];
    stream.read_exact(&mut answer).unwrap();
    // 'R', its length, and 10 = SASL (scram).
    answer[0] == b'R' && answer[8] == 10
}

#[test]
fn a_cluster_is_made_adopted_stopped_and_started_again() {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("postgres");
    let first = start(&directory);
    assert!(first.0.is_running());
    assert!(asks_for_a_password(&first.0));
    let second = Cluster::ensure_started(&directory, &Options::TEST).unwrap();
    assert_eq!(second.process_id(), first.0.process_id());
    assert_eq!(second.url(), first.0.url());
    assert!(Cluster::stop_at(&directory).unwrap());
    assert!(!first.0.is_running());
    assert!(!Cluster::stop_at(&directory).unwrap());
    let third = start(&directory);
    assert!(third.0.is_running());
}

#[test]
fn a_killed_cluster_starts_again() {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("postgres");
    let mut cluster = start(&directory);
    let pid = cluster.0.process_id().unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    let began = std::time::Instant::now();
    while cluster.0.process_id().is_some() {
        assert!(began.elapsed().as_secs() < 10, "the killed server is still there");
        std::thread::yield_now();
    }
    cluster.0.start().unwrap_or_else(|e| panic!("{e}"));
    assert!(cluster.0.is_running());
    assert_ne!(cluster.0.process_id(), Some(pid));
}

#[test]
fn a_half_made_cluster_is_thrown_away() {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("postgres");
    std::fs::create_dir_all(directory.join("data.new/base")).unwrap();
    let cluster = start(&directory);
    assert!(cluster.0.is_running());
    assert!(!cluster.0.data().with_file_name("data.new").exists());
}

#[test]
fn nobody_listens_on_a_network_address() {
    let home = tempfile::tempdir().unwrap();
    let cluster = start(&home.path().join("postgres"));
    let settings = std::fs::read_to_string(cluster.0.data().join("postmaster.pid")).unwrap();
    assert_eq!(
        settings.lines().nth(5).map(str::trim),
        Some(""),
        "line 6 is the listen address"
    );
}

#[test]
fn an_ordinary_user_can_have_one_too() {
    // Only root can become somebody else; everybody else is an ordinary user in all tests above.
    if !nix::unistd::Uid::effective().is_root() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    std::fs::set_permissions(home.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let copy = home.path().join("tests");
    std::fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    let mut command = Command::new(&copy);
    command
        .args(["--exact", "a_killed_cluster_starts_again"])
        .env("TMPDIR", home.path())
        .current_dir("/");
    std::os::unix::process::CommandExt::uid(&mut command, 65534);
    std::os::unix::process::CommandExt::gid(&mut command, 65534);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
