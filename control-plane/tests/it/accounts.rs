//! Sign-up, log-in, sessions.

use serde_json::json;

use crate::app::{PASSWORD, TestApp};
use control_plane::rate_limits::RateLimits;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn who_signs_up_with_an_organization_owns_it_and_is_logged_in() {
    let app = TestApp::start().await;
    let body = json!({ "email": "Ada@Example.test", "password": PASSWORD, "organization": "acme" });
    let made = app.post("/v1/accounts", "", body).await.ok(201);
    assert_eq!(made["organizations"][0]["role"], "owner");
    let token = made["session_token"].as_str().unwrap();
    let who = app.get("/v1/account", token).await.ok(200);
    assert_eq!(who["name"], "Ada@Example.test");
    assert_eq!(who["organizations"][0]["name"], "acme");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_address_has_one_account_whatever_its_case() {
    let app = TestApp::start().await;
    app.sign_up("ada@example.test").await;
    let body = json!({ "email": "ADA@example.test", "password": PASSWORD });
    app.post("/v1/accounts", "", body).await.problem(409, "already-exists");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn bad_addresses_weak_passwords_and_unknown_fields_are_refused() {
    let app = TestApp::start().await;
    for (body, slug) in [
        (json!({ "email": "nobody", "password": PASSWORD }), "invalid"),
        (json!({ "email": "a@b.test", "password": "short" }), "invalid"),
        (json!({ "email": "a@b.test", "password": "password1" }), "invalid"),
        (
            json!({ "email": "a@b.test", "password": PASSWORD, "plan": "pro" }),
            "invalid",
        ),
        (
            json!({ "email": "a@b.test", "password": PASSWORD, "organization": "no spaces" }),
            "invalid",
        ),
        (
            json!({ "email": "a@b.test", "password": PASSWORD, "organization": "admin" }),
            "invalid",
        ),
    ] {
        app.post("/v1/accounts", "", body).await.problem(422, slug);
    }
    // Nothing half-done stayed behind.
    app.sign_up("a@b.test").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_unknown_address_and_a_wrong_password_get_the_same_answer() {
    let app = TestApp::start().await;
    app.sign_up("ada@example.test").await;
    let try_with = |email: &str| {
        let body = json!({ "email": email, "password": "not the password" });
        app.request("POST", "/v1/sessions")
            .header("x-request-id", "one")
            .json(&body)
    };
    let known = crate::app::read(try_with("ada@example.test")).await;
    let unknown = crate::app::read(try_with("bob@example.test")).await;
    let malformed = crate::app::read(try_with("no address")).await;
    assert_eq!(known.status, 401);
    assert_eq!((known.status, &known.text), (unknown.status, &unknown.text));
    assert_eq!(known.text, malformed.text);
    let body = json!({ "email": "ADA@example.test", "password": PASSWORD });
    app.post("/v1/sessions", "", body).await.ok(201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_zero_byte_is_a_mistake_of_the_request_and_not_of_ours() {
    let app = TestApp::start().await;
    let ada = app.sign_up("ada@example.test").await;
    let body = json!({ "email": "ada\u{0}@example.test", "password": PASSWORD });
    app.post("/v1/sessions", "", body).await.problem(400, "malformed");
    app.delete("/v1/account/identities?issuer=%00&subject=x", &ada.token)
        .await
        .problem(400, "malformed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_revoked_or_expired_session_is_signed_out() {
    let app = TestApp::start().await;
    let ada = app.sign_up("ada@example.test").await;
    let listed = app.get("/v1/sessions", &ada.token).await.ok(200);
    assert_eq!(listed["items"][0]["current"], true);
    app.delete("/v1/sessions/current", &ada.token).await.ok(204);
    app.get("/v1/account", &ada.token).await.problem(401, "signed-out");

    let body = json!({ "email": ada.email, "password": PASSWORD });
    let again = app.post("/v1/sessions", "", body).await.ok(201);
    let token = again["session_token"].as_str().unwrap();
    app.environment.advance(chrono::Duration::days(30));
    app.get("/v1/account", token).await.problem(401, "token-expired");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn nobody_revokes_anothers_session() {
    let app = TestApp::start().await;
    let (ada, bob) = (
        app.sign_up("ada@example.test").await,
        app.sign_up("bob@example.test").await,
    );
    let listed = app.get("/v1/sessions", &ada.token).await.ok(200);
    let id = listed["items"][0]["id"].as_str().unwrap();
    app.delete(&format!("/v1/sessions/{id}"), &bob.token)
        .await
        .problem(404, "not-found");
    app.get("/v1/account", &ada.token).await.ok(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn too_many_log_ins_are_slowed_down() {
    let app = TestApp::start_with(RateLimits {
        log_ins: 2,
        loopback_factor: 1,
        ..RateLimits::default()
    })
    .await;
    let body = json!({ "email": "ada@example.test", "password": "not the password" });
    for _ in 0..2 {
        app.post("/v1/sessions", "", body.clone())
            .await
            .problem(401, "signed-out");
    }
    let answer = app.post("/v1/sessions", "", body).await;
    assert!(answer.headers.contains_key("retry-after"));
    answer.problem(429, "slow-down");
}
