//! Notices: who is told what, and who is not.

use serde_json::{Value, json};

use crate::app::{Org, Person, TestApp};

struct World {
    app: TestApp,
    org: Org,
    host: Person,
    guest: Person,
}

/// An organization in which `host` owns `default/images` and `guest` nothing.
async fn world() -> World {
    let app = TestApp::start().await;
    let org = app.organization("acme").await;
    let host = app.member(&org, "host@acme.test", "member").await;
    let guest = app.member(&org, "guest@acme.test", "member").await;
    app.domain(&org, "default", "images", &host).await;
    World { app, org, host, guest }
}

impl World {
    /// Time goes on: what comes next is newer.
    fn later(&self) {
        self.app.environment.advance(chrono::Duration::seconds(1));
    }

    async fn told(&self, person: &Person) -> Vec<String> {
        let page = self.app.get("/v1/notices?unread=true", &person.token).await.ok(200);
        let items = page["items"].as_array().unwrap().clone();
        items
            .iter()
            .map(|n| format!("{}: {}", n["kind"].as_str().unwrap(), n["text"].as_str().unwrap()))
            .collect()
    }

    async fn grant(&self, by: &Person, subject: &str, role: &str) -> Value {
        self.later();
        let grant = json!({ "subject": subject, "role": role, "resource": "images" });
        self.app.post(&self.org.path("grants"), &by.token, grant).await.ok(201)
    }

    async fn take(&self, by: &Person, grant: &Value) {
        self.later();
        let path = self.org.path(&format!("grants/{}", grant["id"].as_str().unwrap()));
        self.app.delete(&path, &by.token).await.ok(200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn who_gives_himself_a_grant_is_told_of_to_the_owners_of_the_domain_alone() {
    let w = world().await;
    w.grant(&w.org.owner, "user:owner@acme.test", "viewer").await;
    assert_eq!(
        w.told(&w.host).await,
        [
            "grant.create_for_oneself: owner@acme.test, who manages the organization, gave `viewer` on `default/images` to himself \
          (user:owner@acme.test)"
        ]
    );
    assert!(w.told(&w.guest).await.is_empty() && w.told(&w.org.owner).await.is_empty());

    // By way of a team that holds something it is the same.
    w.later();
    w.app
        .post(&w.org.path("teams"), &w.org.owner.token, json!({ "name": "reds" }))
        .await
        .ok(201);
    w.grant(&w.host, "team:reds", "contributor").await;
    w.later();
    w.app
        .call(
            "PUT",
            &w.org.path("teams/reds/members/owner@acme.test"),
            &w.org.owner.token,
            None,
        )
        .await
        .ok(200);
    let told = w.told(&w.host).await;
    assert!(told[0].contains("added himself to the team `reds`"), "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_subject_of_a_grant_hears_of_it_and_keeps_no_name_that_he_may_not_know() {
    let w = world().await;
    let grant = w.grant(&w.host, "user:guest@acme.test", "viewer").await;
    assert_eq!(
        w.told(&w.guest).await,
        ["grant.create: host@acme.test gave `viewer` to user:guest@acme.test on `default/images`"]
    );
    assert!(w.told(&w.org.owner).await.is_empty());
    w.take(&w.host, &grant).await;
    // Also what named it before is not shown any more.
    assert_eq!(
        w.told(&w.guest).await,
        ["grant.delete: host@acme.test took back a grant of user:guest@acme.test: `viewer`"]
    );
    w.later();
    w.app
        .post(&w.org.path("teams"), &w.org.owner.token, json!({ "name": "reds" }))
        .await
        .ok(201);
    w.later();
    w.app
        .call(
            "PUT",
            &w.org.path("teams/reds/members/guest@acme.test"),
            &w.org.owner.token,
            None,
        )
        .await
        .ok(200);
    w.grant(&w.host, "team:reds", "discoverer").await;
    let told = w.told(&w.guest).await;
    assert_eq!(
        told[0],
        "grant.create: host@acme.test gave `discoverer` to team:reds on `default/images`"
    );
    assert_eq!(told[1], "team.add: owner@acme.test added you to the team `reds`");
    assert_eq!(told.len(), 4, "he may know of it again: {told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_release_is_told_to_who_may_approve_it_by_the_name_of_what_is_his() {
    let w = world().await;
    let other = w.app.member(&w.org, "other@acme.test", "member").await;
    w.app.domain(&w.org, "default", "truth", &other).await;
    w.app.domain(&w.org, "default", "score", &w.org.owner).await;
    let release = json!({ "domains": ["images", "truth"], "pipeline": "score", "spec_digest": "abababab", "purpose": "x", "expires_in_days": 1 });
    w.later();
    let release = w
        .app
        .post(&w.org.path("releases"), &w.org.owner.token, release)
        .await
        .ok(201);
    for (person, own, not) in [
        (&w.host, "default/images", "truth"),
        (&other, "default/truth", "images"),
    ] {
        let told = w.told(person).await;
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(
            told[0].starts_with("release.create: owner@acme.test proposed") && told[0].contains(own),
            "{told:?}"
        );
        assert!(!told[0].contains(not) && !told[0].contains("score"), "{told:?}");
    }
    let path = w.org.path(&format!("releases/{}", release["id"].as_str().unwrap()));
    for person in [&w.host, &other] {
        // They know of it by the notice, and approve it once they may know of all of it.
        w.later();
        w.app
            .post(
                &w.org.path("grants"),
                &w.org.owner.token,
                json!({ "subject": format!("user:{}", person.email), "role": "discoverer", "resource": "org" }),
            )
            .await
            .ok(201);
        w.later();
        w.app
            .post(&format!("{path}/approvals"), &person.token, json!({}))
            .await
            .ok(200);
    }
    let told = w.told(&w.org.owner).await;
    assert!(
        told[0].contains("other@acme.test approved your release") && told[0].ends_with("which is active"),
        "{told:?}"
    );
    w.later();
    w.app.delete(&path, &w.host.token).await.ok(200);
    assert!(w.told(&other).await[0].starts_with("release.revoke: host@acme.test revoked"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_request_for_access_reaches_who_can_grant_it() {
    let w = world().await;
    let asked = json!({ "ref": "score@main", "missing": ["default/images"] });
    w.later();
    w.app
        .post(&w.org.path("access-requests"), &w.guest.token, asked)
        .await
        .ok(201);
    let told = w.told(&w.host).await;
    assert!(
        told.len() == 1 && told[0].contains("guest@acme.test asks for access to `default/images`"),
        "{told:?}"
    );
    assert!(!told[0].contains("score"), "{told:?}");
    assert!(w.told(&w.org.owner).await.is_empty());
    let asked = json!({ "ref": "score@main", "missing": ["restricted upstream #1"] });
    w.later();
    w.app
        .post(&w.org.path("access-requests"), &w.guest.token, asked)
        .await
        .ok(201);
    assert_eq!(w.told(&w.host).await.len(), 1);
    assert_eq!(w.told(&w.org.owner).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn who_is_removed_hears_that_and_nothing_else_of_the_organization_any_more() {
    let w = world().await;
    w.grant(&w.host, "user:guest@acme.test", "viewer").await;
    let me = w.org.path("members/guest@acme.test");
    w.later();
    w.app
        .call("PATCH", &me, &w.org.owner.token, Some(json!({ "role": "auditor" })))
        .await
        .ok(200);
    assert_eq!(
        w.told(&w.guest).await[0],
        "member.role: owner@acme.test made you `auditor`"
    );
    w.later();
    w.app.delete(&me, &w.org.owner.token).await.ok(200);
    assert_eq!(
        w.told(&w.guest).await,
        ["member.remove: owner@acme.test removed you from the organization"]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn notices_are_read_up_to_one_and_by_nobody_else() {
    let w = world().await;
    let first = w.grant(&w.host, "user:guest@acme.test", "viewer").await;
    w.grant(&w.host, "user:guest@acme.test", "deriver").await;
    w.grant(&w.host, "user:guest@acme.test", "contributor").await;
    let page = w.app.get("/v1/notices?limit=2", &w.guest.token).await.ok(200);
    let newest = page["items"][0].clone();
    assert!(newest["text"].as_str().unwrap().contains("contributor") && newest["organization"] == "acme");
    let rest = w
        .app
        .get(
            &format!("/v1/notices?limit=2&cursor={}", page["next_cursor"].as_str().unwrap()),
            &w.guest.token,
        )
        .await
        .ok(200);
    assert!(rest["items"].as_array().unwrap().len() == 1 && rest["next_cursor"].is_null());
    let second = json!({ "up_to": page["items"][1]["id"] });
    w.later();
    w.app
        .post("/v1/notices/read", &w.host.token, second.clone())
        .await
        .ok(204);
    assert_eq!(w.told(&w.guest).await.len(), 3);
    w.later();
    w.app.post("/v1/notices/read", &w.guest.token, second).await.ok(204);
    assert_eq!(w.told(&w.guest).await.len(), 1);
    let all = w.app.get("/v1/notices", &w.guest.token).await.ok(200);
    assert!(all["items"][0]["read_at"].is_null() && !all["items"][2]["read_at"].is_null());
    // What is refused is told to nobody.
    let refused = json!({ "subject": "user:host@acme.test", "role": "owner", "resource": "images" });
    w.later();
    w.app
        .post(&w.org.path("grants"), &w.guest.token, refused)
        .await
        .problem(403, "not-allowed");
    assert!(w.told(&w.host).await.is_empty());
    w.take(&w.host, &first).await;
    assert!(w.told(&w.guest).await[0].contains("took back `viewer` from user:guest@acme.test on `default/images`"));
}
