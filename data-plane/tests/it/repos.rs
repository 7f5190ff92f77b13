//! Projects and repos.

use chrono::Duration;
use contract::api::{Page, Project, Repo};
use contract::policy::{OrganizationRole, Role};
use contract::problem::ProblemKind;
use serde_json::json;

use crate::app::App;

#[tokio::test]
async fn the_default_project_is_there_and_managers_make_others() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    let boss = app.member_as("boss", OrganizationRole::Admin).await;
    let projects = async || {
        app.all::<Project>(&ada, "/v1/projects?limit=1")
            .await
            .into_iter()
            .map(|p| p.name.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(projects().await, ["default"]);
    app.post(&ada, "/v1/projects", json!({"name": "vision"}))
        .await
        .refused(ProblemKind::NotAllowed);
    app.post(&boss, "/v1/projects", json!({"name": "vision"})).await.ok();
    app.post(&boss, "/v1/projects", json!({"name": "vision"}))
        .await
        .refused(ProblemKind::AlreadyExists);
    app.post(&boss, "/v1/projects", json!({"name": "a b"}))
        .await
        .refused(ProblemKind::Invalid);
    app.post(&boss, "/v1/projects", json!({"nome": "x"}))
        .await
        .refused(ProblemKind::Invalid);
    assert_eq!(projects().await, ["default", "vision"]);
    app.delete(&boss, "/v1/projects/vision").await.ok();
    app.delete(&boss, "/v1/projects/vision")
        .await
        .refused(ProblemKind::NotFound);
    app.delete(&boss, "/v1/projects/default")
        .await
        .refused(ProblemKind::Conflict);
    assert_eq!(projects().await, ["default"]);
}

#[tokio::test]
async fn whoever_makes_a_repo_owns_it_and_others_do_not_see_it() {
    let app = App::start().await;
    let (ada, bob) = (app.member("ada").await, app.member("bob").await);
    let repo = app.repo(&ada, "images").await;
    let again = json!({"name": "images"});
    app.post(&ada, "/v1/projects/default/repos", again)
        .await
        .refused(ProblemKind::AlreadyExists);
    assert!(app.all::<Repo>(&bob, "/v1/repos?limit=5").await.is_empty());
    app.grant(&bob, Role::Discoverer, &repo).await;
    let seen: Vec<Repo> = app.all(&bob, "/v1/repos?limit=5").await;
    assert_eq!(seen.iter().map(|r| r.id).collect::<Vec<_>>(), [repo.id]);
    let missing = json!({"name": "x"});
    app.post(&ada, "/v1/projects/none/repos", missing)
        .await
        .refused(ProblemKind::NotFound);
}

#[tokio::test]
async fn lists_are_filtered_before_they_are_paged_and_cursors_are_the_callers_own() {
    let app = App::start().await;
    let (ada, bob) = (app.member("ada").await, app.member("bob").await);
    for i in 0..6 {
        let repo = app.repo(&ada, &format!("r{i}")).await;
        if i % 3 == 0 {
            app.grant(&bob, Role::Viewer, &repo).await;
        }
    }
    let page: Page<Repo> = app.get(&bob, "/v1/repos?limit=1").await.json();
    assert_eq!(page.items.len(), 1);
    let cursor = page.next_cursor.unwrap();
    let page: Page<Repo> = app
        .get(&bob, &format!("/v1/repos?limit=1&cursor={cursor}"))
        .await
        .json();
    assert_eq!((page.items[0].name.as_str(), page.next_cursor.is_some()), ("r3", false));
    let stolen = app.get(&ada, &format!("/v1/repos?limit=1&cursor={cursor}")).await;
    stolen.refused(ProblemKind::Malformed);
    let elsewhere = app.get(&bob, &format!("/v1/projects?limit=1&cursor={cursor}")).await;
    elsewhere.refused(ProblemKind::Malformed);
}

#[tokio::test]
async fn a_deleted_repo_frees_its_name_and_is_kept_where_others_were_made_from_it() {
    let app = App::start().await;
    let (ada, bob) = (app.member("ada").await, app.member("bob").await);
    let from = app.repo(&ada, "from").await;
    app.repo(&ada, "to").await;
    app.put(&ada, "from", &[("a", b"1")]).await.ok();
    let copy = json!({"from_ref": "from", "from_path": "/a", "repo": "to", "path": "/a"});
    app.post(&ada, "/v1/copies", copy).await.ok();
    app.grant(&bob, Role::Contributor, &from).await;
    let uri = "/v1/projects/default/repos/from";
    app.delete(&bob, uri).await.refused(ProblemKind::NotAllowed);
    app.delete(&ada, uri).await.refused(ProblemKind::Conflict);
    app.delete(&ada, &format!("{uri}?force=true")).await.ok();
    app.get(&ada, uri).await.refused(ProblemKind::NotFound);
    let second = app.repo(&ada, "from").await;
    assert_ne!(second.id, from.id);
    app.cat(&ada, "to", "a").await.ok();
}

#[tokio::test]
async fn a_branch_at_a_time_is_what_it_looked_like_then_also_after_moves_and_deletion() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    for text in ["one", "two"] {
        app.pass(Duration::days(1)).await;
        app.put(&ada, "r", &[("f", text.as_bytes())]).await.ok();
    }
    let branches = "/v1/projects/default/repos/r/branches";
    app.post(&ada, branches, json!({"name": "side", "from": "r@main"}))
        .await
        .ok();
    app.pass(Duration::days(1)).await;
    app.patch(&ada, &format!("{branches}/side"), json!({"to": "r@main^"}))
        .await
        .ok();
    app.pass(Duration::days(1)).await;
    app.delete(&ada, &format!("{branches}/side")).await.ok();
    app.pass(Duration::days(1)).await;
    app.post(&ada, branches, json!({"name": "side", "from": "r@main"}))
        .await
        .ok();

    for (reference, expected) in [
        ("r@side", "two"),
        ("r@side@2d", "one"),
        ("r@side@3d", "two"),
        ("r@main@3d", "two"),
        ("r@main@4d", "one"),
    ] {
        assert_eq!(app.cat(&ada, reference, "f").await.text(), expected, "{reference}");
    }
    for nothing in ["r@side@1d", "r@side@4d", "r@main@9d"] {
        app.cat(&ada, nothing, "f").await.refused(ProblemKind::NotFound);
    }
}

#[tokio::test]
async fn of_two_who_make_one_name_at_once_one_gets_it_with_the_domain_that_lives() {
    let app = App::start().await;
    let (ada, bob) = (app.member("ada").await, app.member("bob").await);
    for name in ["a", "b", "c", "d"] {
        let body = json!({ "name": name });
        let (first, second) = tokio::join!(
            app.post(&ada, "/v1/projects/default/repos", body.clone()),
            app.post(&bob, "/v1/projects/default/repos", body),
        );
        assert_ne!(first.status.is_success(), second.status.is_success());
        let made: Vec<Repo> = [app.all(&ada, "/v1/repos").await, app.all(&bob, "/v1/repos").await].concat();
        let made = made.iter().find(|r| r.name.as_str() == name).unwrap();
        let mut live = Vec::new();
        app.control.change(|s| {
            let named = s.domains.iter().filter(|d| d.name.as_str() == name && !d.deleted);
            live.extend(named.map(|d| d.id));
        });
        assert_eq!(live, [made.id]);
    }
}
