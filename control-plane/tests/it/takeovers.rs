//! Whoever knew a password once, against the account's holder who takes it back.

use serde_json::json;

use crate::app::{PASSWORD, Person, TestApp};
use crate::mail::{kept, with_outbox};
use crate::proofs::{NEW_PASSWORD, events, log_in};
use crate::smtp::token;

/// Sets the new password by a mailed code, and logs in with it.
pub async fn reset(app: &TestApp, email: &str) -> Person {
    app.post("/v1/password-resets", "", json!({ "email": email }))
        .await
        .ok(202);
    let body = json!({ "code": token(&kept(app, email).await, "cod"), "password": NEW_PASSWORD });
    app.post("/v1/password-resets/redeem", "", body).await.ok(204);
    log_in(app, email, NEW_PASSWORD).await
}

async fn move_address(app: &TestApp, session: &str, to: &str) {
    app.post("/v1/account/email", session, json!({ "email": to }))
        .await
        .ok(202);
    let code = json!({ "code": token(&kept(app, to).await, "cod") });
    app.post("/v1/account/email/confirm", session, code).await.ok(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_change_that_was_taken_back_takes_later_ones_with_it_and_tokens_of_before() {
    let app = TestApp::start_for(with_outbox()).await;
    let thief = app.sign_up("ada@example.test").await;
    let made = app
        .post("/v1/tokens", &thief.token, json!({ "name": "kept" }))
        .await
        .ok(201);
    app.environment.advance(chrono::Duration::minutes(1));
    move_address(&app, &thief.token, "a1@evil.test").await;
    let first = json!({ "code": token(&kept(&app, "ada@example.test").await, "cod") });
    app.environment.advance(chrono::Duration::minutes(1));
    move_address(&app, &thief.token, "a2@evil.test").await;
    let second = json!({ "code": token(&kept(&app, "a1@evil.test").await, "cod") });
    app.post("/v1/accounts/undo-email", "", first).await.ok(200);
    app.post("/v1/accounts/undo-email", "", second)
        .await
        .problem(422, "invalid");
    app.get("/v1/account", made["secret"].as_str().unwrap())
        .await
        .problem(401, "signed-out");
    let ada = reset(&app, "ada@example.test").await;
    assert_eq!(
        app.get("/v1/account", &ada.token).await.ok(200)["name"],
        "ada@example.test"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_a_session_began_before_it_was_ended_changes_nothing_after() {
    let app = TestApp::start_for(with_outbox()).await;
    let thief = app.sign_up("ada@example.test").await;
    let mut tx = app.app.pool.begin().await.unwrap();
    // A reset that has ended the session and is not committed: what comes meanwhile waits for it.
    for statement in [
        "update accounts set event_seq = event_seq where email_key = 'ada@example.test'",
        "update sessions set revoked_at = created_at",
    ] {
        sqlx::query(statement).execute(&mut *tx).await.unwrap();
    }
    let password = Some(json!({ "password": NEW_PASSWORD }));
    let (change, make) = (
        app.call("PUT", "/v1/account/password", &thief.token, password),
        app.post("/v1/tokens", &thief.token, json!({ "name": "kept" })),
    );
    let waiting = "select count(*) >= 2 from pg_stat_activity
        where datname = current_database() and wait_event_type = 'Lock'";
    let reset = async {
        let limit = std::time::Duration::from_secs(30);
        testkit::wait::wait_until("two that wait", limit, || async {
            let (both,): (bool,) = sqlx::query_as(waiting).fetch_one(&app.app.pool).await.unwrap();
            both
        })
        .await;
        tx.commit().await.unwrap();
    };
    let (change, make, ()) = tokio::join!(change, make, reset);
    change.problem(401, "signed-out");
    make.problem(401, "signed-out");
    log_in(&app, "ada@example.test", PASSWORD).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_a_token_does_to_its_account_is_told_too() {
    let app = TestApp::start_for(with_outbox()).await;
    let ada = app.sign_up("ada@example.test").await;
    let made = app
        .post("/v1/tokens", &ada.token, json!({ "name": "all" }))
        .await
        .ok(201);
    let secret = made["secret"].as_str().unwrap();
    let other = app.post(
        "/v1/tokens",
        secret,
        json!({ "name": "more", "scopes": ["read:*"], "expires_in_days": 1 }),
    );
    let path = format!("/v1/tokens/{}", other.await.ok(201)["id"].as_str().unwrap());
    app.delete(&path, secret).await.ok(204);
    log_in(&app, "ada@example.test", PASSWORD).await;
    let sessions = app.get("/v1/sessions", secret).await.ok(200);
    let id = sessions["items"][0]["id"].as_str().unwrap().to_owned();
    app.delete(&format!("/v1/sessions/{id}"), secret).await.ok(204);
    let ada = log_in(&app, "ada@example.test", PASSWORD).await;
    let told: Vec<(String, String)> = events(&app, &ada)
        .await
        .into_iter()
        .map(|event| (event.action, event.token))
        .collect();
    let by_token: Vec<&str> = told
        .iter()
        .filter(|(_, token)| Some(token.as_str()) == made["id"].as_str())
        .map(|(action, _)| action.as_str())
        .collect();
    assert_eq!(by_token, ["session.revoke", "token.revoke", "token.create"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_reset_code_ends_with_the_address_that_it_was_mailed_to() {
    let app = TestApp::start_for(with_outbox()).await;
    let ada = app.sign_up("ada@example.test").await;
    app.post("/v1/password-resets", "", json!({ "email": "ada@example.test" }))
        .await
        .ok(202);
    let code = token(&kept(&app, "ada@example.test").await, "cod");
    // As if it had been asked for while the address changed, and not been seen.
    sqlx::query("update accounts set email = 'new@example.test', email_key = 'new@example.test'")
        .execute(&app.app.pool)
        .await
        .unwrap();
    let body = json!({ "code": code, "password": NEW_PASSWORD });
    app.post("/v1/password-resets/redeem", "", body)
        .await
        .problem(422, "invalid");
    app.get("/v1/account", &ada.token).await.ok(200);
}
