//! Anything may be killed at any time: what was acknowledged is there afterwards, and nothing is there twice.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::harness::{Person, Service, eventually};

fn kill_9(service: &Service, words: &[&str]) {
    // Right after it was killed the first time it may not be back yet.
    eventually(&format!("there is a process {words:?} to kill"), || {
        !service.processes(words).is_empty()
    });
    for pid in service.processes(words) {
        // It may have ended by itself in between.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// Puts numbered files until told to stop; gives the numbers whose put was acknowledged.
fn put_until(person: &Person<'_>, stop: &AtomicBool) -> Vec<usize> {
    let mut acknowledged = Vec::new();
    for n in 0.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let file = person
            .service
            .file(&format!("puts/{n}.txt"), format!("number {n}\n").as_bytes());
        if person.attempt(&["put", "numbers@main", &file]).status.success() {
            acknowledged.push(n);
        }
    }
    acknowledged
}

fn nothing_acknowledged_is_lost_when_killed(words: &[&str]) {
    let service = Service::start();
    let person = service.person("ada", Some("acme"));
    person.run(&["repo", "create", "numbers"]);
    let stop = AtomicBool::new(false);

    let acknowledged = thread::scope(|scope| {
        let puts = scope.spawn(|| put_until(&person, &stop));
        for _ in 0..3 {
            thread::sleep(Duration::from_millis(700));
            kill_9(&service, words);
        }
        eventually("the service takes puts again", || {
            let file = service.file("after.txt", b"after");
            person.attempt(&["put", "numbers@main", &file]).status.success()
        });
        stop.store(true, Ordering::SeqCst);
        puts.join().expect("the putting thread ends")
    });

    assert!(
        acknowledged.len() > 2,
        "only {} puts were acknowledged",
        acknowledged.len()
    );
    for n in &acknowledged {
        assert_eq!(
            person.run(&["cat", &format!("numbers@main:/{n}.txt")]),
            format!("number {n}\n")
        );
    }
    assert_eq!(
        person
            .json_lines(&["fsck"])
            .iter()
            .filter(|f| f["severity"] == "error")
            .count(),
        0
    );
}

#[test]
fn a_data_plane_killed_in_the_middle_of_puts_loses_nothing_acknowledged() {
    nothing_acknowledged_is_lost_when_killed(&["howdah-data-plane", "serve"]);
}

#[test]
fn postgresql_killed_in_the_middle_of_puts_loses_nothing_acknowledged() {
    nothing_acknowledged_is_lost_when_killed(&["postgres"]);
}

#[test]
fn a_control_plane_killed_in_the_middle_of_puts_loses_nothing_acknowledged() {
    nothing_acknowledged_is_lost_when_killed(&["howdah-control-plane", "serve"]);
}

/// 40 datums that take a while, each naming itself in a file that all of them together are counted by.
const SPEC: &str = r#"{
  "pipeline": {"name": "double"},
  "transform": {"cmd": ["/bin/sh", "-c", "sleep 0.2; for f in /pfs/input/*; do n=$(cat $f); echo $((n*2)) > /pfs/out/$(basename $f); done"]},
  "input": {"pfs": {"repo": "input", "glob": "/*"}}
}"#;

fn a_job_survives(words: &[&str]) {
    let service = Service::start();
    let person = service.person("ada", Some("acme"));
    person.run(&["repo", "create", "input"]);
    for n in 0..40 {
        service.file(&format!("input/{n}"), format!("{n}\n").as_bytes());
    }
    person.run(&["put", "input@main", "input", "-r"]);
    let spec = service.file("spec.json", SPEC.as_bytes());
    person.run(&["pipeline", "apply", "-f", &spec]);

    for _ in 0..2 {
        eventually("datums run", || !service.processes(&["howdah-sandbox"]).is_empty());
        kill_9(&service, words);
    }

    eventually("the job is done", || {
        person
            .attempt(&["wait", "double@main", "--timeout", "60s"])
            .status
            .success()
    });
    let outputs = person.json_lines(&["ls", "double@main"]);
    assert_eq!(outputs.len(), 40);
    for n in [0, 7, 39] {
        assert_eq!(
            person.run(&["cat", &format!("double@main:/{n}")]),
            format!("{}\n", n * 2)
        );
    }
    let jobs = person.json(&["job", "list"]);
    let job = jobs
        .as_array()
        .or_else(|| jobs["items"].as_array())
        .map_or(jobs.clone(), |j| j[0].clone());
    assert_eq!(job["datums"]["succeeded"], 40, "{job}");
    assert_eq!(job["datums"]["failed"], 0, "{job}");
}

#[test]
fn a_killed_worker_costs_no_datum() {
    a_job_survives(&["howdah-data-plane", "worker"]);
}

#[test]
fn a_data_plane_killed_in_the_middle_of_a_job_finishes_it_afterwards() {
    a_job_survives(&["howdah-data-plane", "serve"]);
}

#[test]
fn postgresql_killed_in_the_middle_of_a_job_does_not_change_its_result() {
    a_job_survives(&["postgres"]);
}
