//! Deleted organizations: access ends at once, an owner has them back while they are kept, and a signed receipt stays.

use chrono::Duration;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::app::{Org, TestApp};
use control_plane::planes::reconciler::Outcome;

async fn settle(app: &TestApp, org: &Org) {
    for _ in 0..20 {
        match app.reconciler.reconcile(org.id).await.unwrap() {
            Outcome::RetryAt(_) => app.environment.advance(Duration::minutes(2)),
            Outcome::Settled | Outcome::Unknown => return,
        }
    }
    panic!("the plane does not settle");
}

async fn deleted() -> (TestApp, Org, Value) {
    let app = TestApp::start_without_reconciler().await;
    let org = app.organization("acme").await;
    settle(&app, &org).await;
    let answer = app.delete("/v1/organizations/acme", &org.owner.token).await.ok(202);
    settle(&app, &org).await;
    (app, org, answer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_deleted_organization_is_nobodys_and_an_owner_has_it_back_as_it_was() {
    let app = TestApp::start_without_reconciler().await;
    let org = app.organization("acme").await;
    let admin = app.member(&org, "admin@acme.test", "admin").await;
    let stranger = app.sign_up("eve@example.test").await;
    app.post(&org.path("teams"), &org.owner.token, json!({ "name": "reds" }))
        .await
        .ok(201);
    settle(&app, &org).await;
    let deleted = app.delete("/v1/organizations/acme", &org.owner.token).await.ok(202);
    assert_eq!(deleted["kept_until"], "2026-12-07T12:00:30Z");
    app.get("/v1/organizations/acme", &org.owner.token)
        .await
        .problem(404, "not-found");
    app.post("/v1/access-tokens", &org.owner.token, json!({ "organization": "acme" }))
        .await
        .problem(404, "not-found");
    let own = app.get("/v1/organizations", &org.owner.token).await.ok(200);
    assert_eq!(own["items"], json!([]));
    settle(&app, &org).await;
    let left = app.cloud.tenant(org.id);
    assert!(
        !left.runs && left.database && left.bucket && left.home,
        "its plane sleeps and keeps everything"
    );
    // Its name is not free, whoever asks.
    app.post("/v1/organizations", &stranger.token, json!({ "name": "ACME" }))
        .await
        .problem(409, "already-exists");

    for other in [&admin, &stranger] {
        app.post(&org.path("restore"), &other.token, json!({}))
            .await
            .problem(404, "not-found");
        app.get("/v1/deleted-organizations/acme", &other.token)
            .await
            .problem(404, "not-found");
        assert_eq!(
            app.get("/v1/deleted-organizations", &other.token).await.ok(200)["items"],
            json!([])
        );
    }
    let kept = app
        .get("/v1/deleted-organizations/acme", &org.owner.token)
        .await
        .ok(200);
    assert_eq!((&kept["state"], &kept["signed"]), (&json!("kept"), &json!("")));
    app.environment.advance(Duration::days(13));
    settle(&app, &org).await;
    let back = app
        .post(&org.path("restore"), &org.owner.token, json!({}))
        .await
        .ok(200);
    assert_eq!(back["role"], "owner");
    let teams = app.get(&org.path("teams"), &admin.token).await.ok(200);
    assert_eq!(teams["items"][0]["name"], "reds");
    app.post(&org.path("restore"), &org.owner.token, json!({}))
        .await
        .problem(404, "not-found");
    // The time that it was kept for is over for good.
    app.environment.advance(Duration::days(13));
    settle(&app, &org).await;
    assert!(app.cloud.tenant(org.id).database);
    assert_eq!(
        app.get("/v1/deleted-organizations", &org.owner.token).await.ok(200)["items"],
        json!([])
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn after_its_time_everything_goes_and_those_who_owned_it_read_a_signed_receipt() {
    let (app, org, answer) = deleted().await;
    app.environment.advance(Duration::days(14));
    app.post(&org.path("restore"), &org.owner.token, json!({}))
        .await
        .problem(410, "deleted");
    settle(&app, &org).await;
    let left = app.cloud.tenant(org.id);
    assert!(!left.runs && !left.database && !left.bucket && !left.home);
    app.post(&org.path("restore"), &org.owner.token, json!({}))
        .await
        .problem(404, "not-found");

    let receipt = app
        .get("/v1/deleted-organizations/acme", &org.owner.token)
        .await
        .ok(200);
    assert_eq!(
        (&receipt["state"], &receipt["organization"]),
        (&json!("erased"), &answer["id"])
    );
    let stores: Vec<&str> = receipt["stores"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["store"].as_str().unwrap())
        .collect();
    assert_eq!(stores, ["bucket", "control database", "data key", "database", "state"]);
    let keys: jsonwebtoken::jwk::JwkSet = serde_json::from_value(app.app.keys.jwks()).unwrap();
    let mut rules = Validation::new(Algorithm::EdDSA);
    rules.set_audience(&[format!("receipt:{}", org.id)]);
    rules.set_required_spec_claims(&["iss", "aud"]);
    rules.validate_exp = false;
    let key = DecodingKey::from_jwk(&keys.keys[0]).unwrap();
    let claims = jsonwebtoken::decode::<Value>(receipt["signed"].as_str().unwrap(), &key, &rules)
        .unwrap()
        .claims;
    assert_eq!(
        (&claims["digest"], &claims["receipt"]["stores"]),
        (&receipt["digest"], &receipt["stores"])
    );
    let (document, seq, action): (String, i64, String) = sqlx::query_as(
        "select r.document, e.seq, e.action from organization_receipts r join audit_events e using (organization_id)
         order by e.seq desc limit 1",
    )
    .fetch_one(&app.app.pool)
    .await
    .unwrap();
    assert_eq!(hex::encode(Sha256::digest(document.as_bytes())), receipt["digest"]);
    assert_eq!(
        (json!(seq), action.as_str()),
        (receipt["audit_seq"].clone(), "organization.erase")
    );
    // The name is free now, and the receipt is still that of the first.
    let next = app
        .post("/v1/organizations", &org.owner.token, json!({ "name": "acme" }))
        .await
        .ok(201);
    assert_ne!(next["id"], answer["id"]);
    let again = app
        .get(&format!("/v1/deleted-organizations/{}", org.id), &org.owner.token)
        .await
        .ok(200);
    assert_eq!(again, receipt);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_owner_may_have_everything_erased_at_once_even_after_the_fact() {
    let (app, org, _) = deleted().await;
    let stranger = app.sign_up("eve@example.test").await;
    app.delete("/v1/organizations/acme?now=true", &stranger.token)
        .await
        .problem(404, "not-found");
    assert!(app.cloud.tenant(org.id).database);
    app.delete("/v1/organizations/acme?now=true", &org.owner.token)
        .await
        .ok(202);
    app.post(&org.path("restore"), &org.owner.token, json!({}))
        .await
        .problem(410, "deleted");
    settle(&app, &org).await;
    assert!(!app.cloud.tenant(org.id).database);
    assert_eq!(
        app.get("/v1/deleted-organizations/acme", &org.owner.token)
            .await
            .ok(200)["state"],
        "erased"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn of_two_owners_who_leave_at_once_one_stays() {
    let app = TestApp::start_without_reconciler().await;
    let org = app.organization("acme").await;
    let second = app.member(&org, "second@acme.test", "owner").await;
    let paths = (
        org.path("members/owner@acme.test"),
        org.path("members/second@acme.test"),
    );
    for _ in 0..4 {
        let first = app.delete(&paths.0, &org.owner.token);
        let other = app.delete(&paths.1, &second.token);
        let (first, other) = tokio::join!(first, other);
        let mut answers = [first.status, other.status];
        answers.sort_unstable();
        assert_eq!(answers, [200, 409]);
        // Whoever stayed asks the other one back.
        let (stayed, left) = if first.status == 409 {
            (&org.owner, &second)
        } else {
            (&second, &org.owner)
        };
        let invitation = json!({ "email": left.email, "role": "owner" });
        let invitation = app
            .post(&org.path("invitations"), &stayed.token, invitation)
            .await
            .ok(201);
        let accept = json!({ "token": invitation["token"] });
        app.post("/v1/invitations/accept", &left.token, accept).await.ok(200);
    }
}
