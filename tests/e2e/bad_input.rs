//! Bad input through the command line: a clear message, the right exit code, nothing half-done.

use super::harness::{Person, Service};

#[test]
fn mistakes_are_explained_and_leave_nothing_behind() {
    let service = Service::start();
    let person = service.person("ada", Some("acme"));
    person.run(&["repo", "create", "input"]);
    let file = service.file("a.txt", b"a\n");
    let apply = |spec: &str| {
        let path = service.file("spec.json", spec.as_bytes());
        person.attempt(&["pipeline", "apply", "-f", &path])
    };
    let refused = |spec: &str, word: &str| {
        let output = apply(spec);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{spec}");
        assert!(message.contains(word), "`{word}` in: {message}");
    };

    names_paths_and_references_are_refused(&person, &file);

    // Specs.
    refused(
        r#"{"pipeline":{"name":"p"},"transfrom":{"cmd":["true"]},"input":{"pfs":{"repo":"input","glob":"/*"}}}"#,
        "transform",
    );
    refused(
        r#"{"pipeline":{"name":"p"},"transform":{"cmd":["true"]},"input":{"pfs":{"repo":"input","glob":"/[a"}}}"#,
        "glob",
    );
    refused(
        r#"{"pipeline":{"name":"p"},"transform":{"cmd":["true"]},"input":{"pfs":{"repo":"absent","glob":"/*"}}}"#,
        "absent",
    );
    refused(
        r#"{"pipeline":{"name":"p"},"transform":{"cmd":["true"]},"input":{"pfs":{"repo":"p","glob":"/*"}}}"#,
        "p",
    );
    refused("{ not json", "spec");
    assert_eq!(
        person.json(&["repo", "list"]).to_string().matches("\"name\"").count(),
        1,
        "no output repo is left of any of them"
    );

    // A cycle.
    let first = apply(
        r#"{"pipeline":{"name":"one"},"transform":{"cmd":["true"]},"input":{"pfs":{"repo":"input","glob":"/*"}}}"#,
    );
    assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));
    let second =
        apply(r#"{"pipeline":{"name":"two"},"transform":{"cmd":["true"]},"input":{"pfs":{"repo":"one","glob":"/*"}}}"#);
    assert!(second.status.success(), "{}", String::from_utf8_lossy(&second.stderr));
    refused(
        r#"{"pipeline":{"name":"one"},"transform":{"cmd":["true"]},"input":{"pfs":{"repo":"two","glob":"/*"}}}"#,
        "cycle",
    );

    // Not logged in.
    let output = person.run_with(["repo", "list"], b"", &[("HOWDAH_TOKEN", "hwd_pat_nonsense")]);
    assert_eq!(output.status.code(), Some(4));
}

fn names_paths_and_references_are_refused(person: &Person<'_>, file: &str) {
    person.fails(3, &["put", "nowhere@main", file]);
    person.fails(3, &["cat", "input@main:/missing.txt"]);
    for (code, args) in [
        (1, ["put", "input@main:/../etc/passwd", file]),
        (1, ["put", "input@main:/a//../b", file]),
    ] {
        let output = person.attempt(&args);
        assert!([Some(code), Some(2)].contains(&output.status.code()), "{args:?}");
    }
    assert!(!person.attempt(&["repo", "create", "no/such!name"]).status.success());
    person.fails(6, &["repo", "create", "input"]);
    person.fails(2, &["no-such-command"]);
}
