//! Passkeys, with a device in software.

use serde_json::{Value, json};

use crate::app::{Answer, PASSWORD, Person, TestApp};
use crate::authenticator::Authenticator;
use crate::mail::{kept, with_outbox};

async fn device(app: &TestApp, number: u8) -> Authenticator {
    // Browsers bind keys to names, so this machine is `localhost` to them.
    Authenticator::new(number, &app.url.replace("127.0.0.1", "localhost"))
}

async fn challenge(app: &TestApp, path: &str, token: &str) -> (String, Value) {
    let given = app.call("POST", path, token, None).await.ok(200);
    (given["ceremony"].as_str().unwrap().to_owned(), given["options"].clone())
}

async fn register(app: &TestApp, person: &Person, device: &mut Authenticator) -> Answer {
    let (ceremony, options) = challenge(app, "/v1/account/passkeys/begin", &person.token).await;
    let body = json!({ "ceremony": ceremony, "name": "laptop", "credential": device.create(&options) });
    app.post("/v1/account/passkeys", &person.token, body).await
}

async fn log_in(app: &TestApp, device: &mut Authenticator) -> Answer {
    let (ceremony, options) = challenge(app, "/v1/passkey-log-ins/begin", "").await;
    let body = json!({ "ceremony": ceremony, "credential": device.get(&options) });
    app.post("/v1/passkey-log-ins", "", body).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_passkey_logs_in_without_an_address_until_it_is_removed() {
    let app = TestApp::start_for(with_outbox()).await;
    assert_eq!(app.get("/v1/log-in-methods", "").await.ok(200)["passkeys"], true);
    let ada = app.sign_up("ada@example.test").await;
    let mut laptop = device(&app, 5).await;
    log_in(&app, &mut laptop).await.problem(401, "signed-out");
    let made = register(&app, &ada, &mut laptop).await.ok(201);
    assert!(kept(&app, "ada@example.test").await.contains("`laptop`"));

    let session = log_in(&app, &mut laptop).await;
    let cookie = session.headers["set-cookie"].to_str().unwrap().to_owned();
    assert!(cookie.starts_with("__Host-howdah-session=hwd_ses_"), "{cookie}");
    let session = session.ok(201);
    assert_eq!(session["account"]["email"], "ada@example.test");
    let listed = app.get("/v1/account/passkeys", &ada.token).await.ok(200);
    assert_eq!(listed["items"][0]["last_used_at"], "2026-11-23T12:00:30Z");

    let path = format!("/v1/account/passkeys/{}", made["id"].as_str().unwrap());
    let eve = app.sign_up("eve@example.test").await;
    app.delete(&path, &eve.token).await.problem(404, "not-found");
    app.delete(&path, &ada.token).await.ok(204);
    log_in(&app, &mut laptop).await.problem(401, "signed-out");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_challenge_is_good_once_for_its_account_and_for_five_minutes() {
    let app = TestApp::start_for(with_outbox()).await;
    let (ada, eve) = (
        app.sign_up("ada@example.test").await,
        app.sign_up("eve@example.test").await,
    );
    let mut laptop = device(&app, 5).await;
    let begin = "/v1/account/passkeys/begin";
    let (ceremony, options) = challenge(&app, begin, &ada.token).await;
    let body = json!({ "ceremony": ceremony, "name": "x", "credential": laptop.create(&options) });
    app.post("/v1/account/passkeys", &eve.token, body.clone())
        .await
        .problem(401, "signed-out");
    app.post("/v1/account/passkeys", &ada.token, body.clone()).await.ok(201);
    app.post("/v1/account/passkeys", &ada.token, body)
        .await
        .problem(401, "signed-out");

    let (ceremony, options) = challenge(&app, "/v1/passkey-log-ins/begin", "").await;
    let body = json!({ "ceremony": ceremony, "credential": laptop.get(&options) });
    app.post("/v1/passkey-log-ins", "", body.clone()).await.ok(201);
    app.post("/v1/passkey-log-ins", "", body.clone())
        .await
        .problem(401, "signed-out");
    // What was signed does not fit another challenge, and a challenge of a registration is none of a log-in.
    for path in ["/v1/passkey-log-ins/begin", begin] {
        let (ceremony, _) = challenge(&app, path, &ada.token).await;
        let replayed = json!({ "ceremony": ceremony, "credential": body["credential"] });
        app.post("/v1/passkey-log-ins", "", replayed)
            .await
            .problem(401, "signed-out");
    }
    let (ceremony, options) = challenge(&app, "/v1/passkey-log-ins/begin", "").await;
    app.environment.advance(chrono::Duration::minutes(5));
    let late = json!({ "ceremony": ceremony, "credential": laptop.get(&options) });
    app.post("/v1/passkey-log-ins", "", late)
        .await
        .problem(401, "signed-out");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn other_pages_unverified_holders_and_copied_keys_are_refused() {
    let app = TestApp::start_for(with_outbox()).await;
    let ada = app.sign_up("ada@example.test").await;
    let mut laptop = device(&app, 5).await;
    register(&app, &ada, &mut laptop).await.ok(201);
    // Nobody registers the same key for himself.
    let eve = app.sign_up("eve@example.test").await;
    register(&app, &eve, &mut device(&app, 5).await)
        .await
        .problem(409, "already-exists");

    let own = std::mem::replace(&mut laptop.origin, "https://evil.example".to_owned());
    log_in(&app, &mut laptop).await.problem(401, "signed-out");
    laptop.origin = own;
    laptop.verifies = false;
    log_in(&app, &mut laptop).await.problem(401, "signed-out");
    laptop.verifies = true;
    log_in(&app, &mut laptop).await.ok(201);
    // A copy counts from where it was taken.
    laptop.counter = 1;
    log_in(&app, &mut laptop).await.problem(401, "signed-out");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn registering_needs_a_fresh_proof_and_a_log_in_by_passkey_is_one() {
    let app = TestApp::start_for(with_outbox()).await;
    let ada = app.sign_up("ada@example.test").await;
    let mut laptop = device(&app, 5).await;
    register(&app, &ada, &mut laptop).await.ok(201);
    app.environment.advance(chrono::Duration::minutes(15));
    app.call("POST", "/v1/account/passkeys/begin", &ada.token, None)
        .await
        .problem(403, "proof-required");
    let session = log_in(&app, &mut laptop).await.ok(201);
    let token = session["session_token"].as_str().unwrap();
    let body = Some(json!({ "password": "another battery staple" }));
    app.call("PUT", "/v1/account/password", token, body).await.ok(204);
    let body = json!({ "email": "ada@example.test", "password": PASSWORD });
    app.post("/v1/sessions", "", body).await.problem(401, "signed-out");
}
