//! What a run of a CI system writes names the run as its actor: in commits, pipelines and what they make, lineage and evidence.

use contract::api::{Commit, Evidence, EvidenceCommit, Lineage, Pipeline};
use contract::ci::{CiIdentity, CiProvider};
use contract::policy::{OrganizationRole, Role};
use serde_json::json;

use crate::app::App;

fn run() -> CiIdentity {
    CiIdentity {
        provider: CiProvider::Github,
        issuer: "https://ci.test".to_owned(),
        subject: "repo:acme/tiles:ref:refs/heads/main".to_owned(),
        trust: contract::ids::CiTrustId::generate(1, [7; 10]),
        repository: Some("acme/tiles".to_owned()),
        repository_id: Some("74".to_owned()),
        owner: Some("acme".to_owned()),
        owner_id: Some("65".to_owned()),
        reference: Some("refs/heads/main".to_owned()),
        sha: Some("10f2e6db".to_owned()),
        workflow: None,
        environment: None,
        run_id: Some("17".to_owned()),
        actor: Some("ada".to_owned()),
    }
}

#[tokio::test]
async fn what_a_ci_run_writes_names_the_run_and_its_record_covers_it() {
    let app = App::start().await;
    let owner = app.member_as("owner", OrganizationRole::Owner).await;
    let ada = app.member("ada").await;
    let ci = app.with_claims(&ada, |claims| claims.ci = Some(Box::new(run())));
    let data = app.repo(&ada, "data").await;
    app.put(&ada, "data", &[("a", b"1")]).await.ok();
    let by_run: Commit = app.put(&ci, "data", &[("b", b"2")]).await.json();
    assert_eq!(by_run.actor.ci.as_deref(), Some(&run()));
    let spec = json!({"pipeline": {"name": "p"}, "transform": {"cmd": ["true"]}, "input": {"pfs": {"repo": "data", "glob": "/*"}}});
    app.post(&ci, "/v1/pipelines", json!({"specs": [spec]})).await.ok();
    let pipeline: Pipeline = app.get(&ada, "/v1/pipelines/default/p").await.json();
    assert_eq!(pipeline.actor.ci.as_deref(), Some(&run()));

    // Lineage tells it to who may read, and nobody else.
    let lineage: Lineage = app.get(&ada, "/v1/provenance?ref=data@main").await.json();
    assert_eq!(lineage.ci.as_deref(), Some(&run()));
    assert!(lineage.upstream.iter().all(|step| step.ci.is_none()));
    let impact: Lineage = app.get(&ada, "/v1/impact?ref=data@main").await.json();
    assert_eq!(impact.upstream[0].ci.as_deref(), Some(&run()));
    let (bob, made) = (
        app.member("bob").await,
        app.get(&ada, "/v1/projects/default/repos/p").await.json(),
    );
    app.grant(&bob, Role::Viewer, &data).await;
    app.grant(&bob, Role::Discoverer, &made).await;
    let impact: Lineage = app.get(&bob, "/v1/impact?ref=data@main").await.json();
    assert_eq!((impact.upstream.len(), &impact.upstream[0].ci), (1, &None));

    // The digest covers the run, and that of a commit without one is what it was.
    let evidence: Evidence = app.get(&ada, "/v1/evidence?ref=data@main").await.json();
    let found = |commit: &EvidenceCommit| (commit.record.as_ref().unwrap().digest(), commit.digest.unwrap());
    for commit in &evidence.commits {
        let (computed, stored) = found(commit);
        assert_eq!(computed, stored);
    }
    let mut changed = evidence.commits[0].record.clone().unwrap();
    changed.actor.ci.as_mut().unwrap().run_id = Some("18".to_owned());
    assert_ne!(changed.digest(), evidence.commits[0].digest.unwrap());
    let checked = app.get(&owner, "/v1/fsck?deep=true").await.ok().text();
    assert!(!checked.contains("\"error\""), "{checked}");
}
