//! Releases and requests for access.

use serde_json::{Value, json};

use crate::app::{Org, Person, TestApp};

fn body(domains: &[&str], pipeline: &str) -> Value {
    json!({ "domains": domains, "pipeline": pipeline, "spec_digest": "ab".repeat(32), "purpose": "scoring", "expires_in_days": 90 })
}

/// The challenge: the host owns everything but the competitor's code.
async fn challenge(app: &TestApp) -> (Org, Person, Person) {
    let org = app.organization("acme").await;
    let (host, red) = (
        app.member(&org, "host@example.test", "member").await,
        app.member(&org, "red@example.test", "member").await,
    );
    for name in ["images", "truth", "score-red"] {
        app.domain(&org, "default", name, &host).await;
    }
    app.domain(&org, "default", "code-red", &red).await;
    (org, host, red)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_release_of_what_the_host_owns_counts_at_once() {
    let app = TestApp::start().await;
    let (org, host, red) = challenge(&app).await;
    let made = app
        .post(
            &org.path("releases"),
            &host.token,
            body(&["images", "default/truth"], "score-red"),
        )
        .await
        .ok(201);
    assert_eq!(made["state"], "active");
    assert_eq!(made["domains"], json!(["default/images", "default/truth"]));
    assert_eq!(made["approvers"], json!(["host@example.test"]));
    let release = app.snapshot(&org).await.releases.remove(0);
    assert_eq!((release.domains.len(), release.purpose.as_str()), (2, "scoring"));
    assert!(release.is_active(app.environment.now()));

    let path = org.path(&format!("releases/{}", made["id"].as_str().unwrap()));
    app.delete(&path, &red.token).await.problem(404, "not-found");
    let gone = app.delete(&path, &host.token).await.ok(200);
    let snapshot = app.snapshot(&org).await;
    assert_eq!(json!(snapshot.epoch), gone["epoch"]);
    assert!(!snapshot.releases[0].is_active(app.environment.now()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_release_of_somebody_elses_domain_waits_for_his_approval() {
    let app = TestApp::start().await;
    let (org, host, red) = challenge(&app).await;
    let grant = json!({ "subject": "user:host@example.test", "role": "deriver", "resource": "code-red" });
    app.post(&org.path("grants"), &red.token, grant).await.ok(201);
    let made = app
        .post(
            &org.path("releases"),
            &host.token,
            body(&["images", "code-red"], "score-red"),
        )
        .await
        .ok(201);
    assert_eq!(
        (&made["state"], &made["awaiting"]),
        (&json!("proposed"), &json!(["default/code-red"]))
    );
    assert!(
        app.snapshot(&org).await.releases.is_empty(),
        "a proposal counts for nothing"
    );
    let approvals = org.path(&format!("releases/{}/approvals", made["id"].as_str().unwrap()));
    app.post(&approvals, &host.token, json!({}))
        .await
        .problem(403, "not-allowed");
    // Red sees what it is about only after he may know of all of it.
    app.post(&approvals, &red.token, json!({}))
        .await
        .problem(404, "not-found");
    for resource in ["images", "score-red"] {
        let grant = json!({ "subject": "user:red@example.test", "role": "discoverer", "resource": resource });
        app.post(&org.path("grants"), &host.token, grant).await.ok(201);
    }
    let approved = app.post(&approvals, &red.token, json!({})).await.ok(200);
    assert_eq!(approved["state"], "active");
    assert_eq!(approved["approvers"], json!(["host@example.test", "red@example.test"]));
    assert_eq!(app.snapshot(&org).await.releases.len(), 1);
}

/// Somebody gives a role.
async fn give(app: &TestApp, org: &Org, by: &Person, subject: &str, role: &str, resource: &str) {
    let grant = json!({ "subject": subject, "role": role, "resource": resource });
    app.post(&org.path("grants"), &by.token, grant).await.ok(201);
}

/// A challenge in an organization that demands two approvers, and the host's proposal to release the images.
async fn proposal_for_two(app: &TestApp) -> (Org, Person, String) {
    let (org, host, _) = challenge(app).await;
    let two = json!({ "release_approvals": 2 });
    let set = app
        .call("PATCH", "/v1/organizations/acme", &org.owner.token, Some(two))
        .await;
    assert_eq!(set.ok(200)["release_approvals"], 2);
    let made = app
        .post(&org.path("releases"), &host.token, body(&["images"], "score-red"))
        .await
        .ok(201);
    assert_eq!(
        (&made["state"], &made["approvers"], &made["awaiting"]),
        (
            &json!("proposed"),
            &json!(["host@example.test"]),
            &json!(["default/images"])
        )
    );
    let approvals = org.path(&format!("releases/{}/approvals", made["id"].as_str().unwrap()));
    (org, host, approvals)
}

/// Another owner of the images.
async fn co_owner(app: &TestApp, org: &Org, email: &str) -> Person {
    let person = app.member(org, email, "member").await;
    give(app, org, &org.owner, &format!("user:{email}"), "owner", "images").await;
    give(
        app,
        org,
        &org.owner,
        &format!("user:{email}"),
        "discoverer",
        "score-red",
    )
    .await;
    person
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_organization_may_demand_two_approvers_who_are_people() {
    let app = TestApp::start().await;
    let (org, host, approvals) = proposal_for_two(&app).await;
    for (token, wish, status) in [(&host.token, 1, 403), (&org.owner.token, 3, 422)] {
        let wish = json!({ "release_approvals": wish });
        let answer = app.call("PATCH", "/v1/organizations/acme", token, Some(wish)).await;
        assert_eq!(answer.status, status, "{}", answer.text);
    }
    let twice = app
        .post(&approvals, &host.token, json!({}))
        .await
        .problem(409, "conflict");
    assert!(twice["detail"].as_str().unwrap().contains("second approver"), "{twice}");

    app.post(&org.path("service-accounts"), &org.owner.token, json!({ "name": "ci" }))
        .await
        .ok(201);
    give(&app, &org, &host, "sa:ci", "owner", "images").await;
    give(&app, &org, &host, "sa:ci", "discoverer", "score-red").await;
    let token = json!({ "name": "x", "organization": "acme", "service_account": "ci" });
    let ci = app.post("/v1/tokens", &org.owner.token, token).await.ok(201)["secret"].clone();
    let by_ci = app.post(&approvals, ci.as_str().unwrap(), json!({})).await.ok(200);
    assert_eq!(
        by_ci["state"], "proposed",
        "a service account is no second pair of eyes"
    );

    let other = co_owner(&app, &org, "other@example.test").await;
    let active = app.post(&approvals, &other.token, json!({})).await.ok(200);
    assert_eq!((&active["state"], &active["awaiting"]), (&json!("active"), &json!([])));
    assert_eq!(app.snapshot(&org).await.releases.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn who_may_declassify_no_more_has_approved_nothing_that_has_not_begun() {
    let app = TestApp::start().await;
    let (org, host, approvals) = proposal_for_two(&app).await;
    let other = co_owner(&app, &org, "other@example.test").await;
    let held = app.get(&org.path("grants?resource=images"), &host.token).await.ok(200);
    let mut held = held["items"].as_array().unwrap().iter();
    let first = held.find(|g| g["subject"] == "user:host@example.test").unwrap();
    let first = org.path(&format!("grants/{}", first["id"].as_str().unwrap()));
    app.delete(&first, &other.token).await.ok(200);

    let second = app.post(&approvals, &other.token, json!({})).await.ok(200);
    assert_eq!(
        (&second["state"], &second["awaiting"]),
        (&json!("proposed"), &json!(["default/images"]))
    );
    assert!(app.snapshot(&org).await.releases.is_empty());

    let third = co_owner(&app, &org, "third@example.test").await;
    let active = app.post(&approvals, &third.token, json!({})).await.ok(200);
    assert_eq!(active["state"], "active");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_release_ends_by_itself() {
    let app = TestApp::start().await;
    let (org, host, _) = challenge(&app).await;
    app.post(&org.path("releases"), &host.token, body(&["images"], "score-red"))
        .await
        .ok(201);
    app.environment.advance(chrono::Duration::days(29));
    let again = json!({ "email": host.email, "password": crate::app::PASSWORD });
    let token = app.post("/v1/sessions", "", again.clone()).await.ok(201)["session_token"].clone();
    let listed = app.get(&org.path("releases"), token.as_str().unwrap()).await.ok(200);
    assert_eq!(listed["items"][0]["state"], "active");
    app.environment.advance(chrono::Duration::days(61));
    let token = app.post("/v1/sessions", "", again).await.ok(201)["session_token"].clone();
    let listed = app.get(&org.path("releases"), token.as_str().unwrap()).await.ok(200);
    assert_eq!(listed["items"][0]["state"], "expired");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn releases_that_make_no_sense_are_refused() {
    let app = TestApp::start().await;
    let (org, host, red) = challenge(&app).await;
    for (field, value) in [
        ("domains", json!([])),
        ("purpose", json!(" ")),
        ("spec_digest", json!("not hex!")),
        ("expires_in_days", json!(367)),
        ("expires_in_days", json!(0)),
        ("pipeline", json!("a/b/c")),
    ] {
        let mut wrong = body(&["images"], "score-red");
        wrong[field] = value;
        app.post(&org.path("releases"), &host.token, wrong)
            .await
            .problem(422, "invalid");
    }
    let hidden = body(&["images"], "score-red");
    app.post(&org.path("releases"), &red.token, hidden)
        .await
        .problem(404, "not-found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_request_for_access_reaches_who_can_grant_it() {
    let app = TestApp::start().await;
    let (org, host, red) = challenge(&app).await;
    let blue = app.member(&org, "blue@example.test", "member").await;
    let wish = json!({ "ref": "score-red@main", "missing": ["default/images"], "message": "please" });
    app.post(&org.path("access-requests"), &red.token, wish).await.ok(201);
    for (person, count) in [(&host, 1), (&red, 1), (&blue, 0), (&org.owner, 1)] {
        let page = app.get(&org.path("access-requests"), &person.token).await.ok(200);
        assert_eq!(page["items"].as_array().unwrap().len(), count, "{}", person.email);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_proposal_that_lacks_nothing_any_more_is_activated_by_whoever_may_approve() {
    let app = TestApp::start().await;
    let (org, host, approvals) = proposal_for_two(&app).await;
    let stranger = app.member(&org, "nobody@example.test", "member").await;
    let one = json!({ "release_approvals": 1 });
    app.call("PATCH", "/v1/organizations/acme", &org.owner.token, Some(one))
        .await
        .ok(200);
    assert!(app.snapshot(&org).await.releases.is_empty());
    let refused = app.post(&approvals, &stranger.token, json!({})).await;
    assert!([403, 404].contains(&refused.status), "{}", refused.text);

    let active = app.post(&approvals, &host.token, json!({})).await.ok(200);
    assert_eq!(active["state"], "active");
    assert_eq!(app.snapshot(&org).await.releases.len(), 1);
}
