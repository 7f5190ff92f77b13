//! Codes of an authenticator and recovery codes.

use serde_json::{Value, json};
use totp_rs::{Algorithm, Builder, Secret};

use crate::app::{PASSWORD, Person, TestApp};
use crate::mail::{kept, with_outbox};

/// What an authenticator with that secret shows at the service's time.
pub fn shown(app: &TestApp, secret: &str) -> String {
    let totp = Builder::new()
        .with_algorithm(Algorithm::SHA1)
        .with_digits(6)
        .with_step_duration(30)
        .with_secret(Secret::try_from_base32(secret).unwrap())
        .with_account_name("x")
        .with_issuer(Some("y"))
        .build()
        .unwrap();
    let now = u64::try_from(app.environment.now().timestamp()).unwrap();
    format!("{}", totp.generate(now))
}

pub async fn enrol(app: &TestApp, person: &Person) -> (String, Vec<String>) {
    let begun = app.call("POST", "/v1/account/totp", &person.token, None).await.ok(201);
    let secret = begun["secret"].as_str().unwrap().to_owned();
    assert!(begun["url"].as_str().unwrap().starts_with("otpauth://totp/Howdah:"));
    let code = json!({ "code": shown(app, &secret) });
    let done = app.post("/v1/account/totp/confirm", &person.token, code).await.ok(200);
    let codes = serde_json::from_value(done["recovery_codes"].clone()).unwrap();
    (secret, codes)
}

fn log_in(second_factor: Option<&str>) -> Value {
    let mut body = json!({ "email": "ada@example.test", "password": PASSWORD });
    if let Some(code) = second_factor {
        body["second_factor"] = json!(code);
    }
    body
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_second_factor_is_asked_for_after_the_right_password_only_and_each_code_is_good_once() {
    let app = TestApp::start_for(with_outbox()).await;
    let ada = app.sign_up("ada@example.test").await;
    let (secret, codes) = enrol(&app, &ada).await;
    assert_eq!(codes.len(), 10);
    assert!(
        kept(&app, "ada@example.test")
            .await
            .contains("codes of an authenticator")
    );

    let wrong = json!({ "email": "ada@example.test", "password": "not the password" });
    app.post("/v1/sessions", "", wrong).await.problem(401, "signed-out");
    let ask =
        |factor: Option<String>| app.post_owned("/v1/sessions".to_owned(), String::new(), log_in(factor.as_deref()));
    ask(None).await.problem(401, "second-factor-required");
    // The code of the enrolment was used.
    ask(Some(shown(&app, &secret)))
        .await
        .problem(401, "second-factor-required");
    app.environment.advance(chrono::Duration::seconds(30));
    let code = shown(&app, &secret);
    ask(Some(code.clone())).await.ok(201);
    ask(Some(code)).await.problem(401, "second-factor-required");

    ask(Some(codes[0].to_uppercase())).await.ok(201);
    ask(Some(codes[0].clone())).await.problem(401, "second-factor-required");
    let factors = app.get("/v1/account/second-factors", &ada.token).await.ok(200);
    assert_eq!(factors, json!({ "totp": true, "recovery_codes_left": 9 }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn two_at_once_do_not_use_one_code() {
    let app = TestApp::start_for(with_outbox()).await;
    let ada = app.sign_up("ada@example.test").await;
    let (_, codes) = enrol(&app, &ada).await;
    let ask = || app.post_owned("/v1/sessions".to_owned(), String::new(), log_in(Some(&codes[0])));
    let (one, two) = tokio::join!(ask(), ask());
    let mut statuses = [one.status, two.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 401]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn second_factors_are_counted_for_the_account_wherever_they_come_from() {
    let app = TestApp::start_for(with_outbox()).await;
    let ada = app.sign_up("ada@example.test").await;
    enrol(&app, &ada).await;
    let mut slowed = false;
    for _ in 0..12 {
        slowed |= app.post("/v1/sessions", "", log_in(Some("000000"))).await.status == 429;
    }
    assert!(slowed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_proof_takes_the_second_factor_too_and_so_does_what_ends_it() {
    let app = TestApp::start_for(with_outbox()).await;
    let ada = app.sign_up("ada@example.test").await;
    let (secret, codes) = enrol(&app, &ada).await;
    app.environment.advance(chrono::Duration::minutes(16));
    app.delete("/v1/account/totp", &ada.token)
        .await
        .problem(403, "proof-required");
    let prove = "/v1/sessions/current/proof";
    app.post(prove, &ada.token, json!({ "password": PASSWORD }))
        .await
        .problem(401, "second-factor-required");
    let body = json!({ "password": PASSWORD, "second_factor": shown(&app, &secret) });
    app.post(prove, &ada.token, body).await.ok(200);

    let renewed = app
        .call("POST", "/v1/account/recovery-codes", &ada.token, None)
        .await
        .ok(200);
    assert_ne!(renewed["recovery_codes"][0], json!(codes[0]));
    app.post("/v1/sessions", "", log_in(Some(&codes[1])))
        .await
        .problem(401, "second-factor-required");
    app.call("POST", "/v1/account/totp", &ada.token, None)
        .await
        .problem(409, "conflict");
    app.delete("/v1/account/totp", &ada.token).await.ok(204);
    app.post("/v1/sessions", "", log_in(None)).await.ok(201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_authenticator_that_was_not_confirmed_is_not_asked_for_and_no_secret_is_stored_plain() {
    let app = TestApp::start_for(with_outbox()).await;
    let ada = app.sign_up("ada@example.test").await;
    let begun = app.call("POST", "/v1/account/totp", &ada.token, None).await.ok(201);
    app.post("/v1/account/totp/confirm", &ada.token, json!({ "code": "abcdef" }))
        .await
        .problem(422, "invalid");
    app.post("/v1/sessions", "", log_in(None)).await.ok(201);
    let (stored,): (Vec<u8>,) = sqlx::query_as("select sealed_secret from authenticators")
        .fetch_one(&app.app.pool)
        .await
        .unwrap();
    let secret = Secret::try_from_base32(begun["secret"].as_str().unwrap()).unwrap();
    assert!(!stored.windows(20).any(|part| part == secret.as_bytes()));
}
