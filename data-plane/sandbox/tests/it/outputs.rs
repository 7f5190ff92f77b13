//! `collect_outputs`: what may leave a run, and what is refused with the path that is at fault.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use sandbox::{OutputKind, OutputLimits, collect_outputs, discard, open_output};

use crate::datum::{Datum, isolated};

/// As much as any test here leaves.
const LIMITS: OutputLimits = OutputLimits {
    entries: 8,
    path_bytes: 100,
    bytes: 10,
};

/// What is found in a directory made by `make`: `path kind` per line, or the error.
fn check(make: fn(&Path), expect: &str) {
    let directory = tempfile::tempdir().expect("a directory");
    let out = directory.path().join("out");
    fs::create_dir(&out).expect("out");
    make(&out);
    let found = match collect_outputs(&out, LIMITS) {
        Ok(outputs) => outputs
            .into_iter()
            .map(|output| match output.kind {
                OutputKind::File { size, executable } => format!("{} {size} {executable}\n", output.path),
                OutputKind::LinkToCode { path } => format!("{} -> code {path}\n", output.path),
                OutputKind::LinkToInput { input, path } => format!("{} -> {input}:{path}\n", output.path),
            })
            .collect(),
        Err(error) => error.to_string(),
    };
    assert_eq!(found.trim_end(), expect.trim_end());
}

fn link(target: &str, at: &Path) {
    symlink(target, at).expect("a link");
}

#[test]
fn files_and_links_into_inputs_are_found_in_order() {
    check(
        |out| {
            fs::create_dir_all(out.join("b/c")).expect("directories");
            fs::create_dir(out.join("empty")).expect("a directory");
            fs::write(out.join("b/c/Grüße *"), "12345").expect("a file");
            fs::write(out.join("a"), "").expect("a file");
            fs::set_permissions(out.join("a"), fs::Permissions::from_mode(0o755)).expect("executable");
            link("/pfs/images/x/y", &out.join("b/absolute"));
            link("../../images/./x", &out.join("b/relative"));
            link("/pfs/images", &out.join("whole"));
        },
        "a 0 true\nb/absolute -> images:x/y\nb/c/Grüße * 5 false\nb/relative -> images:x\nwhole -> images:\n",
    );
}

#[test]
fn links_elsewhere_are_refused() {
    let expect = |target: &str| {
        format!("output `l` is a link to `{target}`: only links to `/pfs/<input>/...` can be stored, so copy the file")
    };
    check(|out| link("/etc/passwd", &out.join("l")), &expect("/etc/passwd"));
    check(|out| link("/pfs", &out.join("l")), &expect("/pfs"));
    check(|out| link("/pfs/out/a", &out.join("l")), &expect("/pfs/out/a"));
    check(|out| link("a", &out.join("l")), &expect("a"));
    check(
        |out| link("/pfs/in/../../etc/passwd", &out.join("l")),
        &expect("/pfs/in/../../etc/passwd"),
    );
    check(
        |out| link("../../../../../../etc", &out.join("l")),
        &expect("../../../../../../etc"),
    );
}

#[test]
fn what_is_no_file_is_refused() {
    let expect = |path: &str, what: &str| {
        format!("output `{path}` is a {what}: only files, directories and links into inputs can be stored")
    };
    check(
        |out| drop(UnixListener::bind(out.join("s")).expect("a socket")),
        &expect("s", "socket"),
    );
    check(
        |out| {
            fs::create_dir(out.join("d")).expect("a directory");
            nix::unistd::mkfifo(&out.join("d/p"), nix::sys::stat::Mode::S_IRWXU).expect("a named pipe");
        },
        &expect("d/p", "named pipe"),
    );
    check(
        |out| fs::write(out.join(std::ffi::OsStr::from_bytes(b"a\xff")), "").expect("a file"),
        "output `a\u{fffd}` has a name that is not UTF-8: rename it",
    );
}

#[test]
fn more_than_may_be_left_is_refused_before_it_is_listed() {
    let files = |out: &Path, count: usize| {
        for n in 0..count {
            fs::write(out.join(format!("f{n}")), "1").expect("a file");
        }
    };
    check(
        |out| {
            for n in 0..9 {
                fs::create_dir(out.join(format!("d{n}"))).expect("a directory");
            }
        },
        "the outputs are more than 8 files and directories: write fewer per datum, or pack them into an archive",
    );
    check(
        |out| fs::write(out.join("n".repeat(100)), "").expect("a file"),
        "the paths of the outputs have more than 100 bytes: write fewer files per datum, or give them shorter names",
    );
    check(
        |out| {
            fs::write(out.join("a"), "1234").expect("a file");
            let sparse = fs::File::create(out.join("b")).expect("a file");
            sparse.set_len(7).expect("a hole");
        },
        "output `b` brings the outputs to more than 10 bytes: write less per datum, or raise resource_limits.disk",
    );
    let directory = tempfile::tempdir().expect("a directory");
    files(directory.path(), LIMITS.entries);
    assert_eq!(collect_outputs(directory.path(), LIMITS).expect("outputs").len(), 8);
}

#[test]
fn a_directory_that_became_a_link_is_not_followed() {
    let directory = tempfile::tempdir().expect("a directory");
    let out = directory.path().join("out");
    fs::create_dir_all(out.join("d")).expect("out");
    fs::write(out.join("d/f"), "f").expect("a file");
    assert!(open_output(&out, "d/f").is_ok());
    fs::rename(out.join("d"), directory.path().join("elsewhere")).expect("move");
    link("../elsewhere", &out.join("d"));
    link("/etc/passwd", &out.join("p"));
    assert!(open_output(&out, "d/f").is_err());
    assert!(open_output(&out, "p").is_err());
    assert!(open_output(&out, "../elsewhere/f").is_err());
}

#[test]
fn a_link_to_an_input_made_in_a_run_is_a_reference() {
    let script = if isolated() {
        "ln -s /pfs/in/a /pfs/out/l"
    } else {
        "ln -s $PFS/in/a $PFS/out/l"
    };
    let datum = Datum::shell(script);
    datum.printed();
    let outputs = collect_outputs(&datum.run.pfs.join("out"), LIMITS).expect("outputs");
    assert_eq!(outputs.len(), 1);
    assert_eq!(
        outputs[0].kind,
        OutputKind::LinkToInput {
            input: "in".to_owned(),
            path: "a".to_owned()
        }
    );
}

#[test]
fn a_datum_is_discarded_whatever_its_command_did_to_permissions() {
    let datum = Datum::shell(
        "mkdir -p /pfs/out/d/e; touch /pfs/out/d/e/f; ln -s /etc /pfs/out/d/l; chmod 0 /pfs/out/d/e /pfs/out/d",
    );
    datum.run();
    if !nix::unistd::geteuid().is_root() {
        let refused = collect_outputs(&datum.run.pfs.join("out"), LIMITS).map_err(|error| error.to_string());
        let expect = "output `d` cannot be read: the command must leave it readable to its owner";
        assert_eq!(refused, Err(expect.to_owned()));
    }
    let other = datum.directory.path().join("pfs");
    discard(&other).expect("discard");
    assert!(!other.exists() && Path::new("/etc/passwd").exists());
    discard(&other).expect("a second time");
}
