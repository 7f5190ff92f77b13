//! What pipeline specs begin with.

use contract::api::{AppliedPipeline, Pipeline};
use contract::policy::OrganizationRole;
use contract::problem::ProblemKind;
use serde_json::{Value, json};

use crate::app::{App, Person, Reply};

async fn set(app: &App, person: &Person, of: &str, value: Value) -> Reply {
    let body = axum::body::Body::from(value.to_string());
    app.call(person, "PUT", &format!("/v1/defaults{of}"), body).await
}

async fn apply(app: &App, person: &Person, spec: &Value, dry_run: bool) -> AppliedPipeline {
    let body = json!({"specs": [spec], "dry_run": dry_run});
    let answer: Value = app.post(person, "/v1/pipelines", body).await.json();
    serde_json::from_value(answer["items"][0].clone()).unwrap()
}

#[tokio::test]
async fn a_spec_stands_above_its_projects_defaults_and_those_above_the_organizations() {
    let app = App::start().await;
    let root = app.member_as("root", OrganizationRole::Owner).await;
    app.repo(&root, "in").await;
    let spec = json!({"pipeline": {"name": "p"}, "transform": {"cmd": ["true"]}, "metadata": {"C": "spec"},
        "input": {"pfs": {"repo": "in", "glob": "/*"}}});
    apply(&app, &root, &spec, false).await;
    let organization =
        json!({"datum_tries": 1, "metadata": {"A": "organization", "B": "organization", "C": "organization"}});
    set(&app, &root, "", organization.clone()).await.ok();
    let project = json!({"datumTries": 2, "metadata": {"B": "project"}});
    set(&app, &root, "?project=default", project).await.ok();
    let shown: Value = app.get(&root, "/v1/defaults").await.json();
    assert_eq!(shown, organization);
    // What is there stays until it is applied again.
    let before: Pipeline = app.get(&root, "/v1/pipelines/default/p").await.json();
    assert_eq!(before.spec, spec);
    let dry = apply(&app, &root, &spec, true).await;
    assert_eq!(dry.differences, ["/datum_tries", "/metadata/A", "/metadata/B"]);
    apply(&app, &root, &spec, false).await;
    let after: Pipeline = app.get(&root, "/v1/pipelines/default/p").await.json();
    assert_eq!(after.spec["datumTries"], 2);
    assert_eq!(
        after.spec["metadata"],
        json!({"A": "organization", "B": "project", "C": "spec"})
    );
    assert_eq!(apply(&app, &root, &spec, false).await.change, "unchanged");
    set(&app, &root, "?project=default", json!({})).await.ok();
    assert_eq!(
        apply(&app, &root, &spec, true).await.differences,
        ["/datum_tries", "/metadata/B"]
    );
    // A mistake in the spec is one with defaults too.
    let mut twice = spec.clone();
    twice["datum_tries"] = json!(4);
    twice["datumTries"] = json!(5);
    let body = json!({"specs": [twice], "dry_run": true});
    let problem = app
        .post(&root, "/v1/pipelines", body)
        .await
        .refused(ProblemKind::Invalid);
    assert!(problem.detail.contains("the same field"), "{}", problem.detail);
}

#[tokio::test]
async fn defaults_are_checked_when_they_are_set_and_set_by_who_manages() {
    let app = App::start().await;
    let (root, ada) = (
        app.member_as("root", OrganizationRole::Admin).await,
        app.member("ada").await,
    );
    let problem = set(&app, &root, "", json!({"datum_trys": 1, "input": {}}))
        .await
        .refused(ProblemKind::Invalid);
    assert_eq!(problem.errors[0].pointer, "/input");
    set(&app, &root, "?project=none", json!({}))
        .await
        .refused(ProblemKind::NotFound);
    for of in ["", "?project=default"] {
        set(&app, &ada, of, json!({})).await.refused(ProblemKind::NotAllowed);
    }
    app.get(&ada, "/v1/defaults").await.ok();
    // Who manages an organization puts no code into the pipelines of others, and opens no way out for it.
    for value in [
        json!({"transform": {"err_cmd": ["sh", "-c", "cat /pfs/in/*"]}}),
        json!({"Transform": {"env": {"LD_PRELOAD": "x"}}}),
        json!({"network": "internet"}),
        json!({"max_origins": ["secret"]}),
    ] {
        set(&app, &root, "", value).await.refused(ProblemKind::Invalid);
    }
}

#[tokio::test]
async fn a_token_sees_the_defaults_of_projects_that_it_reaches() {
    let app = App::start().await;
    let root = app.member_as("root", OrganizationRole::Owner).await;
    app.post(&root, "/v1/projects", json!({"name": "vision"})).await.ok();
    set(&app, &root, "?project=vision", json!({"datum_tries": 2}))
        .await
        .ok();
    let narrow = app.scoped(&root, &["read:project:default"]);
    app.get(&narrow, "/v1/defaults?project=vision")
        .await
        .refused(ProblemKind::NotFound);
    app.get(&narrow, "/v1/defaults?project=default").await.ok();
    let reaching = app.scoped(&root, &["read:project:vision"]);
    app.get(&reaching, "/v1/defaults?project=vision").await.ok();
}

#[tokio::test]
async fn a_project_is_deleted_with_its_defaults() {
    let app = App::start().await;
    let root = app.member_as("root", OrganizationRole::Owner).await;
    app.post(&root, "/v1/projects", json!({"name": "vision"})).await.ok();
    set(&app, &root, "?project=vision", json!({"datum_tries": 2}))
        .await
        .ok();
    app.delete(&root, "/v1/projects/vision").await.ok();
    app.get(&root, "/v1/defaults?project=vision")
        .await
        .refused(ProblemKind::NotFound);
}
