//! Limits: each stops what it is for, and the outcome tells which.

use std::time::Duration;

use sandbox::Exit;

use crate::datum::{Datum, isolated};

const HOLD_200_MB: &str = "my $x = 'a' x 200_000_000; select(undef, undef, undef, 20)";

#[test]
fn too_much_memory_is_told_from_a_crash() {
    let mut datum = Datum::new(&["perl", "-e", HOLD_200_MB]);
    datum.run.limits.memory = Some(100 << 20);
    datum.run.limits.wall = Some(Duration::from_secs(30));
    assert_eq!(datum.run().outcome.exit, Exit::MemoryExceeded);
}

#[test]
fn memory_is_counted_over_all_processes() {
    let script = "for i in 1 2 3 4; do perl -e 'my $x = \"a\" x 40_000_000; sleep 20' & done; wait";
    let mut datum = Datum::shell(script);
    datum.run.limits.memory = Some(100 << 20);
    datum.run.limits.wall = Some(Duration::from_secs(30));
    assert_eq!(datum.run().outcome.exit, Exit::MemoryExceeded);
}

#[test]
fn a_run_within_its_memory_is_left_alone() {
    let mut datum = Datum::new(&["perl", "-e", "my $x = 'a' x 20_000_000; exit 5"]);
    datum.run.limits.memory = Some(200 << 20);
    assert_eq!(datum.run().outcome.exit, Exit::Code(5));
}

#[test]
fn address_space_fails_an_allocation() {
    let mut datum = Datum::new(&["perl", "-e", HOLD_200_MB]);
    datum.run.limits.address_space = Some(150 << 20);
    let said = datum.run();
    assert!(
        matches!(said.outcome.exit, Exit::Code(code) if code != 0),
        "{:?}",
        said.outcome.exit
    );
    assert!(said.stderr.contains("Out of memory"), "{}", said.stderr);
}

#[test]
fn a_fork_bomb_stays_small() {
    if !isolated() {
        return;
    }
    let mut datum = Datum::new(&[
        "perl",
        "-e",
        "for (1..60) { $p = fork; defined $p or exit 7; $p or sleep 30 }",
    ]);
    datum.run.limits.processes = Some(25);
    datum.run.limits.wall = Some(Duration::from_secs(30));
    assert_eq!(datum.run().outcome.exit, Exit::Code(7));
}

#[test]
fn the_size_of_a_file_is_limited() {
    let mut datum = Datum::shell("head -c 3000000 /dev/zero > big; exit $?");
    datum.run.limits.file_size = Some(1_000_000);
    let exit = datum.run().outcome.exit;
    // SIGXFSZ to `head`, as the shell passes it on.
    assert_eq!(exit, Exit::Code(128 + 25));
    assert_eq!(
        datum.run.scratch.join("big").metadata().expect("the file").len(),
        1_000_000
    );
}

#[test]
fn open_files_are_limited() {
    let mut datum = Datum::shell("ulimit -n; ulimit -c");
    datum.run.limits.open_files = Some(40);
    assert_eq!(datum.printed(), "40\n0\n");
}
