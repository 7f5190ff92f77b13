//! Requests that are sent again with their key.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use contract::policy::Role;
use contract::problem::ProblemKind;
use serde_json::{Value, json};

use crate::app::{App, Person, Reply, archive};

async fn send(app: &App, person: &Person, uri: &str, key: &str, body: &Value) -> Reply {
    send_bytes(app, person, uri, key, body.to_string().into()).await
}

async fn send_bytes(app: &App, person: &Person, uri: &str, key: &str, body: Vec<u8>) -> Reply {
    let request = Request::post(uri)
        .header("authorization", format!("Bearer {}", person.token))
        .header("content-type", "application/json")
        .header("idempotency-key", key)
        .body(Body::from(body));
    app.send(request.unwrap()).await
}

fn is_replayed(reply: &Reply) -> bool {
    reply.headers.get("idempotent-replayed").is_some_and(|v| v == "true")
}

/// Operations that need no key, and why, as their descriptions say.
const KEYLESS: &[(&str, &str)] = &[
    ("access_what_if", "It changes nothing"),
    ("chunks_list", "It changes nothing"),
    ("commits_attest", "Sent again it changes nothing"),
    ("commits_finish", "Sent again it changes nothing"),
    ("commits_finish_together", "Sent again it changes nothing"),
    ("jobs_stop", "Sent again it changes nothing"),
    ("pipelines_start", "Sent again it changes nothing"),
    ("pipelines_stop", "Sent again it changes nothing"),
    ("storage_collect_garbage", "Sent again it collects what is left"),
    ("storage_repair", "Sent again it repairs what is damaged still"),
    ("uploads_announce_pack", "one that nothing is put into is given up"),
];

#[test]
fn every_post_takes_a_key_or_says_why_it_needs_none() {
    let document = serde_json::to_value(data_plane::server::openapi()).unwrap();
    testkit::openapi::check_keys(&document, KEYLESS);
}

/// Tested where what they need is at hand: a server to import from, and code that runs.
const ELSEWHERE: [&str; 2] = ["imports_import", "reproductions_begin"];

fn spec(name: &str) -> Value {
    json!({ "pipeline": { "name": name }, "input": { "pfs": { "repo": "r", "glob": "/*" } }, "transform": { "cmd": ["true"] } })
}

/// What is sent to an operation that takes a key: address and body.
fn sample(operation: &str) -> (&'static str, Vec<u8>) {
    let (uri, body) = match operation {
        "projects_create" => ("/v1/projects", json!({ "name": "p" })),
        "repos_create" => ("/v1/projects/default/repos", json!({ "name": "new" })),
        "branches_create" => ("/v1/projects/default/repos/r/branches", json!({ "name": "b" })),
        "commits_start" => ("/v1/commits", json!({ "repo": "r", "branch": "open" })),
        "commits_squash" => ("/v1/commits/squash", json!({ "ref": "lines@main^2" })),
        "commits_drop" => ("/v1/commits/drop", json!({ "ref": "lines@main" })),
        "files_copy" => (
            "/v1/copies",
            json!({ "from_ref": "r@main", "from_path": "/a", "repo": "copies", "path": "/b" }),
        ),
        "files_put" => {
            let archive = archive(&[("lines", b"one\n")]);
            return ("/v1/files?repo=puts&append=true", archive);
        }
        "purges_begin" => ("/v1/purges", json!({ "repo": "purged", "path": "/a" })),
        "uploads_begin" => ("/v1/uploads", json!({ "repo": "r", "branch": null })),
        "pipelines_run" => ("/v1/pipelines/default/p/run?reprocess=true", json!({})),
        "pipelines_apply" => ("/v1/pipelines", json!({ "specs": [spec("p")], "reprocess": true })),
        other => panic!("what is sent to {other}?"),
    };
    (uri, body.to_string().into())
}

async fn count(app: &App, what: &str) -> i64 {
    let statement = sqlx::AssertSqlSafe(format!("select count(*) from {what}"));
    sqlx::query_scalar(statement).fetch_one(&app.plane.pool).await.unwrap()
}

#[tokio::test]
async fn every_operation_that_takes_a_key_does_it_once_and_answers_the_same_again() {
    let app = App::start().await;
    let ada = app.member_as("ada", contract::policy::OrganizationRole::Owner).await;
    for repo in ["r", "lines", "copies", "puts", "purged"] {
        app.repo(&ada, repo).await;
    }
    for name in ["1", "2", "3", "4", "5"] {
        app.put(&ada, "lines", &[(name, b"1")]).await.ok();
    }
    app.put(&ada, "purged", &[("a", b"1"), ("b", b"1")]).await.ok();
    app.put(&ada, "r", &[("a", b"1")]).await.ok();
    app.post(&ada, "/v1/pipelines", json!({ "specs": [spec("p")] }))
        .await
        .ok();
    let document = serde_json::to_value(data_plane::server::openapi()).unwrap();
    let mut seen = 0;
    for (_, _, operation) in testkit::openapi::operations(&document) {
        let id = operation["operationId"].as_str().unwrap();
        if !testkit::openapi::takes_key(operation) || ELSEWHERE.contains(&id) {
            continue;
        }
        let (uri, body) = sample(id);
        let first = send_bytes(&app, &ada, uri, id, body.clone()).await;
        assert!(
            first.status.is_success() && !is_replayed(&first),
            "{id}: {}",
            first.text()
        );
        let rows = count(&app, "audit_events").await;
        let again = send_bytes(&app, &ada, uri, id, body).await;
        assert_eq!((first.status, first.text()), (again.status, again.text()), "{id}");
        assert!(is_replayed(&again), "{id}");
        assert_eq!(count(&app, "audit_events").await, rows, "{id}");
        seen += 1;
    }
    assert_eq!(seen, 12);
    let jobs = count(&app, "jobs").await;
    assert_eq!(jobs, 3, "the one of the pipeline, and those that were asked for");
    assert_eq!(app.cat(&ada, "puts@main", "/lines").await.text(), "one\n");
    let gone = count(&app, "commits where state = 'removed'").await;
    assert_eq!(gone, 2, "one that was squashed, one that was dropped");
}

#[tokio::test]
async fn files_are_put_once_under_a_key_and_other_files_are_refused_under_it() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    let uri = "/v1/files?repo=r&append=true";
    let line = |text: &[u8]| archive(&[("lines", text)]);
    let sent = (0..4).map(|_| send_bytes(&app, &ada, uri, "k", line(b"one\n")));
    for reply in futures::future::join_all(sent).await {
        if reply.status != StatusCode::CREATED {
            reply.refused(ProblemKind::RequestInProgress);
        }
    }
    assert_eq!(app.cat(&ada, "r@main", "/lines").await.text(), "one\n");
    // What stands behind the end of the archive is of the request too.
    let mut longer = line(b"one\n");
    longer.extend([0; 4096]);
    for other in [line(b"two\n"), longer] {
        let refused = send_bytes(&app, &ada, uri, "k", other).await;
        refused.refused(ProblemKind::IdempotencyKeyReused);
    }
    assert_eq!(app.cat(&ada, "r@main", "/lines").await.text(), "one\n");
    // So it is into an open commit.
    app.post(&ada, "/v1/commits", json!({ "repo": "r" })).await.ok();
    for replayed in [false, true] {
        let reply = send_bytes(&app, &ada, uri, "open", line(b"two\n")).await;
        assert_eq!((reply.status, is_replayed(&reply)), (StatusCode::CREATED, replayed));
    }
    app.post(&ada, "/v1/commits/finish?ref=r@main", json!({})).await.ok();
    assert_eq!(app.cat(&ada, "r@main", "/lines").await.text(), "one\ntwo\n");
}

#[tokio::test]
async fn a_key_is_of_one_caller_and_one_request_and_opens_nothing() {
    let app = App::start().await;
    let (ada, bob) = (app.member("ada").await, app.member("bob").await);
    let repo = app.repo(&ada, "r").await;
    let grant = app.grant(&bob, Role::Contributor, &repo).await;
    let branches = "/v1/projects/default/repos/r/branches";
    let branch = |name: &str| json!({ "name": name });
    send(&app, &ada, branches, "k", &branch("a")).await.ok();
    let other = send(&app, &ada, branches, "k", &branch("b")).await;
    other.refused(ProblemKind::IdempotencyKeyReused);
    let own = send(&app, &bob, branches, "k", &branch("b")).await;
    assert_eq!(
        (own.status, is_replayed(&own)),
        (StatusCode::CREATED, false),
        "{}",
        own.text()
    );
    // What was refused is not kept, and who may do it no more is not shown what he was answered.
    send(&app, &ada, branches, "later", &branch("b"))
        .await
        .refused(ProblemKind::AlreadyExists);
    app.delete(&ada, &format!("{branches}/b")).await.ok();
    send(&app, &ada, branches, "later", &branch("b")).await.ok();
    app.revoke(grant).await;
    send(&app, &bob, branches, "k", &branch("b"))
        .await
        .refused(ProblemKind::NotFound);
    send(&app, &ada, branches, "a b", &branch("c"))
        .await
        .refused(ProblemKind::Malformed);
    app.pass(chrono::Duration::hours(25)).await;
    let fresh = send(&app, &ada, branches, "k", &branch("c")).await;
    assert_eq!(
        (fresh.status, is_replayed(&fresh)),
        (StatusCode::CREATED, false),
        "{}",
        fresh.text()
    );
}

#[tokio::test]
async fn requests_of_one_key_at_once_are_one_request() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    let body = json!({ "name": "new" });
    let sent = (0..6).map(|_| send(&app, &ada, "/v1/projects/default/repos", "k", &body));
    let mut made = Vec::new();
    for reply in futures::future::join_all(sent).await {
        if reply.status == StatusCode::CREATED {
            made.push(reply.text());
        } else {
            reply.refused(ProblemKind::RequestInProgress);
        }
    }
    assert!(!made.is_empty());
    made.dedup();
    assert_eq!(made.len(), 1, "{made:?}");
}
