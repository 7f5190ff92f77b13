//! The end of an account.

use serde_json::json;

use crate::app::{PASSWORD, TestApp};
use crate::mail::{kept, with_outbox};

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_account_leaves_nothing_that_acts_and_its_address_is_free_again() {
    let app = TestApp::start_for(with_outbox()).await;
    let org = app.organization("acme").await;
    let ada = app.member(&org, "ada@example.test", "admin").await;
    let made = app
        .post("/v1/tokens", &ada.token, json!({ "name": "kept" }))
        .await
        .ok(201);
    let grant = json!({ "subject": "user:ada@example.test", "role": "viewer", "resource": "org" });
    app.post(&org.path("grants"), &org.owner.token, grant).await.ok(201);
    let id = app.get("/v1/account", &ada.token).await.ok(200)["id"].clone();
    let epoch = app.snapshot(&org).await.epoch;

    app.delete("/v1/account", made["secret"].as_str().unwrap())
        .await
        .problem(403, "not-allowed");
    app.environment.advance(chrono::Duration::minutes(15));
    app.delete("/v1/account", &ada.token)
        .await
        .problem(403, "proof-required");
    app.post(
        "/v1/sessions/current/proof",
        &ada.token,
        json!({ "password": PASSWORD }),
    )
    .await
    .ok(200);
    app.delete("/v1/account", &ada.token).await.ok(204);

    for secret in [ada.token.as_str(), made["secret"].as_str().unwrap()] {
        app.get("/v1/account", secret).await.problem(401, "signed-out");
    }
    let body = json!({ "email": "ada@example.test", "password": PASSWORD });
    app.post("/v1/sessions", "", body).await.problem(401, "signed-out");
    let snapshot = app.snapshot(&org).await;
    assert!(snapshot.epoch > epoch);
    assert!(!serde_json::to_string(&snapshot).unwrap().contains(id.as_str().unwrap()));
    assert!(kept(&app, "ada@example.test").await.contains("was deleted"));

    let again = app.sign_up("ada@example.test").await;
    assert_ne!(app.get("/v1/account", &again.token).await.ok(200)["id"], id);
    let (audited,): (i64,) = sqlx::query_as("select count(*) from audit_events where actor = $1")
        .bind(id.as_str().unwrap())
        .fetch_one(&app.app.pool)
        .await
        .unwrap();
    assert!(audited > 0, "the trail still names who acted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_last_owner_of_others_cannot_be_deleted_and_an_organization_of_one_ends_with_him() {
    let app = TestApp::start_for(with_outbox()).await;
    let org = app.organization("acme").await;
    let bob = app.member(&org, "bob@example.test", "admin").await;
    app.delete("/v1/account", &org.owner.token)
        .await
        .problem(409, "conflict");
    app.get("/v1/account", &org.owner.token).await.ok(200);

    app.delete("/v1/account", &bob.token).await.ok(204);
    app.delete("/v1/account", &org.owner.token).await.ok(204);
    let (state,): (String,) = sqlx::query_as("select state from organizations where id = $1")
        .bind(org.id.to_string())
        .fetch_one(&app.app.pool)
        .await
        .unwrap();
    assert!(["deleting", "deleted"].contains(&state.as_str()), "{state}");
}
