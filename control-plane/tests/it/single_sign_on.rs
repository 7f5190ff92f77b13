//! Log-in with a provider, and what attackers try.

use serde_json::{Value, json};

use crate::app::{Answer, PASSWORD, TestApp, read};
use crate::issuer::{Asked, Flaw, Issuer};
use crate::mail::{kept, with_outbox};
use crate::smtp::token;

/// A browser that was led to the provider: its cookie, and what was asked there.
struct Browser {
    cookie: String,
    asked: Asked,
}

fn cookie(answer: &Answer, name: &str) -> Option<String> {
    let all = answer.headers.get_all("set-cookie").iter();
    let lines = all.map(|v| v.to_str().unwrap().to_owned());
    let line = lines.into_iter().find(|line| line.starts_with(name))?;
    for part in ["; Path=/", "; Secure", "; HttpOnly", "; SameSite=Lax"] {
        assert!(line.contains(part), "{line}");
    }
    Some(line.split(';').next().unwrap().to_owned())
}

async fn begin(app: &TestApp) -> Browser {
    let client = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap();
    let answer = read(client.get(format!("{}/v1/log-in/test", app.url))).await;
    assert_eq!(answer.status, 303, "{}", answer.text);
    Browser {
        asked: Asked::read(answer.headers["location"].to_str().unwrap()),
        cookie: cookie(&answer, "__Host-howdah-log-in").unwrap(),
    }
}

async fn back(app: &TestApp, cookie: &str, state: &str, code: &str) -> Answer {
    let request = app.request("GET", "/v1/log-in/test/callback");
    read(
        request
            .query(&[("state", state), ("code", code)])
            .header("cookie", cookie),
    )
    .await
}

fn verified(email: &str) -> Value {
    json!({ "email": email, "email_verified": true })
}

async fn log_in(app: &TestApp, issuer: &Issuer, subject: &str, email: &Value, flaw: Flaw) -> Answer {
    let browser = begin(app).await;
    let code = issuer.code(&browser.asked, subject, email, app.environment.now().timestamp(), flaw);
    back(app, &browser.cookie, &browser.asked.state, &code).await
}

/// What the session's cookie is good for.
async fn who(app: &TestApp, answer: &Answer) -> Value {
    let session = cookie(answer, "__Host-howdah-session").expect("a session");
    read(app.request("GET", "/v1/account").header("cookie", session))
        .await
        .ok(200)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_verified_address_makes_an_account_and_the_identity_logs_in_to_it_from_then_on() {
    let issuer = Issuer::start().await;
    let app = TestApp::start_for(issuer.configured(with_outbox())).await;
    let methods = app.get("/v1/log-in-methods", "").await.ok(200);
    assert_eq!(methods["providers"][0]["title"], "Test Provider");

    let first = log_in(&app, &issuer, "ada-1", &verified("ada@example.test"), Flaw::None).await;
    assert_eq!(first.status, 200, "{}", first.text);
    let account = who(&app, &first).await;
    assert_eq!(
        (&account["name"], &account["email_verified"]),
        (&json!("ada@example.test"), &json!(true))
    );
    // Known by its subject: the address there may be another one by now.
    let again = log_in(&app, &issuer, "ada-1", &verified("other@example.test"), Flaw::None).await;
    assert_eq!(who(&app, &again).await["id"], account["id"]);
    // There is no password that would fit.
    let body = json!({ "email": "ada@example.test", "password": "" });
    app.post("/v1/sessions", "", body).await.problem(401, "signed-out");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_address_that_is_not_verified_makes_no_account() {
    let issuer = Issuer::start().await;
    let app = TestApp::start_for(issuer.configured(with_outbox())).await;
    for email in [
        json!({}),
        json!({ "email": "ada@example.test" }),
        json!({ "email": "ada@example.test", "email_verified": false }),
    ] {
        let answer = log_in(&app, &issuer, "ada-1", &email, Flaw::None).await;
        answer.problem(403, "not-allowed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn tokens_that_are_not_exactly_right_are_refused() {
    let issuer = Issuer::start().await;
    let app = TestApp::start_for(issuer.configured(with_outbox())).await;
    for flaw in [
        Flaw::Nonce,
        Flaw::Audience,
        Flaw::Issuer,
        Flaw::Expired,
        Flaw::Old,
        Flaw::Unsigned,
        Flaw::SharedSecret,
        Flaw::OtherKey,
        Flaw::UnknownKey,
    ] {
        let answer = log_in(&app, &issuer, "ada-1", &verified("ada@example.test"), flaw).await;
        assert_eq!(answer.status, 401, "{flaw:?}: {}", answer.text);
        assert!(cookie(&answer, "__Host-howdah-session").is_none(), "{flaw:?}");
    }
    let (accounts,): (i64,) = sqlx::query_as("select count(*) from accounts")
        .fetch_one(&app.app.pool)
        .await
        .unwrap();
    assert_eq!(accounts, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_was_begun_is_good_once_in_its_browser_and_for_ten_minutes() {
    let issuer = Issuer::start().await;
    let app = TestApp::start_for(issuer.configured(with_outbox())).await;
    let now = app.environment.now().timestamp();
    let (email, none) = (verified("ada@example.test"), Flaw::None);
    let (mine, other) = (begin(&app).await, begin(&app).await);
    let code = issuer.code(&mine.asked, "ada-1", &email, now, none);
    // A link with somebody else's code, opened in this browser; a state that nobody began; no cookie.
    back(&app, &other.cookie, &mine.asked.state, &code)
        .await
        .problem(401, "signed-out");
    back(&app, &mine.cookie, "nonsense", &code)
        .await
        .problem(401, "signed-out");
    back(&app, "a=b", &mine.asked.state, &code)
        .await
        .problem(401, "signed-out");
    assert_eq!(back(&app, &mine.cookie, &mine.asked.state, &code).await.status, 200);
    back(&app, &mine.cookie, &mine.asked.state, &code)
        .await
        .problem(401, "signed-out");
    // A code that was asked for by somebody else does not fit this browser's challenge.
    let (victim, attacker) = (begin(&app).await, begin(&app).await);
    let code = issuer.code(&attacker.asked, "eve-1", &email, now, none);
    back(&app, &victim.cookie, &victim.asked.state, &code)
        .await
        .problem(401, "signed-out");

    let late = begin(&app).await;
    app.environment.advance(chrono::Duration::minutes(10));
    let code = issuer.code(&late.asked, "ada-1", &email, app.environment.now().timestamp(), none);
    back(&app, &late.cookie, &late.asked.state, &code)
        .await
        .problem(401, "signed-out");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn keys_that_were_rotated_are_fetched_again_but_not_more_than_once_a_minute() {
    let issuer = Issuer::start().await;
    let app = TestApp::start_for(issuer.configured(with_outbox())).await;
    let email = verified("ada@example.test");
    assert_eq!(log_in(&app, &issuer, "ada-1", &email, Flaw::None).await.status, 200);
    issuer.rotate(2, "second");
    assert_eq!(log_in(&app, &issuer, "ada-1", &email, Flaw::None).await.status, 401);
    app.environment.advance(chrono::Duration::minutes(1));
    assert_eq!(log_in(&app, &issuer, "ada-1", &email, Flaw::None).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_account_of_the_address_is_never_linked_without_its_holder() {
    let issuer = Issuer::start().await;
    let app = TestApp::start_for(issuer.configured(with_outbox())).await;
    let squatter = app.sign_up("ada@example.test").await;
    let email = verified("ada@example.test");
    let answer = log_in(&app, &issuer, "ada-1", &email, Flaw::None).await;
    assert_eq!(answer.status, 200);
    assert!(cookie(&answer, "__Host-howdah-session").is_none());
    // By the code that was mailed; whoever made the account never showed that he reads its mail, and is out.
    let code = json!({ "code": token(&kept(&app, "ada@example.test").await, "cod") });
    app.post("/v1/accounts/link", "", code.clone()).await.ok(204);
    app.post("/v1/accounts/link", "", code).await.problem(422, "invalid");
    app.get("/v1/account", &squatter.token).await.problem(401, "signed-out");
    let body = json!({ "email": "ada@example.test", "password": PASSWORD });
    app.post("/v1/sessions", "", body).await.problem(401, "signed-out");
    let account = who(&app, &log_in(&app, &issuer, "ada-1", &email, Flaw::None).await).await;
    assert_eq!(account["name"], "ada@example.test");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_holder_links_and_unlinks_from_a_session_that_he_proved() {
    let issuer = Issuer::start().await;
    let app = TestApp::start_for(issuer.configured(with_outbox())).await;
    let ada = app.sign_up("ada@example.test").await;
    let (path, body) = ("/v1/account/identities", json!({ "provider": "test" }));
    app.environment.advance(chrono::Duration::minutes(15));
    app.post(path, &ada.token, body.clone())
        .await
        .problem(403, "proof-required");
    app.post(
        "/v1/sessions/current/proof",
        &ada.token,
        json!({ "password": PASSWORD }),
    )
    .await
    .ok(200);
    let answer = app.post(path, &ada.token, body).await;
    let bound = cookie(&answer, "__Host-howdah-log-in").unwrap();
    let asked = Asked::read(answer.ok(200)["url"].as_str().unwrap());
    let now = app.environment.now().timestamp();
    // An address of whatever kind: the holder says that this is he.
    let code = issuer.code(&asked, "ada-1", &json!({}), now, Flaw::None);
    assert_eq!(back(&app, &bound, &asked.state, &code).await.status, 200);
    let account = who(&app, &log_in(&app, &issuer, "ada-1", &json!({}), Flaw::None).await).await;
    assert_eq!(account["name"], "ada@example.test");

    let listed = app.get(path, &ada.token).await.ok(200);
    assert_eq!(listed["items"][0]["subject"], "ada-1");
    let which = format!("{path}?issuer={}&subject=ada-1", issuer.url);
    app.delete(&which, &ada.token).await.ok(204);
    app.delete(&which, &ada.token).await.problem(404, "not-found");
    log_in(&app, &issuer, "ada-1", &json!({}), Flaw::None)
        .await
        .problem(403, "not-allowed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_last_way_to_log_in_stays() {
    let issuer = Issuer::start().await;
    let app = TestApp::start_for(issuer.configured(with_outbox())).await;
    let answer = log_in(&app, &issuer, "ada-1", &verified("ada@example.test"), Flaw::None).await;
    let session = cookie(&answer, "__Host-howdah-session").unwrap();
    let path = format!("/v1/account/identities?issuer={}&subject=ada-1", issuer.url);
    let request = |origin: &str| {
        let request = app.request("DELETE", &path).header("cookie", session.clone());
        read(request.header("origin", origin.to_owned()))
    };
    request("https://evil.example").await.problem(401, "signed-out");
    request(&app.url).await.problem(409, "conflict");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_account_with_a_second_factor_asks_for_it_here_too() {
    let issuer = Issuer::start().await;
    let app = TestApp::start_for(issuer.configured(with_outbox())).await;
    let email = verified("ada@example.test");
    let first = log_in(&app, &issuer, "ada-1", &email, Flaw::None).await;
    let session = cookie(&first, "__Host-howdah-session").unwrap();
    let secret = session.split_once('=').unwrap().1.to_owned();
    let person = crate::app::Person {
        email: "ada@example.test".to_owned(),
        token: secret,
    };
    let (_, codes) = crate::second_factors::enrol(&app, &person).await;

    let half = log_in(&app, &issuer, "ada-1", &email, Flaw::None).await;
    assert!(cookie(&half, "__Host-howdah-session").is_none());
    let bound = cookie(&half, "__Host-howdah-log-in").unwrap();
    let finish = |bound: &str, code: &str| {
        let request = app
            .request("POST", "/v1/log-in/second-factor")
            .header("cookie", bound.to_owned());
        read(request.json(&json!({ "second_factor": code })))
    };
    finish("a=b", &codes[0]).await.problem(401, "signed-out");
    finish(&bound, "000000").await.problem(401, "second-factor-required");
    let done = finish(&bound, &codes[0]).await;
    assert_eq!(who(&app, &done).await["name"], "ada@example.test");
    finish(&bound, &codes[1]).await.problem(401, "signed-out");
}
