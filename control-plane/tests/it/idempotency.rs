//! Requests that are sent again with their key, by whom and when they may be.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::app::{Answer, Org, PASSWORD, Person, TestApp, read};
use crate::second_factors;

async fn send(app: &TestApp, path: &str, token: &str, key: &str, body: &Value) -> Answer {
    read(keyed(app, path, token, key, body)).await
}

fn keyed(app: &TestApp, path: &str, token: &str, key: &str, body: &Value) -> reqwest::RequestBuilder {
    let request = app.request("POST", path).bearer_auth(token).json(body);
    request.header("idempotency-key", key)
}

fn is_replayed(answer: &Answer) -> bool {
    answer.headers.get("idempotent-replayed").is_some_and(|v| v == "true")
}

async fn audit_rows(app: &TestApp) -> i64 {
    let count = sqlx::query_scalar("select count(*) from audit_events");
    count.fetch_one(&app.app.pool).await.unwrap()
}

async fn mails(app: &TestApp) -> i64 {
    let count = sqlx::query_scalar("select count(*) from mails");
    count.fetch_one(&app.app.pool).await.unwrap()
}

/// Operations that need no key, and why, as their descriptions say.
const KEYLESS: &[(&str, &str)] = &[
    ("access_tokens_create", "Nothing is kept of it"),
    (
        "accounts_ask_reset",
        "it mails another code, which takes the place of the first",
    ),
    ("accounts_confirm_email", "The code is good once"),
    ("accounts_redeem_reset", "The code is good once"),
    ("accounts_sign_up", "An address has one account"),
    ("accounts_undo_email", "The code is good once"),
    ("accounts_verify", "The code is good once"),
    ("deletions_restore", "Sent again it changes nothing"),
    ("device_logins_ask", "A step of a log-in"),
    ("device_logins_create", "A step of a log-in"),
    ("device_logins_decide", "A step of a log-in"),
    ("device_logins_show", "It changes nothing"),
    ("log_in_begin_link", "A step of a log-in"),
    ("log_in_finish", "A step of a log-in"),
    ("log_in_link", "The code is good once"),
    ("notices_mark_read", "Sent again it changes nothing"),
    ("outbox_link", "Nothing is kept of it"),
    ("passkeys_begin_log_in", "A step of a log-in"),
    (
        "passkeys_begin_registration",
        "one that is not used ends after five minutes",
    ),
    ("passkeys_log_in", "A step of a log-in"),
    ("passkeys_register", "A challenge is good once"),
    ("services_open", "one that is not used ends by itself"),
    ("sessions_create", "Nobody is logged in whose key it could be"),
    ("sessions_prove", "A step of a log-in"),
    ("token_exchange_create", "the issuer's token is good once"),
    ("token_policy_approve", "Sent again it changes nothing"),
    ("tokens_revoke_by_secret", "Sent again it changes nothing"),
];

#[test]
fn every_post_takes_a_key_or_says_why_it_needs_none() {
    let document = serde_json::to_value(control_plane::app::openapi()).unwrap();
    testkit::openapi::check_keys(&document, KEYLESS);
}

/// Those whose effects build on each other have a test of their own.
const ELSEWHERE: [&str; 4] = [
    "ci_trusts_create",
    "second_factors_begin",
    "second_factors_confirm",
    "second_factors_renew",
];

/// A token to be rotated.
async fn old_token(app: &TestApp, owner: &str) -> String {
    let made = app.post("/v1/tokens", owner, json!({ "name": "old" })).await.ok(201);
    made["id"].as_str().unwrap().to_owned()
}

/// An operation of one's own account.
fn of_account(token: &str, id: &'static str, path: &str, body: Value) -> (&'static str, (String, String, Value)) {
    (id, (format!("/v1/account/{path}"), token.to_owned(), body))
}

/// What is sent to each operation that takes a key, by its id; and who sends it.
async fn samples(app: &TestApp, acme: &Org, guest: &Person) -> BTreeMap<&'static str, (String, String, Value)> {
    let owner = &acme.owner.token;
    app.domain(acme, "default", "images", &acme.owner).await;
    app.domain(acme, "default", "labels", guest).await;
    let release = |domain: &str| json!({ "domains": [domain], "pipeline": "images", "spec_digest": "abababab", "purpose": "x", "expires_in_days": 1 });
    let proposed = app.post(&acme.path("releases"), owner, release("labels")).await.ok(201);
    let approvals = format!("releases/{}/approvals", proposed["id"].as_str().unwrap());
    let wish = json!({ "email": "late@acme.test", "role": "member" });
    let invited = app.post(&acme.path("invitations"), owner, wish).await.ok(201);
    let rotated = old_token(app, owner).await;
    let late = app.sign_up("late@acme.test").await.token;
    let of_owner = |path: &str, body: Value| (acme.path(path), owner.clone(), body);
    BTreeMap::from([
        (
            "organizations_create",
            ("/v1/organizations".to_owned(), owner.clone(), json!({ "name": "x" })),
        ),
        (
            "invitations_create",
            of_owner("invitations", json!({ "email": "new@acme.test" })),
        ),
        (
            "invitations_accept",
            (
                "/v1/invitations/accept".to_owned(),
                late,
                json!({ "token": invited["token"] }),
            ),
        ),
        ("teams_create", of_owner("teams", json!({ "name": "labelers" }))),
        (
            "service_accounts_create",
            of_owner("service-accounts", json!({ "name": "ci" })),
        ),
        (
            "tokens_create",
            ("/v1/tokens".to_owned(), owner.clone(), json!({ "name": "x" })),
        ),
        (
            "tokens_rotate",
            (format!("/v1/tokens/{rotated}/rotate"), owner.clone(), json!({})),
        ),
        (
            "grants_create",
            of_owner(
                "grants",
                json!({ "subject": "user:guest@acme.test", "role": "viewer", "resource": "images" }),
            ),
        ),
        of_account(
            owner,
            "accounts_change_email",
            "email",
            json!({ "email": "other@acme.test" }),
        ),
        of_account(owner, "accounts_send_verification", "email/verification", json!({})),
        ("releases_create", of_owner("releases", release("images"))),
        (
            "releases_approve",
            (acme.path(&approvals), guest.token.clone(), json!({})),
        ),
        (
            "access_requests_create",
            of_owner("access-requests", json!({ "ref": "images@main" })),
        ),
    ])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn every_operation_that_takes_a_key_does_it_once_and_answers_the_same_again() {
    let app = TestApp::start().await;
    let acme = app.organization("acme").await;
    let guest = app.member(&acme, "guest@acme.test", "member").await;
    let samples = samples(&app, &acme, &guest).await;
    let document = serde_json::to_value(control_plane::app::openapi()).unwrap();
    let mut seen = 0;
    for (method, _, operation) in testkit::openapi::operations(&document) {
        let id = operation["operationId"].as_str().unwrap();
        if !testkit::openapi::takes_key(operation) || ELSEWHERE.contains(&id) {
            continue;
        }
        assert_eq!(method, "post", "{id}");
        let (path, token, body) = samples.get(id).unwrap_or_else(|| panic!("what is sent to {id}?"));
        let first = send(&app, path, token, id, body).await;
        assert!(
            (200..300).contains(&first.status) && !is_replayed(&first),
            "{id}: {}",
            first.text
        );
        let before = (audit_rows(&app).await, mails(&app).await);
        let again = send(&app, path, token, id, body).await;
        assert_eq!((first.status, &first.text), (again.status, &again.text), "{id}");
        assert!(is_replayed(&again), "{id}");
        assert_eq!((audit_rows(&app).await, mails(&app).await), before, "{id}");
        seen += 1;
    }
    assert_eq!(seen, samples.len());
    let kept: Vec<Vec<u8>> = sqlx::query_scalar("select answer_encrypted from kept_answers")
        .fetch_all(&app.app.pool)
        .await
        .unwrap();
    assert_eq!(kept.len(), seen);
    assert!(
        kept.iter()
            .all(|sealed| !sealed.windows(4).any(|bytes| bytes == b"hwd_")),
        "a secret lies open"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn recovery_codes_whose_answer_was_lost_are_told_again_and_kept_sealed() {
    let app = TestApp::start().await;
    let ada = app.sign_up("ada@example.test").await;
    let twice = async |path: &str, body: Value, status: u16| {
        let first = send(&app, path, &ada.token, path, &body).await;
        let again = send(&app, path, &ada.token, path, &body).await;
        assert!(!is_replayed(&first) && is_replayed(&again), "{path}: {}", again.text);
        assert_eq!((again.status, &again.text), (status, &first.text), "{path}");
        first.ok(status)
    };
    let begun = twice("/v1/account/totp", json!({}), 201).await;
    let secret = begun["secret"].as_str().unwrap();
    let code = json!({ "code": second_factors::shown(&app, secret) });
    let confirmed = twice("/v1/account/totp/confirm", code, 200).await;
    let renewed = twice("/v1/account/recovery-codes", json!({}), 200).await;
    assert_ne!(confirmed["recovery_codes"], renewed["recovery_codes"]);
    // Those that were told last are the ones that count.
    let code = renewed["recovery_codes"][0].as_str().unwrap();
    let log_in = json!({ "email": "ada@example.test", "password": PASSWORD, "second_factor": code });
    app.post("/v1/sessions", "", log_in).await.ok(201);
    let kept: Vec<Vec<u8>> = sqlx::query_scalar("select answer_encrypted from kept_answers")
        .fetch_all(&app.app.pool)
        .await
        .unwrap();
    let told = [secret.as_bytes(), code.as_bytes()];
    let open = |sealed: &Vec<u8>| told.iter().any(|told| sealed.windows(told.len()).any(|w| w == *told));
    assert!(kept.len() == 3 && !kept.iter().any(open), "a secret lies open");
    // They are told to who proves himself only.
    app.environment.advance(chrono::Duration::minutes(16));
    let path = "/v1/account/recovery-codes";
    send(&app, path, &ada.token, path, &json!({}))
        .await
        .problem(403, "proof-required");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn requests_of_one_key_at_once_are_one_request() {
    let app = TestApp::start().await;
    let acme = app.organization("acme").await;
    let body = json!({ "name": "ci", "organization": "acme" });
    let all = (0..8).map(|_| tokio::spawn(read(keyed(&app, "/v1/tokens", &acme.owner.token, "k", &body))));
    let mut made = Vec::new();
    for sent in all.collect::<Vec<_>>() {
        let answer = sent.await.unwrap();
        match answer.status {
            201 => made.push(answer.text),
            _ => {
                assert!(answer.headers.contains_key("retry-after"), "{}", answer.text);
                answer.problem(409, "request-in-progress");
            }
        }
    }
    made.dedup();
    assert_eq!(made.len(), 1, "{made:?}");
    let tokens = app.get("/v1/tokens", &acme.owner.token).await.ok(200);
    assert_eq!(tokens["items"].as_array().unwrap().len(), 1, "{tokens}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_key_is_of_one_caller_one_request_and_one_day() {
    let app = TestApp::start().await;
    let acme = app.organization("acme").await;
    let admin = app.member(&acme, "admin@acme.test", "admin").await;
    let (path, owner) = (acme.path("teams"), &acme.owner.token);
    let team = |name: &str| json!({ "name": name });
    send(&app, &path, owner, "k", &team("a")).await.ok(201);
    send(&app, &path, owner, "k", &team("b"))
        .await
        .problem(422, "idempotency-key-reused");
    send(&app, &acme.path("service-accounts"), owner, "k", &team("a"))
        .await
        .problem(422, "idempotency-key-reused");
    let others = send(&app, &path, &admin.token, "k", &team("c")).await;
    assert!(!is_replayed(&others));
    others.ok(201);
    // What was refused is not kept: the key is free for when nothing is in the way any more.
    send(&app, &path, owner, "later", &team("a"))
        .await
        .problem(409, "already-exists");
    app.delete(&acme.path("teams/a"), owner).await.ok(200);
    send(&app, &path, owner, "later", &team("a")).await.ok(201);
    for bad in ["a b", &"k".repeat(256)] {
        send(&app, &path, owner, bad, &team("d"))
            .await
            .problem(400, "malformed");
    }
    app.environment.advance(chrono::Duration::hours(25));
    let fresh = send(&app, &path, owner, "k", &team("e")).await;
    assert!(!is_replayed(&fresh));
    fresh.ok(201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn who_may_do_it_no_more_is_not_shown_what_he_was_answered() {
    let app = TestApp::start().await;
    let acme = app.organization("acme").await;
    let admin = app.member(&acme, "admin@acme.test", "admin").await;
    let (path, body) = (acme.path("invitations"), json!({ "email": "new@acme.test" }));
    send(&app, &path, &admin.token, "k", &body).await.ok(201);
    let role = json!({ "role": "member" });
    app.call(
        "PATCH",
        &acme.path("members/admin@acme.test"),
        &acme.owner.token,
        Some(role),
    )
    .await
    .ok(200);
    send(&app, &path, &admin.token, "k", &body)
        .await
        .problem(403, "not-allowed");
    app.delete(&acme.path("members/admin@acme.test"), &acme.owner.token)
        .await
        .ok(200);
    send(&app, &path, &admin.token, "k", &body)
        .await
        .problem(404, "not-found");
    app.delete("/v1/sessions/current", &admin.token).await.ok(204);
    send(&app, &path, &admin.token, "k", &body)
        .await
        .problem(401, "signed-out");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_effect_and_its_answer_are_there_together_or_not_at_all() {
    let app = TestApp::start().await;
    let acme = app.organization("acme").await;
    let (path, body) = (acme.path("teams"), json!({ "name": "labelers" }));
    // Whoever works on it dies between the effect and the answer.
    let mut blocker = app.app.pool.begin().await.unwrap();
    sqlx::query("lock table kept_answers in share mode")
        .execute(&mut *blocker)
        .await
        .unwrap();
    let dying = tokio::spawn(read(keyed(&app, &path, &acme.owner.token, "k", &body)));
    let kill = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                where datname = current_database() and wait_event_type = 'Lock' and query like '%kept_answers%'";
    testkit::wait::wait_until("the request to wait", std::time::Duration::from_secs(20), async || {
        let killed: i64 = sqlx::query_scalar(kill).fetch_one(&app.app.pool).await.unwrap();
        killed > 0
    })
    .await;
    assert!(dying.await.unwrap().status >= 500);
    blocker.rollback().await.unwrap();
    let teams = app.get(&path, &acme.owner.token).await.ok(200);
    assert_eq!(teams["items"], json!([]));
    // Its client tries again, and loses the answer; the next try finds it.
    let first = send(&app, &path, &acme.owner.token, "k", &body).await;
    assert!(first.status == 201 && !is_replayed(&first), "{}", first.text);
    let again = send(&app, &path, &acme.owner.token, "k", &body).await;
    assert!(again.status == 201 && is_replayed(&again), "{}", again.text);
}
