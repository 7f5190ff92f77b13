//! Changes of branches and secrets that are made to what was read, and to nothing else.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use contract::api::Commit;
use contract::config::StoreConfig;
use contract::policy::{OrganizationRole, Role};
use contract::problem::ProblemKind;
use serde_json::{Value, json};

use crate::app::{App, Person, Reply};

const MAIN: &str = "/v1/projects/default/repos/r/branches/main";
const SECRET: &str = "/v1/projects/default/secrets/s";

async fn send(app: &App, person: &Person, method: &str, uri: &str, tag: &str, body: Option<&Value>) -> Reply {
    let request = Request::builder()
        .method(method)
        .uri(uri)
        .header("authorization", format!("Bearer {}", person.token))
        .header("content-type", "application/json")
        .header("if-match", tag)
        .body(body.map_or_else(Body::empty, |body| body.to_string().into()));
    app.send(request.unwrap()).await
}

fn tag(reply: &Reply) -> String {
    reply.ok().headers["etag"].to_str().unwrap().to_owned()
}

/// Two commits of `r`, of which the second is the head of `main`.
async fn two_commits(app: &App, ada: &Person) -> (Commit, Commit) {
    app.repo(ada, "r").await;
    let first = app.put(ada, "r", &[("a", b"1")]).await.json();
    (first, app.put(ada, "r", &[("a", b"2")]).await.json())
}

fn to(commit: &Commit) -> Value {
    json!({ "to": format!("r@{}", commit.id) })
}

#[tokio::test]
async fn a_branch_is_moved_or_deleted_as_it_was_read_or_not_at_all() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    let (first, second) = two_commits(&app, &ada).await;
    let read = tag(&app.get(&ada, MAIN).await);
    let moved = send(&app, &ada, "PATCH", MAIN, &read, Some(&to(&first))).await;
    assert_eq!(tag(&moved), tag(&app.get(&ada, MAIN).await));
    let stale = send(&app, &ada, "PATCH", MAIN, &read, Some(&to(&second))).await;
    stale.refused(ProblemKind::PreconditionFailed);
    // A commit moves it too.
    let before = tag(&moved);
    app.put(&ada, "r", &[("b", b"1")]).await.ok();
    for (method, body) in [("PATCH", Some(to(&second))), ("DELETE", None)] {
        send(&app, &ada, method, MAIN, &before, body.as_ref())
            .await
            .refused(ProblemKind::PreconditionFailed);
    }
    let now = tag(&app.get(&ada, MAIN).await);
    assert_eq!(
        send(&app, &ada, "DELETE", MAIN, &now, None).await.status,
        StatusCode::NO_CONTENT
    );
    send(&app, &ada, "DELETE", MAIN, &now, None)
        .await
        .refused(ProblemKind::NotFound);
    app.get(&ada, MAIN).await.refused(ProblemKind::NotFound);
}

#[tokio::test]
async fn of_those_who_move_a_branch_at_once_as_they_read_it_one_does() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    let (first, _) = two_commits(&app, &ada).await;
    let read = tag(&app.get(&ada, MAIN).await);
    let body = to(&first);
    let sent = (0..6).map(|_| send(&app, &ada, "PATCH", MAIN, &read, Some(&body)));
    let mut done = 0;
    for reply in futures::future::join_all(sent).await {
        if reply.status == StatusCode::OK {
            done += 1;
        } else {
            reply.refused(ProblemKind::PreconditionFailed);
        }
    }
    assert_eq!(done, 1);
}

#[tokio::test]
async fn a_branch_shows_its_commit_to_its_readers_alone() {
    let app = App::start().await;
    let (ada, bob) = (app.member("ada").await, app.member("bob").await);
    two_commits(&app, &ada).await;
    app.get(&bob, MAIN).await.refused(ProblemKind::NotFound);
    let repo = app.get(&ada, "/v1/projects/default/repos/r").await.json();
    app.grant(&bob, Role::Discoverer, &repo).await;
    let shown: Value = app.get(&bob, MAIN).await.json();
    assert_eq!((&shown["name"], &shown["head"]), (&json!("main"), &Value::Null));
    app.grant(&bob, Role::Viewer, &repo).await;
    let (his, hers) = (app.get(&bob, MAIN).await, app.get(&ada, MAIN).await);
    assert_eq!(his.ok().text(), hers.ok().text());
}

#[tokio::test]
async fn a_secret_is_set_or_deleted_as_it_was_read_or_not_at_all() {
    let bucket = testkit::temporary_directory();
    let store = StoreConfig::Local {
        directory: bucket.path().join("bucket"),
    };
    let app = App::on_encrypted(store, Some("5a".repeat(32))).await;
    let ada = app.member_as("ada", OrganizationRole::Owner).await;
    let value = |text: &str| json!({ "values": { "k": text } });
    // Nobody has read what is not there.
    for any in ["*", "\"x\""] {
        send(&app, &ada, "PUT", SECRET, any, Some(&value("0")))
            .await
            .refused(ProblemKind::PreconditionFailed);
    }
    app.get(&ada, SECRET).await.refused(ProblemKind::NotFound);
    let set = app.call(&ada, "PUT", SECRET, value("1").to_string().into()).await;
    let read = app.get(&ada, SECRET).await;
    assert_eq!((set.ok().text(), tag(&set)), (read.text(), tag(&read)));
    let first = tag(&set);
    let second = tag(&send(&app, &ada, "PUT", SECRET, &first, Some(&value("2"))).await);
    // Also where it would be what it is.
    for (method, body) in [("PUT", Some(value("1"))), ("PUT", Some(value("2"))), ("DELETE", None)] {
        send(&app, &ada, method, SECRET, &first, body.as_ref())
            .await
            .refused(ProblemKind::PreconditionFailed);
    }
    let bodies: Vec<Value> = (3..9).map(|n: u8| value(&n.to_string())).collect();
    let sent = bodies
        .iter()
        .map(|body| send(&app, &ada, "PUT", SECRET, &second, Some(body)));
    let replies = futures::future::join_all(sent).await;
    let done: Vec<&Reply> = replies.iter().filter(|r| r.status == StatusCode::OK).collect();
    assert_eq!(done.len(), 1);
    for reply in replies.iter().filter(|r| r.status != StatusCode::OK) {
        reply.refused(ProblemKind::PreconditionFailed);
    }
    let third = tag(done[0]);
    assert_eq!(
        send(&app, &ada, "DELETE", SECRET, &third, None).await.status,
        StatusCode::NO_CONTENT
    );
    // Set anew it is another one, also with the values of before.
    let anew = app.call(&ada, "PUT", SECRET, value("1").to_string().into()).await;
    assert_ne!(tag(&anew), first);
}
