//! API tokens and what they are exchanged for.

use chassis::signed::Verifier;
use serde_json::json;

use crate::app::TestApp;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_token_stands_for_its_maker_until_it_is_revoked() {
    let app = TestApp::start().await;
    let org = app.organization("acme").await;
    let made = app
        .post("/v1/tokens", &org.owner.token, json!({ "name": "laptop" }))
        .await
        .ok(201);
    let secret = made["secret"].as_str().unwrap();
    assert!(secret.starts_with("hwd_pat_"));
    app.get("/v1/organizations/acme", secret).await.ok(200);
    let listed = app.get("/v1/tokens", &org.owner.token).await.ok(200);
    assert!(listed["items"][0].get("secret").is_none());
    assert_eq!(listed["items"][0]["last_used_at"], "2026-11-23T12:00:00Z");
    let epoch = app.snapshot(&org).await.epoch;
    let path = format!("/v1/tokens/{}", made["id"].as_str().unwrap());
    app.delete(&path, &org.owner.token).await.ok(204);
    app.get("/v1/account", secret).await.problem(401, "signed-out");
    let snapshot = app.snapshot(&org).await;
    assert!(snapshot.epoch > epoch);
    assert_eq!(json!(snapshot.revoked_tokens), json!([made["id"]]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn forged_and_expired_tokens_are_refused() {
    let app = TestApp::start().await;
    let ada = app.sign_up("ada@example.test").await;
    let body = json!({ "name": "short", "expires_in_days": 1 });
    let made = app.post("/v1/tokens", &ada.token, body).await.ok(201);
    let secret = made["secret"].as_str().unwrap();
    let stranger = contract::token::SecretToken::generate(contract::token::TokenKind::Personal, [9; 30]);
    for forged in [&secret[..secret.len() - 1], "hwd_pat_", "nonsense", stranger.expose()] {
        app.get("/v1/account", forged).await.problem(401, "signed-out");
    }
    app.get("/v1/account", "").await.problem(401, "signed-out");
    app.environment.advance(chrono::Duration::days(1));
    app.get("/v1/account", secret).await.problem(401, "token-expired");
    let body = json!({ "name": "long", "expires_in_days": 367 });
    app.post("/v1/tokens", &ada.token, body).await.problem(422, "invalid");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_limited_token_carries_its_limits_and_manages_nothing() {
    let app = TestApp::start().await;
    let org = app.organization("acme").await;
    let body = json!({ "name": "reader", "scopes": ["read:default/images"], "organization": "acme" });
    let made = app.post("/v1/tokens", &org.owner.token, body).await.ok(201);
    let secret = made["secret"].as_str().unwrap();
    for (method, path, body) in [
        ("POST", org.path("teams"), json!({ "name": "x" })),
        ("POST", "/v1/tokens".to_owned(), json!({ "name": "x" })),
        ("POST", "/v1/organizations".to_owned(), json!({ "name": "x" })),
        ("DELETE", "/v1/organizations/acme".to_owned(), json!(null)),
        (
            "POST",
            org.path("grants"),
            json!({ "subject": "user:owner@acme.test", "role": "viewer", "resource": "org" }),
        ),
    ] {
        app.call(method, &path, secret, Some(body))
            .await
            .problem(403, "not-allowed");
    }
    let access = app.post("/v1/access-tokens", secret, json!({})).await.ok(200);
    let audience = contract::claims::plane_audience(org.id);
    let claims = Verifier::new(app.app.keys.jwks(), &app.url, &audience)
        .unwrap()
        .access(
            access["access_token"].as_str().unwrap(),
            app.environment.now().timestamp(),
        )
        .unwrap();
    assert_eq!(claims.scopes[0].to_string(), "read:default/images");
    assert_eq!(json!(claims.token), made["id"]);
    assert_eq!(claims.name, "owner@acme.test");
    assert_eq!(access["expires_in"], 600);
    app.post(
        "/v1/tokens",
        &org.owner.token,
        json!({ "name": "x", "scopes": ["eat:*"] }),
    )
    .await
    .problem(422, "invalid");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_service_account_acts_by_its_token_in_its_organization_only() {
    let app = TestApp::start().await;
    let org = app.organization("acme").await;
    let bob = app.member(&org, "bob@example.test", "member").await;
    app.post(&org.path("service-accounts"), &org.owner.token, json!({ "name": "ci" }))
        .await
        .ok(201);
    let body = json!({ "name": "build", "organization": "acme", "service_account": "ci" });
    app.post("/v1/tokens", &bob.token, body.clone())
        .await
        .problem(403, "not-allowed");
    let made = app.post("/v1/tokens", &org.owner.token, body).await.ok(201);
    let secret = made["secret"].as_str().unwrap();
    assert!(secret.starts_with("hwd_sat_"));
    let who = app.get("/v1/account", secret).await.ok(200);
    assert_eq!(
        (&who["name"], &who["organizations"][0]["role"]),
        (&json!("ci"), &json!("member"))
    );
    app.post("/v1/organizations", secret, json!({ "name": "mine" }))
        .await
        .problem(403, "not-allowed");
    app.post("/v1/access-tokens", secret, json!({})).await.ok(200);
    app.delete(&org.path("service-accounts/ci"), &org.owner.token)
        .await
        .ok(200);
    app.get("/v1/account", secret).await.problem(401, "signed-out");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_access_token_needs_one_organization_that_is_meant() {
    let app = TestApp::start().await;
    let ada = app.sign_up("ada@example.test").await;
    app.post("/v1/access-tokens", &ada.token, json!({}))
        .await
        .problem(422, "invalid");
    for name in ["one", "two"] {
        app.post("/v1/organizations", &ada.token, json!({ "name": name }))
            .await
            .ok(201);
    }
    app.post("/v1/access-tokens", &ada.token, json!({}))
        .await
        .problem(422, "invalid");
    let made = app
        .post("/v1/access-tokens", &ada.token, json!({ "organization": "two" }))
        .await
        .ok(200);
    assert_eq!(made["plane_url"], format!("{}/o/two", app.url));
    app.post("/v1/access-tokens", &ada.token, json!({ "organization": "three" }))
        .await
        .problem(404, "not-found");
}
