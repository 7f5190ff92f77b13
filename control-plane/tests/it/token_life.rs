//! The life of API tokens: rotation, disuse, secrets that were found, and what an organization demands of tokens that work in it.

use chassis::signed::Verifier;
use chrono::Duration;
use serde_json::{Value, json};

use crate::app::{Org, Person, TestApp};

async fn made(app: &TestApp, by: &str, body: Value) -> (String, String) {
    let made = app.post("/v1/tokens", by, body).await.ok(201);
    let text = |name: &str| made[name].as_str().unwrap().to_owned();
    (text("id"), text("secret"))
}

async fn set_policy(app: &TestApp, org: &Org, policy: Value) {
    app.call("PUT", &org.path("token-policy"), &org.owner.token, Some(policy))
        .await
        .ok(200);
}

async fn standing(app: &TestApp, org: &Org, id: &str) -> Value {
    let listed = app.get(&org.path("tokens"), &org.owner.token).await.ok(200);
    let all = listed["items"].as_array().unwrap();
    all.iter()
        .find(|t| t["id"] == id)
        .map_or(Value::Null, |t| t["standing"].clone())
}

async fn revoked(app: &TestApp, org: &Org, id: &str) -> bool {
    let snapshot = app.snapshot(org).await;
    snapshot.revoked_tokens.iter().any(|t| t.to_string() == id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_rotated_token_goes_on_under_a_new_secret_while_the_old_one_ends() {
    let app = TestApp::start().await;
    let org = app.organization("acme").await;
    let owner = &org.owner.token;
    let (old, old_secret) = made(
        &app,
        owner,
        json!({ "name": "build", "scopes": ["read:*"], "organization": "acme" }),
    )
    .await;
    let rotate = |id: &str, hours: u32| {
        let path = format!("/v1/tokens/{id}/rotate");
        app.post_owned(path, owner.clone(), json!({ "overlap_hours": hours }))
    };
    rotate(&old, 73).await.problem(422, "invalid");
    let new = rotate(&old, 2).await.ok(201);
    assert_eq!((&new["scopes"], &new["name"]), (&json!(["read:*"]), &json!("build")));
    let new_secret = new["secret"].as_str().unwrap();
    for secret in [&old_secret, new_secret] {
        app.get("/v1/account", secret).await.ok(200);
    }
    rotate(&old, 2).await.problem(409, "conflict");
    app.environment.advance(Duration::hours(2));
    app.get("/v1/account", &old_secret).await.problem(401, "token-expired");
    app.get("/v1/account", new_secret).await.ok(200);
    // At once: what came of the old secret ends too.
    let id = new["id"].as_str().unwrap();
    let last = rotate(id, 0).await.ok(201);
    app.get("/v1/account", new_secret).await.problem(401, "signed-out");
    assert!(revoked(&app, &org, id).await);
    app.get("/v1/account", last["secret"].as_str().unwrap()).await.ok(200);
    rotate(id, 0).await.problem(404, "not-found");
    // A stranger knows of none, two at once get one.
    let eve = app.sign_up("eve@example.test").await;
    let path = format!("/v1/tokens/{}/rotate", last["id"].as_str().unwrap());
    app.post(&path, &eve.token, json!({})).await.problem(404, "not-found");
    let (one, two) = tokio::join!(app.post(&path, owner, json!({})), app.post(&path, owner, json!({})));
    let mut found = [one.status, two.status];
    found.sort_unstable();
    assert_eq!(found, [201, 409]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_token_may_rotate_itself_and_gains_neither_time_nor_rights_by_it() {
    let app = TestApp::start().await;
    let org = app.organization("acme").await;
    let body = json!({ "name": "build", "scopes": ["read:*"], "organization": "acme", "expires_in_days": 30 });
    let (id, secret) = made(&app, &org.owner.token, body).await;
    app.environment.advance(Duration::days(20));
    let new = app
        .post(&format!("/v1/tokens/{id}/rotate"), &secret, json!({}))
        .await
        .ok(201);
    assert_eq!(new["expires_at"], "2026-12-23T12:00:30Z");
    assert_eq!(new["scopes"], json!(["read:*"]));
    // Another token than itself it may not rotate, being limited.
    let other = format!("/v1/tokens/{}/rotate", new["id"].as_str().unwrap());
    app.post(&other, &secret, json!({})).await.problem(403, "not-allowed");
    // Nor does it become younger in the eyes of the organization.
    set_policy(&app, &org, json!({ "longest_days": 25 })).await;
    let new_secret = new["secret"].as_str().unwrap();
    app.get("/v1/organizations/acme/plane", new_secret)
        .await
        .problem(403, "not-allowed");
    app.post("/v1/access-tokens", new_secret, json!({})).await.ok(200);
    app.environment.advance(Duration::days(6));
    app.post("/v1/access-tokens", new_secret, json!({}))
        .await
        .problem(403, "not-allowed");
    assert_eq!(standing(&app, &org, new["id"].as_str().unwrap()).await, "too_old");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_token_that_nobody_uses_ends() {
    let app = TestApp::start().await;
    let ada = app.sign_up("ada@example.test").await;
    app.post("/v1/tokens", &ada.token, json!({ "name": "x", "idle_days": 0 }))
        .await
        .problem(422, "invalid");
    let (_, used) = made(&app, &ada.token, json!({ "name": "used", "idle_days": 7 })).await;
    let (_, unused) = made(&app, &ada.token, json!({ "name": "unused", "idle_days": 7 })).await;
    app.environment.advance(Duration::days(6));
    app.get("/v1/account", &used).await.ok(200);
    app.environment.advance(Duration::days(1));
    app.get("/v1/account", &used).await.ok(200);
    for _ in 0..2 {
        app.get("/v1/account", &unused).await.problem(401, "token-expired");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn who_finds_a_secret_ends_it_and_learns_nothing() {
    let app = TestApp::start().await;
    let org = app.organization("acme").await;
    let (id, personal) = made(&app, &org.owner.token, json!({ "name": "x", "scopes": ["read:*"] })).await;
    app.post(&org.path("service-accounts"), &org.owner.token, json!({ "name": "ci" }))
        .await
        .ok(201);
    let body = json!({ "name": "y", "organization": "acme", "service_account": "ci" });
    let (_, service) = made(&app, &org.owner.token, body).await;
    let bob = app.member(&org, "bob@example.test", "member").await;
    let stranger = contract::token::SecretToken::generate(contract::token::TokenKind::Personal, [9; 30]);
    let before = app.snapshot(&org).await.epoch;
    for secret in [
        &personal,
        &service,
        &bob.token,
        &personal,
        "nonsense",
        "",
        stranger.expose(),
        &format!(" {personal}\n"),
    ] {
        let answer = app.post("/v1/tokens/revoke", "", json!({ "token": secret })).await;
        assert_eq!((answer.status, answer.text.as_str()), (204, ""), "{secret}");
    }
    for secret in [&personal, &service, &bob.token] {
        app.get("/v1/account", secret).await.problem(401, "signed-out");
    }
    assert!(app.snapshot(&org).await.epoch > before && revoked(&app, &org, &id).await);
    app.get("/v1/account", &org.owner.token).await.ok(200);
}

/// The same organization, whose owner has logged in again.
async fn logged_in(app: &TestApp, org: &Org) -> Org {
    let body = json!({ "email": org.owner.email, "password": crate::app::PASSWORD });
    let made = app.post("/v1/sessions", "", body).await.ok(201);
    Org {
        id: org.id,
        name: org.name.clone(),
        owner: Person {
            email: org.owner.email.clone(),
            token: made["session_token"].as_str().unwrap().to_owned(),
        },
    }
}

async fn uses(app: &TestApp, secret: &str) -> u16 {
    app.post("/v1/access-tokens", secret, json!({ "organization": "acme" }))
        .await
        .status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn where_approval_is_needed_a_token_does_nothing_until_an_admin_gave_it() {
    let app = TestApp::start().await;
    let org = app.organization("acme").await;
    let bob = app.member(&org, "bob@example.test", "member").await;
    let (id, secret) = made(&app, &bob.token, json!({ "name": "laptop" })).await;
    app.post(&org.path("service-accounts"), &org.owner.token, json!({ "name": "ci" }))
        .await
        .ok(201);
    let body = json!({ "name": "y", "organization": "acme", "service_account": "ci" });
    let (_, service) = made(&app, &org.owner.token, body).await;
    assert_eq!(uses(&app, &secret).await, 200);
    // Tokens that are there are asked too, and what was exchanged for them counts no longer.
    set_policy(&app, &org, json!({ "approval": true })).await;
    assert_eq!((uses(&app, &secret).await, uses(&app, &service).await), (403, 200));
    assert!(revoked(&app, &org, &id).await);
    assert_eq!(standing(&app, &org, &id).await, "pending");
    let approval = org.path(&format!("tokens/{id}/approval"));
    for nobody in [&bob.token, &secret, &service] {
        app.post(&approval, nobody, json!({})).await.problem(403, "not-allowed");
    }
    app.post(&approval, &org.owner.token, json!({})).await.ok(201);
    assert_eq!(uses(&app, &secret).await, 200);
    assert!(!revoked(&app, &org, &id).await);
    // An admin's own tokens are no exception: his session approves.
    let (own, own_secret) = made(&app, &org.owner.token, json!({ "name": "mine" })).await;
    app.get(&org.path("tokens"), &own_secret)
        .await
        .problem(403, "not-allowed");
    let listed = app.get("/v1/tokens", &own_secret).await.ok(200);
    assert!(!listed.to_string().contains("\"kind\":\"sat\""), "{listed}");
    app.post(
        &org.path(&format!("tokens/{own}/approval")),
        &org.owner.token,
        json!({}),
    )
    .await
    .ok(201);
    app.get(&org.path("tokens"), &own_secret).await.ok(200);
    // Rotation takes an approval along.
    let new = app
        .post(&format!("/v1/tokens/{id}/rotate"), &bob.token, json!({}))
        .await
        .ok(201);
    assert_eq!(uses(&app, new["secret"].as_str().unwrap()).await, 200);
    // What is not bound to the organization works elsewhere all the time.
    let other = app.organization("other").await;
    app.join(&other, &bob, "member").await;
    let (_, unbound) = made(&app, &bob.token, json!({ "name": "all" })).await;
    assert_eq!(uses(&app, &unbound).await, 403);
    app.post("/v1/access-tokens", &unbound, json!({ "organization": "other" }))
        .await
        .ok(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn admins_end_every_token_that_works_in_their_organization_and_none_elsewhere() {
    let app = TestApp::start().await;
    let org = app.organization("acme").await;
    let other = app.organization("other").await;
    let bob = app.member(&org, "bob@example.test", "member").await;
    app.join(&other, &bob, "member").await;
    let admin = app.member(&org, "admin@acme.test", "admin").await;
    let (unbound, unbound_secret) = made(&app, &bob.token, json!({ "name": "all" })).await;
    let (bound, bound_secret) = made(&app, &bob.token, json!({ "name": "one", "organization": "acme" })).await;
    let (foreign, _) = made(&app, &bob.token, json!({ "name": "other", "organization": "other" })).await;
    let end = |by: &Person, id: &str| {
        let (path, by) = (org.path(&format!("tokens/{id}")), by.token.clone());
        let app = &app;
        async move { app.delete(&path, &by).await }
    };
    end(&bob, &bound).await.problem(403, "not-allowed");
    end(&admin, &foreign).await.problem(404, "not-found");
    assert_eq!(
        (uses(&app, &unbound_secret).await, uses(&app, &bound_secret).await),
        (200, 200)
    );
    end(&admin, &unbound).await.ok(200);
    end(&admin, &bound).await.ok(200);
    app.get("/v1/account", &bound_secret).await.problem(401, "signed-out");
    assert_eq!(uses(&app, &unbound_secret).await, 403);
    assert!(revoked(&app, &org, &unbound).await && revoked(&app, &org, &bound).await);
    assert_eq!(standing(&app, &org, &unbound).await, "blocked");
    app.post("/v1/access-tokens", &unbound_secret, json!({ "organization": "other" }))
        .await
        .ok(200);
    assert!(!revoked(&app, &other, &unbound).await);
    // Rotation does not wash it off.
    let new = app
        .post(&format!("/v1/tokens/{unbound}/rotate"), &bob.token, json!({}))
        .await
        .ok(201);
    assert_eq!(uses(&app, new["secret"].as_str().unwrap()).await, 403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_policys_age_and_disuse_end_tokens_and_what_they_are_exchanged_for() {
    let app = TestApp::start().await;
    let org = app.organization("acme").await;
    let (id, secret) = made(&app, &org.owner.token, json!({ "name": "x", "expires_in_days": 366 })).await;
    app.call(
        "PUT",
        &org.path("token-policy"),
        &org.owner.token,
        Some(json!({ "idle_days": 0 })),
    )
    .await
    .problem(422, "invalid");
    set_policy(&app, &org, json!({ "longest_days": 60, "idle_days": 10 })).await;
    app.environment.advance(Duration::days(10));
    // Too late stays too late, however often it comes then.
    for _ in 0..2 {
        assert_eq!(uses(&app, &secret).await, 403);
    }
    assert_eq!(standing(&app, &org, &id).await, "idle");
    app.post(&org.path(&format!("tokens/{id}/approval")), &org.owner.token, json!({}))
        .await
        .ok(201);
    assert_eq!(uses(&app, &secret).await, 200);
    for _ in 0..5 {
        app.environment.advance(Duration::days(9));
        assert_eq!(uses(&app, &secret).await, 200);
    }
    app.environment.advance(Duration::days(5) - Duration::minutes(4));
    let access = app.post("/v1/access-tokens", &secret, json!({})).await.ok(200);
    let audience = contract::claims::plane_audience(org.id);
    let verifier = Verifier::new(app.app.keys.jwks(), &app.url, &audience).unwrap();
    let now = app.environment.now().timestamp();
    let claims = verifier.access(access["access_token"].as_str().unwrap(), now).unwrap();
    assert_eq!(claims.exp - now, 240);
    app.environment.advance(Duration::minutes(4));
    assert_eq!(uses(&app, &secret).await, 403);
    let org = logged_in(&app, &org).await;
    assert_eq!(standing(&app, &org, &id).await, "too_old");
    app.get("/v1/account", &secret).await.ok(200);
}
