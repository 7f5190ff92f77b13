//! Who takes too much is told so, and told what is left before; nobody else hears of it.

use control_plane::rate_limits::RateLimits;
use control_plane::traffic::{PerMinute, TrafficLimits};
use serde_json::json;

use crate::app::{Answer, TestApp, read};

fn header(answer: &Answer, name: &str) -> String {
    let value = answer.headers.get(name).and_then(|v| v.to_str().ok());
    value.unwrap_or_default().to_owned()
}

async fn limited(change: impl FnOnce(&mut TrafficLimits)) -> TestApp {
    let mut limits = RateLimits::default();
    change(&mut limits.traffic);
    TestApp::start_with(limits).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_is_left_of_the_tightest_limit_is_told_and_then_that_it_is_too_much() {
    let app = limited(|limits| {
        limits.loopback_factor = 1;
        limits.token = PerMinute([5, 100, 100, 100, 100]);
    })
    .await;
    let (ada, bob) = (app.sign_up("ada@x.test").await, app.sign_up("bob@x.test").await);
    for left in (0..5).rev() {
        let answer = app.get("/v1/account", &ada.token).await;
        assert_eq!(header(&answer, "ratelimit-policy"), "\"token\";q=5;w=60");
        assert!(header(&answer, "ratelimit").starts_with(&format!("\"token\";r={left};t=")));
        answer.ok(200);
    }
    let refused = app.get("/v1/account", &ada.token).await;
    let wait: u64 = header(&refused, "retry-after").parse().unwrap();
    assert!((1..=60).contains(&wait));
    refused.problem(429, "slow-down");
    app.get("/v1/account", &bob.token).await.ok(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_organization_has_a_limit_over_all_of_its_members_and_another_one_its_own() {
    let app = limited(|limits| {
        limits.loopback_factor = 1;
        limits.organization = PerMinute([6, 100, 100, 100, 100]);
    })
    .await;
    let acme = app.organization("acme").await;
    let other = app.organization("other").await;
    let member = app.member(&acme, "member@acme.test", "member").await;
    for token in [&acme.owner.token, &member.token].repeat(3) {
        app.get(&acme.path("teams"), token).await.ok(200);
    }
    for token in [&acme.owner.token, &member.token] {
        app.get(&acme.path("teams"), token).await.problem(429, "slow-down");
    }
    app.get(&other.path("teams"), &other.owner.token).await.ok(200);
    // What is nobody's organization is counted for none: a stranger cannot use it up.
    for _ in 0..10 {
        app.get(&other.path("teams"), &member.token)
            .await
            .problem(404, "not-found");
    }
    app.get(&other.path("teams"), &other.owner.token).await.ok(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_body_that_is_too_large_is_refused_and_names_the_limit() {
    let app = TestApp::start().await;
    let acme = app.organization("acme").await;
    let body = json!({ "name": "x".repeat(300 * 1024) });
    app.post(&acme.path("teams"), &acme.owner.token, body)
        .await
        .problem(413, "too-large");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_address_of_services_counts_too_and_tells_only_who_took_too_much() {
    let app = limited(|limits| {
        limits.loopback_factor = 1;
        limits.address = PerMinute([100, 100, 100, 100, 3]);
    })
    .await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(control_plane::serving::serve(app.app.clone(), listener));
    for _ in 0..3 {
        let answer = read(reqwest::Client::new().get(&url)).await;
        assert_eq!(header(&answer, "ratelimit"), "");
        answer.problem(404, "not-found");
    }
    let refused = read(reqwest::Client::new().get(&url)).await;
    assert_ne!(header(&refused, "retry-after"), "");
    refused.problem(429, "slow-down");
    app.get("/v1/organizations", "").await.problem(401, "signed-out");
}
