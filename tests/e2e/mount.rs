//! A commit as a directory: read like files, refused like a read-only disk, gone when the right to read is.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::{RngExt, SeedableRng};

use super::harness::{Person, Service, eventually, text};

/// A person's mounts: with a cache of the story's own, and none of them left behind.
struct Mounts<'a> {
    person: &'a Person<'a>,
    made: Vec<PathBuf>,
}

impl<'a> Mounts<'a> {
    fn of(person: &'a Person<'a>) -> Self {
        Self {
            person,
            made: Vec::new(),
        }
    }

    fn attempt(&self, args: &[&str]) -> Output {
        let cache = self.cache().to_string_lossy().into_owned();
        self.person.run_with(args, b"", &[("XDG_CACHE_HOME", &cache)])
    }

    fn cache(&self) -> PathBuf {
        self.person.service.home.path().join("cache")
    }

    fn mount(&mut self, reference: &str, name: &str, more: &[&str]) -> PathBuf {
        let args = [&["mount", reference, name, "--detach"], more].concat();
        let output = self.attempt(&args);
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        let directory = self.person.service.files.path().join(name);
        self.made.push(directory.clone());
        directory
    }

    fn unmount(&self, directory: &Path) {
        let output = self.attempt(&["unmount", &directory.to_string_lossy()]);
        assert!(output.status.success(), "{}", text(&output.stderr));
    }

    fn process(&self, name: &str) -> i32 {
        let of = self.person.service.processes(&["--detached", "--cache-size", name]);
        assert_eq!(of.len(), 1, "{of:?}");
        of[0]
    }
}

impl Drop for Mounts<'_> {
    fn drop(&mut self) {
        for directory in &self.made {
            let _ = self.attempt(&["unmount", "--force", &directory.to_string_lossy()]);
        }
    }
}

/// Whether this machine can mount. Where it cannot, the command must say so in words.
fn can_mount(person: &Person<'_>) -> bool {
    let findings = person.json(&["doctor"]);
    let fuse = findings
        .as_array()
        .and_then(|all| all.iter().find(|f| f["check"] == "FUSE"))
        .expect("the doctor looks at FUSE");
    if fuse["verdict"] == "good" {
        return true;
    }
    assert!(fuse["do"].is_string(), "{fuse}");
    let said = person.fails(1, &["mount", "things@main", "mounted"]);
    assert!(said.contains("FUSE") && said.contains("howdah get -r"), "{said}");
    false
}

fn content(size: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; size];
    rand::rngs::StdRng::seed_from_u64(seed).fill(&mut bytes[..]);
    bytes
}

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().expect("it can be started");
    assert!(output.status.success(), "{program} {args:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// 600 small files, a large one, one that may be executed, and names that are no ASCII.
fn put_things(service: &Service, person: &Person<'_>) -> Vec<u8> {
    let large = content(9 * 1024 * 1024 + 77, 1);
    service.file("things/large.bin", &large);
    for n in 0..600 {
        service.file(&format!("things/many/{n}.txt"), format!("number {n}\n").as_bytes());
    }
    service.file("things/a/b/c/é ü.txt", b"deep\n");
    service.file("things/empty", b"");
    service.script("things/tool", "#!/bin/sh\necho I ran\n");
    person.run(&["repo", "create", "things"]);
    person.run(&["put", "things@main", "things", "-r"]);
    large
}

#[test]
fn a_mounted_commit_reads_like_a_directory_and_stays_what_it_was() {
    let service = Service::start();
    let ada = service.person("ada", Some("acme"));
    let large = put_things(&service, &ada);
    if !can_mount(&ada) {
        return;
    }
    let mut mounts = Mounts::of(&ada);
    let root = mounts.mount("things@main", "mounted", &[]);
    let at = |path: &str| root.join(path);

    // The commit of that moment, whatever is put later.
    let later = service.file("later", b"later");
    ada.run(&["put", "things@main", &later]);
    ada.run(&["get", "things@main^:/", "-r", "-o", "got"]);
    let got = service.files.path().join("got");
    run("diff", &["-r", &root.to_string_lossy(), &got.to_string_lossy()]);
    assert_eq!(
        run("find", &[&root.to_string_lossy(), "-type", "f"]).lines().count(),
        604
    );
    assert_eq!(
        fs::metadata(at("large.bin")).expect("it is there").len(),
        large.len() as u64
    );
    assert_eq!(run(&at("tool").to_string_lossy(), &[]), "I ran\n");
    let mode = |path: &str| fs::metadata(at(path)).expect("it is there").permissions().mode() & 0o777;
    assert_eq!((mode("tool"), mode("empty"), mode("many")), (0o555, 0o444, 0o555));

    nothing_can_be_written_or_found_that_is_not_there(&root);
    parallel_readers_of_random_ranges_read_what_was_put(&at("large.bin"), &large);

    let taken = mounts.attempt(&["mount", "things@main", "mounted"]);
    assert_eq!(taken.status.code(), Some(6), "{}", text(&taken.stderr));
    let held = File::open(at("empty")).expect("it can be opened");
    let busy = mounts.attempt(&["unmount", "mounted"]);
    assert_eq!(busy.status.code(), Some(6), "{}", text(&busy.stderr));
    drop(held);
    mounts.unmount(&root);
    assert_eq!(fs::read_dir(&root).expect("the directory stays").count(), 0);
    let gone = mounts.attempt(&["unmount", "mounted"]);
    assert_eq!(gone.status.code(), Some(3), "{}", text(&gone.stderr));
    eventually("its process ends", || {
        service.processes(&["--detached", "--cache-size"]).is_empty()
    });
}

fn nothing_can_be_written_or_found_that_is_not_there(root: &Path) {
    let refused = [
        fs::write(root.join("new"), "x"),
        fs::write(root.join("large.bin"), "x"),
        fs::remove_file(root.join("empty")),
        fs::create_dir(root.join("folder")),
        fs::rename(root.join("empty"), root.join("full")),
        fs::set_permissions(root.join("tool"), fs::Permissions::from_mode(0o600)),
    ];
    for answer in refused {
        let error = answer.expect_err("nothing can be written");
        assert_eq!(error.kind(), ErrorKind::ReadOnlyFilesystem, "{error}");
    }
    for name in [
        &b"nothing"[..],
        b"no \xff utf-8",
        b"many/600.txt",
        b"many/nothing/below",
    ] {
        let error = fs::metadata(root.join(std::ffi::OsStr::from_bytes(name))).expect_err("it is not there");
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    }
}

fn parallel_readers_of_random_ranges_read_what_was_put(path: &Path, large: &[u8]) {
    std::thread::scope(|scope| {
        for seed in 0..8_u64 {
            scope.spawn(move || {
                let mut random = rand::rngs::StdRng::seed_from_u64(seed);
                let file = File::open(path).expect("it can be opened");
                for _ in 0..50 {
                    let from = random.random_range(0..large.len());
                    let length = random.random_range(1..=(large.len() - from).min(300_000));
                    let mut bytes = vec![0; length];
                    file.read_exact_at(&mut bytes, from as u64).expect("it can be read");
                    assert!(
                        bytes == large[from..from + length],
                        "seed {seed}: {length} bytes from {from}"
                    );
                }
                assert!(fs::read(path).expect("it can be read") == large, "all of it");
            });
        }
    });
}

#[test]
fn a_mount_outlives_its_plane_is_cleared_when_killed_and_ends_by_a_signal() {
    let service = Service::start();
    let ada = service.person("ada", Some("acme"));
    let large = put_things(&service, &ada);
    if !can_mount(&ada) {
        return;
    }
    let mut mounts = Mounts::of(&ada);
    let root = mounts.mount("things@main", "mounted", &["--patience", "1s"]);
    let pid = Pid::from_raw(mounts.process("mounted"));
    let session = nix::unistd::getsid(Some(pid)).expect("it runs");
    assert_eq!(session, pid, "it outlives the terminal that it was started in");
    assert!(fs::read(root.join("large.bin")).expect("it can be read") == large);

    // A plane that is killed is woken by the next read.
    for pid in service.processes(&["howdah-data-plane", "serve"]) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    eventually("reads go on", || {
        fs::read(root.join("many/7.txt")).is_ok_and(|read| read == b"number 7\n")
    });

    let still_up = Instant::now();
    fs::read(root.join("many/9.txt")).expect("it can be read");
    assert!(service.down().status.success());
    // What the kernel has not is read from the cache while the right to read still counts.
    let mut bytes = vec![0; 1000];
    let read = File::open(root.join("large.bin")).and_then(|file| {
        file.read_exact_at(&mut bytes, 5_000_000)?;
        Ok(file)
    });
    match &read {
        Ok(_) => assert!(bytes == large[5_000_000..5_001_000]),
        // A yes counts for 60 s, and it is 20 s old before the next one is asked for.
        Err(error) => {
            assert!(
                still_up.elapsed() > Duration::from_secs(35),
                "it was read before: {error}"
            );
            assert_eq!(error.raw_os_error(), Some(nix::errno::Errno::EIO as i32), "{error}");
        }
    }
    let error = fs::read(root.join("many/8.txt")).expect_err("nobody answers");
    assert_eq!(error.raw_os_error(), Some(nix::errno::Errno::EIO as i32), "{error}");
    let logs = mounts.cache().join("howdah/mounts");
    let log = fs::read_dir(logs)
        .expect("there is a log")
        .flatten()
        .next()
        .expect("there is a log");
    let said = fs::read_to_string(log.path()).expect("it can be read");
    assert!(said.contains("the service does not give what was asked for"), "{said}");
    drop(read);
    service.up();

    // Killed, it leaves a mount that answers nothing; the next one clears it and finds the blocks on the disk.
    let _ = kill(Pid::from_raw(mounts.process("mounted")), Signal::SIGKILL);
    eventually("the mount is dead", || fs::read_dir(&root).is_err());
    let again = mounts.attempt(&["mount", "things@main", "mounted", "--detach"]);
    assert!(again.status.success(), "{}", text(&again.stderr));
    assert!(text(&again.stderr).contains("was killed"), "{}", text(&again.stderr));
    assert!(fs::read(root.join("large.bin")).expect("it can be read") == large);

    let _ = kill(Pid::from_raw(mounts.process("mounted")), Signal::SIGTERM);
    eventually("it is unmounted", || {
        fs::read_dir(&root).is_ok_and(|inside| inside.count() == 0)
    });
}

#[test]
fn a_revoked_right_ends_reads_also_of_what_is_cached() {
    let service = Service::start();
    let ada = service.person("ada", Some("acme"));
    let bob = service.person("bob", None);
    bob.joins(&ada, "acme");
    let large = put_things(&service, &ada);
    if !can_mount(&ada) {
        return;
    }
    let refused = bob.attempt(&["mount", "things@main", "mounted"]);
    assert!(
        [Some(3), Some(4)].contains(&refused.status.code()),
        "{}",
        text(&refused.stderr)
    );
    let subject = format!("user:{}", bob.email());
    ada.run(&["grant", "add", &subject, "viewer", "things"]);
    let mut mounts = Mounts::of(&bob);
    let root = mounts.mount("things@main", "mounted", &[]);
    let path = root.join("large.bin");
    assert!(fs::read(&path).expect("it can be read") == large);
    let open = File::open(&path).expect("it can be opened");

    ada.run(&["grant", "remove", &subject, "viewer", "things"]);

    let denied = |answer: std::io::Result<()>| answer.is_err_and(|e| e.kind() == ErrorKind::PermissionDenied);
    eventually("what is open and cached is denied", || {
        let mut bytes = [0; 10];
        denied(open.read_exact_at(&mut bytes, 100))
    });
    assert!(denied(File::open(&path).map(drop)));
    assert!(denied(fs::read_dir(root.join("many")).map(drop)));
    eventually("nothing of it is left on the disk", || {
        let inside = |path: PathBuf| fs::read_dir(path).expect("it is there").flatten().map(|e| e.path());
        let services: Vec<PathBuf> = inside(mounts.cache().join("howdah/blocks")).collect();
        assert_eq!(services.len(), 1, "{services:?}");
        let mut folders = services.into_iter().flat_map(inside);
        folders.all(|folder| inside(folder).next().is_none())
    });
}
