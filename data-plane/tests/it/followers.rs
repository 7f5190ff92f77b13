//! Inputs with a `trigger`: the pipeline reads a branch of its own that follows the one that the input names.

use contract::api::{Branch, Commit, Job, Page, Pipeline};
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
    assert_eq!(branches(&app, &ada).await, ["p-trigger-1", "staging"]);
    assert!(jobs(&app, &ada).await.is_empty(), "one commit is not enough");
    let second = put(&app, &ada).await;
    let ran = jobs(&app, &ada).await;
    assert_eq!((ran.len(), ran[0].commit_set), (1, second.commit_set));
    put(&app, &ada).await;
    assert_eq!(jobs(&app, &ada).await.len(), 1);
    // Changed, it goes on from what it has followed; with one commit waiting it fires at once.
    apply(&app, &ada, Some(json!({"commits": 1}))).await.ok();
    assert_eq!(jobs(&app, &ada).await.len(), 2);
    app.delete(&ada, &format!("{BRANCHES}/p-trigger-1"))
        .await
        .refused(ProblemKind::Conflict);
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

    // A branch of that name that somebody made is nobody else's to move.
    app.post(&ada, BRANCHES, json!({"name": "q-trigger-1"})).await.ok();
    let spec = json!({"pipeline": {"name": "q"}, "transform": {"cmd": ["true"]},
        "input": {"pfs": {"repo": "r", "glob": "/*", "trigger": {"commits": 1}}}});
    app.post(&ada, "/v1/pipelines", json!({"specs": [spec]}))
        .await
        .refused(ProblemKind::AlreadyExists);
    let page: Page<Pipeline> = app.get(&ada, "/v1/pipelines").await.json();
    assert!(page.items.iter().all(|p| p.name.as_str() != "q"));
}
