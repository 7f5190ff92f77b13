//! `put` to a service that is busy.

use std::io::Write;
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::scripted::{self, Asked, howdah};
use crate::text;

const UPLOAD: &str = "upl_00000000000000000000000000000001";

fn upload(commit: &Value) -> Vec<u8> {
    scripted::json(
        200,
        &json!({"id": UPLOAD, "expires_at": "2026-01-01T12:00:00Z", "commit": commit, "parts": []}),
    )
}

/// Puts a file and what comes by standard input to a service that answers uploads with these, one after another, and
/// then with a commit; `commit` is what it says the upload has become when it is asked. Answers how it ended, and the
/// requests.
fn put(args: &[&str], answers: &[(u16, &'static str)], commit: &Value) -> (Output, Vec<(String, usize)>) {
    let (home, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(files.path().join("file"), vec![b'x'; 100_000]).unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (seen, mut left) = (asked.clone(), answers.to_vec());
    left.reverse();
    let (left, commit) = (Mutex::new(left), commit.clone());
    let url = scripted::start(move |asked: &Asked| {
        let path = asked.line.split(['?', ' ']).nth(1).unwrap().replace("/o/acme", "");
        let name = format!("{} {path}", asked.line.split(' ').next().unwrap());
        seen.lock().unwrap().push((name.clone(), asked.bytes));
        match name.as_str() {
            "GET /healthz" => scripted::json(200, &Value::Null),
            "POST /v1/uploads" => upload(&Value::Null),
            "POST /v1/files" => match left.lock().unwrap().pop() {
                Some((status, slug)) => scripted::problem(status, slug),
                None => scripted::json(201, &scripted::commit()),
            },
            _ => {
                assert_eq!(name, format!("GET /v1/uploads/{UPLOAD}"));
                upload(&commit)
            }
        }
    });
    let mut command = howdah(&url, home.path(), files.path(), args);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let _ = child.stdin.take().unwrap().write_all(&[b'y'; 50_000]);
    let output = child.wait_with_output().unwrap();
    let asked = asked.lock().unwrap().clone();
    (output, asked)
}

fn names(asked: &[(String, usize)]) -> Vec<&str> {
    asked.iter().map(|(name, _)| name.as_str()).collect()
}

#[test]
fn a_put_to_a_busy_service_is_sent_again_as_the_same_upload() {
    for args in [["put", "images@main:/d", "file"], ["put", "images@main:/d", "-"]] {
        let busy = [(503, "overloaded"), (429, "slow-down")];
        let (output, asked) = put(&args, &busy, &Value::Null);

        let said = text(&output.stderr);
        assert!(output.status.success(), "{said}");
        assert_eq!(said.matches("continuing").count(), 2, "{said}");
        let bytes: Vec<usize> = asked.iter().filter(|a| a.0 == "POST /v1/files").map(|a| a.1).collect();
        assert!(bytes.len() == 3 && bytes[0] > 50_000, "{bytes:?}");
        assert!(bytes.iter().all(|b| *b == bytes[0]), "all of it each time: {bytes:?}");
        let look = format!("GET /v1/uploads/{UPLOAD}");
        let again = [look.as_str(), "GET /healthz", "POST /v1/files"];
        let expected = [&["POST /v1/uploads", "POST /v1/files"][..], &again, &again].concat();
        assert_eq!(names(&asked), expected);
    }
}

#[test]
fn a_put_whose_answer_was_lost_is_not_sent_again() {
    let args = ["put", "images@main:/d", "file"];
    let (output, asked) = put(&args, &[(503, "overloaded")], &scripted::commit());

    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(
        names(&asked).iter().filter(|name| **name == "POST /v1/files").count(),
        1
    );
}

#[test]
fn what_is_put_behind_what_is_there_is_sent_again_only_when_nothing_of_it_can_have_arrived() {
    let args = ["put", "images@main:/d", "file", "--append"];
    let times = |asked: &[(String, usize)]| names(asked).iter().filter(|n| **n == "POST /v1/files").count();

    let (output, asked) = put(&args, &[(503, "plane-starting"), (429, "slow-down")], &Value::Null);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(times(&asked), 3);

    let (output, asked) = put(&args, &[(503, "overloaded")], &Value::Null);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert_eq!(times(&asked), 1);
}

#[test]
fn a_refusal_is_no_reason_to_send_again() {
    let args = ["put", "images@main:/d", "file"];
    let (output, asked) = put(&args, &[(403, "quota-exceeded")], &Value::Null);
    assert_eq!(output.status.code(), Some(7), "{}", text(&output.stderr));
    assert_eq!(names(&asked), ["POST /v1/uploads", "POST /v1/files"]);
}

#[test]
fn a_put_that_is_a_commit_already_is_done_when_the_service_says_so_before_it_has_read_everything() {
    let (home, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = std::fs::File::create(files.path().join("file")).unwrap();
    file.set_len(60 << 20).unwrap();
    let is_put = |asked: &Asked| asked.is("POST /v1/files");
    let url = scripted::start_hasty(is_put, move |asked: &Asked| match asked.is("POST /v1/uploads") {
        true => upload(&Value::Null),
        false => scripted::json(201, &scripted::commit()),
    });
    let args = ["put", "images@main:/d", "file"];
    let output = howdah(&url, home.path(), files.path(), &args).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("0190b6a2"), "{}", text(&output.stdout));
}

#[test]
fn who_is_asked_to_wait_is_told_so_and_waits() {
    let (home, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    let url = scripted::start(move |asked: &Asked| {
        assert!(asked.is("POST /v1/imports"), "{}", asked.line);
        match counted.fetch_add(1, Ordering::SeqCst) {
            0 => String::from_utf8(scripted::problem(429, "slow-down"))
                .unwrap()
                .replace("connection: close", "connection: close\r\nretry-after: 2")
                .into_bytes(),
            _ => scripted::json(200, &json!({"kind": "commit", "commit": scripted::commit()})),
        }
    });
    let began = Instant::now();
    let args = ["put", "images@main:/d", "https://data.example.org/tile.ppm"];
    let output = howdah(&url, home.path(), files.path(), &args).output().unwrap();
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(said.matches("trying again").count(), 1, "{said}");
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    assert!(began.elapsed() >= Duration::from_secs(2));
}

#[test]
fn a_put_goes_on_while_nothing_answers() {
    let (home, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(files.path().join("file"), "content").unwrap();
    // The connection breaks, then what is on the way to the service knows of no service.
    let script: [(&str, Option<u16>); 8] = [
        ("POST /v1/uploads", Some(200)),
        ("POST /v1/files", None),
        ("GET /v1/uploads", None),
        ("GET /v1/uploads", Some(200)),
        ("GET /healthz", Some(502)),
        ("GET /v1/uploads", Some(200)),
        ("GET /healthz", Some(200)),
        ("POST /v1/files", Some(201)),
    ];
    let at = AtomicUsize::new(0);
    let url = scripted::start(move |asked: &Asked| {
        let (request, status) = script[at.fetch_add(1, Ordering::SeqCst)];
        assert!(asked.is(request), "{} instead of {request}", asked.line);
        match status {
            None => Vec::new(),
            Some(201) => scripted::json(201, &scripted::commit()),
            Some(200) => upload(&Value::Null),
            Some(status) => scripted::json(status, &json!("no gateway")),
        }
    });
    let args = ["put", "images@main:/d", "file"];
    let output = howdah(&url, home.path(), files.path(), &args).output().unwrap();
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(said.matches("continuing").count(), 3, "{said}");
}
