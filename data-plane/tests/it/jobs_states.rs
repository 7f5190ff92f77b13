//! The states of pipelines, each with a reason that a person can act on.

use contract::api::{Pipeline, PipelineState};
use contract::policy::Role;
use serde_json::{Value, json};

use crate::jobs_rig::{LIMIT, Person, Rig, shell, succeeded};

async fn pipeline(rig: &Rig, person: &Person, name: &str) -> Pipeline {
    rig.get(person, &format!("/v1/pipelines/default/{name}")).await
}

async fn becomes(rig: &Rig, person: &Person, name: &str, state: PipelineState) -> Pipeline {
    testkit::wait::wait_until("the pipeline's state", LIMIT, async || {
        pipeline(rig, person, name).await.state == state
    })
    .await;
    pipeline(rig, person, name).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_is_starting_until_its_first_job_has_datums_and_says_what_it_waits_for() {
    let rig = Rig::start().await;
    let (ada, bob) = (rig.member("ada").await, rig.member("bob").await);
    rig.repo(&ada, "in").await;
    let gated = "until [ -e /pfs/in/go ]; do sleep 0.1; done";
    rig.apply(&ada, vec![shell("p", "in", "/", "true"), shell("q", "p", "/", "true")])
        .await;
    let waiting = pipeline(&rig, &ada, "p").await;
    assert_eq!(waiting.state, PipelineState::Starting);
    assert!(
        waiting.reason.clone().unwrap().contains("`in` has no commit"),
        "{waiting:?}"
    );
    // Who may not know of the input is not told its name.
    rig.grant(&bob, Role::Discoverer, "p");
    let shown = pipeline(&rig, &bob, "p").await;
    assert_eq!(shown.state, PipelineState::Starting);
    assert!(!shown.reason.clone().unwrap().contains("`in`"), "{shown:?}");

    let set = rig.put(&ada, "in", &[("a", "1")]).await.commit_set;
    succeeded(&rig.job(&ada, set, "q").await, 0, 0, 0);
    for name in ["p", "q"] {
        let shown = pipeline(&rig, &ada, name).await;
        assert_eq!((shown.state, shown.reason), (PipelineState::Running, None));
    }
    // A new version starts anew: its reader's first job waits for the output that is being made.
    let specs = vec![shell("p", "in", "/", gated), shell("r", "p", "/", "true")];
    rig.apply(&ada, specs).await;
    becomes(&rig, &ada, "p", PipelineState::Running).await;
    let next = pipeline(&rig, &ada, "r").await;
    assert_eq!(next.state, PipelineState::Starting);
    assert!(next.reason.unwrap().contains("waits until its inputs are finished"));
    let stopped: Pipeline = rig.post(&ada, "/v1/pipelines/default/r/stop", json!({})).await;
    assert_eq!(stopped.state, PipelineState::Paused);
    assert!(stopped.reason.unwrap().contains("stopped by"));
    let _: Value = rig.post(&ada, "/v1/pipelines/default/p/stop", json!({})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_with_autoscaling_stands_by_while_it_has_nothing_to_do() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    rig.put(&ada, "in", &[("a", "1")]).await;
    let mut spec = shell("p", "in", "/*", "if [ -e /pfs/in/wait ]; then sleep 3600; fi");
    spec["autoscaling"] = json!(true);
    let set = rig.apply(&ada, vec![spec]).await[0].commit_set.unwrap();
    succeeded(&rig.job(&ada, set, "p").await, 1, 1, 0);
    let shown = pipeline(&rig, &ada, "p").await;
    assert_eq!(shown.state, PipelineState::Standby);
    assert!(shown.reason.unwrap().contains("new data"));
    rig.put(&ada, "in", &[("wait", "1")]).await;
    becomes(&rig, &ada, "p", PipelineState::Running).await;
    let job = rig.jobs(&ada, "p").await[0].id;
    let _: Value = rig.post(&ada, &format!("/v1/jobs/{job}/stop"), json!({})).await;
    becomes(&rig, &ada, "p", PipelineState::Standby).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_pipeline_says_why_and_works_again_after_a_job_that_succeeds() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    rig.put(&ada, "in", &[("a", "1")]).await;
    let mut spec = shell("p", "in", "/*", "exit 3");
    spec["datum_tries"] = json!(1);
    let set = rig.apply(&ada, vec![spec]).await[0].commit_set.unwrap();
    rig.settle(&ada, set).await;
    let failed = becomes(&rig, &ada, "p", PipelineState::Failure).await;
    assert!(failed.reason.is_some(), "{failed:?}");
    let set = rig.apply(&ada, vec![shell("p", "in", "/*", "true")]).await[0]
        .commit_set
        .unwrap();
    rig.settle(&ada, set).await;
    let works = becomes(&rig, &ada, "p", PipelineState::Running).await;
    assert_eq!(works.reason, None);
}
