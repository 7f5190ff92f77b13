//! What an organization remembers: its audit trail by the command line, notices, and deletion with a way back and a receipt.

use std::process::Command;

use super::harness::{Service, eventually, text};

#[test]
fn a_trail_is_searched_and_a_member_is_told_what_concerns_him() {
    let service = Service::start();
    let ada = service.person("ada", Some("acme"));
    let eve = service.person("eve", None);
    eve.joins(&ada, "acme");
    ada.run(&["repo", "create", "images"]);
    ada.run(&["grant", "add", "user:eve@example.test", "viewer", "images"]);

    let found = ada.json(&["org", "audit", "--action", "grant", "--search", "images"]);
    assert_eq!(found[0]["action"], "grant.create");
    assert_eq!(
        (&found[0]["actor_name"], &found[0]["via"]),
        (&"ada@example.test".into(), &"session".into())
    );
    let both = ada.run(&["org", "audit"]);
    assert!(
        both.contains("repo.create") && both.contains("domain.register"),
        "{both}"
    );
    ada.fails(2, &["org", "audit", "--since", "nonsense"]);
    // A member is told that it is not for him, and a notice of what is.
    eve.fails(4, &["org", "audit"]);
    let told = eve.run(&["notices", "--mark-read"]);
    assert!(
        told.contains("ada@example.test gave `viewer`") && told.contains("default/images"),
        "{told}"
    );
    assert_eq!(eve.json(&["notices"]), serde_json::json!([]));
}

#[test]
fn a_trail_is_taken_along_and_found_out_wherever_it_was_falsified() {
    let service = Service::start();
    let ada = service.person("ada", Some("acme"));
    ada.run(&["repo", "create", "images"]);
    ada.run(&["grant", "add", "user:ada@example.test", "viewer", "images"]);
    ada.run(&["org", "audit", "--verify"]);
    let file = service.file("trail.jsonl", b"");
    ada.run(&["org", "audit", "--export", &file]);
    let keys = Command::new("curl")
        .args(["-s", &format!("{}/.well-known/jwks.json", service.url())])
        .output();
    let keys = service.file("keys.json", &keys.expect("curl can be started").stdout);
    // Somebody without an account checks it where there is no service.
    let nobody = service.person("nobody", None);
    let report = nobody.json(&["org", "audit", "--verify", "--file", &file, "--jwks", &keys]);
    assert_eq!(
        (&report[0]["trail"], &report[1]["trail"]),
        (&"control".into(), &"plane".into())
    );
    let partly = nobody.fails(1, &["org", "audit", "--verify", "--file", &file]);
    assert!(partly.contains("--jwks"), "{partly}");

    let whole = std::fs::read_to_string(&file).expect("the trail can be read");
    let altered = whole.replace("viewer default/images", "owner default/images");
    assert_ne!(altered, whole);
    let altered = service.file("altered.jsonl", altered.as_bytes());
    let wrong = nobody.fails(1, &["org", "audit", "--verify", "--file", &altered, "--jwks", &keys]);
    assert!(wrong.contains("was altered"), "{wrong}");
    let lines: Vec<&str> = whole.lines().collect();
    let without = [&lines[..1], &lines[2..]].concat().join("\n");
    let without = service.file("without.jsonl", without.as_bytes());
    let wrong = nobody.fails(1, &["org", "audit", "--verify", "--file", &without, "--jwks", &keys]);
    assert!(wrong.contains("row 2 is missing"), "{wrong}");

    // What came later goes on from the export; what is no continuation of it is found out.
    ada.run(&["team", "create", "reds"]);
    ada.run(&["org", "audit", "--verify", "--against", &file]);
    let shorter = nobody.fails(
        1,
        &[
            "org",
            "audit",
            "--verify",
            "--file",
            &altered,
            "--jwks",
            &keys,
            "--against",
            &file,
        ],
    );
    assert!(shorter.contains("does not hold"), "{shorter}");
}

#[test]
fn a_deleted_organization_is_had_back_or_erased_with_a_receipt() {
    let service = Service::start();
    let ada = service.person("ada", Some("acme"));
    ada.run(&["repo", "create", "images"]);
    let file = service.file("a", b"1");
    ada.run(&["put", "images@main:/a", &file]);
    let usage = ada.fails(2, &["org", "delete", "acme"]);
    assert!(usage.contains("--yes"), "{usage}");
    let said = ada.run(&["org", "delete", "acme", "--yes"]);
    assert!(said.contains("howdah org restore acme"), "{said}");
    ada.fails(3, &["org", "show", "acme"]);
    ada.fails(6, &["org", "create", "acme"]);
    assert_eq!(ada.json(&["org", "list", "--deleted"])[0]["state"], "kept");
    ada.run(&["org", "restore", "acme"]);
    assert_eq!(ada.run(&["cat", "images@main:/a"]).trim(), "1");

    let deleted = ada.json(&["org", "delete", "acme", "--yes", "--now"]);
    let id = deleted["id"].as_str().expect("it has an id");
    eventually("everything is gone", || {
        ada.json(&["org", "receipt", id])["state"] == "erased"
    });
    let receipt = ada.json(&["org", "receipt", "acme"]);
    let stores = receipt["stores"].as_array().expect("it names stores");
    assert!(
        stores.len() >= 5 && receipt["signed"].as_str().is_some_and(|s| s.matches('.').count() == 2),
        "{receipt}"
    );
    let shown = text(&ada.attempt(&["org", "receipt", "acme"]).stdout);
    assert!(shown.contains("bucket") && shown.contains("signed"), "{shown}");
    ada.fails(3, &["org", "restore", "acme"]);
    ada.run(&["org", "create", "acme"]);
}
