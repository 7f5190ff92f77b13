//! Histories of grants, revocations and reads at once: no read that began after a revocation was acknowledged is allowed, and none that
//! began after a grant was given and named its epoch is denied. `HISTORY=n` runs through n changes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use serde_json::{Value, json};

use crate::harness::Service;
use crate::wire::ask;

const READERS: usize = 3;
const CHANGES: usize = 25;

/// A read: when it began and ended, and whether it was allowed.
struct Reading {
    began: Instant,
    ended: Instant,
    allowed: bool,
}

/// A time in which nothing may be read: from the acknowledgement of a revocation until the next grant is asked for.
struct Closed {
    from: Instant,
    until: Instant,
}

fn session(service: &Service, email: &str) -> String {
    let body = json!({ "email": email, "password": "correct horse battery" });
    let made = ask(&service.listen, "POST", "/v1/sessions", "", Some(&body)).ok();
    made["session_token"].as_str().expect("a session").to_owned()
}

fn access(service: &Service, session: &str) -> String {
    let body = json!({ "organization": "acme" });
    let made = ask(&service.listen, "POST", "/v1/access-tokens", session, Some(&body)).ok();
    made["access_token"].as_str().expect("an access token").to_owned()
}

fn number(name: &str) -> Option<usize> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

#[test]
fn no_read_that_began_after_an_acknowledged_revocation_is_allowed() {
    let service = Service::start();
    let ada = service.person("ada", Some("acme"));
    let bob = service.person("bob", None);
    bob.joins(&ada, "acme");
    ada.run(&["repo", "create", "r"]);
    service.file("x", b"1");
    ada.run(&["put", "r@main", "x"]);
    let owner = session(&service, &ada.email());
    let token = access(&service, &session(&service, &bob.email()));
    let (done, service) = (AtomicBool::new(false), &service);

    let (closed, readings) = thread::scope(|scope| {
        let read = || {
            let mut readings = Vec::new();
            while !done.load(Ordering::Relaxed) {
                let began = Instant::now();
                let answer = ask(&service.listen, "GET", "/o/acme/v1/content?ref=r&path=/x", &token, None);
                assert!(
                    matches!(answer.status, 0 | 200 | 403 | 404 | 429 | 503),
                    "{}\n{}",
                    answer.head,
                    answer.body
                );
                readings.push(Reading {
                    began,
                    ended: Instant::now(),
                    allowed: answer.status == 200,
                });
            }
            readings
        };
        let readers: Vec<_> = (0..READERS).map(|_| scope.spawn(read)).collect();
        let closed = change(service, &owner, &token);
        done.store(true, Ordering::Relaxed);
        let readings: Vec<Reading> = readers
            .into_iter()
            .flat_map(|r| r.join().expect("a reader ends"))
            .collect();
        (closed, readings)
    });

    assert!(
        readings.iter().filter(|r| r.allowed).count() > CHANGES,
        "something was read"
    );
    let denied = readings.iter().filter(|r| !r.allowed).count();
    assert!(denied > 0, "something was denied");
    for reading in readings.iter().filter(|r| r.allowed) {
        let within = |c: &&Closed| c.from <= reading.began && reading.ended <= c.until;
        assert!(
            closed.iter().find(within).is_none(),
            "a read that began {:?} after an acknowledged revocation was allowed",
            closed.iter().find(within).map(|c| reading.began - c.from)
        );
    }
}

/// Gives and takes bob's grant again and again; answers when it was surely taken.
fn change(service: &Service, owner: &str, token: &str) -> Vec<Closed> {
    let grants = "/v1/organizations/acme/grants";
    let grant = json!({ "subject": "user:bob@example.test", "role": "viewer", "resource": "r" });
    let mut closed: Vec<Closed> = Vec::new();
    for _ in 0..number("HISTORY").unwrap_or(CHANGES) {
        if let Some(last) = closed.last_mut() {
            last.until = Instant::now();
        }
        let given = ask(&service.listen, "POST", grants, owner, Some(&grant)).ok();
        // Who names the epoch of the grant is decided by that policy or a newer one (R13).
        let epoch = given["epoch"].as_u64().expect("an epoch");
        read_at(service, token, epoch);
        let id = given["id"].as_str().expect("an id");
        let taken = ask(
            &service.listen,
            "DELETE",
            &format!("{grants}/{id}?wait=true"),
            owner,
            None,
        )
        .ok();
        assert_eq!(
            taken["acknowledged"],
            Value::Bool(true),
            "the plane runs, so it is waited for"
        );
        let now = Instant::now();
        closed.push(Closed { from: now, until: now });
        // The time in which nothing may be read is worth looking at.
        let looked = ask(&service.listen, "GET", "/o/acme/v1/content?ref=r&path=/x", token, None);
        assert_eq!(looked.status, 404, "{}", looked.body);
    }
    if let Some(last) = closed.last_mut() {
        last.until = Instant::now();
    }
    closed
}

fn read_at(service: &Service, token: &str, epoch: u64) {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(&service.listen).expect("the service listens");
    let request = format!(
        "GET /o/acme/v1/content?ref=r&path=/x HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\nhowdah-epoch: {epoch}\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).expect("it takes the request");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("it answers");
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
}
