//! Without namespaces: paths are rewritten, everything else that can be kept is kept. And runs that are refused.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use sandbox::{Exit, Isolation, SpawnError, Stdin, spawn};

use crate::datum::{Datum, binary, marker, processes_with};

fn plain(mut datum: Datum) -> Datum {
    datum.isolation = Isolation::Plain;
    // The command's id must be able to get there: no namespace brings it the directory.
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(datum.directory.path(), open).expect("open the directory");
    datum
}

#[test]
fn pfs_is_a_directory_of_the_host_in_command_and_standard_input() {
    let datum = plain(Datum::shell(
        "cat /pfs/in/a > /pfs/out/b; echo x > $PFS/out/c; pwd; env | cut -d= -f1 | sort",
    ));
    let scratch = datum.run.scratch.display().to_string();
    assert_eq!(
        datum.printed(),
        format!("{scratch}\nHOME\nLANG\nPATH\nPFS\nPWD\nTMPDIR\n")
    );
    assert_eq!(fs::read_to_string(datum.out("b")).expect("the output"), "input");

    let mut datum = plain(Datum::new(&["/bin/sh"]));
    datum.run.stdin = Stdin::Bytes(b"cat /pfs/in/a\n".to_vec());
    assert_eq!(datum.printed(), "input");
}

#[test]
fn root_is_given_up_and_children_are_killed_without_namespaces_too() {
    let sleep = marker();
    let datum = plain(Datum::shell(&format!(
        "(setsid sleep {sleep} &); sleep {sleep} & id -u; exit 2"
    )));
    let said = datum.run();
    assert_eq!(said.outcome.exit, Exit::Code(2), "{}", said.stderr);
    assert_ne!(said.stdout, "0\n");
    assert_eq!(processes_with(&sleep), [""; 0]);
}

#[test]
fn a_wrong_run_is_refused_before_anything_starts() {
    let refused = |change: fn(&mut sandbox::Run), expect: &str| {
        let mut datum = Datum::new(&["true"]);
        change(&mut datum.run);
        match spawn(&binary(), datum.isolation, &datum.run) {
            Err(SpawnError::BadRun(message)) => assert!(message.contains(expect), "{message}"),
            other => panic!("{expect}: {other:?}"),
        }
    };
    refused(|run| run.command.clear(), "the command is empty");
    refused(|run| run.command.push("a\0b".to_owned()), "NUL");
    refused(|run| run.inputs.push("out".to_owned()), "`out`");
    refused(|run| run.inputs.push("../x".to_owned()), "`../x`");
    refused(|run| run.env.push(("A=B".to_owned(), String::new())), "`A=B`");
    refused(|run| run.uid_gid = Some((0, 5)), "never runs as root");
    refused(|run| run.visible.push("/tmp/x".into()), "/tmp/x");
    refused(|run| run.scratch = "/no/such".into(), "/no/such");
}

#[test]
fn the_binary_alone_says_what_it_is() {
    let output = std::process::Command::new(binary()).output().expect("start");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("started by `howdah`"));
}
