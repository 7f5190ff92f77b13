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
    let spec = json!({"pipeline": {"name": "p"}, "transform": {"cmd": ["true"], "env": {"C": "spec"}},
        "input": {"pfs": {"repo": "in", "glob": "/*"}}});
    apply(&app, &root, &spec, false).await;
    let organization = json!({"datum_tries": 1, "transform": {"env": {"A": "organization", "B": "organization", "C": "organization"}}});
    set(&app, &root, "", organization.clone()).await.ok();
    set(
        &app,
        &root,
        "?project=default",
        json!({"datumTries": 2, "transform": {"env": {"B": "project"}}}),
    )
    .await
    .ok();
    let shown: Value = app.get(&root, "/v1/defaults").await.json();
    assert_eq!(shown, organization);
    // What is there stays until it is applied again.
    let before: Pipeline = app.get(&root, "/v1/pipelines/default/p").await.json();
    assert_eq!(before.spec, spec);
    let dry = apply(&app, &root, &spec, true).await;
    assert_eq!(
        dry.differences,
        ["/datum_tries", "/transform/env/A", "/transform/env/B"]
    );
    apply(&app, &root, &spec, false).await;
    let after: Pipeline = app.get(&root, "/v1/pipelines/default/p").await.json();
    assert_eq!(after.spec["datumTries"], 2);
    assert_eq!(
        after.spec["transform"]["env"],
        json!({"A": "organization", "B": "project", "C": "spec"})
    );
    assert_eq!(apply(&app, &root, &spec, false).await.change, "unchanged");
    set(&app, &root, "?project=default", json!({})).await.ok();
    assert_eq!(
        apply(&app, &root, &spec, true).await.differences,
        ["/datum_tries", "/transform/env/B"]
    );
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
}
