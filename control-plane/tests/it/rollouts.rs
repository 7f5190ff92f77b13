//! New images of planes in waves, over the tables: who is told, what counts against the image, what is taken back.

use chrono::Duration;
use contract::cloud::WavesConfig;
use control_plane::authz::System;
use control_plane::planes::rollouts;

use crate::app::{Org, TestApp};

const PROOF: System = System::because("the test rolls out images");

/// Organizations whose planes serve with the image `one`.
async fn served(names: &[&str]) -> (TestApp, Vec<Org>) {
    let app = TestApp::start_without_reconciler().await;
    step(&app, "one").await;
    let mut all = Vec::new();
    for name in names {
        let org = app.organization(name).await;
        serves(&app, &org).await;
        all.push(org);
    }
    (app, all)
}

async fn step(app: &TestApp, image: &str) {
    let waves = WavesConfig::default();
    while rollouts::step(&app.app, &PROOF, image, &waves).await.unwrap() {}
}

async fn later(app: &TestApp, image: &str, seconds: i64) {
    app.environment.advance(Duration::seconds(seconds));
    step(app, image).await;
}

async fn set(app: &TestApp, org: &Org, what: &str) {
    sqlx::query(sqlx::AssertSqlSafe(format!(
        "update planes set {what} where organization_id = $1"
    )))
    .bind(org.id.to_string())
    .execute(&app.app.pool)
    .await
    .unwrap();
}

async fn serves(app: &TestApp, org: &Org) {
    set(
        app,
        org,
        "wanted = 'running', state = 'ready', seen_generation = generation",
    )
    .await;
}

async fn images(app: &TestApp) -> Vec<String> {
    sqlx::query_scalar("select image from planes order by number")
        .fetch_all(&app.app.pool)
        .await
        .unwrap()
}

async fn newest(app: &TestApp) -> (String, String, i32) {
    sqlx::query_as("select image, state, wave from plane_rollouts order by id desc limit 1")
        .fetch_one(&app.app.pool)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_image_goes_to_one_plane_then_to_all_once_those_that_have_it_served_for_a_while() {
    let (app, orgs) = served(&["acme", "globex"]).await;
    step(&app, "two").await;
    assert_eq!(images(&app).await, ["two", "one"]);
    // It is ready late: the while begins then.
    later(&app, "two", 300).await;
    serves(&app, &orgs[0]).await;
    later(&app, "two", 59).await;
    assert_eq!(images(&app).await, ["two", "one"]);
    later(&app, "two", 60).await;
    later(&app, "two", 60).await;
    assert_eq!(images(&app).await, ["two", "two"]);
    serves(&app, &orgs[1]).await;
    later(&app, "two", 1).await;
    assert_eq!(newest(&app).await.1, "running", "it served for a moment");
    later(&app, "two", 60).await;
    assert_eq!(newest(&app).await, ("two".to_owned(), "done".to_owned(), 2));
    let third = app.organization("initech").await;
    assert_eq!(images(&app).await.len(), 3);
    assert_eq!(images(&app).await[2], "two", "{} is made with it", third.id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_image_with_which_a_plane_does_not_serve_is_taken_back_from_all_and_not_tried_again() {
    let (app, orgs) = served(&["acme", "globex"]).await;
    step(&app, "two").await;
    set(&app, &orgs[0], "state = 'degraded'").await;
    later(&app, "two", 599).await;
    assert_eq!(images(&app).await, ["two", "one"]);
    later(&app, "two", 1).await;
    assert_eq!(images(&app).await, ["one", "one"]);
    let (image, state, _) = newest(&app).await;
    assert_eq!((image.as_str(), state.as_str()), ("two", "rolled_back"));
    later(&app, "two", 1_000).await;
    assert_eq!(images(&app).await, ["one", "one"]);
    later(&app, "three", 1).await;
    assert_eq!(images(&app).await.iter().filter(|image| *image == "three").count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_plane_that_did_not_serve_before_or_has_just_woken_says_nothing_against_an_image() {
    let (app, orgs) = served(&["acme", "globex", "initech", "umbrella"]).await;
    set(&app, &orgs[0], "state = 'degraded'").await;
    set(&app, &orgs[2], "wanted = 'asleep', state = 'asleep'").await;
    step(&app, "two").await;
    assert_eq!(
        images(&app).await,
        ["one", "two", "one", "one"],
        "one that serves is the first"
    );
    serves(&app, &orgs[1]).await;
    later(&app, "two", 1).await;
    later(&app, "two", 60).await;
    later(&app, "two", 60).await;
    assert_eq!(images(&app).await, ["two", "two", "two", "two"]);
    set(&app, &orgs[2], "wanted = 'running'").await;
    later(&app, "two", 1).await;
    later(&app, "two", 590).await;
    serves(&app, &orgs[3]).await;
    later(&app, "two", 9).await;
    assert_eq!(newest(&app).await.1, "running", "it was seen awake 599 s ago");
    later(&app, "two", 1).await;
    assert_eq!(newest(&app).await.1, "rolled_back", "it has had its time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_image_that_serves_for_a_moment_now_and_then_is_taken_back() {
    let (app, orgs) = served(&["acme", "globex"]).await;
    step(&app, "two").await;
    for _ in 0..10 {
        serves(&app, &orgs[0]).await;
        later(&app, "two", 30).await;
        set(&app, &orgs[0], "state = 'degraded'").await;
        later(&app, "two", 30).await;
    }
    assert_eq!(newest(&app).await.1, "rolled_back");
    assert_eq!(images(&app).await, ["one", "one"]);
}
