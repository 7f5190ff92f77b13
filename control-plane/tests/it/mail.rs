//! Mails: sent by a real server, or kept in the outbox for whoever operates the installation.

use contract::config::{MailConfig, PeopleConfig};
use contract::token::{SecretToken, TokenKind};
use control_plane::authz::System;
use control_plane::mail::{self, Letter};

use crate::app::{TestApp, read};
use crate::smtp::{Mood, Receiver};

pub fn operator() -> SecretToken {
    SecretToken::generate(TokenKind::Operator, [7; 30])
}

pub fn with_server(receiver: &Receiver) -> PeopleConfig {
    PeopleConfig {
        mail: Some(MailConfig {
            smtp_url: receiver.url.clone(),
            from: "Howdah <howdah@example.test>".to_owned(),
        }),
        ..with_outbox()
    }
}

pub fn with_outbox() -> PeopleConfig {
    PeopleConfig {
        operator_sha256: Some(hex::encode(operator().sha256())),
        ..PeopleConfig::default()
    }
}

/// The newest mail of the outbox to that address, with its text.
pub async fn kept(app: &TestApp, recipient: &str) -> String {
    let all = app.get("/v1/outbox", operator().expose()).await.ok(200);
    let mails = all["items"].as_array().unwrap();
    let found = mails.iter().find(|m| m["recipient"] == recipient);
    let id = found.unwrap_or_else(|| panic!("no mail for {recipient}"))["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let mail = app.get(&format!("/v1/outbox/{id}"), operator().expose()).await.ok(200);
    mail["text"].as_str().unwrap().to_owned()
}

async fn write(app: &TestApp, recipient: &str) {
    let mut tx = app.app.pool.begin().await.unwrap();
    let letter = Letter::SignUp { code: "hwd_cod_x" };
    mail::write(&app.app, &mut tx, &System::because("a test"), recipient, &letter)
        .await
        .unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_mail_is_sent_once_and_its_text_erased() {
    let receiver = Receiver::start().await;
    let app = TestApp::start_for(with_server(&receiver)).await;
    write(&app, "ada@example.test").await;
    assert_eq!(mail::send_due(&app.app).await.unwrap(), 1);
    assert_eq!(mail::send_due(&app.app).await.unwrap(), 0);
    let mails = receiver.mails();
    assert_eq!(mails.len(), 1);
    for part in [
        "To: ada@example.test",
        "From: Howdah <howdah@example.test>",
        "Subject: Your sign-up at Howdah",
        "Message-ID: <mail_",
        "howdah account verify hwd_cod_x",
    ] {
        assert!(mails[0].contains(part), "{part}: {}", mails[0]);
    }
    let all = app.get("/v1/outbox", operator().expose()).await.ok(200);
    assert_eq!(all["items"][0]["state"], "sent");
    let path = format!("/v1/outbox/{}", all["items"][0]["id"].as_str().unwrap());
    let one = app.get(&path, operator().expose()).await.ok(200);
    assert!(one.get("text").is_none(), "{one}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_mail_waits_longer_and_longer_for_a_server_that_is_busy_and_not_for_one_that_refuses() {
    let receiver = Receiver::start().await;
    let app = TestApp::start_for(with_server(&receiver)).await;
    receiver.set(Mood::Busy);
    write(&app, "ada@example.test").await;
    assert_eq!(mail::send_due(&app.app).await.unwrap(), 0);
    receiver.set(Mood::Takes);
    assert_eq!(mail::send_due(&app.app).await.unwrap(), 0, "it is not time yet");
    app.environment.advance(chrono::Duration::seconds(10));
    assert_eq!(mail::send_due(&app.app).await.unwrap(), 1);

    receiver.set(Mood::Refuses);
    write(&app, "bob@example.test").await;
    // A refusal may be about who sends: it is tried for an hour.
    for _ in 0..12 {
        mail::send_due(&app.app).await.unwrap();
        app.environment.advance(chrono::Duration::minutes(6));
    }
    receiver.set(Mood::Takes);
    app.environment.advance(chrono::Duration::hours(2));
    assert_eq!(mail::send_due(&app.app).await.unwrap(), 0);
    let all = app.get("/v1/outbox", operator().expose()).await.ok(200);
    assert_eq!(all["items"][0]["state"], "failed");
    assert!(
        all["items"][0]["error"]
            .as_str()
            .unwrap()
            .contains("nobody of that name")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_server_that_says_nothing_or_takes_no_password_costs_no_mail() {
    let receiver = Receiver::start().await;
    let app = TestApp::start_for(with_server(&receiver)).await;
    write(&app, "ada@example.test").await;
    receiver.set(Mood::Hangs);
    let patience = std::time::Duration::from_millis(300);
    assert_eq!(mail::send_due_within(&app.app, patience).await.unwrap(), 0);
    receiver.set(Mood::Locks);
    for _ in 0..5 {
        app.environment.advance(chrono::Duration::hours(1));
        assert_eq!(mail::send_due(&app.app).await.unwrap(), 0);
    }
    receiver.set(Mood::Takes);
    app.environment.advance(chrono::Duration::hours(1));
    assert_eq!(mail::send_due(&app.app).await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn mails_of_days_ago_are_not_sent_once_there_is_a_server() {
    let receiver = Receiver::start().await;
    let app = TestApp::start_for(with_server(&receiver)).await;
    write(&app, "ada@example.test").await;
    app.environment.advance(chrono::Duration::hours(24));
    write(&app, "bob@example.test").await;
    assert_eq!(mail::send_due(&app.app).await.unwrap(), 1);
    assert!(receiver.mails()[0].contains("To: bob@example.test"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_mail_whose_answer_was_lost_is_sent_again_as_the_same_one() {
    let receiver = Receiver::start().await;
    let app = TestApp::start_for(with_server(&receiver)).await;
    receiver.set(Mood::Forgets);
    write(&app, "ada@example.test").await;
    mail::send_due(&app.app).await.unwrap();
    receiver.set(Mood::Takes);
    app.environment.advance(chrono::Duration::seconds(10));
    mail::send_due(&app.app).await.unwrap();
    let ids: Vec<String> = receiver
        .mails()
        .iter()
        .filter_map(|m| m.lines().find(|l| l.starts_with("Message-ID")).map(str::to_owned))
        .collect();
    assert_eq!(ids.len(), 2);
    assert_eq!(ids[0], ids[1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_outbox_is_shown_to_whoever_operates_the_installation_alone() {
    let app = TestApp::start_for(with_outbox()).await;
    let ada = app.sign_up("ada@example.test").await;
    write(&app, "ada@example.test").await;
    assert_eq!(mail::send_due(&app.app).await.unwrap(), 0, "there is no server");
    assert!(kept(&app, "ada@example.test").await.contains("howdah account verify"));
    let stored: Vec<(Vec<u8>,)> = sqlx_texts(&app).await;
    assert!(stored.iter().all(|(text,)| !text.windows(7).any(|w| w == b"hwd_cod")));

    let stranger = SecretToken::generate(TokenKind::Operator, [8; 30]);
    for token in ["", "nonsense", stranger.expose(), &ada.token] {
        app.get("/v1/outbox", token).await.problem(401, "signed-out");
    }
    // A page whose name was made to lead to this machine; a proxy on it.
    for (name, value) in [("host", "evil.example:7433"), ("x-forwarded-for", "192.0.2.1")] {
        for path in ["/v1/outbox", "/outbox"] {
            let request = app
                .request("GET", path)
                .bearer_auth(operator().expose())
                .header(name, value);
            read(request).await.problem(404, "not-found");
        }
    }
}

async fn sqlx_texts(app: &TestApp) -> Vec<(Vec<u8>,)> {
    sqlx::query_as("select sealed_text from mails where sealed_text is not null")
        .fetch_all(&app.app.pool)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_link_shows_the_outbox_for_ten_minutes() {
    let app = TestApp::start_for(with_outbox()).await;
    write(&app, "ada@example.test").await;
    let link = app
        .call("POST", "/v1/outbox/links", operator().expose(), None)
        .await
        .ok(200);
    let ticket = link["url"]
        .as_str()
        .unwrap()
        .strip_prefix("/outbox#")
        .unwrap()
        .to_owned();
    let page = app.get("/outbox", "").await;
    assert_eq!(page.status, 200);
    assert!(
        page.headers["content-security-policy"]
            .to_str()
            .unwrap()
            .contains("frame-ancestors 'none'")
    );
    app.get("/outbox/script.js", "").await;
    app.get("/v1/outbox", &ticket).await.ok(200);
    app.call("POST", "/v1/outbox/links", &ticket, None)
        .await
        .problem(403, "not-allowed");
    app.environment.advance(chrono::Duration::minutes(10));
    app.get("/v1/outbox", &ticket).await.problem(401, "signed-out");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn mail_leaves_by_itself_once_what_it_tells_is_there() {
    let receiver = Receiver::start().await;
    let app = TestApp::start_for(with_server(&receiver)).await;
    mail::spawn(&app.app);
    let body = serde_json::json!({ "email": "ada@example.test", "password": crate::app::PASSWORD });
    app.post("/v1/accounts", "", body).await.ok(202);
    let limit = std::time::Duration::from_secs(30);
    testkit::wait::wait_until("a mail", limit, || async { receiver.mails().len() == 1 }).await;
}
