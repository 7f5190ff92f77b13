//! Requests that are sent again with their key.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use contract::policy::Role;
use contract::problem::ProblemKind;
use serde_json::{Value, json};

use crate::app::{App, Person, Reply};

async fn send(app: &App, person: &Person, uri: &str, key: &str, body: &Value) -> Reply {
    let request = Request::post(uri)
        .header("authorization", format!("Bearer {}", person.token))
        .header("content-type", "application/json")
        .header("idempotency-key", key)
        .body(Body::from(body.to_string()));
    app.send(request.unwrap()).await
}

fn is_replayed(reply: &Reply) -> bool {
    reply.headers.get("idempotent-replayed").is_some_and(|v| v == "true")
}

/// What is sent to an operation that takes a key: address and body.
fn sample(operation: &str) -> (&'static str, Value) {
    match operation {
        "projects_create" => ("/v1/projects", json!({ "name": "p" })),
        "repos_create" => ("/v1/projects/default/repos", json!({ "name": "new" })),
        "branches_create" => ("/v1/projects/default/repos/r/branches", json!({ "name": "b" })),
        "commits_start" => ("/v1/commits", json!({ "repo": "r", "branch": "open" })),
        "uploads_begin" => ("/v1/uploads", json!({ "repo": "r", "branch": null })),
        "pipelines_run" => ("/v1/pipelines/default/p/run?reprocess=true", json!({})),
        other => panic!("what is sent to {other}?"),
    }
}

#[tokio::test]
async fn every_operation_that_takes_a_key_does_it_once_and_answers_the_same_again() {
    let app = App::start().await;
    let ada = app.member_as("ada", contract::policy::OrganizationRole::Owner).await;
    app.repo(&ada, "r").await;
    app.put(&ada, "r", &[("a", b"1")]).await.ok();
    let spec = json!({ "pipeline": { "name": "p" }, "input": { "pfs": { "repo": "r", "glob": "/*" } }, "transform": { "cmd": ["true"] } });
    app.post(&ada, "/v1/pipelines", json!({ "specs": [spec] })).await.ok();
    let document = serde_json::to_value(data_plane::server::openapi()).unwrap();
    let mut seen = 0;
    for (_, _, operation) in testkit::openapi::operations(&document) {
        let mut parameters = operation["parameters"].as_array().into_iter().flatten();
        if !parameters.any(|p| p["name"] == "idempotency-key") {
            continue;
        }
        let id = operation["operationId"].as_str().unwrap();
        let (uri, body) = sample(id);
        let first = send(&app, &ada, uri, id, &body).await;
        assert!(
            first.status.is_success() && !is_replayed(&first),
            "{id}: {}",
            first.text()
        );
        let again = send(&app, &ada, uri, id, &body).await;
        assert_eq!((first.status, first.text()), (again.status, again.text()), "{id}");
        assert!(is_replayed(&again), "{id}");
        seen += 1;
    }
    assert_eq!(seen, 6);
    let jobs: i64 = sqlx::query_scalar("select count(*) from jobs")
        .fetch_one(&app.plane.pool)
        .await
        .unwrap();
    assert_eq!(jobs, 2, "the one of the pipeline, and the one that was asked for");
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
