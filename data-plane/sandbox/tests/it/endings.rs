//! How runs end: by themselves, by signals, at limits of time, by order, and with the death of the worker.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sandbox::{Exit, Launcher};

use crate::datum::{Datum, binary, bubblewrap, eventually, isolated, isolation, marker, processes_with, said};

/// Set for the worker that `the_death_of_the_worker_kills_its_runs` starts: what it is to run.
const WORKER: &str = "HOWDAH_TEST_WORKER_SLEEPS";

#[test]
fn exit_codes_and_signals_are_told_apart() {
    let check = |script: &str, expect: Exit| assert_eq!(Datum::shell(script).run().outcome.exit, expect, "{script}");
    check("exit 0", Exit::Code(0));
    check("exit 137", Exit::Code(137));
    check("kill -9 $$", Exit::Signal(9));
    check("kill -15 $$", Exit::Signal(15));
    check("kill -11 $$", Exit::Signal(11));
}

#[test]
fn a_command_that_cannot_be_run_says_why() {
    let missing = Datum::new(&["no-such-program", "x"]).run();
    assert_eq!(missing.outcome.exit, Exit::Code(127));
    assert!(
        missing.stderr.contains("no program `no-such-program`"),
        "{}",
        missing.stderr
    );
    let directory = Datum::new(&["/usr"]).run();
    assert_eq!(directory.outcome.exit, Exit::Code(126));
    assert!(directory.stderr.contains("`/usr`"), "{}", directory.stderr);
    let mut nowhere = Datum::new(&["true"]);
    // Where none can be made, in an image too.
    nowhere.run.working_dir = Some("/proc/nowhere".to_owned());
    let nowhere = nowhere.run();
    assert_eq!(nowhere.outcome.exit, Exit::Code(126));
    assert!(nowhere.stderr.contains("`/proc/nowhere`"), "{}", nowhere.stderr);
}

#[test]
fn a_missing_directory_is_the_sandboxs_failure() {
    let datum = Datum::new(&["true"]);
    std::fs::remove_dir(datum.run.pfs.join("out")).expect("remove out");
    if datum.isolation == sandbox::Isolation::Plain {
        return;
    }
    let exit = datum.run().outcome.exit;
    assert!(
        matches!(&exit, Exit::SandboxFailed(message) if message.contains("out")),
        "{exit:?}"
    );
}

#[test]
fn background_children_end_with_the_command() {
    let sleep = marker();
    let datum = Datum::shell(&format!(
        "sleep {sleep} & (setsid sleep {sleep} &) ; (trap '' TERM HUP; sleep {sleep}) & sleep 0.05; exit 3"
    ));
    let said = datum.run();
    assert_eq!(said.outcome.exit, Exit::Code(3), "{}", said.stderr);
    assert_eq!(processes_with(&sleep), [""; 0]);
}

#[test]
fn a_timeout_kills_everything() {
    let sleep = marker();
    let mut datum = Datum::shell(&format!(
        "trap '' TERM; (setsid sleep {sleep} &); sleep {sleep}; sleep {sleep}"
    ));
    datum.run.limits.wall = Some(Duration::from_millis(300));
    let said = datum.run();
    assert_eq!(said.outcome.exit, Exit::TimedOut);
    assert!(said.outcome.wall >= Duration::from_millis(300) && said.outcome.wall < Duration::from_secs(10));
    assert_eq!(processes_with(&sleep), [""; 0]);
}

#[test]
fn a_fast_command_is_not_timed_out() {
    let mut datum = Datum::shell("exit 4");
    datum.run.limits.wall = Some(Duration::from_secs(60));
    assert_eq!(datum.run().outcome.exit, Exit::Code(4));
}

#[test]
fn kill_ends_a_run_from_another_thread() {
    let sleep = marker();
    let datum = Datum::shell(&format!("sleep {sleep} & sleep {sleep}"));
    let running = datum.start();
    let killer = running.killer().expect("a killer");
    let waiting = std::thread::spawn(move || said(running));
    eventually("the command to run", || processes_with(&sleep).len() >= 2);
    killer.kill();
    assert_eq!(waiting.join().expect("the waiter").outcome.exit, Exit::Signal(9));
    assert_eq!(processes_with(&sleep), [""; 0]);
}

#[test]
fn dropping_a_run_kills_it() {
    let sleep = marker();
    let datum = Datum::shell(&format!("sleep {sleep} & sleep {sleep}"));
    let running = datum.start();
    eventually("the command to run", || processes_with(&sleep).len() >= 2);
    drop(running);
    assert_eq!(processes_with(&sleep), [""; 0]);
}

#[test]
fn the_death_of_the_worker_kills_its_runs() {
    let sleep = marker();
    let mut worker = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "endings::a_worker_that_waits", "--nocapture"])
        .env(WORKER, &sleep)
        .stdout(Stdio::piped())
        .spawn()
        .expect("start a worker");
    let lines = BufReader::new(worker.stdout.take().expect("a pipe")).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.contains("started")));
    eventually("the command to run", || processes_with(&sleep).len() >= 2);
    worker.kill().expect("kill the worker");
    worker.wait().expect("wait for the worker");
    eventually("the sandbox to end", || processes_with(&sleep).is_empty());
}

/// Not a test of its own: the process that the test above kills.
#[test]
fn a_worker_that_waits() {
    let Ok(sleep) = std::env::var(WORKER) else { return };
    let datum = Datum::shell(&format!("setsid sleep {sleep} & sleep {sleep}"));
    let running = datum.start();
    println!("started");
    running.wait();
}

#[test]
fn the_death_of_the_outer_process_kills_the_run() {
    if !isolated() || bubblewrap() {
        // Without a process namespace of ours the life line to the worker is all there is.
        return;
    }
    let sleep = marker();
    let datum = Datum::new(&["sleep", &sleep]);
    let running = datum.start();
    let mut found = Vec::new();
    eventually("the command to run", || {
        found = processes_with(&sleep);
        found.len() == 1
    });
    let outer = outermost_below(std::process::id(), &found[0]);
    kill(Pid::from_raw(outer), Signal::SIGKILL).expect("kill the outer process");
    let exit = running.wait().exit;
    assert!(matches!(exit, Exit::SandboxFailed(_)), "{exit:?}");
    eventually("the command to end", || processes_with(&sleep).is_empty());
}

/// The ancestor of `pid` that is a child of `top`.
fn outermost_below(top: u32, pid: &str) -> i32 {
    let mut pid: i32 = pid.parse().expect("a number");
    loop {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("an ancestor");
        let rest = stat.rsplit_once(") ").expect("the command's name").1;
        let parent: i32 = rest
            .split(' ')
            .nth(1)
            .and_then(|field| field.parse().ok())
            .expect("its parent");
        if parent.unsigned_abs() == top {
            return pid;
        }
        pid = parent;
    }
}

#[test]
fn what_a_run_used_is_reported() {
    let datum = Datum::new(&[
        "perl",
        "-e",
        "my $x = 'a' x 50_000_000; my $i = 0; $i++ while $i < 5_000_000",
    ]);
    let outcome = datum.run().outcome;
    assert_eq!(outcome.exit, Exit::Code(0));
    assert!(
        outcome.max_rss_bytes > 50_000_000 && outcome.max_rss_bytes < 400_000_000,
        "{outcome:?}"
    );
    assert!(
        outcome.cpu > Duration::from_millis(20) && outcome.wall >= outcome.cpu / 4,
        "{outcome:?}"
    );
}

#[test]
fn a_launcher_runs_one_datum_after_another() {
    let launcher = Launcher::new(binary(), isolation());
    for round in 0..6 {
        let mut datum = Datum::shell(&format!("exit {round}"));
        // Another shape now and then, for which nothing is ready.
        datum.run.limits.memory = (round % 3 == 2).then_some(300 << 20);
        let running = launcher.spawn(&datum.run).expect("start");
        assert_eq!(running.wait().exit, Exit::Code(round));
    }
    drop(launcher);
}

#[test]
fn many_runs_at_once_do_not_disturb_each_other() {
    let launcher = Launcher::new(binary(), isolation());
    std::thread::scope(|scope| {
        for worker in 0..6 {
            let launcher = &launcher;
            scope.spawn(move || {
                for round in 0..10 {
                    let code = worker * 20 + round;
                    let datum = Datum::shell(&format!("echo {code}; exit {code}"));
                    let running = if round % 2 == 0 {
                        launcher.spawn(&datum.run).expect("start")
                    } else {
                        datum.start()
                    };
                    let said = said(running);
                    assert_eq!(said.outcome.exit, Exit::Code(code), "{}", said.stderr);
                    assert_eq!(said.stdout, format!("{code}\n"));
                }
            });
        }
    });
}

#[test]
fn a_run_outlives_the_thread_that_started_it() {
    let mut datum = Datum::shell("while [ \"$(date +%s%N)\" -lt \"$END\" ]; do sleep 0.02; done; exit 5");
    let now = String::from_utf8(Command::new("date").arg("+%s%N").output().expect("the time").stdout).expect("digits");
    let end = now.trim().parse::<u64>().expect("a number") + 300_000_000;
    datum.run.env = vec![("END".to_owned(), end.to_string())];
    let running = std::thread::scope(|scope| scope.spawn(|| datum.start()).join().expect("the thread"));
    assert_eq!(running.wait().exit, Exit::Code(5));
}
