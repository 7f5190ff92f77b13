//! Mounts of a user who is not root: by fusermount3, on a directory and with a cache of his own. In a mount namespace of its
//! own, in which everybody may open /dev/fuse as on most machines, whatever holds on this one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::harness::{Person, Service, text};

/// Nobody in particular.
const USER: u32 = 65534;

/// Before the user's part: `$1` is a directory for what is bound over the machine's own, `$2` the mode of the device.
const BEFORE: &str = r#"
set -eu
rm -f "$1/fuse" && mknod -m "$2" "$1/fuse" c 10 229
mount --bind "$1/fuse" /dev/fuse
: > "$1/fuse.conf"
if [ -e /etc/fuse.conf ]; then mount --bind "$1/fuse.conf" /etc/fuse.conf; fi
shift 2
exec setpriv --reuid 65534 --regid 65534 --clear-groups "$@"
"#;

/// Reads, refuses, unmounts, is killed and is ended, in that order; says of each what was seen.
const STORY: &str = r#"
cd "$HOME"
howdah mount things@main mnt --detach
cmp mnt/large "$FILES/things/large" && cat mnt/a/b
stat -c '%u %a' mnt/large
(echo x > mnt/new) 2> refused || echo read-only
[ -d .cache/howdah/blocks ] && echo cached
howdah unmount mnt

pid() { sed 's/.*"pid":\([0-9]*\).*/\1/' shown; }
until_fails() { while "$@" > seen 2>&1; do :; done; }
howdah mount things@main mnt --detach --json > shown
kill -KILL "$(pid)"
until_fails ls mnt
howdah mount things@main mnt --detach
exec 5< mnt/large
howdah unmount mnt || echo "busy $?"
exec 5<&-
howdah unmount mnt
howdah mount things@main mnt --detach --json > shown
kill -TERM "$(pid)"
until_fails mountpoint -q mnt
ls -A mnt

howdah mount things@main mnt --allow-other --detach || echo "others $?"
howdah mount things@main "$FILES/things" --detach || echo "not empty $?"
howdah mount things@main "$FILES/roots" --detach || echo "not his $?"

# Whoever has no home has his token from the environment.
export HOME=/nonexistent
howdah mount things@main mnt --detach
cat mnt/a/b
howdah unmount mnt
"#;

/// A user with a home of his own, and a token.
struct Other<'a> {
    service: &'a Service,
    token: String,
    place: PathBuf,
}

impl<'a> Other<'a> {
    fn of(service: &'a Service, person: &Person<'_>) -> Self {
        let token = person.json(&["token", "create", "--name", "mounts"]);
        let place = service.home.path().join("other");
        fs::create_dir_all(place.join("bin")).expect("a folder can be made");
        fs::create_dir_all(place.join("home")).expect("a folder can be made");
        std::os::unix::fs::chown(place.join("home"), Some(USER), Some(USER)).expect("it can be given away");
        // Where the tests are built may be closed to others.
        fs::copy(super::harness::binaries().join("howdah"), place.join("bin/howdah")).expect("it can be copied");
        Self {
            service,
            token: token["secret"].as_str().expect("a token has a secret").to_owned(),
            place,
        }
    }

    fn run(&self, device: &str, program: &[&str]) -> Output {
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", self.place.join("bin").display());
        let mut command = Command::new("timeout");
        command
            .args([
                "--kill-after",
                "5",
                "110",
                "unshare",
                "--mount",
                "sh",
                "-c",
                BEFORE,
                "sh",
            ])
            .arg(&self.place)
            .arg(device)
            .args(program)
            .env_clear()
            .env("PATH", path)
            .env("HOME", self.place.join("home"))
            .env("FILES", self.service.files.path())
            .env("HOWDAH_URL", self.service.url())
            .env("HOWDAH_TOKEN", &self.token)
            .env("NO_COLOR", "1");
        command.output().expect("timeout can be started")
    }
}

/// Why there can be no such mount here.
fn obstacle(other: &Other<'_>) -> Option<String> {
    if !Path::new("/dev/fuse").exists() {
        return Some("there is no /dev/fuse".to_owned());
    }
    let tried = other.run("666", &["sh", "-c", "command -v fusermount3 && exec 3<> /dev/fuse"]);
    let why = format!("{}{}", text(&tried.stdout), text(&tried.stderr));
    (!tried.status.success()).then(|| format!("no fusermount3, no setpriv, or no right to a namespace: {why}"))
}

#[test]
fn a_user_who_is_not_root_mounts_reads_and_unmounts_with_nothing_but_fusermount3() {
    if !nix::unistd::Uid::effective().is_root() {
        println!("passed over: whoever runs the tests is such a user already, and all tests of mounts are this one");
        return;
    }
    let service = Service::start();
    let ada = service.person("ada", Some("acme"));
    service.file("things/large", &[7; 3_000_000]);
    service.file("things/a/b", b"deep\n");
    fs::create_dir(service.files.path().join("roots")).expect("a folder can be made");
    ada.run(&["repo", "create", "things"]);
    ada.run(&["put", "things@main", "things", "-r"]);
    let other = Other::of(&service, &ada);
    if let Some(why) = obstacle(&other) {
        println!("passed over: {why}");
        return;
    }

    let output = other.run("666", &["sh", "-eu", "-c", STORY]);
    let (seen, said) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{seen}{said}");
    let told: Vec<&str> = seen
        .lines()
        .filter(|line| !line.contains(" at /") && !line.contains("unmounted"))
        .collect();
    let expected = [
        "deep",
        "65534 444",
        "read-only",
        "cached",
        "busy 6",
        "others 1",
        "not empty 6",
        "not his 1",
        "deep",
    ];
    assert_eq!(told, expected, "{said}");
    for why in ["was killed", "user_allow_other", "no write access"] {
        assert!(said.contains(why), "{why}: {said}");
    }

    let closed = other.run("600", &["sh", "-c", "cd && howdah mount things@main mnt"]);
    let said = text(&closed.stderr);
    assert_eq!(closed.status.code(), Some(1), "{said}");
    assert!(said.contains("chmod 666 /dev/fuse"), "{said}");
}
