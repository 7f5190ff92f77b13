//! What people type beside the great stories: whatever one command prints, another one takes.

use std::os::unix::fs::PermissionsExt;

use super::harness::{Service, eventually, text};

#[test]
fn a_service_made_anew_and_an_organization_made_anew_are_used_at_once() {
    let service = Service::start();
    let ada = service.person("ada", Some("acme"));
    ada.run(&["repo", "create", "things"]);
    // The policy of the first organization is several epochs further than that of the next one of its name.
    for name in ["a", "b", "c", "d"] {
        ada.run(&["team", "create", name]);
    }
    ada.run(&["repo", "list"]);
    ada.run(&["org", "delete", "acme", "--yes", "--now"]);
    eventually("the name is free again", || {
        ada.attempt(&["org", "create", "acme"]).status.success()
    });
    ada.run(&["repo", "create", "things"]);

    assert!(service.down().status.success());
    std::fs::remove_dir_all(service.home.path().join("service")).expect("the service's state can be removed");
    service.up();
    let ada = service.person("ada", Some("acme"));
    ada.run(&["repo", "create", "things"]);
}

#[test]
fn what_one_command_prints_another_one_takes() {
    let service = Service::start();
    let ada = service.person("ada", Some("acme"));
    ada.run(&["repo", "create", "things"]);
    let script = service.script("tool", "#!/bin/sh\necho hello\n");
    ada.run(&["put", "things@main:/tool", &script]);
    let spec = r#"{"pipeline":{"name":"echo"},"transform":{"cmd":["/bin/sh","-c","echo I was here"]},"input":{"pfs":{"repo":"things","glob":"/*"}}}"#;
    let spec = service.file("spec.json", spec.as_bytes());
    ada.run(&["pipeline", "apply", "-f", &spec]);
    ada.run(&["wait", "echo@main"]);

    let job = ada.json(&["job", "list"])[0]["id"].as_str().expect("an id").to_owned();
    let datums = ada.run(&["datum", "list", &job]);
    let shown = datums.split_whitespace().next().expect("a datum");
    let logs = ada.run(&["logs", &job, "--datum", shown]);
    assert!(logs.contains("I was here") && logs.contains(shown), "{logs}");
    let hint = ada.fails(3, &["logs", &job, "--datum", "0123456789"]);
    assert!(hint.contains("datum list"), "{hint}");

    let destination = service.files.path().join("got");
    let to = destination.to_string_lossy();
    ada.run(&["get", "things@main:/tool", "-o", &to]);
    let mode = std::fs::metadata(&destination)
        .expect("it is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o100, 0o100, "what could be executed can be executed");

    let made = ada.json(&["token", "create", "--name", "ci", "--scope", "read:things"]);
    assert_eq!(made["scopes"][0], "read:default/things");
    let secret = made["secret"].as_str().expect("it is shown once");
    let as_ci = |args: &[&str]| ada.run_with(args, b"", &[("HOWDAH_TOKEN", secret), ("HOWDAH_ORG", "acme")]);
    assert!(as_ci(&["cat", "things@main:/tool"]).status.success());
    assert_eq!(as_ci(&["put", "things@main:/x", &script]).status.code(), Some(4));

    let organization = ada.run(&["org", "show"]);
    assert!(organization.contains("data plane  ready"), "{organization}");
    ada.run(&["org", "set", "--release-approvals", "2"]);
    assert!(ada.run(&["org", "show"]).contains("two people"));
    ada.run(&["fsck", "--deep"]);
    ada.run(&["fsck", "--repair"]);
    let statistics = ada.json(&["repo", "statistics", "things"]);
    let bytes = |field: &str| statistics[field].as_u64().expect("a number");
    assert!(bytes("size_bytes") > 0 && bytes("stored_bytes") == bytes("unique_bytes") + bytes("shared_bytes"));
    assert!(ada.run(&["repo", "statistics", "things"]).contains("stored"));

    // A proxy of the machine's is not for the machine itself: this one does not exist.
    let proxy = [
        ("HTTP_PROXY", "http://127.0.0.1:9"),
        ("http_proxy", "http://127.0.0.1:9"),
        ("ALL_PROXY", "http://127.0.0.1:9"),
    ];
    for args in [&["whoami"][..], &["cat", "things@main:/tool"]] {
        let output = ada.run_with(args, b"", &proxy);
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    }
}

#[test]
fn what_is_taken_out_of_the_past_is_told_before_and_after() {
    let service = Service::start();
    let ada = service.person("ada", Some("acme"));
    ada.run(&["repo", "create", "things"]);
    ada.run(&[
        "branch",
        "create",
        "things@followed",
        "--trigger-branch",
        "main",
        "--trigger-commits",
        "2",
        "--trigger-size",
        "1GiB",
    ]);
    let listed = ada.run(&["branch", "list", "things"]);
    assert!(listed.contains("main: 1.00 GiB or 2 commits"), "{listed}");
    let mut made = Vec::new();
    for name in ["a", "b", "c"] {
        let file = service.file(name, name.as_bytes());
        let put = ada.json(&["put", &format!("things@main:/{name}"), &file]);
        made.push(put["id"].as_str().expect("an id").to_owned());
    }
    let branches = ada.json(&["branch", "list", "things"]);
    let followed = branches
        .as_array()
        .expect("a list")
        .iter()
        .find(|b| b["name"] == "followed");
    assert_eq!(followed.expect("it is there")["head"], made[1].as_str());

    let told = ada.run(&["commit", "squash", "things@main.1", "--dry-run"]);
    assert!(
        told.contains("would squash 1 in default/things") && told.contains(&made[0]),
        "{told}"
    );
    ada.run(&["commit", "squash", "things@main.1"]);
    let shown = ada.run(&["commit", "show", &format!("things@{}", made[0])]);
    assert!(shown.contains("removed     squashed by"), "{shown}");
    let why = ada.fails(3, &["cat", &format!("things@{}:/a", made[0])]);
    assert!(why.contains("squashed"), "{why}");
    assert_eq!(ada.run(&["cat", "things@main:/a"]), "a");

    let second = format!("things@{}", made[1]);
    let why = ada.fails(6, &["commit", "drop", &second]);
    assert!(why.contains("--force"), "{why}");
    let done = ada.run(&["commit", "drop", &second, "--force"]);
    assert!(
        done.contains("dropped 2 in default/things") && done.contains("things@main -> -"),
        "{done}"
    );

    let file = service.file("secret", b"secret");
    ada.run(&["put", "things@main:/secret", &file]);
    ada.fails(2, &["purge", "things"]);
    ada.fails(3, &["purge", "things:/absent"]);
    let told = ada.run(&["purge", "things:/secret", "--dry-run"]);
    assert!(told.contains("would be purged"), "{told}");
    let receipt = ada.json(&["purge", "things:/secret"]);
    let id = receipt["id"].as_str().expect("an id");
    assert_eq!(
        (&receipt["rewritten"], &receipt["state"]),
        (&1.into(), &"pending".into())
    );
    assert!(ada.run(&["purge", "list"]).contains(id));
    assert!(ada.run(&["purge", "show", id]).contains("until garbage is collected"));
    ada.fails(3, &["cat", "things@main:/secret"]);
    ada.run(&["fsck", "--deep"]);
}
