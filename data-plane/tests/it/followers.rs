//! Inputs with a `trigger`: the pipeline reads a branch of its own that follows the one that the input names.

use contract::api::{Branch, Commit, Job, Page, Pipeline, Repo};
use contract::policy::Role;
use contract::problem::ProblemKind;
use serde_json::{Value, json};

use crate::app::{App, Person, Reply};

const BRANCHES: &str = "/v1/projects/default/repos/r/branches";

async fn apply(app: &App, person: &Person, trigger: Option<Value>) -> Reply {
    let mut pfs = json!({"repo": "r", "branch": "staging", "glob": "/*"});
    if let Some(trigger) = trigger {
        pfs["trigger"] = trigger;
    }
    let spec = json!({"pipeline": {"name": "p"}, "transform": {"cmd": ["true"]}, "input": {"pfs": pfs}});
    app.post(person, "/v1/pipelines", json!({ "specs": [spec] })).await
}

async fn put(app: &App, person: &Person) -> Commit {
    let name = app.environment.id::<contract::ids::CommitId>().to_string();
    app.put_with(person, "repo=r&branch=staging", &[(&name, b"x")])
        .await
        .json()
}

async fn branches(app: &App, person: &Person) -> Vec<String> {
    let page: Page<Branch> = app.get(person, BRANCHES).await.json();
    page.items.into_iter().map(|b| b.name.to_string()).collect()
}

async fn jobs(app: &App, person: &Person) -> Vec<Job> {
    app.all(person, "/v1/jobs?pipeline=p").await
}

#[tokio::test]
async fn a_pipeline_runs_when_the_trigger_of_its_input_fires_and_its_branch_goes_with_it() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    put(&app, &ada).await;
    apply(&app, &ada, Some(json!({"commits": 2}))).await.ok();
    let names = branches(&app, &ada).await;
    assert_eq!((names.len(), names[0].as_str()), (2, "staging"));
    assert!(names[1].starts_with("trigger-"), "{names:?}");
    assert!(jobs(&app, &ada).await.is_empty(), "one commit is not enough");
    let second = put(&app, &ada).await;
    let ran = jobs(&app, &ada).await;
    assert_eq!((ran.len(), ran[0].commit_set), (1, second.commit_set));
    put(&app, &ada).await;
    assert_eq!(jobs(&app, &ada).await.len(), 1);
    // Changed, it goes on from what it has followed; with one commit waiting it fires at once.
    apply(&app, &ada, Some(json!({"commits": 1}))).await.ok();
    assert_eq!(jobs(&app, &ada).await.len(), 2);
    // Without a trigger the pipeline reads the branch itself.
    apply(&app, &ada, None).await.ok();
    assert_eq!(branches(&app, &ada).await, ["staging"]);
    apply(&app, &ada, Some(json!({"size": "1G"}))).await.ok();
    app.delete(&ada, "/v1/pipelines/default/p").await.ok();
    assert_eq!(branches(&app, &ada).await, ["staging"]);
}

#[tokio::test]
async fn a_trigger_needs_what_its_pipeline_needs_and_no_right_to_write() {
    let app = App::start().await;
    let (ada, bob) = (app.member("ada").await, app.member("bob").await);
    let r = app.repo(&ada, "r").await;
    put(&app, &ada).await;
    apply(&app, &bob, Some(json!({"commits": 1})))
        .await
        .refused(ProblemKind::NotFound);
    let grant = app.grant(&bob, Role::Viewer, &r).await;
    apply(&app, &bob, Some(json!({"commits": 1})))
        .await
        .refused(ProblemKind::NotAllowed);
    let derive = app.grant(&bob, Role::Deriver, &r).await;
    apply(&app, &bob, Some(json!({"commits": 1}))).await.ok();
    assert_eq!(jobs(&app, &bob).await.len(), 1);
    app.revoke(derive).await;
    put(&app, &ada).await;
    assert_eq!(
        jobs(&app, &bob).await.len(),
        1,
        "who applied it may not derive any more"
    );
    app.revoke(grant).await;

    // What a pipeline writes has no triggers.
    let own = json!({"pipeline": {"name": "q"}, "transform": {"cmd": ["true"]},
        "input": {"pfs": {"repo": "p", "glob": "/*", "trigger": {"commits": 1}}}});
    app.post(&bob, "/v1/pipelines", json!({"specs": [own]}))
        .await
        .refused(ProblemKind::Invalid);
}

#[tokio::test]
async fn a_trigger_that_follows_another_branch_forgets_the_old_ones_data() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    put(&app, &ada).await;
    apply(&app, &ada, Some(json!({"branch": "staging", "commits": 1})))
        .await
        .ok();
    assert_eq!(jobs(&app, &ada).await.len(), 1);
    let other = json!({"pipeline": {"name": "p"}, "transform": {"cmd": ["true"]},
        "input": {"pfs": {"repo": "r", "glob": "/*", "trigger": {"branch": "prod", "commits": 1}}}});
    app.post(&ada, "/v1/pipelines", json!({"specs": [other]})).await.ok();
    put(&app, &ada).await;
    assert_eq!(jobs(&app, &ada).await.len(), 1, "staging is not what it follows");
    let prod: Commit = app.put_with(&ada, "repo=r&branch=prod", &[("x", b"1")]).await.json();
    let ran = jobs(&app, &ada).await;
    assert_eq!((ran.len(), ran[0].commit_set), (2, prod.commit_set));
    // An input in front changes neither the branch nor what it has followed.
    let before = branches(&app, &ada).await;
    let two = json!({"pipeline": {"name": "p"}, "transform": {"cmd": ["true"]}, "input": {"union": [
        {"pfs": {"repo": "r", "name": "first", "branch": "staging", "glob": "/*"}},
        {"pfs": {"repo": "r", "glob": "/*", "trigger": {"branch": "prod", "commits": 1}}}]}});
    app.post(&ada, "/v1/pipelines", json!({"specs": [two]})).await.ok();
    assert_eq!(branches(&app, &ada).await, before);
    assert_eq!(jobs(&app, &ada).await.len(), 3, "both have a head");
}

#[tokio::test]
async fn the_branch_of_a_trigger_tells_nobody_of_its_pipeline_and_the_repos_owner_may_delete_it() {
    let app = App::start().await;
    let (ada, bob, eve) = (
        app.member("ada").await,
        app.member("bob").await,
        app.member("eve").await,
    );
    let r = app.repo(&ada, "r").await;
    put(&app, &ada).await;
    app.grant(&bob, Role::Deriver, &r).await;
    app.grant(&eve, Role::Viewer, &r).await;
    apply(&app, &bob, Some(json!({"commits": 1}))).await.ok();
    assert_eq!(branches(&app, &eve).await, ["staging"]);
    let repo: Repo = app.get(&eve, "/v1/projects/default/repos/r").await.json();
    assert_eq!(repo.branches.len(), 1);
    let made = branches(&app, &bob).await[1].clone();
    assert!(!made.contains('p'), "{made}");
    let path = format!("{BRANCHES}/{made}");
    app.delete(&eve, &path).await.refused(ProblemKind::NotAllowed);
    app.delete(&ada, &path).await.ok();
    let p: Pipeline = app.get(&bob, "/v1/pipelines/default/p").await.json();
    assert!(p.reason.unwrap().contains("apply the pipeline again"));
    put(&app, &ada).await;
    assert_eq!(jobs(&app, &bob).await.len(), 1);
    apply(&app, &bob, Some(json!({"commits": 1}))).await.ok();
    assert_eq!(branches(&app, &bob).await.len(), 2);
    assert_eq!(jobs(&app, &bob).await.len(), 2);

    // A branch that follows what the input reads is nothing for it to follow.
    app.grant(&bob, Role::Contributor, &r).await;
    let circle = json!({"name": "behind", "trigger": {"branch": made, "commits": 1}});
    app.post(&bob, BRANCHES, circle).await.ok();
    apply(&app, &bob, Some(json!({"commits": 1, "branch": "staging"})))
        .await
        .ok();
    let spec = json!({"pipeline": {"name": "p"}, "transform": {"cmd": ["true"]},
        "input": {"pfs": {"repo": "r", "glob": "/*", "trigger": {"branch": "behind", "commits": 1}}}});
    app.post(&bob, "/v1/pipelines", json!({"specs": [spec]}))
        .await
        .refused(ProblemKind::Invalid);
}
