//! Root runs all of these tests once more as an ordinary user, for whom another isolation is chosen.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::datum::{BINARY_VARIABLE, ISOLATION_VARIABLE, binary};

const NOBODY: u32 = 65534;

#[test]
fn everything_holds_for_an_ordinary_user() {
    if !nix::unistd::geteuid().is_root() {
        println!("this is an ordinary user already");
        return;
    }
    // Copies in a place that everybody can reach: the build directory may be root's alone.
    let directory = tempfile::tempdir().expect("a directory");
    let open = || fs::Permissions::from_mode(0o755);
    fs::set_permissions(directory.path(), open()).expect("open the directory");
    let copies = [
        ("it", std::env::current_exe().expect("this test")),
        ("howdah-sandbox", binary()),
    ];
    for (name, source) in copies {
        let copy = directory.path().join(name);
        fs::copy(source, &copy).expect("a copy");
        fs::set_permissions(copy, open()).expect("make it executable");
    }
    again(directory.path(), &[]);
    again(directory.path(), &[(ISOLATION_VARIABLE, "none")]);
    let bubblewrap = Command::new("bwrap").arg("--version").output();
    if bubblewrap.is_ok_and(|output| output.status.success()) {
        again(directory.path(), &[(ISOLATION_VARIABLE, "bubblewrap")]);
    }
}

/// Runs the copies as nobody.
fn again(directory: &Path, variables: &[(&str, &str)]) {
    let output = Command::new(directory.join("it"))
        .env_clear()
        .env(BINARY_VARIABLE, directory.join("howdah-sandbox"))
        .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
        .envs(variables.iter().copied())
        .current_dir("/")
        .gid(NOBODY)
        .uid(NOBODY)
        .output()
        .expect("run the tests");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{variables:?} {said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    println!("{said}");
}
