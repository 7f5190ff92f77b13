//! The reconciler against a cloud that fails between any two calls.

use control_plane::planes::reconciler::Outcome;
use serde_json::json;

use crate::app::{Org, TestApp};
use crate::cloud::Fault;

/// Passes until the plane is as wanted, moving the clock over each back-off.
async fn converge(app: &TestApp, org: &Org) {
    for _ in 0..20 {
        match app.reconciler.reconcile(org.id).await.unwrap() {
            Outcome::Settled => return,
            Outcome::RetryAt(at) => app.environment.advance(at - app.environment.now()),
            Outcome::Unknown => panic!("the plane is not known"),
        }
    }
    panic!("the plane did not settle in 20 passes");
}

/// A plane that was made and stopped, with nobody else working on it: the harness's own reconciler is shut down.
async fn quiet(name: &str) -> (TestApp, Org) {
    let app = TestApp::start_without_reconciler().await;
    let org = app.organization(name).await;
    (app, org)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_plane_is_made_in_order_and_then_left_alone() {
    let (app, org) = quiet("acme").await;
    converge(&app, &org).await;
    assert_eq!(
        app.cloud.take_calls(),
        ["create_database", "create_bucket", "migrate", "start"]
    );
    converge(&app, &org).await;
    assert!(app.cloud.take_calls().is_empty());
    let status = app.get(&org.path("plane"), &org.owner.token).await.ok(200);
    assert_eq!(status["state"], "ready");
    assert_eq!(status["conditions"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn whatever_call_fails_the_plane_converges_and_then_nothing_is_done() {
    for at in 1..=4 {
        for after_effect in [false, true] {
            let (app, org) = quiet("acme").await;
            app.cloud.fail(Fault { at, after_effect });
            converge(&app, &org).await;
            assert!(app.cloud.tenant(org.id).runs, "fault at {at}, {after_effect}");
            app.cloud.take_calls();
            converge(&app, &org).await;
            assert!(app.cloud.take_calls().is_empty());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn whatever_call_fails_a_deletion_ends_with_a_receipt_for_every_store() {
    for at in 1..=4 {
        for after_effect in [false, true] {
            let (app, org) = quiet("acme").await;
            converge(&app, &org).await;
            app.delete("/v1/organizations/acme?now=true", &org.owner.token)
                .await
                .ok(202);
            app.get("/v1/organizations/acme", &org.owner.token)
                .await
                .problem(404, "not-found");
            app.cloud.fail(Fault { at, after_effect });
            converge(&app, &org).await;
            let left = app.cloud.tenant(org.id);
            assert!(!left.runs && !left.database && !left.bucket && !left.home);
            let proof = control_plane::authz::System::because("the test reads the receipt");
            let receipt = control_plane::planes::queries::list_receipt(&app.app.pool, &proof, org.id)
                .await
                .unwrap();
            let stores: Vec<&str> = receipt.iter().map(|(store, _)| store.as_str()).collect();
            assert_eq!(stores, ["bucket", "control database", "data key", "database", "state"]);
            // The name is free again.
            app.post("/v1/organizations", &org.owner.token, json!({ "name": "acme" }))
                .await
                .ok(201);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_failure_is_shown_with_its_reason_and_goes_away_when_it_is_over() {
    let (app, org) = quiet("acme").await;
    app.cloud.fail(Fault {
        at: 3,
        after_effect: false,
    });
    let Outcome::RetryAt(_) = app.reconciler.reconcile(org.id).await.unwrap() else {
        panic!("the fault did not hit");
    };
    let status = app.get(&org.path("plane"), &org.owner.token).await.ok(200);
    assert_eq!(status["state"], "degraded");
    assert_eq!(status["conditions"][0]["kind"], "schema_not_current");
    assert_eq!(status["conditions"][0]["reason"], "migrate: failed before");
    // Not before its time.
    app.cloud.take_calls();
    app.reconciler.reconcile(org.id).await.unwrap();
    assert!(app.cloud.take_calls().is_empty());
    converge(&app, &org).await;
    let status = app.get(&org.path("plane"), &org.owner.token).await.ok(200);
    assert_eq!(status["conditions"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_crashed_plane_is_started_again_after_a_while() {
    let (app, org) = quiet("acme").await;
    converge(&app, &org).await;
    app.cloud.crash(org.id);
    app.cloud.take_calls();
    let Outcome::RetryAt(_) = app.reconciler.reconcile(org.id).await.unwrap() else {
        panic!("a crash must be followed by a pause");
    };
    assert!(!app.app.planes.is_running(org.id));
    converge(&app, &org).await;
    assert_eq!(app.cloud.take_calls(), ["stop", "start"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_idle_plane_sleeps_and_the_next_request_wakes_it_without_migrating() {
    let (app, org) = quiet("acme").await;
    converge(&app, &org).await;
    let agent = app.cloud.tenant(org.id).agent_token;
    app.environment.advance(chrono::Duration::seconds(301));
    let heartbeat = |idle: u64| {
        app.post_owned(
            org.internal("heartbeat"),
            agent.clone(),
            json!({ "epoch": 1, "idle_seconds": idle }),
        )
    };
    heartbeat(299).await.ok(204);
    converge(&app, &org).await;
    assert!(app.cloud.tenant(org.id).runs, "a plane that works stays");
    heartbeat(300).await.ok(204);
    app.cloud.take_calls();
    converge(&app, &org).await;
    assert_eq!(app.cloud.take_calls(), ["stop"]);
    let status = app.get(&org.path("plane"), &org.owner.token).await.ok(200);
    assert_eq!(status["state"], "asleep");

    let (_, ()) = tokio::join!(app.access_token(&org, &org.owner), async {
        testkit::wait::wait_until("the plane to run", std::time::Duration::from_secs(10), async || {
            app.reconciler.reconcile(org.id).await.unwrap();
            app.cloud.tenant(org.id).runs
        })
        .await;
    });
    assert_eq!(app.cloud.take_calls(), ["start"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_sleeping_plane_is_woken_at_the_time_that_it_left() {
    let (app, org) = quiet("acme").await;
    converge(&app, &org).await;
    let agent = app.cloud.tenant(org.id).agent_token;
    app.environment.advance(chrono::Duration::seconds(301));
    let wake_at = app.environment.now() + chrono::Duration::hours(1);
    let beat = json!({ "epoch": 1, "idle_seconds": 300, "wake_at": wake_at });
    app.post(&org.internal("heartbeat"), &agent, beat).await.ok(204);
    converge(&app, &org).await;
    assert!(!app.cloud.tenant(org.id).runs);
    app.environment.advance(chrono::Duration::minutes(59));
    converge(&app, &org).await;
    assert!(!app.cloud.tenant(org.id).runs, "it is not time yet");
    app.environment.advance(chrono::Duration::minutes(1));
    app.cloud.take_calls();
    converge(&app, &org).await;
    assert_eq!(app.cloud.take_calls(), ["start"]);
    converge(&app, &org).await;
    assert!(
        app.cloud.tenant(org.id).runs,
        "it does not fall asleep again before it was heard of"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_new_binary_brings_the_schema_up_to_date_at_the_next_start() {
    let (app, org) = quiet("acme").await;
    converge(&app, &org).await;
    app.cloud.set_version("2");
    app.cloud.take_calls();
    converge(&app, &org).await;
    assert!(app.cloud.take_calls().is_empty(), "not under a running plane");
    app.cloud.crash(org.id);
    converge(&app, &org).await;
    assert_eq!(app.cloud.take_calls(), ["stop", "migrate", "start"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_agent_token_of_the_process_before_is_void() {
    let (app, org) = quiet("acme").await;
    converge(&app, &org).await;
    let before = app.cloud.tenant(org.id).agent_token;
    app.cloud.crash(org.id);
    converge(&app, &org).await;
    let beat = json!({ "epoch": 1, "idle_seconds": 0 });
    app.post(&org.internal("heartbeat"), &before, beat.clone())
        .await
        .problem(401, "signed-out");
    let now = app.cloud.tenant(org.id).agent_token;
    app.post(&org.internal("heartbeat"), &now, beat).await.ok(204);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_suspended_plane_sleeps_and_nobody_wakes_it_until_it_is_resumed() {
    let app = TestApp::start_for(crate::mail::with_outbox()).await;
    let org = app.organization("acme").await;
    app.access_token(&org, &org.owner).await;
    let secret = crate::mail::operator();
    let path = format!("/v1/planes/{}/suspension", org.id);
    let told = app.call("PUT", &path, secret.expose(), None).await.ok(200);
    assert_eq!(told["wanted"], "suspended");
    testkit::wait::wait_until("the plane to stop", std::time::Duration::from_secs(10), async || {
        !app.cloud.tenant(org.id).runs
    })
    .await;
    app.post("/v1/access-tokens", &org.owner.token, json!({ "organization": "acme" }))
        .await
        .problem(403, "organization-suspended");
    assert!(!app.cloud.tenant(org.id).runs);
    let listed = app.get("/v1/planes", secret.expose()).await.ok(200);
    assert_eq!(listed["items"][0]["name"], "acme");
    // Said twice, it is written once.
    app.call("PUT", &path, secret.expose(), None).await.ok(200);
    app.call("DELETE", &path, secret.expose(), None).await.ok(200);
    app.access_token(&org, &org.owner).await;
    assert!(app.cloud.tenant(org.id).runs);
    let audit = app.get(&org.path("audit"), &org.owner.token).await.ok(200);
    let actions: Vec<&str> = audit["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|row| row["action"].as_str())
        .filter(|action| ["organization.suspend", "organization.resume"].contains(action))
        .collect();
    assert_eq!(actions.len(), 2, "{actions:?}");
    let nobody = format!("/v1/planes/{}/suspension", "org_00000000000000000000000000000000");
    app.call("PUT", &nobody, secret.expose(), None)
        .await
        .problem(404, "not-found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_status_says_which_wish_was_reached() {
    let (app, org) = quiet("acme").await;
    let before = app.get(&org.path("plane"), &org.owner.token).await.ok(200);
    assert!(before["generation"].as_u64() > before["seen_generation"].as_u64());
    converge(&app, &org).await;
    let after = app.get(&org.path("plane"), &org.owner.token).await.ok(200);
    assert_eq!(after["generation"], after["seen_generation"]);
    assert_eq!(after["events"], json!([]));
}
