//! The access rule on every route of versioned data.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use contract::api::{Branch, Commit, Decision, Evidence, Explanation, Lineage, Page, Reader};
use contract::policy::{OrganizationRole, Role};
use contract::problem::ProblemKind;
use serde_json::json;

use crate::app::App;

#[tokio::test]
async fn what_may_not_be_known_is_answered_as_if_it_had_never_been() {
    let app = App::start().await;
    let (ada, bob) = (app.member("ada").await, app.member("bob").await);
    app.repo(&ada, "hidden").await;
    let commit: Commit = app.put(&ada, "hidden", &[("a", b"1")]).await.json();
    let id = commit.id.to_string();
    for uri in [
        "/v1/projects/default/repos/REPO".to_owned(),
        "/v1/projects/default/repos/REPO/branches".to_owned(),
        "/v1/files?ref=REPO@main".to_owned(),
        format!("/v1/files?ref=REPO@{id}"),
        "/v1/content?ref=REPO&path=/a".to_owned(),
        "/v1/log?ref=REPO".to_owned(),
        "/v1/provenance?ref=REPO".to_owned(),
        "/v1/evidence?ref=REPO".to_owned(),
        "/v1/manifest?ref=REPO".to_owned(),
        "/v1/access/explain?ref=REPO".to_owned(),
        "/v1/diff?a=REPO&b=REPO".to_owned(),
    ] {
        let mut answers = Vec::new();
        for name in ["hidden", "nowhere"] {
            let reply = app
                .send(
                    Request::get(uri.replace("REPO", name))
                        .header("authorization", format!("Bearer {}", bob.token))
                        .header("x-request-id", "same")
                        .body(Body::empty())
                        .unwrap(),
                )
                .await;
            answers.push((reply.status, format!("{:?}", reply.headers), reply.text()));
        }
        assert_eq!(answers[0].0, StatusCode::NOT_FOUND, "{uri}");
        assert_eq!(answers[0], answers[1], "{uri}");
    }
}

#[tokio::test]
async fn a_copy_needs_everything_it_was_made_from_and_the_explanation_says_what_is_missing() {
    let app = App::start().await;
    let (ada, bob) = (app.member("ada").await, app.member("bob").await);
    let secret = app.repo(&ada, "secret").await;
    let shared = app.repo(&ada, "shared").await;
    app.put(&ada, "secret", &[("plan", b"x")]).await.ok();
    let before: Commit = app.put(&ada, "shared", &[("a", b"1")]).await.json();
    app.grant(&bob, Role::Viewer, &shared).await;
    app.cat(&bob, "shared", "a").await.ok();

    let copy = json!({"from_ref": "secret", "from_path": "/plan", "repo": "shared", "path": "/plan"});
    app.post(&ada, "/v1/copies", copy).await.ok();
    app.put(&ada, "shared", &[("later", b"2")]).await.ok();

    for uri in [
        "/v1/files?ref=shared",
        "/v1/archive?ref=shared",
        "/v1/log?ref=shared",
        "/v1/provenance?ref=shared",
    ] {
        let problem = app.get(&bob, uri).await.refused(ProblemKind::NotAllowed);
        assert!(problem.hint.unwrap().contains("howdah access explain"), "{uri}");
    }
    app.cat(&bob, "shared@main^2", "a").await.ok();
    let branches: Page<Branch> = app.get(&bob, "/v1/projects/default/repos/shared/branches").await.json();
    assert_eq!(branches.items[0].head, None);
    let log: Vec<Commit> = app.all(&bob, &format!("/v1/log?ref=shared@{}", before.id)).await;
    assert_eq!(log.len(), 1);

    let explanation: Explanation = app.get(&bob, "/v1/access/explain?ref=shared").await.json();
    assert_eq!(explanation.decision, Decision::Deny);
    assert!(explanation.missing[0].domain.starts_with("restricted upstream #"));
    app.grant(&bob, Role::Discoverer, &secret).await;
    let explanation: Explanation = app.get(&bob, "/v1/access/explain?ref=shared").await.json();
    let missing = &explanation.missing[0];
    assert_eq!(
        (missing.domain.as_str(), missing.who_can_grant.as_slice()),
        ("default/secret", &["ada".to_owned()][..])
    );
    assert!(
        missing.witness.first().unwrap().starts_with("default/secret@"),
        "{:?}",
        missing.witness
    );
    assert!(
        missing.witness.last().unwrap().starts_with("default/shared@"),
        "{:?}",
        missing.witness
    );

    app.grant(&bob, Role::Viewer, &secret).await;
    app.cat(&bob, "shared", "plan").await.ok();
    let explanation: Explanation = app.get(&bob, "/v1/access/explain?ref=shared").await.json();
    assert_eq!(explanation.decision, Decision::Allow);
    let lineage: Lineage = app.get(&bob, "/v1/provenance?ref=shared").await.json();
    assert_eq!(
        lineage.upstream.iter().map(|u| u.repo.as_str()).collect::<Vec<_>>(),
        ["secret"]
    );
    let impact: Lineage = app.get(&ada, "/v1/impact?ref=secret").await.json();
    assert_eq!(impact.upstream.len(), 2);
    let readers: Page<Reader> = app.get(&ada, "/v1/access/who-can-read?ref=shared").await.json();
    assert_eq!(
        readers.items.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(),
        ["ada", "bob"]
    );
}

#[tokio::test]
async fn hidden_ancestors_are_left_out_of_a_lineage_and_said_to_be_there() {
    let app = App::start().await;
    let (ada, bob) = (app.member("ada").await, app.member("bob").await);
    for name in ["a", "b", "c"] {
        app.repo(&ada, name).await;
    }
    app.put(&ada, "a", &[("f", b"1")]).await.ok();
    for (from, to) in [("a", "b"), ("b", "c")] {
        let copy = json!({"from_ref": from, "from_path": "/f", "repo": to, "path": "/f"});
        app.post(&ada, "/v1/copies", copy).await.ok();
    }
    let up: Lineage = app.get(&ada, "/v1/provenance?ref=c").await.json();
    let seen: Vec<_> = up.upstream.iter().map(|u| (u.repo.to_string(), u.depth)).collect();
    assert_eq!(
        (seen, up.restricted),
        (vec![("b".to_owned(), 1), ("a".to_owned(), 2)], false)
    );

    // Who may read `a` alone sees it, and nothing of what others made of it.
    let a: contract::api::Repo = app.get(&ada, "/v1/projects/default/repos/a").await.json();
    app.grant(&bob, Role::Viewer, &a).await;
    let down: Lineage = app.get(&bob, "/v1/impact?ref=a").await.json();
    assert_eq!((down.upstream.len(), down.restricted), (0, false));
    let down: Lineage = app.get(&ada, "/v1/impact?ref=a").await.json();
    assert_eq!((down.upstream.len(), down.restricted), (2, false));
}

#[tokio::test]
async fn a_scoped_token_reaches_no_further_than_its_scopes() {
    let app = App::start().await;
    let ada = app.member_as("ada", OrganizationRole::Owner).await;
    app.repo(&ada, "r").await;
    app.put(&ada, "r", &[("a", b"1")]).await.ok();
    let reader = app.scoped(&ada, &["read:default/r"]);
    app.cat(&reader, "r", "a").await.ok();
    app.put(&reader, "r", &[("a", b"2")])
        .await
        .refused(ProblemKind::NotAllowed);
    app.post(&reader, "/v1/projects/default/repos", json!({"name": "x"}))
        .await
        .refused(ProblemKind::NotAllowed);
    app.post(&reader, "/v1/projects", json!({"name": "x"}))
        .await
        .refused(ProblemKind::NotAllowed);
    let elsewhere = app.scoped(&ada, &["read:default/other"]);
    app.cat(&elsewhere, "r", "a").await.refused(ProblemKind::NotFound);
}

#[tokio::test]
async fn who_manages_the_organization_reads_nothing_by_that_and_checks_everything() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    let boss = app.member_as("boss", OrganizationRole::Owner).await;
    app.repo(&ada, "r").await;
    app.put(&ada, "r", &[("a", b"1")]).await.ok();
    let copy = json!({"from_ref": "r", "from_path": "/a", "repo": "r", "path": "/b"});
    app.post(&ada, "/v1/copies", copy).await.ok();
    app.cat(&boss, "r", "a").await.refused(ProblemKind::NotFound);
    let text = app.get(&boss, "/v1/fsck?deep=true").await.text();
    assert!(
        text.contains(r#""severity":"ok""#) && text.contains("2 commits checked"),
        "{text}"
    );
    sqlx::query("update commits set message = 'something else' where message = ''")
        .execute(&app.plane.pool)
        .await
        .unwrap();
    let text = app.get(&boss, "/v1/fsck").await.text();
    assert!(text.contains("digest") && text.contains("2 things are wrong"), "{text}");
}

#[tokio::test]
async fn evidence_of_what_people_changed_leads_on_to_what_was_copied_into_it_before() {
    let app = App::start().await;
    let (ada, bob) = (app.member("ada").await, app.member("bob").await);
    for name in ["a", "b"] {
        app.repo(&ada, name).await;
    }
    app.put(&ada, "a", &[("f", b"1")]).await.ok();
    let copy = json!({"from_ref": "a", "from_path": "/f", "repo": "b", "path": "/f"});
    app.post(&ada, "/v1/copies", copy).await.ok();
    app.put(&ada, "b", &[("g", b"2")]).await.ok();
    let evidence: Evidence = app.get(&ada, "/v1/evidence?ref=b").await.json();
    let repos: Vec<&str> = evidence.commits.iter().map(|commit| commit.repo.as_str()).collect();
    assert_eq!(repos.len(), 3, "{repos:?}");
    assert!(!evidence.restricted);
    for commit in &evidence.commits {
        let record = commit.record.as_ref().unwrap();
        assert_eq!(Some(record.digest()), commit.digest);
    }
    let of = |id| evidence.commits.iter().find(|commit| commit.commit == id).unwrap();
    let parent = of(evidence.commits[0]
        .record
        .as_ref()
        .unwrap()
        .parent
        .as_ref()
        .unwrap()
        .commit);
    assert!(parent.earlier && parent.repo.as_str() == "b");
    assert_eq!(of(parent.record.as_ref().unwrap().inputs[0].commit).repo.as_str(), "a");

    // What was copied into it before counts for who may be told.
    let b: contract::api::Repo = app.get(&ada, "/v1/projects/default/repos/b").await.json();
    app.grant(&bob, Role::Viewer, &b).await;
    app.get(&bob, "/v1/evidence?ref=b")
        .await
        .refused(ProblemKind::NotAllowed);
}
