//! Verification, passwords, addresses, sessions and proofs of who holds one.

use contract::api::AccountEvent;
use serde_json::{Value, json};

use crate::app::{PASSWORD, Person, TestApp, read};
use crate::mail::{kept, with_outbox, with_server};
use crate::smtp::{Receiver, token};
use contract::config::{PeopleConfig, Verification};

pub const NEW_PASSWORD: &str = "another battery staple";

fn verified() -> PeopleConfig {
    PeopleConfig {
        verification: Verification::Required,
        ..with_outbox()
    }
}

pub async fn log_in(app: &TestApp, email: &str, password: &str) -> Person {
    let body = json!({ "email": email, "password": password });
    let made = app.post("/v1/sessions", "", body).await.ok(201);
    Person {
        email: email.to_owned(),
        token: made["session_token"].as_str().unwrap().to_owned(),
    }
}

pub async fn events(app: &TestApp, person: &Person) -> Vec<AccountEvent> {
    let page = app.get("/v1/account/events?limit=200", &person.token).await.ok(200);
    serde_json::from_value(page["items"].clone()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn there_is_no_account_before_its_address_is_verified_by_code_and_password() {
    let receiver = Receiver::start().await;
    let app = TestApp::start_for(with_server(&receiver)).await;
    let body = json!({ "email": "ada@example.test", "password": PASSWORD, "organization": "acme" });
    let answer = app.post("/v1/accounts", "", body.clone()).await.ok(202);
    assert!(answer.get("session_token").is_none());
    control_plane::mail::send_due(&app.app).await.unwrap();
    let code = token(&receiver.mails()[0], "cod");
    let log_in_body = json!({ "email": "ada@example.test", "password": PASSWORD });
    app.post("/v1/sessions", "", log_in_body)
        .await
        .problem(401, "signed-out");

    // Who reads the mail but did not choose the password, and who chose the password but does not read the mail.
    let verify = |code: &str, password: &str| {
        app.post_owned(
            "/v1/accounts/verify".to_owned(),
            String::new(),
            json!({ "code": code, "password": password }),
        )
    };
    verify(&code, NEW_PASSWORD).await.problem(401, "signed-out");
    let other = contract::token::SecretToken::generate(contract::token::TokenKind::Code, [3; 30]);
    verify(other.expose(), PASSWORD).await.problem(422, "invalid");
    let made = verify(&code, PASSWORD).await.ok(201);
    assert_eq!(made["organizations"][0]["name"], "acme");
    let who = app
        .get("/v1/account", made["session_token"].as_str().unwrap())
        .await
        .ok(200);
    assert_eq!(who["email_verified"], true);
    verify(&code, PASSWORD).await.problem(422, "invalid");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_sign_up_answers_alike_for_an_address_that_has_an_account() {
    let receiver = Receiver::start().await;
    let app = TestApp::start_for(with_server(&receiver)).await;
    let sign_up = |email: &str| {
        let body = json!({ "email": email, "password": PASSWORD });
        read(
            app.request("POST", "/v1/accounts")
                .header("x-request-id", "one")
                .json(&body),
        )
    };
    let first = sign_up("ada@example.test").await;
    control_plane::mail::send_due(&app.app).await.unwrap();
    let body = json!({ "code": token(&receiver.mails()[0], "cod"), "password": PASSWORD });
    app.post("/v1/accounts/verify", "", body).await.ok(201);

    let again = sign_up("ada@example.test").await;
    assert_eq!((first.status, &first.text), (again.status, &again.text));
    let shape = |answer: &crate::app::Answer| -> Vec<String> {
        answer
            .headers
            .iter()
            // What is left of a limit goes down with each request.
            .filter(|(n, _)| !["date", "ratelimit"].contains(&n.as_str()))
            .map(|(n, v)| format!("{n}: {v:?}"))
            .collect()
    };
    assert_eq!(shape(&first), shape(&again));
    control_plane::mail::send_due(&app.app).await.unwrap();
    let mail = receiver.mails().pop().unwrap();
    assert!(
        mail.contains("has an account already") && !mail.contains("hwd_cod_"),
        "{mail}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_code_is_good_for_a_day_and_for_ten_passwords() {
    let app = TestApp::start_for(verified()).await;
    for email in ["ada@example.test", "bob@example.test"] {
        let body = json!({ "email": email, "password": PASSWORD });
        app.post("/v1/accounts", "", body).await.ok(202);
    }
    let code = token(&kept(&app, "ada@example.test").await, "cod");
    for _ in 0..10 {
        let body = json!({ "code": code, "password": NEW_PASSWORD });
        app.post("/v1/accounts/verify", "", body)
            .await
            .problem(401, "signed-out");
    }
    let body = json!({ "code": code, "password": PASSWORD });
    app.post("/v1/accounts/verify", "", body).await.problem(422, "invalid");

    let code = token(&kept(&app, "bob@example.test").await, "cod");
    app.environment.advance(chrono::Duration::hours(24));
    let body = json!({ "code": code, "password": PASSWORD });
    app.post("/v1/accounts/verify", "", body).await.problem(422, "invalid");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_account_that_was_made_without_mail_is_verified_by_the_code_of_the_outbox() {
    let app = TestApp::start_for(with_outbox()).await;
    let (ada, eve) = (
        app.sign_up("ada@example.test").await,
        app.sign_up("eve@example.test").await,
    );
    let who = app.get("/v1/account", &ada.token).await.ok(200);
    assert_eq!(who["email_verified"], false);
    let body = json!({ "code": token(&kept(&app, "ada@example.test").await, "cod") });
    app.post("/v1/account/email/confirm", &eve.token, body.clone())
        .await
        .problem(422, "invalid");
    app.post("/v1/account/email/confirm", &ada.token, body.clone())
        .await
        .ok(200);
    app.post("/v1/account/email/confirm", &ada.token, body)
        .await
        .problem(422, "invalid");
    let who = app.get("/v1/account", &ada.token).await.ok(200);
    assert_eq!(who["email_verified"], true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_invitation_verifies_an_address_only_where_it_was_read_in_the_mail() {
    let app = TestApp::start_for(with_outbox()).await;
    let org = app.organization("acme").await;
    let verified = |person: &Person| {
        let (path, token) = ("/v1/account".to_owned(), person.token.clone());
        let app = &app;
        async move { app.get(&path, &token).await.ok(200)["email_verified"].clone() }
    };
    let shown = app.member(&org, "ada@example.test", "member").await;
    assert_eq!(verified(&shown).await, false);

    let bob = app.sign_up("bob@example.test").await;
    let body = json!({ "email": bob.email, "role": "member" });
    app.post(&org.path("invitations"), &org.owner.token, body).await.ok(201);
    let secret = token(&kept(&app, "bob@example.test").await, "inv");
    app.post("/v1/invitations/accept", &bob.token, json!({ "token": secret }))
        .await
        .ok(200);
    assert_eq!(verified(&bob).await, true);
    app.post("/v1/invitations/accept", &bob.token, json!({ "token": secret }))
        .await
        .problem(410, "invitation-expired");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn where_addresses_are_verified_an_invitation_that_was_handed_over_is_not_accepted_before() {
    let app = TestApp::start_for(verified()).await;
    let mut people = Vec::new();
    for email in ["owner@acme.test", "bob@example.test"] {
        let body = json!({ "email": email, "password": PASSWORD });
        app.post("/v1/accounts", "", body).await.ok(202);
        let body = json!({ "code": token(&kept(&app, email).await, "cod"), "password": PASSWORD });
        let made = app.post("/v1/accounts/verify", "", body).await.ok(201);
        people.push(made["session_token"].as_str().unwrap().to_owned());
    }
    let (owner, bob) = (&people[0], &people[1]);
    app.post("/v1/organizations", owner, json!({ "name": "acme" }))
        .await
        .ok(201);
    let body = json!({ "email": "bob@example.test", "role": "member" });
    let shown = app
        .post("/v1/organizations/acme/invitations", owner, body)
        .await
        .ok(201);
    // As an account is that was made before the installation sent mail.
    sqlx::query("update accounts set verified_at = null where email_key = 'bob@example.test'")
        .execute(&app.app.pool)
        .await
        .unwrap();
    let accept = |secret: &str| {
        let body = json!({ "token": secret });
        app.post_owned("/v1/invitations/accept".to_owned(), bob.clone(), body)
    };
    accept(shown["token"].as_str().unwrap())
        .await
        .problem(403, "not-allowed");
    let mailed = token(&kept(&app, "bob@example.test").await, "inv");
    accept(&mailed).await.ok(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_reset_answers_alike_for_everybody_and_ends_all_sessions() {
    let app = TestApp::start_for(with_outbox()).await;
    let org = app.organization("acme").await;
    let epoch = app.snapshot(&org).await.epoch;
    let ask = |email: &str| {
        let body = json!({ "email": email });
        read(
            app.request("POST", "/v1/password-resets")
                .header("x-request-id", "one")
                .json(&body),
        )
    };
    let (known, unknown) = (ask("OWNER@acme.test").await, ask("nobody@acme.test").await);
    assert_eq!((known.status, unknown.status), (202, 202));
    assert_eq!(
        known.text.replace("OWNER@acme.test", "x"),
        unknown.text.replace("nobody@acme.test", "x")
    );
    assert!(!kept(&app, "nobody@acme.test").await.contains("hwd_cod_"));

    // To the address as the account has it, however it was written.
    let code = token(&kept(&app, "owner@acme.test").await, "cod");
    let redeem = |code: &str, password: &str| {
        let body = json!({ "code": code, "password": password });
        app.post_owned("/v1/password-resets/redeem".to_owned(), String::new(), body)
    };
    redeem(&code, "short").await.problem(422, "invalid");
    redeem(&code, NEW_PASSWORD).await.ok(204);
    redeem(&code, PASSWORD).await.problem(422, "invalid");
    app.get("/v1/account", &org.owner.token)
        .await
        .problem(401, "signed-out");
    let body = json!({ "email": "owner@acme.test", "password": PASSWORD });
    app.post("/v1/sessions", "", body).await.problem(401, "signed-out");
    log_in(&app, "owner@acme.test", NEW_PASSWORD).await;
    // The plane hears of it, and refuses what was exchanged from the session.
    let owner = log_in(&app, "owner@acme.test", NEW_PASSWORD).await;
    let org = crate::app::Org { owner, ..org };
    let snapshot = app.snapshot(&org).await;
    assert!(snapshot.epoch > epoch && !snapshot.revoked_tokens.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_reset_code_ends_after_an_hour() {
    let app = TestApp::start_for(with_outbox()).await;
    app.sign_up("ada@example.test").await;
    app.post("/v1/password-resets", "", json!({ "email": "ada@example.test" }))
        .await
        .ok(202);
    app.environment.advance(chrono::Duration::hours(1));
    let code = token(&kept(&app, "ada@example.test").await, "cod");
    let body = json!({ "code": code, "password": NEW_PASSWORD });
    app.post("/v1/password-resets/redeem", "", body)
        .await
        .problem(422, "invalid");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn who_first_proves_an_address_takes_the_account_from_whoever_made_it() {
    let app = TestApp::start_for(with_outbox()).await;
    let squatter = app.sign_up("ada@example.test").await;
    let made = app
        .post("/v1/tokens", &squatter.token, json!({ "name": "kept" }))
        .await
        .ok(201);
    app.post("/v1/password-resets", "", json!({ "email": "ada@example.test" }))
        .await
        .ok(202);
    let code = token(&kept(&app, "ada@example.test").await, "cod");
    let body = json!({ "code": code, "password": NEW_PASSWORD });
    app.post("/v1/password-resets/redeem", "", body).await.ok(204);
    app.get("/v1/account", made["secret"].as_str().unwrap())
        .await
        .problem(401, "signed-out");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn dangerous_things_need_a_proof_that_is_younger_than_a_quarter_of_an_hour() {
    let app = TestApp::start_for(with_outbox()).await;
    let org = app.organization("acme").await;
    let owner = &org.owner.token;
    let unlimited = app.post("/v1/tokens", owner, json!({ "name": "all" })).await.ok(201);
    app.environment.advance(chrono::Duration::minutes(15));
    let dangerous: [(&str, &str, Value); 4] = [
        ("PUT", "/v1/account/password", json!({ "password": NEW_PASSWORD })),
        ("POST", "/v1/account/email", json!({ "email": "new@acme.test" })),
        ("POST", "/v1/tokens", json!({ "name": "more" })),
        ("DELETE", "/v1/organizations/acme", Value::Null),
    ];
    for (method, path, body) in &dangerous {
        let answer = app.call(method, path, owner, Some(body.clone())).await;
        answer.problem(403, "proof-required");
    }
    // Tokens that say what they may are not among them.
    let limited = json!({ "name": "some", "scopes": ["read:*"] });
    app.post("/v1/tokens", owner, limited).await.ok(201);
    // Unless that is all, or nearly.
    for scope in ["*:*", "admin:*", "declassify:*"] {
        let body = json!({ "name": "all", "scopes": [scope] });
        app.post("/v1/tokens", owner, body).await.problem(403, "proof-required");
    }
    let path = format!("/v1/tokens/{}/rotate", unlimited["id"].as_str().unwrap());
    app.post(&path, owner, json!({})).await.problem(403, "proof-required");

    let prove = "/v1/sessions/current/proof";
    app.post(prove, owner, json!({ "password": "not the password" }))
        .await
        .problem(403, "proof-required");
    app.post("/v1/tokens", owner, json!({ "name": "more" }))
        .await
        .problem(403, "proof-required");
    app.post(prove, owner, json!({ "password": PASSWORD })).await.ok(200);
    app.post("/v1/tokens", owner, json!({ "name": "more" })).await.ok(201);

    let body = json!({ "name": "all", "scopes": ["*:*"] });
    let limited = app.post("/v1/tokens", owner, body).await.ok(201);
    app.delete("/v1/organizations/acme", limited["secret"].as_str().unwrap())
        .await
        .problem(403, "not-allowed");

    // A token proves nothing, and changes nothing of how its holder logs in.
    let secret = unlimited["secret"].as_str().unwrap();
    for (method, path, body) in [
        ("POST", prove, json!({ "password": PASSWORD })),
        ("PUT", "/v1/account/password", json!({ "password": NEW_PASSWORD })),
        ("POST", "/v1/account/email", json!({ "email": "new@acme.test" })),
        ("DELETE", "/v1/sessions", Value::Null),
    ] {
        app.call(method, path, secret, Some(body))
            .await
            .problem(403, "not-allowed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_changed_password_ends_all_other_sessions() {
    let app = TestApp::start_for(with_outbox()).await;
    let ada = app.sign_up("ada@example.test").await;
    let elsewhere = log_in(&app, "ada@example.test", PASSWORD).await;
    let body = Some(json!({ "password": "password1" }));
    app.call("PUT", "/v1/account/password", &ada.token, body)
        .await
        .problem(422, "invalid");
    let body = Some(json!({ "password": NEW_PASSWORD }));
    app.call("PUT", "/v1/account/password", &ada.token, body).await.ok(204);
    app.get("/v1/account", &ada.token).await.ok(200);
    app.get("/v1/account", &elsewhere.token)
        .await
        .problem(401, "signed-out");
    assert!(kept(&app, "ada@example.test").await.contains("was changed"));
    log_in(&app, "ada@example.test", NEW_PASSWORD).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_address_changes_when_the_new_one_agrees_and_the_old_one_can_take_it_back() {
    let app = TestApp::start_for(with_outbox()).await;
    let ada = app.sign_up("ada@example.test").await;
    app.post("/v1/account/email", &ada.token, json!({ "email": "new@example.test" }))
        .await
        .ok(202);
    assert_eq!(
        app.get("/v1/account", &ada.token).await.ok(200)["name"],
        "ada@example.test"
    );
    let code = json!({ "code": token(&kept(&app, "new@example.test").await, "cod") });
    app.post("/v1/account/email/confirm", &ada.token, code).await.ok(200);
    let who = app.get("/v1/account", &ada.token).await.ok(200);
    assert_eq!(
        (&who["name"], &who["email_verified"]),
        (&json!("new@example.test"), &json!(true))
    );
    let thief = log_in(&app, "new@example.test", PASSWORD).await;
    let made = app
        .post("/v1/tokens", &thief.token, json!({ "name": "kept" }))
        .await
        .ok(201);
    crate::second_factors::enrol(&app, &thief).await;

    app.environment.advance(chrono::Duration::days(6));
    let undo = json!({ "code": token(&kept(&app, "ada@example.test").await, "cod") });
    app.post("/v1/accounts/undo-email", "", undo.clone()).await.ok(200);
    app.post("/v1/accounts/undo-email", "", undo)
        .await
        .problem(422, "invalid");
    app.get("/v1/account", &ada.token).await.problem(401, "signed-out");
    app.get("/v1/account", made["secret"].as_str().unwrap())
        .await
        .problem(401, "signed-out");
    // Whoever changed the address knew the password.
    let body = json!({ "email": "ada@example.test", "password": PASSWORD });
    app.post("/v1/sessions", "", body).await.problem(401, "signed-out");
    for address in ["ada@example.test", "new@example.test"] {
        let mail = kept(&app, address).await;
        assert!(mail.contains("is the address of your account again"), "{mail}");
    }
    let ada = crate::takeovers::reset(&app, "ada@example.test").await;
    let actions: Vec<String> = events(&app, &ada).await.into_iter().map(|e| e.action).collect();
    assert_eq!(
        actions,
        [
            "session.create",
            "password.reset",
            "email.undo",
            "totp.enable",
            "totp.begin",
            "token.create",
            "session.create",
            "email.change",
            "email.ask",
            "session.create",
            "account.create"
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_address_of_another_account_is_neither_taken_nor_told() {
    let app = TestApp::start_for(with_outbox()).await;
    let (ada, _bob) = (
        app.sign_up("ada@example.test").await,
        app.sign_up("bob@example.test").await,
    );
    let ask = |email: &str| {
        let body = json!({ "email": email });
        let request = app.request("POST", "/v1/account/email").bearer_auth(&ada.token);
        read(request.header("x-request-id", "one").json(&body))
    };
    let (taken, free) = (ask("bob@example.test").await, ask("new@example.test").await);
    assert_eq!(taken.status, 202);
    assert_eq!(
        taken.text.replace("bob@example.test", "x"),
        free.text.replace("new@example.test", "x")
    );
    assert!(!kept(&app, "bob@example.test").await.contains("hwd_cod_"));
    // Free when it was asked for, and somebody else's when it is confirmed.
    let code = json!({ "code": token(&kept(&app, "new@example.test").await, "cod") });
    app.sign_up("new@example.test").await;
    app.post("/v1/account/email/confirm", &ada.token, code)
        .await
        .problem(409, "conflict");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn pages_of_the_service_get_a_session_as_a_cookie_and_no_others() {
    let app = TestApp::start_for(with_outbox()).await;
    app.sign_up("ada@example.test").await;
    let log_in_from = |origin: &str| {
        let body = json!({ "email": "ada@example.test", "password": PASSWORD });
        let request = app.request("POST", "/v1/sessions").header("origin", origin.to_owned());
        read(request.json(&body))
    };
    assert!(
        !log_in_from("https://evil.example")
            .await
            .headers
            .contains_key("set-cookie")
    );
    let cookie = log_in_from(&app.url).await.headers["set-cookie"]
        .to_str()
        .unwrap()
        .to_owned();
    let pair = cookie.split(';').next().unwrap().to_owned();
    let ask = |method: &str, origin: &str| {
        let request = app.request(method, "/v1/sessions").header("cookie", pair.clone());
        read(request.header("origin", origin.to_owned()))
    };
    ask("DELETE", "https://evil.example").await.problem(401, "signed-out");
    ask("DELETE", &app.url).await.ok(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn sessions_say_where_they_are_and_end_one_by_one_or_all_at_once() {
    let app = TestApp::start_for(with_outbox()).await;
    let ada = app.sign_up("ada@example.test").await;
    let body = json!({ "email": ada.email, "password": PASSWORD });
    let request = app
        .request("POST", "/v1/sessions")
        .header("user-agent", "a browser")
        .json(&body);
    read(request).await.ok(201);
    let third = log_in(&app, "ada@example.test", PASSWORD).await;
    let listed = app.get("/v1/sessions", &ada.token).await.ok(200);
    let of_browser = listed["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|s| s["user_agent"] == "a browser")
        .unwrap()
        .clone();
    assert_eq!(of_browser["address"], "127.0.0.1");
    let path = format!("/v1/sessions/{}", of_browser["id"].as_str().unwrap());
    app.delete(&path, &ada.token).await.ok(204);
    let ended = app.delete("/v1/sessions", &ada.token).await.ok(200);
    assert_eq!(ended["ended"], 1);
    app.get("/v1/account", &third.token).await.problem(401, "signed-out");
    app.get("/v1/account", &ada.token).await.ok(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_happened_to_an_account_is_a_chain_that_shows_every_change_of_it() {
    let app = TestApp::start_for(with_outbox()).await;
    let (ada, eve) = (
        app.sign_up("ada@example.test").await,
        app.sign_up("eve@example.test").await,
    );
    log_in(&app, "ada@example.test", PASSWORD).await;
    let id = app.get("/v1/account", &ada.token).await.ok(200)["id"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let chain = events(&app, &ada).await;
    assert_eq!(chain.len(), 3);
    assert_eq!(AccountEvent::check(&chain, id), Ok(()));
    let mut changed = chain.clone();
    changed[1].subject.push('x');
    assert_eq!(AccountEvent::check(&changed, id), Err(2));
    let shortened = [chain[0].clone(), chain[2].clone()];
    assert_eq!(AccountEvent::check(&shortened, id), Err(3));
    let others = events(&app, &eve).await;
    assert!(others.iter().all(|e| !e.subject.contains("ada")));
}
