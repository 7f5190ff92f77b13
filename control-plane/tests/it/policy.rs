//! Grants, epochs, snapshots, domains.

use contract::policy::{Grantee, Principal, Resource, Role};
use serde_json::{Value, json};

use crate::app::TestApp;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_registered_domain_belongs_to_its_creator_and_registering_again_changes_nothing() {
    let app = TestApp::start().await;
    let org = app.organization("acme").await;
    let bob = app.member(&org, "bob@example.test", "member").await;
    let id = app.domain(&org, "default", "images", &bob).await;
    let before = app.snapshot(&org).await;
    let who = app.get("/v1/account", &bob.token).await.ok(200);
    let body = json!({ "id": id, "project": "default", "name": "images", "owner": who["id"] });
    let again = app
        .post(&org.internal("domains"), &app.agent(&org).await, body)
        .await
        .ok(200);
    assert_eq!(again["epoch"], before.epoch);
    let snapshot = app.snapshot(&org).await;
    assert_eq!(snapshot, before);
    assert_eq!(snapshot.domains.len(), 1);
    assert_eq!(snapshot.grants.len(), 1);
    let grant = &snapshot.grants[0];
    assert_eq!(
        (grant.role, &grant.resource),
        (Role::Owner, &Resource::Domain(id.parse().unwrap()))
    );
    let Grantee::Account(owner) = grant.grantee else {
        panic!("not a person")
    };
    assert_eq!(json!(Principal::Account(owner)), who["id"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_live_domain_of_the_same_name_replaces_an_orphan_and_a_tombstone_stays() {
    let app = TestApp::start().await;
    let org = app.organization("acme").await;
    let orphan = app.domain(&org, "default", "images", &org.owner).await;
    let real = app.domain(&org, "default", "images", &org.owner).await;
    let agent = app.agent(&org).await;
    app.delete(&org.internal(&format!("domains/{real}")), &agent)
        .await
        .ok(200);
    let snapshot = app.snapshot(&org).await;
    let mut ids: Vec<String> = snapshot.domains.iter().map(|d| d.id.to_string()).collect();
    let mut expected = vec![orphan, real.clone()];
    ids.sort();
    expected.sort();
    assert_eq!(ids, expected);
    assert!(snapshot.domains.iter().all(|d| d.deleted));
    // Its grants live on.
    assert_eq!(snapshot.grants.len(), 2);
    let body = json!({ "id": real, "project": "default", "name": "other", "owner": snapshot.members[0].principal });
    app.post(&org.internal("domains"), &agent, body)
        .await
        .problem(409, "conflict");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn every_change_of_the_policy_has_a_higher_epoch() {
    let app = TestApp::start().await;
    let org = app.organization("acme").await;
    let bob = app.member(&org, "bob@example.test", "member").await;
    let mut last = app.snapshot(&org).await.epoch;
    let owner = org.owner.token.clone();
    for (method, path, body) in [
        (
            "PATCH",
            org.path("members/bob@example.test"),
            json!({ "role": "auditor" }),
        ),
        ("POST", org.path("teams"), json!({ "name": "labelers" })),
        ("PUT", org.path("teams/labelers/members/bob@example.test"), json!(null)),
        (
            "DELETE",
            org.path("teams/labelers/members/bob@example.test"),
            json!(null),
        ),
        ("POST", org.path("service-accounts"), json!({ "name": "ci" })),
        (
            "POST",
            org.path("grants"),
            json!({ "subject": "sa:ci", "role": "viewer", "resource": "project:default" }),
        ),
        ("DELETE", org.path("service-accounts/ci"), json!(null)),
        ("DELETE", org.path("teams/labelers"), json!(null)),
        ("DELETE", org.path("members/bob@example.test"), json!(null)),
    ] {
        let answer = app
            .call(method, &path, &owner, Some(body).filter(|b| !b.is_null()))
            .await;
        assert!(answer.status < 300, "{method} {path}: {}", answer.text);
        let epoch = app.snapshot(&org).await.epoch;
        assert!(epoch > last, "{method} {path} left the epoch at {last}");
        last = epoch;
    }
    drop(bob);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_revoked_session_or_token_is_named_in_the_snapshot_while_its_access_tokens_may_live() {
    let app = TestApp::start().await;
    let org = app.organization("acme").await;
    let bob = app.member(&org, "bob@example.test", "member").await;
    let who = app.get("/v1/account", &bob.token).await.ok(200);
    app.delete("/v1/sessions/current", &bob.token).await.ok(204);
    let revoked = app.snapshot(&org).await.revoked_tokens;
    assert_eq!(json!(revoked), json!([who["token"]]));
    app.environment.advance(chrono::Duration::minutes(16));
    assert!(app.snapshot(&org).await.revoked_tokens.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_poll_waits_for_the_next_epoch_and_acknowledges_the_last() {
    let app = TestApp::start().await;
    let org = app.organization("acme").await;
    let agent = app.agent(&org).await;
    let epoch = app.snapshot(&org).await.epoch;
    let nothing = app
        .get(&org.internal(&format!("policy?after={epoch}")), &agent)
        .await
        .ok(200);
    assert_eq!(nothing, json!({ "epoch": epoch }));

    let grant = json!({ "subject": "user:owner@acme.test", "role": "viewer", "resource": "org" });
    let path = org.internal(&format!("policy?after={epoch}&wait_seconds=20"));
    let grants = org.path("grants");
    let (polled, made) = tokio::join!(app.get(&path, &agent), app.post(&grants, &org.owner.token, grant));
    let (polled, made) = (polled.ok(200), made.ok(201));
    assert_eq!(polled["epoch"], made["epoch"]);
    assert!(polled["signed_snapshot"].is_string());

    // The deletion hears of the plane's acknowledgement.
    let remove = org.path(&format!("grants/{}?wait=true", made["id"].as_str().unwrap()));
    let plane = async {
        let first = app
            .get(
                &org.internal(&format!("policy?after={}&wait_seconds=20", made["epoch"])),
                &agent,
            )
            .await
            .ok(200);
        app.get(&org.internal(&format!("policy?after={}", first["epoch"])), &agent)
            .await
            .ok(200)
    };
    let (removed, _) = tokio::join!(app.delete(&remove, &org.owner.token), plane);
    assert_eq!(removed.ok(200)["acknowledged"], true);
}

async fn grant(
    app: &TestApp,
    path: &str,
    token: &str,
    subject: &str,
    role: &str,
    resource: &str,
) -> crate::app::Answer {
    let body = json!({ "subject": subject, "role": role, "resource": resource });
    app.post(path, token, body).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn who_administers_a_repo_grants_on_it_and_nobody_else_learns_that_it_exists() {
    let app = TestApp::start().await;
    let org = app.organization("acme").await;
    let (ada, bob) = (
        app.member(&org, "ada@example.test", "member").await,
        app.member(&org, "bob@example.test", "member").await,
    );
    app.domain(&org, "default", "images", &ada).await;
    let path = org.path("grants");
    let bobs = "user:bob@example.test";
    let hidden = grant(&app, &path, &bob.token, bobs, "viewer", "images")
        .await
        .problem(404, "not-found");
    let absent = grant(&app, &path, &bob.token, bobs, "viewer", "nothing")
        .await
        .problem(404, "not-found");
    assert_eq!(
        (&hidden["detail"], &hidden["hint"]),
        (&absent["detail"], &absent["hint"])
    );
    let given = grant(&app, &path, &ada.token, bobs, "viewer", "images").await.ok(201);
    assert_eq!(given["resource"], "default/images");
    assert_eq!(given["subject"], bobs);
    grant(&app, &path, &bob.token, bobs, "owner", "images")
        .await
        .problem(403, "not-allowed");
    grant(&app, &path, &ada.token, bobs, "viewer", "org")
        .await
        .problem(403, "not-allowed");
    // Twice the same is one.
    grant(&app, &path, &ada.token, bobs, "viewer", "default/images")
        .await
        .ok(200);

    let names = |page: Value| -> Vec<String> {
        page["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|g| format!("{} {}", g["subject"], g["role"]))
            .collect()
    };
    let seen_by_bob = names(app.get(&path, &bob.token).await.ok(200));
    assert_eq!(seen_by_bob, ["\"user:bob@example.test\" \"viewer\""]);
    assert_eq!(names(app.get(&path, &ada.token).await.ok(200)).len(), 2);
    assert_eq!(names(app.get(&path, &org.owner.token).await.ok(200)).len(), 2);
    let id = given["id"].as_str().unwrap();
    app.delete(&org.path(&format!("grants/{id}")), &bob.token)
        .await
        .problem(403, "not-allowed");
    app.delete(&org.path(&format!("grants/{id}")), &ada.token).await.ok(200);
    app.delete(&org.path(&format!("grants/{id}")), &ada.token)
        .await
        .problem(404, "not-found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_owner_of_the_organization_may_give_himself_a_grant_and_an_admin_may_not() {
    let app = TestApp::start().await;
    let org = app.organization("acme").await;
    let admin = app.member(&org, "admin@example.test", "admin").await;
    let ada = app.member(&org, "ada@example.test", "member").await;
    app.domain(&org, "default", "images", &ada).await;
    let path = org.path("grants");
    grant(&app, &path, &admin.token, "user:admin@example.test", "viewer", "images")
        .await
        .problem(403, "not-allowed");
    grant(&app, &path, &admin.token, "user:owner@acme.test", "viewer", "images")
        .await
        .ok(201);
    grant(&app, &path, &org.owner.token, "user:owner@acme.test", "owner", "org")
        .await
        .ok(201);
    let loud: i64 = sqlx::query_scalar("select count(*) from audit_events where action = 'grant.create_for_oneself'")
        .fetch_one(&app.app.pool)
        .await
        .unwrap();
    assert_eq!(loud, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_admin_becomes_no_reader_by_a_team_or_a_service_account() {
    let app = TestApp::start().await;
    let org = app.organization("acme").await;
    let admin = app.member(&org, "admin@example.test", "admin").await;
    let ada = app.member(&org, "ada@example.test", "member").await;
    app.domain(&org, "default", "images", &ada).await;
    for team in ["readers", "empty"] {
        app.post(&org.path("teams"), &admin.token, json!({ "name": team }))
            .await
            .ok(201);
    }
    app.post(&org.path("service-accounts"), &admin.token, json!({ "name": "ci" }))
        .await
        .ok(201);
    let grants = org.path("grants");
    let join = async |team: &str, who: &str, token: &str| {
        let path = org.path(&format!("teams/{team}/members/{who}"));
        app.call("PUT", &path, token, None).await
    };
    join("empty", &admin.email, &admin.token).await.ok(200);
    grant(&app, &grants, &ada.token, "team:readers", "viewer", "images")
        .await
        .ok(201);

    for subject in ["team:empty", "sa:ci"] {
        grant(&app, &grants, &admin.token, subject, "viewer", "images")
            .await
            .problem(403, "not-allowed");
    }
    for who in [&admin.email[..], "sa:ci"] {
        join("readers", who, &admin.token).await.problem(403, "not-allowed");
    }
    // Others may be put into the team, and the data's own owner may give what is theirs to whom they want.
    join("readers", &ada.email, &admin.token).await.ok(200);
    grant(&app, &grants, &ada.token, "sa:ci", "viewer", "images")
        .await
        .ok(201);

    join("readers", &org.owner.email, &org.owner.token).await.ok(200);
    grant(&app, &grants, &org.owner.token, "team:empty", "viewer", "images")
        .await
        .ok(201);
    let loud: Vec<String> =
        sqlx::query_scalar("select subject from audit_events where action = 'grant.create_for_oneself' order by seq")
            .fetch_all(&app.app.pool)
            .await
            .unwrap();
    assert_eq!(loud, ["owner@acme.test to readers"], "the owner is in no team `empty`");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_token_for_one_repo_lists_no_policy_but_that_repos() {
    let app = TestApp::start().await;
    let org = app.organization("acme").await;
    let ada = app.member(&org, "ada@example.test", "member").await;
    for name in ["images", "truth"] {
        app.domain(&org, "default", name, &ada).await;
    }
    let token = json!({ "name": "x", "scopes": ["discover:default/images"] });
    let token = app.post("/v1/tokens", &ada.token, token).await.ok(201)["secret"].clone();
    let token = token.as_str().unwrap();
    for list in ["grants", "releases", "access-requests", "grants?resource=truth"] {
        app.get(&org.path(list), token).await.problem(403, "not-allowed");
    }
    app.get(&org.path("grants?resource=images"), token).await.ok(200);
    let whole = json!({ "name": "y", "scopes": ["discover:*"] });
    let whole = app.post("/v1/tokens", &ada.token, whole).await.ok(201)["secret"].clone();
    app.get(&org.path("grants"), whole.as_str().unwrap()).await.ok(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn subjects_roles_and_resources_that_make_no_sense_are_refused_with_what_to_write() {
    let app = TestApp::start().await;
    let org = app.organization("acme").await;
    for (subject, role, resource) in [
        ("bob", "viewer", "org"),
        ("user:nobody@example.test", "viewer", "org"),
        ("team:none", "viewer", "org"),
        ("sa:none", "viewer", "org"),
        ("user:owner@acme.test", "king", "org"),
        ("user:owner@acme.test", "viewer", "a/b/c"),
        ("user:owner@acme.test", "viewer", "project:-"),
    ] {
        grant(&app, &org.path("grants"), &org.owner.token, subject, role, resource)
            .await
            .problem(422, "invalid");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_audit_trail_is_one_chain() {
    let app = TestApp::start().await;
    let org = app.organization("acme").await;
    app.member(&org, "bob@example.test", "member").await;
    app.domain(&org, "default", "images", &org.owner).await;
    let rows: Vec<(i64, Vec<u8>, Vec<u8>, String)> =
        sqlx::query_as("select seq, prev_hash, hash, action from audit_events where organization_id = $1 order by seq")
            .bind(org.id.to_string())
            .fetch_all(&app.app.pool)
            .await
            .unwrap();
    let actions: Vec<&str> = rows.iter().map(|r| r.3.as_str()).collect();
    assert_eq!(
        actions,
        [
            "organization.create",
            "invitation.create",
            "invitation.accept",
            "domain.register"
        ]
    );
    let mut last = Vec::new();
    for (at, (seq, prev, hash, _)) in rows.into_iter().enumerate() {
        assert_eq!((seq, &prev), (i64::try_from(at).unwrap() + 1, &last));
        last = hash;
    }
}
