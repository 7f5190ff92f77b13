//! The contract of the command line that needs no service: help, examples, exit codes, what goes where.

#![expect(clippy::unwrap_used, reason = "a test that fails may panic, its helpers included")]

mod directories;
mod puts;
mod scripted;

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

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

/// A service that exchanges every token, whose plane is where nobody listens but by its gateway, and that sends a file named
/// `whole`, and of others a hundredth of what it announces.
fn stingy_service() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let here = url.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let here = here.clone();
            std::thread::spawn(move || answer(stream, &here));
        }
    });
    url
}

fn answer(mut stream: TcpStream, here: &str) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let Some(Ok(request)) = lines.next() else { return };
    // To the end of the head; the body of a request for a token is not looked at.
    let head: Vec<String> = lines
        .by_ref()
        .map_while(Result::ok)
        .take_while(|l| !l.is_empty())
        .collect();
    if request.contains("/v1/access-tokens") {
        let body = serde_json::json!({
            "access_token": "x", "expires_in": 600, "plane_url": format!("{here}/o/acme"), "direct_url": "http://127.0.0.1:9", "epoch": 1,
            "organization": {
                "id": "org_00000000000000000000000000000000", "name": "acme", "role": "owner",
                "created_at": "2026-01-01T00:00:00Z",
            },
        })
        .to_string();
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}",
            body.len()
        );
        let _ = write!(stream, "{head}\r\nconnection: close\r\n\r\n{body}");
        return;
    }
    if request.contains("piecewise") {
        return send_a_piece(&mut stream, &head, &request);
    }
    if request.contains("/o/acme/") && request.contains("whole") {
        let _ = write!(
            stream,
            "HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\nabc"
        );
        return;
    }
    let _ = write!(
        stream,
        "HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n{}",
        "x".repeat(1000)
    );
    let _ = stream.flush();
    // Held open until the other side goes.
    while lines.next().is_some_and(|line| line.is_ok()) {}
}

/// A third of a file at a time, then the connection breaks; from where it is told to only if it is the file that it was. A
/// file that is changing is another one by then, one that is gone has no such place any more, and of one behind a proxy that
/// knows of no ranges all comes again.
fn send_a_piece(stream: &mut TcpStream, head: &[String], request: &str) {
    const CONTENT: &str = "0123456789abcdefghijklmnopqrst";
    let value = |name: &str| {
        let line = head
            .iter()
            .find_map(|l| l.to_ascii_lowercase().strip_prefix(name).map(str::to_owned));
        line.map(|v| v.trim().to_owned())
    };
    let from = value("range:").map_or(0, |range| {
        assert_eq!(value("if-range:").as_deref(), Some("\"digest\""));
        range
            .trim_start_matches("bytes=")
            .trim_end_matches('-')
            .parse::<usize>()
            .unwrap()
    });
    if from > 0 && request.contains("proxied") {
        let _ = write!(
            stream,
            "HTTP/1.1 200 OK\r\netag: \"digest\"\r\ncontent-length: 30\r\n\r\n{}",
            &CONTENT[..from + 10]
        );
        return;
    }
    if from > 0 && request.contains("gone") {
        let _ = write!(
            stream,
            "HTTP/1.1 416 Range Not Satisfiable\r\ncontent-length: 0\r\n\r\n"
        );
        return;
    }
    if from > 0 && request.contains("changing") {
        let _ = write!(
            stream,
            "HTTP/1.1 200 OK\r\netag: \"other\"\r\ncontent-length: 3\r\n\r\nnew"
        );
        return;
    }
    let (status, left) = (
        if from == 0 { "200 OK" } else { "206 Partial Content" },
        &CONTENT[from..],
    );
    let length = left.len();
    let _ = write!(
        stream,
        "HTTP/1.1 {status}\r\netag: \"digest\"\r\ncontent-length: {length}\r\n\r\n{}",
        &left[..length.min(10)]
    );
}

#[test]
fn a_get_whose_connection_breaks_goes_on_where_it_broke_also_through_a_proxy_without_ranges() {
    for name in ["piecewise", "piecewise-proxied"] {
        let (home, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let output = get_from_stingy_service(&format!("images@main:/{name}"), home.path(), files.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(
            std::fs::read(files.path().join(name)).unwrap(),
            b"0123456789abcdefghijklmnopqrst"
        );
        let said = text(&output.stderr);
        assert!(said.contains("continuing"), "{said}");
    }
}

#[test]
fn a_get_ends_when_what_it_would_go_on_with_is_refused() {
    let (home, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let output = get_from_stingy_service("images@main:/piecewise-gone", home.path(), files.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = text(&output.stderr);
    assert!(said.contains("416"), "{said}");
}

#[test]
fn a_get_whose_connection_breaks_never_puts_two_versions_of_a_file_together() {
    let (home, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let output = get_from_stingy_service("images@main:/piecewise-changing", home.path(), files.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(6), "{output:?}");
    let said = text(&output.stderr);
    assert!(said.contains("another one by now"), "{said}");
    assert_eq!(std::fs::read_dir(files.path()).unwrap().count(), 0, "nothing is left");
}

fn get_from_stingy_service(path: &str, home: &Path, files: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_howdah"));
    command
        .args(["get", path])
        .env_clear()
        .env("HOWDAH_HOME", home)
        .env("HOWDAH_CONFIG_HOME", home)
        .env("HOWDAH_URL", stingy_service())
        .env("HOWDAH_TOKEN", "hwd_pat_of_somebody")
        .current_dir(files)
        .stdin(Stdio::null())
        .stderr(Stdio::piped());
    command
}

#[test]
fn a_plane_that_is_not_reached_by_its_own_address_is_reached_through_the_gateway() {
    let (home, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let output = get_from_stingy_service("images@main:/whole", home.path(), files.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(std::fs::read(files.path().join("whole")).unwrap(), b"abc");
}

#[test]
fn who_has_a_token_from_the_environment_needs_no_place_to_write_to() {
    let (home, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = home.path().join("file");
    std::fs::write(&file, "").unwrap();
    let output = get_from_stingy_service("images@main:/whole", &file.join("below"), files.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(std::fs::read(files.path().join("whole")).unwrap(), b"abc");
}

#[test]
fn an_interrupted_get_exits_with_130_and_leaves_no_piece_of_a_file() {
    let (home, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let entries = || std::fs::read_dir(files.path()).unwrap().count();
    let child = get_from_stingy_service("images@main:/a.tif", home.path(), files.path())
        .spawn()
        .unwrap();
    let began = Instant::now();
    while entries() == 0 && began.elapsed() < Duration::from_secs(30) {
        std::thread::yield_now();
    }
    assert_eq!(entries(), 1, "it has begun to write");

    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();

    assert_eq!(output.status.code(), Some(130), "{output:?}");
    assert_eq!(entries(), 0, "nothing is left");
}

#[test]
fn the_schema_of_a_spec_is_printed_without_a_service() {
    let output = howdah(&["pipeline", "schema"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let json = howdah(&["pipeline", "schema", "--json"]);
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        found,
        serde_json::from_slice::<serde_json::Value>(&json.stdout).unwrap()
    );
    assert_eq!(found["$schema"], "https://json-schema.org/draft/2020-12/schema");
    assert_eq!(found["properties"]["datum_tries"], found["properties"]["datumTries"]);
}
