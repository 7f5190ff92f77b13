//! How commands run and end.

use std::time::Duration;

use sandbox::{Exit, Limits, SecretFiles};
use shim::wire::Order;
use testkit::processes::is_alive;
use testkit::wait::wait_until_blocking;

use crate::rig::{LIMIT, Ran, Rig, follow, order, printed};

fn ran(rig: &Rig, command: shim::wire::Command) -> Ran {
    let mut connection = rig.connect();
    order(&mut connection, &Order::Run(Box::new(command)));
    follow(&mut connection)
}

#[test]
fn a_command_sees_its_variables_its_input_and_where_it_is_and_its_end_is_told() {
    let rig = Rig::start();
    let mut command = rig.shell(
        "cat; echo $WHO $OF_THE_IMAGE ${KUBERNETES_SERVICE_HOST-none}; pwd; echo wrong >&2; echo made > /pfs/out/file; exit 7",
    );
    command.stdin = vec!["first".to_owned(), "second".to_owned()];
    let ran = ran(&rig, command);
    assert_eq!(ran.out(), "first\nsecond\nada yes none\n/usr\n");
    assert_eq!((ran.err().as_str(), &ran.ended.exit), ("wrong\n", &Exit::Code(7)));
    assert!(ran.ended.wall_us > 0 && ran.ended.max_rss_bytes > 0);
    assert_eq!(std::fs::read_to_string(rig.path("pfs/out/file")).unwrap(), "made\n");
}

#[test]
fn one_command_after_the_other_runs_over_one_connection_and_nothing_of_one_is_left_for_the_next() {
    let rig = Rig::start();
    let mut connection = rig.connect();
    let first = rig.shell("echo left > $TMPDIR/left; mkdir -p $TMPDIR/a/b; chmod 0 $TMPDIR/a; sleep 3600 & echo $!");
    order(&mut connection, &Order::Run(Box::new(first)));
    let first = follow(&mut connection);
    let sleeper: u32 = first.out().trim().parse().unwrap();
    assert_eq!(first.ended.exit, Exit::Code(0));
    assert!(!is_alive(sleeper), "what a command leaves running ends with it");
    let second = rig.shell("ls -A $TMPDIR; echo $TMPDIR $HOME");
    order(&mut connection, &Order::Run(Box::new(second)));
    let scratch = rig.path("tmp").display().to_string();
    assert_eq!(
        follow(&mut connection).out().lines().next(),
        Some(format!("{scratch} {scratch}").as_str())
    );
}

#[test]
fn a_signal_that_ends_a_command_and_one_that_it_sends_itself_are_told() {
    let rig = Rig::start();
    assert_eq!(rig.run("kill -9 $$").ended.exit, Exit::Signal(9));
    // Those that this program listens to are as any other to a command.
    assert_eq!(rig.run("kill -TERM $$").ended.exit, Exit::Signal(15));
}

#[test]
fn a_program_that_is_not_there_and_a_directory_that_is_not_there_are_told_as_by_a_shell() {
    let rig = Rig::start();
    let missing = ran(&rig, rig.command(&["no-such-program"]));
    assert_eq!(missing.ended.exit, Exit::Code(127));
    assert!(missing.err().contains("no-such-program"), "{}", missing.err());
    let mut command = rig.shell("true");
    command.working_dir = Some("/nonexistent".to_owned());
    let nowhere = ran(&rig, command);
    assert_eq!(nowhere.ended.exit, Exit::Code(126));
    assert!(nowhere.err().contains("/nonexistent"), "{}", nowhere.err());
}

#[test]
fn a_command_that_takes_too_long_is_killed_with_its_grandchildren() {
    let rig = Rig::start();
    let mut command = rig.shell("(setsid sh -c 'sleep 3600 & echo $!; wait' &) ; sleep 3600");
    command.limits.wall = Some(Duration::from_millis(1500));
    let mut connection = rig.connect();
    order(&mut connection, &Order::Run(Box::new(command)));
    let grandchild: u32 = printed(&mut connection).parse().unwrap();
    assert!(is_alive(grandchild));
    assert_eq!(follow(&mut connection).ended.exit, Exit::TimedOut);
    assert!(!is_alive(grandchild));
}

#[test]
fn a_command_that_prints_without_end_is_read_to_its_end_and_what_is_too_much_is_counted() {
    let rig = Rig::start();
    let mut command = rig.shell("head -c 3000000 /dev/zero; head -c 200000 /dev/zero >&2; exit 3");
    command.printed_bytes_max = 100_000;
    let ran = ran(&rig, command);
    assert_eq!(ran.stdout.len() + ran.stderr.len(), 100_000);
    assert_eq!((ran.ended.left_out_bytes, ran.ended.exit), (3_100_000, Exit::Code(3)));
}

#[test]
fn limits_of_memory_and_of_files_are_told_apart() {
    let rig = Rig::start();
    let mut hungry = rig.command(&["python3", "-c", "x = b'x' * (600 << 20); import time; time.sleep(60)"]);
    hungry.limits.memory = Some(200 << 20);
    assert_eq!(ran(&rig, hungry).ended.exit, Exit::MemoryExceeded);
    let mut long = rig.command(&["dd", "if=/dev/zero", "of=/pfs/out/large", "bs=1M", "count=20"]);
    long.limits = Limits {
        file_size: Some(1 << 20),
        ..Limits::default()
    };
    assert_eq!(ran(&rig, long).ended.exit, Exit::Signal(25));
}

#[test]
fn secrets_are_files_of_the_command_alone_and_go_with_it() {
    let rig = Rig::start();
    let directory = rig.path("secrets/db");
    let mut command = rig.shell(&format!("cat {0}/password; ls -l {0}/password", directory.display()));
    let secret = SecretFiles {
        directory: directory.display().to_string(),
        files: vec![("password".to_owned(), "hunter2\n".to_owned())],
    };
    command.secrets = vec![secret];
    let ran = ran(&rig, command);
    assert!(
        ran.out().starts_with("hunter2\n-r--------"),
        "{} {}",
        ran.out(),
        ran.err()
    );
    assert!(!directory.join("password").exists());
}

#[test]
fn code_that_stops_or_kills_its_supervisor_gains_nothing() {
    let rig = Rig::start();
    // Its parent is the supervisor.
    let killed = rig.run("sleep 3600 & echo $!; kill -9 $PPID; sleep 3600");
    assert!(
        matches!(killed.ended.exit, Exit::SandboxFailed(_)),
        "{:?}",
        killed.ended
    );
    assert!(!is_alive(killed.out().trim().parse().unwrap()));
    let mut connection = rig.connect();
    let script = "kill -STOP $PPID; echo $$; sleep 3600";
    order(&mut connection, &Order::Run(Box::new(rig.shell(script))));
    let command: u32 = printed(&mut connection).parse().unwrap();
    order(&mut connection, &Order::Kill);
    assert_eq!(follow(&mut connection).ended.exit, Exit::Signal(9));
    wait_until_blocking("the command to be gone", LIMIT, || !is_alive(command));
}
