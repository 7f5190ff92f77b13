//! Requests that are sent again with their key, by whom and when they may be.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::app::{Answer, Org, Person, TestApp, read};

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

/// A token to be rotated.
async fn old_token(app: &TestApp, owner: &str) -> String {
    let made = app.post("/v1/tokens", owner, json!({ "name": "old" })).await.ok(201);
    made["id"].as_str().unwrap().to_owned()
}

/// What is sent to each operation that takes a key, by its id; and who sends it.
async fn samples(app: &TestApp, acme: &Org, guest: &Person) -> BTreeMap<&'static str, (String, String, Value)> {
    let owner = &acme.owner.token;
    app.domain(acme, "default", "images", &acme.owner).await;
    app.domain(acme, "default", "labels", guest).await;
    let release = |domain: &str| json!({ "domains": [domain], "pipeline": "images", "spec_digest": "abababab", "purpose": "x", "expires_in_days": 1 });
    let proposed = app.post(&acme.path("releases"), owner, release("labels")).await.ok(201);
    let approvals = format!("releases/{}/approvals", proposed["id"].as_str().unwrap());
    let invited = app
        .post(
            &acme.path("invitations"),
            owner,
            json!({ "email": "late@acme.test", "role": "member" }),
        )
        .await
        .ok(201);
    let rotated = old_token(app, owner).await;
    let late = app.sign_up("late@acme.test").await.token;
    let of_owner = |path: &str, body: Value| (acme.path(path), owner.clone(), body);
    BTreeMap::from([
        (
            "organizations_create",
            (
                "/v1/organizations".to_owned(),
                owner.clone(),
                json!({ "name": "second" }),
            ),
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
    let takes_key = |operation: &Value| {
        let all = operation["parameters"].as_array().into_iter().flatten();
        all.into_iter().any(|p| p["name"] == "idempotency-key")
    };
    let mut seen = 0;
    for (method, _, operation) in testkit::openapi::operations(&document) {
        if !takes_key(operation) {
            continue;
        }
        let id = operation["operationId"].as_str().unwrap();
        assert_eq!(method, "post", "{id}");
        let (path, token, body) = samples.get(id).unwrap_or_else(|| panic!("what is sent to {id}?"));
        let first = send(&app, path, token, id, body).await;
        assert!(
            (200..300).contains(&first.status) && !is_replayed(&first),
            "{id}: {}",
            first.text
        );
        let rows = audit_rows(&app).await;
        let again = send(&app, path, token, id, body).await;
        assert_eq!((first.status, &first.text), (again.status, &again.text), "{id}");
        assert!(is_replayed(&again), "{id}");
        assert_eq!(audit_rows(&app).await, rows, "{id}");
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
