//! Releases at the edge into a pipeline (R9), made before and after the commits that they speak of, and the guard (R5).

use chrono::Duration;
use contract::api::{Evidence, JobState, JobStatistics, Pipeline};
use contract::policy::{OrganizationRole, Release, Role};
use serde_json::json;

use crate::jobs_rig::{Person, Rig, shell};

const COPY: &str = "cp /pfs/*/x /pfs/out/";

/// images -> found -> score; bob may read `score` alone.
async fn story(rig: &Rig, ada: &Person, bob: &Person) -> String {
    rig.repo(ada, "images").await;
    rig.put(ada, "images", &[("x", "1")]).await;
    let specs = vec![
        shell("found", "images", "/*", COPY),
        shell("score", "found", "/*", COPY),
    ];
    let applied = rig.apply(ada, specs).await;
    rig.settle(ada, applied[0].commit_set.unwrap()).await;
    rig.grant(bob, Role::Viewer, "score");
    let score: Pipeline = rig.get(ada, "/v1/pipelines/default/score").await;
    score.spec_digest
}

fn release(rig: &Rig, spec_digest: &str, retroactive: bool) {
    let now = rig.environment().now();
    let id = rig.environment().id();
    rig.control.change(|s| {
        let domain = |name: &str| s.domains.iter().find(|d| d.name.as_str() == name).unwrap().id;
        let release = Release {
            id,
            domains: vec![domain("images"), domain("found")],
            pipeline: domain("score"),
            spec_digest: spec_digest.to_owned(),
            purpose: "scores".to_owned(),
            approvers: Vec::new(),
            retroactive,
            created_at: now,
            expires_at: now + Duration::days(30),
            revoked_at: None,
        };
        s.releases.push(release);
    });
}

async fn may_read(rig: &Rig, person: &Person, reference: &str) -> bool {
    rig.send(person, "GET", &format!("/v1/content?ref={reference}&path=/x"), None)
        .await
        .0
        == 200
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_counts_for_commits_made_after_it_and_for_no_other_edge() {
    let rig = Rig::start().await;
    let (ada, bob) = (rig.member("ada").await, rig.member("bob").await);
    let digest = story(&rig, &ada, &bob).await;
    assert!(!may_read(&rig, &bob, "score@main").await);
    release(&rig, &digest, false);
    assert!(!may_read(&rig, &bob, "score@main").await);

    let put = rig.put(&ada, "images", &[("x", "2")]).await;
    rig.settle(&ada, put.commit_set).await;
    assert!(may_read(&rig, &bob, "score@main").await);
    assert!(!may_read(&rig, &bob, "score@main^").await);
    assert!(!may_read(&rig, &bob, "found@main").await);

    // The output was released, not what it was made of.
    let jobs = rig.jobs(&bob, "score").await;
    assert_eq!(jobs.len(), 1);
    assert_eq!(rig.datums(&ada, jobs[0].id).await[0].inputs, ["found:/x"]);
    let seen = &rig.datums(&bob, jobs[0].id).await[0];
    assert_eq!(
        (&seen.inputs[..], seen.bytes_in),
        (&["restricted".to_owned()][..], None)
    );
    let path = format!("/v1/jobs/{}/statistics", jobs[0].id);
    let told: [JobStatistics; 2] = [rig.get(&ada, &path).await, rig.get(&bob, &path).await];
    assert_eq!((told[0].bytes_in, told[1].bytes_in), (Some(1), None));
    assert_eq!(told[1].slowest[0].inputs, ["restricted"]);

    // Other code: the release is void for what that makes.
    let applied = rig
        .apply(&ada, vec![shell("score", "found", "/*", "cp /pfs/found/x /pfs/out/x")])
        .await;
    rig.settle(&ada, applied[0].commit_set.unwrap()).await;
    assert!(!may_read(&rig, &bob, "score@main").await);
    assert!(may_read(&rig, &bob, "score@main^").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn evidence_of_what_was_released_says_that_something_is_hidden_and_tells_nothing_of_it() {
    let rig = Rig::start().await;
    let (ada, bob) = (rig.member("ada").await, rig.member("bob").await);
    let digest = story(&rig, &ada, &bob).await;
    release(&rig, &digest, false);
    let put = rig.put(&ada, "images", &[("x", "2")]).await;
    rig.settle(&ada, put.commit_set).await;

    let all: Evidence = rig.get(&ada, "/v1/evidence?ref=score").await;
    assert!(!all.restricted && all.commits.iter().all(|c| !c.restricted));
    assert_eq!((all.commits.len(), all.versions.len()), (4, 2));
    for commit in &all.commits {
        let record = commit.record.as_ref().unwrap();
        assert_eq!(Some(record.digest()), commit.digest, "{record:?}");
    }
    let (status, text) = rig.send(&bob, "GET", "/v1/evidence?ref=score", None).await;
    assert_eq!(status, 200, "{text}");
    let some: Evidence = serde_json::from_str(&text).unwrap();
    assert!(some.restricted && some.commits.len() == 1 && some.commits[0].restricted);
    assert_eq!(some.versions[0].sealed, None);
    let record = some.commits[0].record.as_ref().unwrap();
    assert!(record.inputs.is_empty() && record.parent.is_none());
    assert_eq!(some.commits[0].digest, all.commits[0].digest);
    for hidden in &all.commits[1..] {
        for told in [hidden.commit.to_string(), hidden.digest.unwrap().to_string()] {
            assert!(!text.contains(&told), "{text}");
        }
    }
    for name in ["images", "found"] {
        assert!(!text.contains(name), "{text}");
    }
    for path in [
        "/v1/evidence?ref=found",
        "/v1/manifest?ref=found",
        "/v1/manifest?ref=nothing",
    ] {
        assert_eq!(rig.send(&bob, "GET", path, None).await.0, 404, "{path}");
    }
    // Who may know of an input by its name, and not read it, is told the name.
    rig.grant(&bob, Role::Discoverer, "found");
    let named: Evidence = rig.get(&bob, "/v1/evidence?ref=score").await;
    let found = named.commits.iter().find(|c| c.repo.as_str() == "found").unwrap();
    assert!(found.record.is_none() && found.digest.is_none() && found.content.is_none() && found.files == 0);
    assert!(named.restricted && named.versions.iter().any(|v| v.sealed.is_some()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retroactive_release_covers_what_was_made_before_and_everything_made_from_that() {
    let rig = Rig::start().await;
    let (ada, bob) = (rig.member("ada").await, rig.member("bob").await);
    let digest = story(&rig, &ada, &bob).await;
    let applied = rig.apply(&ada, vec![shell("board", "score", "/*", COPY)]).await;
    rig.settle(&ada, applied[0].commit_set.unwrap()).await;
    rig.grant(&bob, Role::Viewer, "board");
    assert!(!may_read(&rig, &bob, "board@main").await);

    release(&rig, &digest, true);
    testkit::wait::wait_until("the release to reach old commits", crate::jobs_rig::LIMIT, async || {
        may_read(&rig, &bob, "board@main").await
    })
    .await;
    assert!(may_read(&rig, &bob, "score@main").await);
    assert!(!may_read(&rig, &bob, "found@main").await);
    // The jobs that made them are listed to him too, and no others.
    let listed: contract::api::Page<contract::api::Job> = rig.get(&bob, "/v1/jobs").await;
    let made: Vec<&str> = listed.items.iter().map(|j| j.pipeline.as_str()).collect();
    assert_eq!(made, ["board", "score"]);

    let manager = |s: &mut contract::policy::PolicySnapshot| s.members[0].role = OrganizationRole::Owner;
    rig.control.change(manager);
    let (status, findings) = rig.send(&ada, "GET", "/v1/fsck", None).await;
    assert_eq!(status, 200);
    assert!(!findings.contains("\"error\""), "{findings}");

    rig.control
        .change(|s| s.releases[0].revoked_at = Some(rig.environment().now()));
    assert!(!may_read(&rig, &bob, "board@main").await);
    assert!(!may_read(&rig, &bob, "score@main").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_fails_the_job_that_would_need_more_origins() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "images").await;
    rig.put(&ada, "images", &[("x", "1")]).await;
    let mut spec = shell("guarded", "images", "/*", COPY);
    spec["max_origins"] = json!(0);
    let applied = rig.apply(&ada, vec![spec]).await;
    let job = rig.job(&ada, applied[0].commit_set.unwrap(), "guarded").await;
    assert_eq!(job.state, JobState::Failure);
    let reason = job.reason.unwrap();
    assert!(
        reason.starts_with("OriginGuardViolated") && reason.contains("default/images"),
        "{reason}"
    );
}
