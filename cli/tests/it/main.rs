//! The contract of the command line that needs no service: help, examples, exit codes, what goes where.

#![expect(clippy::unwrap_used, reason = "a test that fails may panic, its helpers included")]

use std::process::{Command, Output};

/// Runs `howdah` where there is no service and nobody is logged in.
fn howdah(args: &[&str]) -> Output {
    let home = tempfile::tempdir().unwrap();
    Command::new(env!("CARGO_BIN_EXE_howdah"))
        .args(args)
        .env_clear()
        .env("HOWDAH_HOME", home.path())
        .env("HOWDAH_CONFIG_HOME", home.path())
        // Nobody listens on the discard port.
        .env("HOWDAH_URL", "http://127.0.0.1:9")
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Names of the commands that a help text lists, without `help` itself.
fn commands(help: &str) -> Vec<String> {
    help.lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .map(|line| line.split_whitespace().next().unwrap().to_owned())
        .filter(|name| name != "help")
        .collect()
}

#[test]
fn every_command_has_help_with_an_example() {
    let mut left = vec![Vec::new()];
    let mut seen = 0;
    while let Some(path) = left.pop() {
        let mut args: Vec<&str> = path.iter().map(String::as_str).collect();
        args.push("--help");
        let output = howdah(&args);
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        let help = text(&output.stdout);
        let below = commands(help);
        if below.is_empty() {
            seen += 1;
            assert!(
                help.contains("Example"),
                "no example in `howdah {}`:\n{help}",
                args.join(" ")
            );
        }
        left.extend(below.into_iter().map(|name| [path.clone(), vec![name]].concat()));
    }
    assert!(seen > 50, "only {seen} commands were found");
}

#[test]
fn wrong_usage_exits_with_2_and_says_so_on_standard_error() {
    for args in [
        &["no-such-command"][..],
        &["put"],
        &["repo", "create", "--no-such-flag"],
    ] {
        let output = howdah(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(output.stdout.is_empty(), "{args:?}");
        assert!(!output.stderr.is_empty(), "{args:?}");
    }
    let output = howdah(&["put", "--json"]);
    assert_eq!(output.status.code(), Some(2));
    let problem: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert!(problem["title"].is_string(), "{problem}");
}

#[test]
fn without_a_service_a_command_says_what_why_and_what_to_do() {
    let output = howdah(&["whoami"]);
    assert!([Some(1), Some(4)].contains(&output.status.code()), "{output:?}");
    assert!(output.stdout.is_empty());
    let lines = text(&output.stderr).lines().count();
    assert_eq!(lines, 3, "{}", text(&output.stderr));
}
