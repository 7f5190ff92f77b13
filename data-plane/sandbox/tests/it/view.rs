//! What user code can see and change of the host's files.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

use sandbox::{Exit, Stdin};

use crate::datum::{Datum, among_the_hosts_programs, binary, bubblewrap, isolated};

#[test]
fn an_input_is_read_only_and_out_is_writable() {
    if !isolated() {
        return;
    }
    // An image has a copy of its own of what code writes there.
    let programs = match among_the_hosts_programs() {
        true => "/new /usr/new /etc/new",
        false => "",
    };
    let datum = Datum::shell(
        &"cat /pfs/in/a; for f in /pfs/in/a /pfs/in/new /pfs/new PROGRAMS; do
           if (echo x > $f) 2>/dev/null; then echo wrote $f; fi; done
         chmod 777 /pfs/in/a 2>/dev/null && echo changed; rm -f /pfs/in/a 2>/dev/null && echo removed
         mkdir /pfs/out/d && echo result > /pfs/out/d/b"
            .replace("PROGRAMS", programs),
    );
    assert_eq!(datum.printed(), "input");
    assert_eq!(
        fs::read_to_string(datum.out("d/b")).expect("read the output"),
        "result\n"
    );
    assert_eq!(
        fs::read_to_string(datum.run.pfs.join("in/a")).expect("read the input"),
        "input"
    );
    assert_eq!(fs::metadata(datum.out("d/b")).expect("stat").mode() & 0o777, 0o644);
}

#[test]
fn only_the_inputs_that_are_named_are_there() {
    if !isolated() {
        return;
    }
    let mut datum = Datum::shell("ls /pfs; cat /pfs/other/x");
    for name in ["hidden", "other"] {
        fs::create_dir(datum.run.pfs.join(name)).expect("another input");
        fs::write(datum.run.pfs.join(name).join("x"), name).expect("a file");
    }
    datum.run.inputs.push("other".to_owned());
    assert_eq!(datum.printed(), "in\nother\nout\nother");
}

#[test]
fn of_the_host_only_programs_are_there() {
    if !isolated() || !among_the_hosts_programs() {
        return;
    }
    let allowed = [
        "bin", "dev", "etc", "lib", "lib32", "lib64", "libx32", "opt", "pfs", "proc", "sbin", "tmp", "usr", "var",
    ];
    for entry in Datum::shell("ls -A /").printed().lines() {
        assert!(
            allowed.contains(&entry) || (bubblewrap() && entry == "run"),
            "/{entry} is visible"
        );
    }
    assert_eq!(Datum::shell("ls -A /var").printed(), "tmp\n");
    if bubblewrap() {
        return;
    }
    let devices = Datum::shell("ls -A /dev; echo x > /dev/null; head -c 4 /dev/urandom | wc -c").printed();
    assert_eq!(
        devices,
        "fd\nfull\nnull\nrandom\nshm\nstderr\nstdin\nstdout\nurandom\nzero\n4\n"
    );
}

#[test]
fn the_state_directory_is_hidden_wherever_it_is() {
    if !isolated() {
        return;
    }
    // Below a visible directory where root may write, and below one that is not there at all.
    for home in [tempfile::tempdir_in("/opt"), tempfile::tempdir()]
        .into_iter()
        .filter_map(Result::ok)
    {
        fs::write(home.path().join("key"), "secret").expect("a secret");
        let socket = home.path().join("postgres.sock");
        let _listener = UnixListener::bind(&socket).expect("a socket");
        let path = home.path().display();
        let script = format!("cat {path}/key; ls {path}; test -e {}; echo $?", socket.display());
        let mut datum = Datum::shell(&script);
        datum.run.masked = vec![home.path().to_path_buf()];
        assert_eq!(datum.printed(), "1\n", "{path}");
    }
}

#[test]
fn a_directory_can_be_made_visible_read_only_and_masked_below() {
    let (visible, masked) = (Path::new("/var/lib"), Path::new("/var/lib/dpkg"));
    if !isolated() || !among_the_hosts_programs() || !masked.is_dir() {
        return;
    }
    let mut datum = Datum::shell("ls /var/lib; (touch /var/lib/new) 2>/dev/null && echo wrote; ls /var/lib/dpkg; true");
    assert_eq!(datum.run().stdout, "");
    datum.run.visible = vec![visible.to_path_buf()];
    let all = datum.printed();
    assert!(
        all.contains("dpkg\n") && all.contains("status\n") && !all.contains("wrote"),
        "{all}"
    );
    datum.run.masked = vec![masked.to_path_buf()];
    let masked = datum.printed();
    assert!(masked.contains("dpkg\n") && !masked.contains("status\n"), "{masked}");
}

#[test]
fn tmp_is_private() {
    if !isolated() {
        return;
    }
    let datum = Datum::shell("ls -A /tmp; echo kept > /tmp/mine; ls /var/tmp; pwd; echo $HOME");
    let in_both = if among_the_hosts_programs() { "mine\n" } else { "" };
    assert_eq!(datum.printed(), format!("{in_both}/tmp\n/tmp\n"));
    assert_eq!(
        fs::read_to_string(datum.run.scratch.join("mine")).expect("scratch"),
        "kept\n"
    );
    assert!(!Path::new("/tmp/mine").exists());
}

#[test]
fn the_environment_is_what_was_passed() {
    if !isolated() {
        return;
    }
    let mut datum = Datum::new(&["env"]);
    datum.run.env = vec![
        ("in".to_owned(), "/pfs/in/a".to_owned()),
        ("LANG".to_owned(), "de_DE".to_owned()),
    ];
    let printed = datum.printed();
    let mut lines: Vec<&str> = printed.lines().collect();
    lines.sort_unstable();
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    assert_eq!(lines, ["HOME=/tmp", "LANG=de_DE", path, "in=/pfs/in/a"]);
}

#[test]
fn standard_input_arrives_whole() {
    let mut datum = Datum::new(&["/bin/sh"]);
    datum.run.stdin = Stdin::Bytes(b"echo one\necho two\n".to_vec());
    assert_eq!(datum.printed(), "one\ntwo\n");

    let mut datum = Datum::new(&["wc", "-c"]);
    assert_eq!(datum.printed(), "0\n");
    datum.run.stdin = Stdin::Bytes(vec![b'x'; 3_000_000]);
    assert_eq!(datum.printed(), "3000000\n");
    datum.run.command = vec!["true".to_owned()];
    assert_eq!(datum.run().outcome.exit, Exit::Code(0));

    let mut datum = Datum::new(&["cat"]);
    let file = datum.directory.path().join("stdin");
    fs::write(&file, "from a file").expect("a file");
    datum.run.stdin = Stdin::File(file);
    assert_eq!(datum.printed(), "from a file");
}

#[test]
fn scripts_that_were_pushed_as_data_run() {
    if !isolated() {
        return;
    }
    use std::os::unix::fs::PermissionsExt;
    let mut datum = Datum::new(&["./detect.sh", "x"]);
    let script = datum.run.pfs.join("in/detect.sh");
    fs::write(&script, "#!/bin/sh\necho \"$0 $1\" > /dev/stdout\n").expect("a script");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("make it executable");
    datum.run.working_dir = Some("/pfs/in".to_owned());
    assert_eq!(datum.printed(), "./detect.sh x\n");
}

#[test]
fn secrets_are_files_in_memory_that_the_command_alone_reads() {
    if !isolated() {
        return;
    }
    let script = "cat /secrets/db/password; echo; ls -l /secrets/db/password | cut -c1-10; \
                  grep ' /secrets/db ' /proc/mounts | cut -d' ' -f3; \
                  echo x 2>/dev/null > /secrets/db/new && echo written; rm -f /secrets/db/password 2>/dev/null; ls /secrets/db";
    let mut datum = Datum::new(&["/bin/sh", "-c", script]);
    datum.run.secrets = vec![sandbox::SecretFiles {
        directory: "/secrets/db".to_owned(),
        files: vec![("password".to_owned(), "hunter2".to_owned())],
    }];
    assert!(!format!("{:?}", datum.run).contains("hunter2"));
    assert_eq!(datum.printed(), "hunter2\n-r--------\ntmpfs\npassword\n");
    datum.run.secrets[0].files[0].0 = "../escape".to_owned();
    assert!(matches!(datum.run().outcome.exit, Exit::SandboxFailed(_)));
}

#[test]
fn the_binary_says_by_itself_what_this_machine_allows() {
    let answer = std::process::Command::new(binary())
        .arg("probe")
        .output()
        .expect("the probe");
    let said = String::from_utf8_lossy(&answer.stdout).into_owned();
    let expect = sandbox::examine(&binary());
    assert!(answer.status.success(), "{said}");
    assert_eq!(said.lines().next(), Some(expect.chosen.as_str()));
    assert_eq!(said.lines().count(), 1 + expect.refused.len());
}
