//! `howdah secret` and `howdah defaults`, as people and scripts use them; no value is ever printed.

use super::harness::{Service, text};

const VALUE: &str = "hunter2-not-for-eyes";

#[test]
fn a_secret_is_set_listed_used_and_deleted_and_its_value_is_printed_nowhere() {
    let service = Service::start();
    let ada = service.person("ada", Some("acme"));
    let set = |input: &str, args: &[&str]| ada.run_with(args, input.as_bytes(), &[]);
    let seen = |output: &std::process::Output| format!("{}{}", text(&output.stdout), text(&output.stderr));

    let first = set(&format!("password={VALUE}\nuser=app\n"), &["secret", "set", "db"]);
    assert!(first.status.success(), "{}", seen(&first));
    assert!(
        seen(&first).contains("db of project default, version 1: password, user"),
        "{}",
        seen(&first)
    );
    // Sent twice, it is one.
    let again = set(
        &format!("password={VALUE}\nuser=app\n"),
        &["secret", "set", "db", "--json"],
    );
    let shown: serde_json::Value = serde_json::from_slice(&again.stdout).expect("JSON");
    assert_eq!((&shown["version"], &shown["project"]), (&1.into(), &"default".into()));
    let file = service.file("value", VALUE.as_bytes());
    let from_file = format!("password={file}");
    let second = set("", &["secret", "set", "db", "--from-file", &from_file]);
    assert!(seen(&second).contains("version 2: password"), "{}", seen(&second));
    // What has no key is refused without being shown.
    for args in [
        &["secret", "set", "db"][..],
        &["secret", "set", "db", "--from-file", VALUE],
    ] {
        let wrong = set(VALUE, args);
        assert_eq!(wrong.status.code(), Some(2), "{}", seen(&wrong));
        assert!(!seen(&wrong).contains(VALUE), "{}", seen(&wrong));
    }
    let listed = ada.json(&["secret", "list"]);
    assert_eq!(
        (&listed[0]["name"], &listed[0]["keys"][0]),
        (&"db".into(), &"password".into())
    );

    ada.run(&["repo", "create", "in"]);
    ada.run(&["put", "in@main:/a", &file]);
    let spec = r#"{"pipeline":{"name":"p"},"transform":{"cmd":["/bin/sh","-c","echo it is $P; cat /secrets/password; test -n $P"],
        "secrets":[{"name":"db","env_var":"P","key":"password"},{"name":"db","mount_path":"/secrets"}]},"input":{"pfs":{"repo":"in","glob":"/*"}}}"#;
    let spec = service.file("spec.json", spec.as_bytes());
    ada.run(&["pipeline", "apply", "-f", &spec]);
    ada.run(&["wait", "p@main"]);
    let job = ada.json(&["job", "list"])[0]["id"].as_str().expect("an id").to_owned();
    let logs = ada.run(&["logs", &job]);
    assert!(logs.contains("it is ***") && !logs.contains(VALUE), "{logs}");
    for args in [
        &["secret", "list"][..],
        &["secret", "list", "--json"],
        &["pipeline", "show", "p"],
        &["pipeline", "show", "p", "--json"],
        &["job", "show", &job, "--json"],
        &["datum", "list", &job, "--json"],
        &["audit", "--json"],
    ] {
        let said = seen(&ada.attempt(args));
        assert!(!said.contains(VALUE), "{args:?}: {said}");
    }
    assert!(!service.logs().contains(VALUE));

    assert_eq!(ada.json(&["secret", "delete", "db"])["deleted"], "db");
    ada.fails(3, &["secret", "delete", "db"]);
    let refused = ada.fails(2, &["pipeline", "apply", "-f", &spec]);
    assert!(refused.contains("howdah secret set db --project default"), "{refused}");
    ada.fails(3, &["secret", "list", "--project", "none"]);
}

#[test]
fn defaults_are_set_shown_and_taken_away() {
    let service = Service::start();
    let ada = service.person("ada", Some("acme"));
    let file = |text: &str| service.file("defaults.yaml", text.as_bytes());
    let set = ada.json(&[
        "defaults",
        "set",
        "-f",
        &file("{datum_tries: 1, resource_limits: {memory: 1Gi}}"),
    ]);
    assert_eq!(set["datum_tries"], 1);
    assert_eq!(ada.json(&["defaults", "show"]), set);
    assert!(ada.run(&["defaults", "show"]).contains("datum_tries"));
    assert_eq!(ada.run(&["defaults", "show", "--project", "default"]).trim(), "{}");
    let refused = ada.fails(2, &["defaults", "set", "-f", &file("{transform: {err_cmd: [sh]}}")]);
    assert!(refused.contains("/transform"), "{refused}");
    ada.fails(3, &["defaults", "show", "--project", "none"]);
    ada.fails(2, &["defaults", "set", "-f", &file("a: 1\n---\nb: 2")]);
    ada.run(&["defaults", "set", "-f", &file("{}")]);
    assert_eq!(ada.run(&["defaults", "show"]).trim(), "{}");
}
