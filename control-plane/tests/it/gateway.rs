//! The gateway in front of a plane that echoes.

use serde_json::{Value, json};

use crate::app::{TestApp, read};

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_request_goes_through_to_the_plane_with_its_body_and_headers() {
    let app = TestApp::start().await;
    let org = app.organization("acme").await;
    let token = app.access_token(&org, &org.owner).await;
    let request = app
        .request("POST", "/o/acme/v1/files?path=%2Fa%20b&x=1")
        .bearer_auth(&token)
        .header("range", "bytes=0-9")
        .header("howdah-epoch", "3")
        .header("te", "trailers")
        .header("cookie", "__Host-howdah-session=x")
        .body("some bytes");
    let answer = read(request).await;
    assert_eq!((answer.status, answer.text.as_str()), (200, "some bytes"));
    let seen: Value = serde_json::from_str(answer.headers["x-seen"].to_str().unwrap()).unwrap();
    assert_eq!(seen["method"], "POST");
    assert_eq!(seen["uri"], "/v1/files?path=%2Fa%20b&x=1");
    let headers = seen["headers"].as_array().unwrap();
    for kept in ["range", "howdah-epoch", "authorization", "x-request-id"] {
        assert!(headers.contains(&json!(kept)), "{kept}");
    }
    for dropped in ["te", "cookie"] {
        assert!(!headers.contains(&json!(dropped)), "{dropped}");
    }
    for kept in ["etag", "howdah-epoch", "x-request-id"] {
        assert!(answer.headers.contains_key(kept), "{kept}");
    }
    assert!(!answer.headers.contains_key("keep-alive"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn strangers_learn_nothing_and_wake_nobody() {
    let app = TestApp::start().await;
    let acme = app.organization("acme").await;
    let other = app.organization("other").await;
    let foreign = app.access_token(&other, &other.owner).await;
    let there = read(
        app.request("GET", "/o/acme/v1/repos")
            .bearer_auth(&foreign)
            .header("x-request-id", "r"),
    )
    .await;
    let nowhere = read(
        app.request("GET", "/o/nowhere/v1/repos")
            .bearer_auth(&foreign)
            .header("x-request-id", "r"),
    )
    .await;
    assert_eq!((there.status, &there.text), (404, &nowhere.text));
    for path in ["/o/acme/v1/repos", "/o/nowhere/v1/repos"] {
        app.get(path, "").await.problem(401, "signed-out");
        app.get(path, &acme.owner.token).await.problem(401, "signed-out");
        app.get(path, "a.b.c").await.problem(401, "signed-out");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_access_token_ends_after_ten_minutes() {
    let app = TestApp::start().await;
    let org = app.organization("acme").await;
    let token = app.access_token(&org, &org.owner).await;
    app.get("/o/acme/v1/repos", &token).await.ok(200);
    app.environment.advance(chrono::Duration::seconds(606));
    app.get("/o/acme/v1/repos", &token).await.problem(401, "token-expired");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_changed_access_token_is_refused() {
    let app = TestApp::start().await;
    let org = app.organization("acme").await;
    let token = app.access_token(&org, &org.owner).await;
    let (head, signature) = token.rsplit_once('.').unwrap();
    let forged: String = signature.chars().rev().collect();
    app.get("/o/acme/v1/repos", &format!("{head}.{forged}"))
        .await
        .problem(401, "signed-out");
}
