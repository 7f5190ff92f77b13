//! Members, invitations, teams.

use serde_json::json;

use crate::app::TestApp;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_last_owner_can_neither_leave_nor_step_down() {
    let app = TestApp::start().await;
    let org = app.organization("acme").await;
    let me = org.path(&format!("members/{}", org.owner.email));
    app.delete(&me, &org.owner.token).await.problem(409, "conflict");
    app.call("PATCH", &me, &org.owner.token, Some(json!({ "role": "admin" })))
        .await
        .problem(409, "conflict");

    let bob = app.member(&org, "bob@example.test", "owner").await;
    app.delete(&me, &org.owner.token).await.ok(200);
    app.get(&org.path("members"), &org.owner.token)
        .await
        .problem(404, "not-found");
    let left = app.get(&org.path("members"), &bob.token).await.ok(200);
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_admin_neither_makes_nor_removes_owners() {
    let app = TestApp::start().await;
    let org = app.organization("acme").await;
    let admin = app.member(&org, "admin@example.test", "admin").await;
    let body = json!({ "email": "x@example.test", "role": "owner" });
    app.post(&org.path("invitations"), &admin.token, body)
        .await
        .problem(403, "not-allowed");
    app.delete(&org.path("members/owner@acme.test"), &admin.token)
        .await
        .problem(403, "not-allowed");
    app.call(
        "PATCH",
        &org.path("members/admin@example.test"),
        &admin.token,
        Some(json!({ "role": "owner" })),
    )
    .await
    .problem(403, "not-allowed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn owners_are_made_and_removed_by_who_proved_lately_who_he_is() {
    let app = TestApp::start().await;
    let org = app.organization("acme").await;
    app.member(&org, "bob@example.test", "owner").await;
    app.member(&org, "eve@example.test", "member").await;
    let made = app
        .post("/v1/tokens", &org.owner.token, json!({ "name": "all" }))
        .await
        .ok(201);
    app.environment.advance(chrono::Duration::minutes(15));
    let (bob, eve) = (
        org.path("members/bob@example.test"),
        org.path("members/eve@example.test"),
    );
    let role = |role: &str| json!({ "role": role });
    let invite = json!({ "email": "x@example.test", "role": "owner" });
    for (token, slug) in [
        (org.owner.token.as_str(), "proof-required"),
        (made["secret"].as_str().unwrap(), "not-allowed"),
    ] {
        for (method, path, body) in [
            ("POST", &org.path("invitations"), Some(invite.clone())),
            ("PATCH", &eve, Some(role("owner"))),
            ("PATCH", &bob, Some(role("member"))),
            ("DELETE", &bob, None),
        ] {
            app.call(method, path, token, body).await.problem(403, slug);
        }
    }
    // Who is no owner is not guarded like that.
    app.call("PATCH", &eve, &org.owner.token, Some(role("admin")))
        .await
        .ok(200);
    app.delete(&eve, &org.owner.token).await.ok(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn another_invitation_of_an_address_takes_the_place_of_the_first() {
    let app = TestApp::start().await;
    let org = app.organization("acme").await;
    let ada = app.sign_up("ada@example.test").await;
    let invite = || {
        let body = json!({ "email": "ada@example.test" });
        app.post_owned(org.path("invitations"), org.owner.token.clone(), body)
    };
    let (first, second) = (invite().await.ok(201), invite().await.ok(201));
    let accept = |made: &serde_json::Value| {
        let body = json!({ "token": made["token"] });
        app.post_owned("/v1/invitations/accept".to_owned(), ada.token.clone(), body)
    };
    accept(&first).await.problem(410, "invitation-expired");
    accept(&second).await.ok(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_invitation_is_good_once_and_for_its_address_only() {
    let app = TestApp::start().await;
    let org = app.organization("acme").await;
    let (ada, eve) = (
        app.sign_up("ada@example.test").await,
        app.sign_up("eve@example.test").await,
    );
    let body = json!({ "email": "Ada@example.test", "role": "member" });
    let made = app.post(&org.path("invitations"), &org.owner.token, body).await.ok(201);
    let accept = json!({ "token": made["token"] });
    app.post("/v1/invitations/accept", &eve.token, accept.clone())
        .await
        .problem(403, "not-allowed");
    let joined = app
        .post("/v1/invitations/accept", &ada.token, accept.clone())
        .await
        .ok(200);
    assert_eq!(joined["name"], "acme");
    let again = app
        .post("/v1/invitations/accept", &ada.token, accept)
        .await
        .problem(410, "invitation-expired");
    assert_eq!(again["hint"], "ask an owner of `acme` for a new invitation");
    let listed = app.get(&org.path("invitations"), &org.owner.token).await.ok(200);
    assert_eq!(listed["items"][0]["state"], "accepted");
    assert!(listed["items"][0].get("token").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_expired_or_revoked_invitation_cannot_be_accepted() {
    let app = TestApp::start().await;
    let org = app.organization("acme").await;
    let ada = app.sign_up("ada@example.test").await;
    let body = json!({ "email": "ada@example.test" });
    let revoked = app
        .post(&org.path("invitations"), &org.owner.token, body.clone())
        .await
        .ok(201);
    let path = org.path(&format!("invitations/{}", revoked["id"].as_str().unwrap()));
    app.delete(&path, &org.owner.token).await.ok(204);
    let expired = app.post(&org.path("invitations"), &org.owner.token, body).await.ok(201);
    app.environment.advance(chrono::Duration::days(7));
    for invitation in [revoked, expired] {
        app.post(
            "/v1/invitations/accept",
            &ada.token,
            json!({ "token": invitation["token"] }),
        )
        .await
        .problem(410, "invitation-expired");
    }
    app.post(
        "/v1/invitations/accept",
        &ada.token,
        json!({ "token": "hwd_inv_nonsense" }),
    )
    .await
    .problem(422, "invalid");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn who_is_removed_loses_teams_and_grants() {
    let app = TestApp::start().await;
    let org = app.organization("acme").await;
    let bob = app.member(&org, "bob@example.test", "member").await;
    app.post(&org.path("teams"), &org.owner.token, json!({ "name": "labelers" }))
        .await
        .ok(201);
    app.call(
        "PUT",
        &org.path("teams/labelers/members/bob@example.test"),
        &org.owner.token,
        None,
    )
    .await
    .ok(200);
    let grant = json!({ "subject": "user:bob@example.test", "role": "viewer", "resource": "org" });
    app.post(&org.path("grants"), &org.owner.token, grant).await.ok(201);
    let teams = app.get(&org.path("teams"), &bob.token).await.ok(200);
    assert_eq!(teams["items"][0]["members"], json!(["bob@example.test"]));

    app.delete(&org.path("members/bob@example.test"), &org.owner.token)
        .await
        .ok(200);
    let snapshot = app.snapshot(&org).await;
    assert_eq!(snapshot.members.len(), 1);
    assert!(snapshot.grants.is_empty());
    assert!(snapshot.teams[0].members.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn lists_are_paged_and_every_row_is_shown_once() {
    let app = TestApp::start().await;
    let org = app.organization("acme").await;
    for at in 0..5 {
        let body = json!({ "name": format!("team-{at}") });
        app.post(&org.path("teams"), &org.owner.token, body).await.ok(201);
    }
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = app
            .get(&org.path(&format!("teams?limit=2{cursor}")), &org.owner.token)
            .await
            .ok(200);
        seen.extend(page["items"].as_array().unwrap().iter().map(|t| t["name"].to_string()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen.len(), 5);
    let member = app.member(&org, "ada@example.test", "member").await;
    for (list, token) in [("teams", &member.token), ("members", &org.owner.token)] {
        app.get(&org.path(&format!("{list}?limit=2{cursor}")), token)
            .await
            .problem(400, "malformed");
    }
    for limit in [0, 201] {
        app.get(&org.path(&format!("teams?limit={limit}")), &org.owner.token)
            .await
            .problem(400, "malformed");
    }
}
