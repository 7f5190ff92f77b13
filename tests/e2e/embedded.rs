//! The embedded service itself: up, a second up, down, killed, a port in use, asleep and awake.

use super::harness::{Service, eventually, text};

#[test]
fn a_second_up_finds_the_first_and_down_stops_all_that_was_started() {
    let service = Service::start();
    let person = service.person("ada", Some("acme"));
    person.run(&["repo", "create", "things"]);

    let again = service.operator(["up", "--detach"]);
    assert!(again.status.success(), "{}", text(&again.stderr));
    assert_eq!(service.processes(&["howdah-control-plane", "serve"]).len(), 1);

    assert!(service.down().status.success());
    assert!(service.processes(&["howdah-control-plane"]).is_empty());
    assert!(service.processes(&["howdah-data-plane"]).is_empty());
    assert!(service.processes(&["postgres"]).is_empty());

    service.up();
    assert!(
        person.run(&["repo", "list"]).contains("things"),
        "what was there is there again"
    );
}

#[test]
fn a_killed_supervisor_leaves_nothing_that_hinders_the_next() {
    let service = Service::start();
    let person = service.person("ada", Some("acme"));
    person.run(&["repo", "create", "things"]);

    for pid in service.processes(&["howdah ", "up"]) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    }
    eventually("its children notice", || {
        service.processes(&["howdah-control-plane"]).is_empty() && service.processes(&["howdah-data-plane"]).is_empty()
    });

    service.up();
    assert!(person.run(&["repo", "list"]).contains("things"));
}

#[test]
fn a_port_in_use_is_named() {
    let service = Service::prepare();
    let _taken = std::net::TcpListener::bind(&service.listen).expect("it was free a moment ago");

    let output = service.operator(["up", "--detach", "--listen", &service.listen]);

    assert_eq!(output.status.code(), Some(6), "{}", text(&output.stderr));
    let port = service.listen.rsplit(':').next().expect("an address has a port");
    assert!(text(&output.stderr).contains(port), "{}", text(&output.stderr));
    assert!(service.processes(&["postgres"]).is_empty(), "nothing is left running");
}

#[test]
fn secrets_stand_in_no_argument_and_no_environment() {
    let service = Service::prepare();
    let listen = service.listen.clone();
    // Whoever starts the service may be logged in by a token of another one.
    let output = service.operator_with(
        ["up", "--detach", "--listen", &listen],
        &[("HOWDAH_TOKEN", "hwd_pat_of_somebody")],
    );
    assert!(output.status.success(), "{}", text(&output.stderr));
    let person = service.person("ada", Some("acme"));
    person.run(&["repo", "create", "things"]);
    let processes = [
        service.processes(&["howdah-control-plane"]),
        service.processes(&["howdah-data-plane"]),
    ]
    .concat();
    assert!(processes.len() >= 2);

    for pid in processes {
        for file in ["cmdline", "environ"] {
            let seen = text(&std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default());
            for secret in ["postgres://", "password", "hwd_", "master_key"] {
                assert!(!seen.contains(secret), "{file} of {pid} holds `{secret}`");
            }
        }
    }
}

#[test]
fn a_database_that_cannot_be_reached_is_named_without_its_password() {
    let service = Service::prepare();
    let url = [("DATABASE_URL", "postgres://me:secret@127.0.0.1:9/howdah")];

    for args in [&["up", "--detach", "--listen", &service.listen][..], &["doctor"]] {
        let output = service.operator_with(args, &url);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        let said = text(&output.stdout) + &text(&output.stderr);
        assert!(said.contains("DATABASE_URL") && said.contains("127.0.0.1:9"), "{said}");
        assert!(!said.contains("secret"), "{said}");
    }
}

#[test]
fn down_stops_what_a_killed_supervisor_and_control_plane_left_behind() {
    let service = Service::start();
    let person = service.person("ada", Some("acme"));
    person.run(&["repo", "create", "things"]);

    let planes = service.processes(&["howdah-data-plane"]);
    assert!(!planes.is_empty());
    let both = [
        service.processes(&["howdah ", "up"]),
        service.processes(&["howdah-control-plane"]),
    ];
    for pid in both.concat() {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    }
    assert!(service.down().status.success());

    // By number: who has lost the parent has lost what tells whose it is.
    for pid in [both.concat(), planes].concat() {
        let program = std::fs::read_link(format!("/proc/{pid}/exe"));
        assert!(program.is_err(), "{pid} still runs: {program:?}");
    }
    assert!(service.processes(&["postgres"]).is_empty());
}
