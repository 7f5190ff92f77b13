//! Branches that follow others by triggers: when they do, what runs then, what is refused.

use chrono::Duration;
use contract::api::{Branch, Commit, Job, Page};
use contract::policy::Role;
use contract::problem::ProblemKind;
use data_plane::branches::triggers;
use serde_json::{Value, json};

use crate::app::{App, Person, Reply};

const BRANCHES: &str = "/v1/projects/default/repos/r/branches";

async fn follow(app: &App, person: &Person, name: &str, trigger: Value) -> Reply {
    app.post(person, BRANCHES, json!({"name": name, "trigger": trigger}))
        .await
}

async fn branch(app: &App, person: &Person, name: &str) -> Branch {
    let page: Page<Branch> = app.get(person, BRANCHES).await.json();
    let found = page.items.into_iter().find(|b| b.name.as_str() == name);
    found.unwrap_or_else(|| panic!("no branch {name}"))
}

async fn put(app: &App, person: &Person, size: usize) -> Commit {
    let name = app.environment.id::<contract::ids::CommitId>().to_string();
    app.put_with(person, "repo=r&branch=staging", &[(&name, &vec![b'x'; size])])
        .await
        .json()
}

fn spec(name: &str, branch: &str) -> Value {
    json!({"specs": [{"pipeline": {"name": name}, "transform": {"cmd": ["true"]},
        "input": {"pfs": {"repo": "r", "branch": branch, "glob": "/*"}}}]})
}

#[tokio::test]
async fn a_branch_follows_by_commits_or_size_and_its_pipelines_run_in_the_same_set() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    follow(&app, &ada, "by-two", json!({"branch": "staging", "commits": 2}))
        .await
        .ok();
    let made: Branch = follow(&app, &ada, "by-size", json!({"branch": "staging", "size_bytes": 1000}))
        .await
        .json();
    assert_eq!(made.trigger.unwrap().on.size_bytes, Some(1000));
    follow(&app, &ada, "behind", json!({"branch": "by-two", "commits": 1}))
        .await
        .ok();
    app.post(&ada, "/v1/pipelines", spec("p", "behind")).await.ok();

    put(&app, &ada, 10).await;
    assert_eq!(branch(&app, &ada, "by-two").await.head, None);
    let second = put(&app, &ada, 10).await;
    for name in ["by-two", "behind"] {
        let found = branch(&app, &ada, name).await;
        assert_eq!(found.head, Some(second.id), "{name}");
        assert!(found.trigger.unwrap().fired_at.is_some(), "{name}");
    }
    let jobs: Page<Job> = app.get(&ada, "/v1/jobs?pipeline=p").await.json();
    assert_eq!((jobs.items.len(), jobs.items[0].commit_set), (1, second.commit_set));
    assert_eq!(branch(&app, &ada, "by-size").await.head, None);
    let third = put(&app, &ada, 1000).await;
    assert_eq!(branch(&app, &ada, "by-size").await.head, Some(third.id));
    assert_eq!(branch(&app, &ada, "by-two").await.head, Some(second.id));

    // A watched branch that is moved is followed too; one with an open commit stays.
    let open = app
        .post(&ada, "/v1/commits", json!({"repo": "r", "branch": "by-two"}))
        .await;
    let open: Commit = open.json();
    put(&app, &ada, 1).await;
    assert_eq!(branch(&app, &ada, "by-two").await.head, Some(open.id));
    app.post(&ada, "/v1/commits/finish?ref=r@by-two", json!({})).await.ok();
    let last = put(&app, &ada, 1).await;
    assert_eq!(branch(&app, &ada, "by-two").await.head, Some(last.id));
    app.delete(&ada, &format!("{BRANCHES}/by-two")).await.ok();
    put(&app, &ada, 1).await;
}

#[tokio::test]
async fn a_schedule_moves_its_branch_at_its_ticks_and_only_when_something_is_new() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    follow(&app, &ada, "hourly", json!({"branch": "staging", "cron": "0 * * * *"}))
        .await
        .ok();
    let all = json!({"branch": "staging", "cron": "0 * * * *", "commits": 2, "all": true});
    follow(&app, &ada, "both", all).await.ok();
    app.post(&ada, "/v1/pipelines", spec("p", "hourly")).await.ok();
    let first = put(&app, &ada, 1).await;
    triggers::tick(&app.plane).await.unwrap();
    assert_eq!(branch(&app, &ada, "hourly").await.head, None, "no hour has struck");

    app.pass(Duration::hours(1)).await;
    triggers::tick(&app.plane).await.unwrap();
    assert_eq!(branch(&app, &ada, "hourly").await.head, Some(first.id));
    assert_eq!(branch(&app, &ada, "both").await.head, None);
    let jobs: Page<Job> = app.get(&ada, "/v1/jobs?pipeline=p").await.json();
    assert_eq!(jobs.items.len(), 1);
    let fired = branch(&app, &ada, "hourly").await.trigger.unwrap().fired_at;
    app.pass(Duration::hours(1)).await;
    triggers::tick(&app.plane).await.unwrap();
    let same = branch(&app, &ada, "hourly").await.trigger.unwrap().fired_at;
    assert_eq!(same, fired, "nothing was new");
    // The tick came before, so the commit is followed at once.
    let second = put(&app, &ada, 1).await;
    for name in ["hourly", "both"] {
        assert_eq!(branch(&app, &ada, name).await.head, Some(second.id), "{name}");
    }
}

#[tokio::test]
async fn a_schedule_of_somebody_who_may_not_write_waits_until_he_may() {
    let app = App::start().await;
    let (ada, eve) = (app.member("ada").await, app.member("eve").await);
    let r = app.repo(&ada, "r").await;
    let grant = app.grant(&eve, Role::Contributor, &r).await;
    follow(&app, &eve, "hourly", json!({"branch": "staging", "cron": "0 * * * *"}))
        .await
        .ok();
    let first = put(&app, &ada, 1).await;
    app.revoke(grant).await;
    app.pass(Duration::hours(1)).await;
    for _ in 0..2 {
        triggers::tick(&app.plane).await.unwrap();
        let hourly = branch(&app, &ada, "hourly").await;
        assert_eq!(hourly.head, None);
        assert!(hourly.trigger.unwrap().reason.unwrap().contains("may not write"));
    }
    app.grant(&eve, Role::Contributor, &r).await;
    triggers::tick(&app.plane).await.unwrap();
    let hourly = branch(&app, &ada, "hourly").await;
    assert_eq!((hourly.head, hourly.trigger.unwrap().reason), (Some(first.id), None));
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_and_leaves_no_branch() {
    let app = App::start().await;
    let (ada, bob) = (app.member("ada").await, app.member("bob").await);
    let r = app.repo(&ada, "r").await;
    for (trigger, kind) in [
        (json!({"branch": "staging"}), ProblemKind::Invalid),
        (json!({"branch": "staging", "cron": "hourly"}), ProblemKind::Invalid),
        (json!({"branch": "staging", "cron": "0 0 30 2 *"}), ProblemKind::Invalid),
        (json!({"branch": "staging", "cron": "never"}), ProblemKind::Invalid),
        (json!({"branch": "x", "commits": 1}), ProblemKind::Conflict),
    ] {
        follow(&app, &ada, "x", trigger).await.refused(kind);
    }
    follow(&app, &ada, "a", json!({"branch": "b", "commits": 1, "cron": "@daily"}))
        .await
        .ok();
    follow(&app, &ada, "b", json!({"branch": "a", "commits": 1}))
        .await
        .refused(ProblemKind::Conflict);
    let page: Page<Branch> = app.get(&ada, BRANCHES).await.json();
    assert_eq!(page.items.len(), 1);
    app.grant(&bob, Role::Viewer, &r).await;
    follow(&app, &bob, "c", json!({"branch": "a", "commits": 1}))
        .await
        .refused(ProblemKind::NotAllowed);
}

#[tokio::test]
async fn a_trigger_brings_pipelines_nothing_that_its_setter_may_not_derive_from() {
    let app = App::start().await;
    let (ada, eve) = (app.member("ada").await, app.member("eve").await);
    let r = app.repo(&ada, "r").await;
    let secret = app.repo(&ada, "secret").await;
    app.put(&ada, "secret", &[("plan", b"x")]).await.ok();
    app.grant(&eve, Role::Contributor, &r).await;
    follow(&app, &eve, "fed", json!({"branch": "staging", "commits": 1}))
        .await
        .ok();
    follow(&app, &eve, "unread", json!({"branch": "staging", "commits": 1}))
        .await
        .ok();
    app.post(&eve, "/v1/pipelines", spec("mine", "fed")).await.ok();
    let open = put(&app, &eve, 1).await;
    assert_eq!(branch(&app, &ada, "fed").await.head, Some(open.id));

    let body = json!({"from_ref": "secret", "from_path": "/plan", "repo": "r", "branch": "staging", "path": "/plan"});
    let copied: Commit = app.post(&ada, "/v1/copies", body).await.json();
    assert_eq!(branch(&app, &ada, "unread").await.head, Some(copied.id));
    let fed = branch(&app, &ada, "fed").await;
    assert_eq!(fed.head, Some(open.id));
    assert!(fed.trigger.unwrap().reason.unwrap().contains("may not derive"));
    app.grant(&eve, Role::Deriver, &secret).await;
    let next = put(&app, &ada, 1).await;
    let fed = branch(&app, &ada, "fed").await;
    assert_eq!((fed.head, fed.trigger.unwrap().reason), (Some(next.id), None));
}
