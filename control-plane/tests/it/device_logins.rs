//! Log-ins that somebody approves on another device.

use chrono::Duration;
use serde_json::{Value, json};

use crate::app::{Answer, TestApp};

async fn begin(app: &TestApp) -> (String, String) {
    let made = app
        .post("/v1/device-logins", "", json!({ "client": "howdah on lab" }))
        .await
        .ok(201);
    assert_eq!((&made["expires_in"], &made["interval"]), (&json!(600), &json!(5)));
    assert_eq!(made["verification_url"], format!("{}/device", app.url));
    let text = |name: &str| made[name].as_str().unwrap().to_owned();
    (text("device_code"), text("user_code"))
}

async fn ask(app: &TestApp, device: &str) -> Answer {
    app.post("/v1/device-logins/answer", "", json!({ "device_code": device }))
        .await
}

async fn decide(app: &TestApp, by: &str, code: &str, approve: bool) -> Answer {
    let body = json!({ "user_code": code, "approve": approve });
    app.post("/v1/device-logins/decision", by, body).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_approved_log_in_gets_a_session_once() {
    let app = TestApp::start().await;
    let org = app.organization("acme").await;
    let (device, code) = begin(&app).await;
    assert_eq!(ask(&app, &device).await.ok(200)["state"], "pending");
    let shown = app
        .post(
            "/v1/device-logins/request",
            &org.owner.token,
            json!({ "user_code": code.to_lowercase().replace('-', "") }),
        )
        .await
        .ok(200);
    assert_eq!(
        (&shown["client"], &shown["address"]),
        (&json!("howdah on lab"), &json!("127.0.0.1"))
    );
    assert_eq!(shown["user_code"], code);
    decide(&app, &org.owner.token, &code, true).await.ok(204);
    // Who comes second decides nothing.
    let eve = app.sign_up("eve@example.test").await;
    decide(&app, &eve.token, &code, true).await.problem(404, "not-found");
    let (one, two) = tokio::join!(ask(&app, &device), ask(&app, &device));
    let (made, other) = if one.status == 200 { (one, two) } else { (two, one) };
    let made = made.ok(200);
    assert_eq!(
        (&made["state"], &made["account"]["email"]),
        (&json!("approved"), &json!("owner@acme.test"))
    );
    assert_eq!(made["organizations"][0]["name"], "acme");
    app.get("/v1/organizations/acme", made["session_token"].as_str().unwrap())
        .await
        .ok(200);
    other.problem(401, "token-expired");
    ask(&app, &device).await.problem(401, "token-expired");
    let (stored,): (i64,) = sqlx::query_as("select count(*) from device_logins")
        .fetch_one(&app.app.pool)
        .await
        .unwrap();
    assert_eq!(stored, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_log_in_that_is_refused_or_not_approved_in_time_gets_none() {
    let app = TestApp::start().await;
    let ada = app.sign_up("ada@example.test").await;
    let (device, code) = begin(&app).await;
    decide(&app, &ada.token, &code, false).await.ok(204);
    decide(&app, &ada.token, &code, true).await.problem(404, "not-found");
    let answer = ask(&app, &device).await.ok(200);
    assert_eq!(
        (&answer["state"], answer.get("session_token")),
        (&json!("denied"), None)
    );
    ask(&app, &device).await.problem(401, "token-expired");
    let (device, code) = begin(&app).await;
    app.environment.advance(Duration::minutes(10));
    decide(&app, &ada.token, &code, true).await.problem(404, "not-found");
    ask(&app, &device).await.problem(401, "token-expired");
    ask(&app, "hwd_dev_x").await.problem(401, "token-expired");
    let proof = control_plane::authz::System::because("a test");
    control_plane::device_logins::forget_expired(&app.app.pool, &proof, app.environment.now())
        .await
        .unwrap();
    let (stored,): (i64,) = sqlx::query_as("select count(*) from device_logins")
        .fetch_one(&app.app.pool)
        .await
        .unwrap();
    assert_eq!(stored, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn who_asks_too_often_is_slowed_down() {
    let app = TestApp::start().await;
    let (device, _) = begin(&app).await;
    let states = |answer: Value| (answer["state"].clone(), answer["interval"].clone());
    assert_eq!(states(ask(&app, &device).await.ok(200)), (json!("pending"), json!(5)));
    assert_eq!(
        states(ask(&app, &device).await.ok(200)),
        (json!("slow_down"), json!(10))
    );
    app.environment.advance(Duration::seconds(9));
    assert_eq!(
        states(ask(&app, &device).await.ok(200)),
        (json!("slow_down"), json!(15))
    );
    app.environment.advance(Duration::seconds(15));
    assert_eq!(states(ask(&app, &device).await.ok(200)), (json!("pending"), json!(15)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn only_a_session_approves_and_codes_cannot_be_tried_through() {
    let app = TestApp::start().await;
    let ada = app.sign_up("ada@example.test").await;
    let (_, code) = begin(&app).await;
    let made = app.post("/v1/tokens", &ada.token, json!({ "name": "x" })).await.ok(201);
    decide(&app, made["secret"].as_str().unwrap(), &code, true)
        .await
        .problem(403, "not-allowed");
    decide(&app, "", &code, true).await.problem(401, "signed-out");
    for _ in 0..10 {
        decide(&app, &ada.token, "BBBB-BBBB", true)
            .await
            .problem(404, "not-found");
    }
    decide(&app, &ada.token, &code, true).await.problem(429, "slow-down");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_page_takes_nothing_from_elsewhere() {
    let app = TestApp::start().await;
    let page = app.get("/device", "").await;
    let policy = page.headers["content-security-policy"].to_str().unwrap();
    assert!(
        policy.starts_with("default-src 'none'; script-src 'sha256-"),
        "{policy}"
    );
    assert!(
        policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"),
        "{policy}"
    );
    assert_eq!(page.headers["cache-control"], "no-store");
    assert!(
        !page.text.contains("http") && !page.text.contains("{{"),
        "{}",
        page.text
    );
    // What the policy allows is what stands there.
    let script = page
        .text
        .split("<script>")
        .nth(1)
        .unwrap()
        .split("</script>")
        .next()
        .unwrap();
    let digest = base64::Engine::encode(
        &base64::engine::general_purpose::STANDARD,
        <sha2::Sha256 as sha2::Digest>::digest(script),
    );
    assert!(policy.contains(&digest), "{policy}");
}
