//! Who controls, and what becomes of a command when nobody does any more.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Command as Program;

use sandbox::Exit;
use shim::wire::{Order, Report, VERSION};
use testkit::processes::{is_alive, terminate};
use testkit::wait::wait_until_blocking;

use crate::rig::{LIMIT, Rig, follow, order, printed, said};

fn boot(connection: &mut UnixStream) -> Option<String> {
    match said(connection)? {
        Report::Hello { version, boot } => {
            assert_eq!(version, VERSION);
            Some(boot)
        }
        _ => None,
    }
}

/// The boot that a new connection is told.
fn boot_of(rig: &Rig) -> String {
    let mut found = None;
    wait_until_blocking("a greeting", LIMIT, || {
        found = UnixStream::connect(rig.socket())
            .ok()
            .and_then(|mut new| boot(&mut new));
        found.is_some()
    });
    found.unwrap()
}

#[test]
fn a_second_connection_is_turned_away_as_long_as_there_is_a_first() {
    let rig = Rig::start();
    let mut first = rig.connect();
    for _ in 0..3 {
        let mut second = UnixStream::connect(rig.socket()).unwrap();
        assert_eq!(said(&mut second), Some(Report::Busy));
        assert_eq!(said(&mut second), None);
    }
    order(&mut first, &Order::Run(Box::new(rig.shell("echo still here"))));
    assert_eq!(follow(&mut first).out(), "still here\n");
    drop(first);
    rig.connect();
}

#[test]
fn a_command_whose_connection_ends_is_killed_before_the_next_one_is_let_in() {
    let rig = Rig::start();
    let mut first = rig.connect();
    order(
        &mut first,
        &Order::Run(Box::new(rig.shell("setsid sleep 3600 & echo $!; wait"))),
    );
    let sleeper: u32 = printed(&mut first).parse().unwrap();
    drop(first);
    let mut second = rig.connect();
    assert!(!is_alive(sleeper));
    order(&mut second, &Order::Run(Box::new(rig.shell("exit 4"))));
    assert_eq!(follow(&mut second).ended.exit, Exit::Code(4));
}

#[test]
fn a_killed_command_is_reported_and_the_next_one_runs() {
    let rig = Rig::start();
    let mut connection = rig.connect();
    order(
        &mut connection,
        &Order::Run(Box::new(rig.shell("echo begun; sleep 3600"))),
    );
    printed(&mut connection);
    order(&mut connection, &Order::Run(Box::new(rig.shell("echo two at once"))));
    assert!(matches!(said(&mut connection), Some(Report::Refused(_))));
    order(&mut connection, &Order::Kill);
    assert_eq!(follow(&mut connection).ended.exit, Exit::Signal(9));
    order(&mut connection, &Order::Run(Box::new(rig.shell("echo next"))));
    assert_eq!(follow(&mut connection).out(), "next\n");
}

#[test]
fn what_is_no_order_ends_the_connection_and_nothing_else() {
    let rig = Rig::start();
    for nonsense in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0, 2, 0, 0, 0, b'{', b'}'],
        &[1, 0, 0, 0, 0],
    ] {
        let mut connection = rig.connect();
        connection.write_all(nonsense).unwrap();
        assert_eq!(said(&mut connection), None);
    }
    assert_eq!(rig.run("echo fine").out(), "fine\n");
}

#[test]
fn a_socket_that_code_put_in_the_place_of_ours_is_replaced_before_the_next_connection() {
    let rig = Rig::start();
    let before = boot_of(&rig);
    let first = rig.connect();
    std::fs::remove_file(rig.socket()).unwrap();
    // Nobody listens there any more: it dies with the code that made it.
    drop(std::os::unix::net::UnixListener::bind(rig.socket()).unwrap());
    drop(first);
    assert_eq!(before, boot_of(&rig));
}

#[test]
fn a_container_that_was_killed_is_known_by_another_boot_and_one_that_is_told_to_stop_says_so() {
    let mut rig = Rig::start();
    let before = boot_of(&rig);
    assert_eq!(before, boot_of(&rig));
    rig.restart();
    assert_ne!(before, boot_of(&rig));

    let mut connection = rig.connect();
    order(
        &mut connection,
        &Order::Run(Box::new(rig.shell("sleep 3600 & echo $!; wait"))),
    );
    let sleeper: u32 = printed(&mut connection).parse().unwrap();
    terminate(rig.shim.id());
    assert_eq!(said(&mut connection), Some(Report::Leaving));
    assert!(rig.shim.wait().unwrap().success());
    wait_until_blocking("the command to be gone", LIMIT, || !is_alive(sleeper));
}

#[test]
fn it_ends_when_it_is_told_to() {
    let mut rig = Rig::start();
    let mut connection = rig.connect();
    order(&mut connection, &Order::End);
    assert!(rig.shim.wait().unwrap().success());
}

#[test]
fn it_copies_itself_for_others_to_run_and_may_do_so_again() {
    let directory = testkit::temporary_directory();
    let to = directory.path().join("howdah-shim");
    for _ in 0..2 {
        let program = env!("CARGO_BIN_EXE_howdah-shim");
        let installed = Program::new(program).arg("install").arg(&to).status().unwrap();
        assert!(installed.success());
    }
    assert_eq!(to.metadata().unwrap().permissions().mode() & 0o777, 0o555);
    let output = Program::new(&to).arg("--version").output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("howdah-shim "));
    let usage = Program::new(&to).output().unwrap();
    assert!(!usage.status.success() && String::from_utf8_lossy(&usage.stderr).contains("usage:"));
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
}
