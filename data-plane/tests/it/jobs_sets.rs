//! Commit sets through graphs of pipelines: one commit for each repo, in order, and what holds back or breaks.

use contract::api::{Branch, Commit, CommitState, JobState};
use serde_json::json;

use crate::jobs_rig::{Rig, finished, shell, succeeded};

const COPY: &str = "cp -r $(ls -d /pfs/* | grep -v out)/* /pfs/out/";

#[tokio::test(flavor = "multi_thread")]
async fn a_change_goes_through_three_pipelines_in_one_commit_set() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "a").await;
    let specs = vec![
        shell("p", "a", "/*", COPY),
        shell("q", "p", "/*", COPY),
        shell("r", "q", "/", COPY),
    ];
    let applied = rig.apply(&ada, specs).await;
    assert!(applied.iter().all(|a| a.job.is_none()));

    let put = rig.put(&ada, "a", &[("x", "1"), ("y", "2")]).await;
    let answer = rig.settle(&ada, put.commit_set).await;
    finished(&answer);
    assert_eq!((answer.commits.len(), answer.jobs.len()), (4, 3));
    assert_eq!(rig.cat(&ada, "r@main", "/x").await, "1");

    let put = rig.put(&ada, "a", &[("x", "3")]).await;
    let answer = rig.settle(&ada, put.commit_set).await;
    finished(&answer);
    assert_eq!(rig.cat(&ada, "r@main", "/x").await, "3");
    let r: &Commit = answer.commits.iter().find(|c| c.repo.as_str() == "r").unwrap();
    let q = answer.commits.iter().find(|c| c.repo.as_str() == "q").unwrap();
    assert_eq!(r.provenance.iter().map(|e| e.commit).collect::<Vec<_>>(), [q.id]);
    assert_eq!((r.pipeline_version, r.commit_set), (Some(1), put.commit_set));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_diamond_gets_one_commit_and_a_branch_not_reached_keeps_its_head() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "a").await;
    rig.repo(&ada, "b").await;
    rig.put(&ada, "b", &[("k", "b")]).await;
    let join = json!({
        "pipeline": { "name": "end" },
        "transform": { "cmd": ["/bin/sh", "-c", "cat /pfs/left/* /pfs/right/* > /pfs/out/both"] },
        "input": { "cross": [
            { "pfs": { "repo": "left", "glob": "/" } },
            { "pfs": { "repo": "right", "glob": "/" } },
        ] },
    });
    let specs = vec![
        shell(
            "left",
            "a",
            "/*",
            "for f in /pfs/a/*; do sed 's/^/l/' $f > /pfs/out/$(basename $f); done",
        ),
        shell(
            "right",
            "a",
            "/*",
            "for f in /pfs/a/*; do sed 's/^/r/' $f > /pfs/out/$(basename $f); done",
        ),
        join,
        shell("other", "b", "/*", COPY),
    ];
    let applied = rig.apply(&ada, specs).await;
    rig.settle(&ada, applied[3].commit_set.unwrap()).await;
    let other: Vec<Branch> = branches(&rig, &ada, "other").await;

    let put = rig.put(&ada, "a", &[("x", "1\n")]).await;
    let answer = rig.settle(&ada, put.commit_set).await;
    finished(&answer);
    assert_eq!((answer.commits.len(), answer.jobs.len()), (4, 3));
    assert_eq!(rig.cat(&ada, "end@main", "/both").await, "l1\nr1\n");
    assert_eq!(rig.jobs(&ada, "end").await.len(), 1);
    assert_eq!(branches(&rig, &ada, "other").await[0].head, other[0].head);
}

async fn branches(rig: &Rig, ada: &crate::jobs_rig::Person, repo: &str) -> Vec<Branch> {
    let page: contract::api::Page<Branch> = rig
        .get(ada, &format!("/v1/projects/default/repos/{repo}/branches"))
        .await;
    page.items
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_makes_what_is_downstream_unrunnable_naming_the_cause() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "a").await;
    let mut fails = shell("p", "a", "/*", "exit 1");
    fails["datum_tries"] = json!(1);
    rig.apply(
        &ada,
        vec![fails, shell("q", "p", "/*", COPY), shell("r", "q", "/*", COPY)],
    )
    .await;
    let put = rig.put(&ada, "a", &[("x", "1")]).await;
    let answer = rig.settle(&ada, put.commit_set).await;
    let state = |name: &str| answer.jobs.iter().find(|j| j.pipeline.as_str() == name).unwrap();
    assert_eq!(state("p").state, JobState::Failure);
    assert_eq!(state("q").state, JobState::Unrunnable);
    assert!(
        state("q").reason.as_deref().unwrap().contains("default/p@"),
        "{:?}",
        state("q").reason
    );
    assert_eq!(state("r").state, JobState::Unrunnable);
    let errored = answer
        .commits
        .iter()
        .filter(|c| c.state == CommitState::Errored)
        .count();
    assert_eq!(errored, 3);

    let mut works = shell("p", "a", "/*", COPY);
    works["datum_tries"] = json!(1);
    let applied = rig.apply(&ada, vec![works]).await;
    finished(&rig.settle(&ada, applied[0].commit_set.unwrap()).await);
    assert_eq!(rig.cat(&ada, "r@main", "/x").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_input_holds_its_jobs_back_and_a_stopped_pipeline_makes_one_job_when_started() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "a").await;
    rig.apply(&ada, vec![shell("p", "a", "/*", COPY)]).await;
    let open: Commit = rig
        .post(&ada, "/v1/commits", json!({ "repo": "default/a", "branch": "main" }))
        .await;
    rig.put(&ada, "a", &[("x", "1")]).await;
    rig.put(&ada, "a", &[("y", "2")]).await;
    assert!(rig.jobs(&ada, "p").await.iter().all(|j| !j.state.is_terminal()));
    let done: Commit = rig.post(&ada, "/v1/commits/finish?ref=default/a@main", json!({})).await;
    assert_eq!(done.id, open.id);
    let job = rig.job(&ada, done.commit_set, "p").await;
    succeeded(&job, 2, 2, 0);

    let paused: contract::api::Pipeline = rig.post(&ada, "/v1/pipelines/default/p/stop", json!({})).await;
    assert_eq!(paused.state, contract::api::PipelineState::Paused);
    rig.put(&ada, "a", &[("z", "3")]).await;
    rig.put(&ada, "a", &[("z", "4")]).await;
    assert_eq!(rig.jobs(&ada, "p").await.len(), 1);
    let _: contract::api::Pipeline = rig.post(&ada, "/v1/pipelines/default/p/start", json!({})).await;
    let jobs = rig.jobs(&ada, "p").await;
    assert_eq!(jobs.len(), 2);
    let job = rig.job(&ada, jobs[0].commit_set, "p").await;
    succeeded(&job, 3, 1, 2);
    assert_eq!(rig.cat(&ada, "p@main", "/z").await, "4");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_job_does_not_wait_for_a_large_one_and_a_deleted_pipeline_leaves_its_commits() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "many").await;
    rig.repo(&ada, "few").await;
    let names: Vec<String> = (0..150).map(|n| format!("f{n}")).collect();
    let files: Vec<(&str, &str)> = names.iter().map(|n| (n.as_str(), "1")).collect();
    rig.put(&ada, "many", &files).await;
    rig.put(&ada, "few", &[("x", "1")]).await;
    let large = rig.apply(&ada, vec![shell("large", "many", "/*", "sleep 0.2")]).await;
    let small = rig.apply(&ada, vec![shell("small", "few", "/*", COPY)]).await;
    succeeded(&rig.job(&ada, small[0].commit_set.unwrap(), "small").await, 1, 1, 0);
    let running = &rig.jobs(&ada, "large").await[0];
    assert!(!running.state.is_terminal(), "{running:?}");

    let (status, _) = rig.send(&ada, "DELETE", "/v1/projects/default/repos/few", None).await;
    assert_eq!(status, 409);
    for name in ["large", "small"] {
        let (status, text) = rig
            .send(&ada, "DELETE", &format!("/v1/pipelines/default/{name}"), None)
            .await;
        assert_eq!(status, 204, "{text}");
    }
    let killed = rig.job(&ada, large[0].commit_set.unwrap(), "large").await;
    assert_eq!(killed.state, JobState::Killed);
    assert_eq!(rig.cat(&ada, "small@main", "/x").await, "1");
    assert_eq!(rig.send(&ada, "GET", "/v1/pipelines/default/small", None).await.0, 404);
    let again = rig.apply(&ada, vec![shell("small", "few", "/*", COPY)]).await;
    assert_eq!((again[0].change.as_str(), again[0].version), ("created", 2));
    succeeded(&rig.job(&ada, again[0].commit_set.unwrap(), "small").await, 1, 0, 1);
}
