//! People prove who they are: by the codes of the outbox, by passwords, and again before what is dangerous.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::sync::mpsc;

use serde_json::Value;

use super::harness::{LIMIT, Person, Service, text};

/// The newest mail to that address, as whoever operates the service reads it.
fn mail(service: &Service, recipient: &str) -> String {
    let listed = service.operator(["outbox", "--json"]);
    assert!(listed.status.success(), "{}", text(&listed.stderr));
    let mails: Vec<Value> = serde_json::from_slice(&listed.stdout).expect("a list");
    let newest = mails.iter().find(|m| m["recipient"] == recipient).expect("a mail");
    let shown = service.operator(["outbox", "show", newest["id"].as_str().expect("an id")]);
    text(&shown.stdout)
}

fn code(mail: &str) -> String {
    let found = mail.split_whitespace().find(|word| word.starts_with("hwd_cod_"));
    found.unwrap_or_else(|| panic!("no code in {mail}")).to_owned()
}

fn with_password(person: &Person<'_>, args: &[&str], password: &str) -> (bool, String) {
    let output = person.run_with(args, format!("{password}\n").as_bytes(), &[]);
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
    (output.status.success(), said)
}

#[test]
fn a_person_verifies_an_address_changes_a_password_and_sees_what_happened() {
    let service = Service::start();
    let secret = service.home.path().join("service/keys/operator.secret");
    let mode = std::fs::metadata(&secret).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let ada = service.person("ada", Some("acme"));
    let email = ada.email();
    assert!(ada.run(&["whoami"]).contains("not verified"));
    ada.run(&["account", "verify", &code(&mail(&service, &email))]);
    assert!(!ada.run(&["whoami"]).contains("not verified"));
    let link = text(&service.operator(["outbox"]).stderr);
    assert!(link.contains(&format!("{}/outbox#", service.url())), "{link}");
    // Somebody with another home is not whoever operates the service.
    let elsewhere = ada.run_with(["outbox"], b"", &[("HOWDAH_HOME", "/nonexistent")]);
    assert!(!elsewhere.status.success());

    let (done, said) = with_password(&ada, &["account", "prove", "--password-stdin"], "not the password");
    assert!(!done && said.contains("not the password of this account"), "{said}");
    let (done, said) = with_password(&ada, &["account", "prove", "--password-stdin"], "correct horse battery");
    assert!(done, "{said}");
    let change = ["account", "change-password", "--password-stdin"];
    assert!(with_password(&ada, &change, "another battery staple").0);
    let log_in = ["login", "--email", &email, "--password-stdin"];
    assert!(!with_password(&ada, &log_in, "correct horse battery").0);
    assert!(with_password(&ada, &log_in, "another battery staple").0);
    assert_eq!(ada.json(&["session", "list"]).as_array().map(Vec::len), Some(2));
    assert!(ada.run(&["session", "revoke", "--others"]).contains("ended 1"));

    ada.run(&["account", "reset-password", "--email", &email]);
    let reset = code(&mail(&service, &email));
    let set = ["account", "reset-password", "--code", &reset, "--password-stdin"];
    let (done, said) = with_password(&ada, &set, "the third staple of it");
    assert!(done, "{said}");
    ada.fails(4, &["session", "list"]);
    assert!(with_password(&ada, &log_in, "the third staple of it").0);
    let events = ada.run(&["account", "events"]);
    for action in [
        "account.create",
        "email.verify",
        "password.change",
        "password.reset",
        "session.create",
    ] {
        assert!(events.contains(action), "{action}: {events}");
    }
    assert!(ada.run(&["account", "totp", "status"]).contains("no second factor"));
    let begun = ada.json(&["account", "totp", "enable"]);
    assert!(begun["url"].as_str().is_some_and(|url| url.starts_with("otpauth://")));
    ada.fails(2, &["account", "totp", "confirm", "abcdef"]);
    ada.fails(2, &["account", "delete"]);
    ada.run(&["account", "delete", "--yes"]);
    ada.fails(4, &["whoami"]);
}

/// A server that takes one mail and hands it over.
fn mail_server() -> (String, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    let url = format!("smtp://{}", listener.local_addr().expect("it has an address"));
    let (hand_over, taken) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut out = stream.try_clone().expect("a connection can be shared");
            let mut say = |text: &str| out.write_all(text.as_bytes());
            let _ = say("220 test\r\n");
            let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
            while let Some(line) = lines.next() {
                let said = match line.split(' ').next() {
                    Some("DATA") => {
                        let _ = say("354 go on\r\n");
                        let mail: Vec<String> = lines.by_ref().take_while(|line| line != ".").collect();
                        let _ = hand_over.send(mail.join("\n"));
                        say("250 taken\r\n")
                    }
                    _ => say("250 well\r\n"),
                };
                if said.is_err() {
                    break;
                }
            }
        }
    });
    (url, taken)
}

#[test]
fn a_sign_up_is_finished_by_the_code_of_a_mail_that_was_sent() {
    let (url, taken) = mail_server();
    let service = Service::prepare();
    let up = ["up", "--detach", "--listen", &service.listen];
    let half = service.operator_with(up, &[("HOWDAH_SMTP_URL", &url)]);
    assert_eq!(half.status.code(), Some(2), "{}", text(&half.stderr));
    let from = "Howdah <howdah@example.test>";
    let output = service.operator_with(up, &[("HOWDAH_SMTP_URL", &url), ("HOWDAH_MAIL_FROM", from)]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let ada = service.stranger("ada");
    let email = ada.email();
    let sign_up = ["signup", "--email", &email, "--password-stdin"];
    assert!(with_password(&ada, &sign_up, "correct horse battery").0);
    let mail = taken.recv_timeout(LIMIT).expect("a mail comes");
    assert!(
        mail.contains(&format!("To: {email}")) && mail.contains(&format!("From: {from}")),
        "{mail}"
    );
    let verify = ["account", "verify", &code(&mail), "--password-stdin"];
    let (done, said) = with_password(&ada, &verify, "correct horse battery");
    assert!(done, "{said}");
    assert!(!ada.run(&["whoami"]).contains("not verified"));
    // What was sent is not kept.
    let listed = text(&service.operator(["outbox", "--json"]).stdout);
    assert!(listed.contains("\"sent\""), "{listed}");
}

#[test]
fn where_addresses_are_verified_a_sign_up_is_finished_by_code_and_password() {
    let service = Service::prepare();
    let up = ["up", "--detach", "--listen", &service.listen];
    let output = service.operator_with(up, &[("HOWDAH_VERIFICATION", "required")]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let ada = service.stranger("ada");
    let email = ada.email();
    let sign_up = ["signup", "--email", &email, "--password-stdin", "--org", "acme"];
    let (done, said) = with_password(&ada, &sign_up, "correct horse battery");
    assert!(done && said.contains("a code was mailed"), "{said}");
    ada.fails(4, &["whoami"]);
    let code = code(&mail(&service, &email));
    let verify = ["account", "verify", &code, "--password-stdin"];
    assert!(!with_password(&ada, &verify, "another battery staple").0);
    let (done, said) = with_password(&ada, &verify, "correct horse battery");
    assert!(done, "{said}");
    assert!(ada.run(&["whoami"]).contains("acme"));
}
