//! Origins that come late, and pasts that are hidden: what is decided when a job starts, and what its readers see.

use contract::api::{Commit, JobState, Page};
use contract::policy::Role;
use serde_json::{Value, json};

use crate::jobs_rig::{Person, Rig, shell};

const COPY: &str = "cp -r $(ls -d /pfs/* | grep -v out)/* /pfs/out/";

async fn copy(rig: &Rig, person: &Person, path: &str, to: &str) {
    let body = json!({"from_ref": "default/secret@main", "from_path": path, "repo": to, "path": path});
    let _: Commit = rig.post(person, "/v1/copies", body).await;
}

async fn status(rig: &Rig, person: &Person, uri: &str) -> u16 {
    rig.send(person, "GET", uri, None).await.0
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_copied_into_an_open_input_is_an_origin_of_what_its_jobs_make() {
    let rig = Rig::start().await;
    let (ada, bob) = (rig.member("ada").await, rig.member("bob").await);
    rig.repo(&ada, "secret").await;
    rig.put(&ada, "secret", &[("x", "1")]).await;
    rig.repo(&ada, "a").await;
    let open: Commit = rig.post(&ada, "/v1/commits", json!({"repo": "default/a"})).await;
    let mut guarded = shell("guarded", "a", "/*", COPY);
    guarded["max_origins"] = json!(["default/a"]);
    let p = format!("echo seen; {COPY}");
    let specs = vec![shell("p", "a", "/*", &p), shell("q", "p", "/*", COPY), guarded];
    let applied = rig.apply(&ada, specs).await;
    let set = applied[0].commit_set.unwrap();
    for repo in ["a", "p", "q", "guarded"] {
        rig.grant(&bob, Role::Viewer, repo);
    }
    assert_eq!(status(&rig, &bob, "/v1/log?ref=default/q@main").await, 200);
    let job = applied[0].job.unwrap();
    let follow = format!("/v1/jobs/{job}/logs?follow=true");
    let (followed, missed) = (rig.open(&ada, &follow).await, rig.open(&bob, &follow).await);
    assert!(followed.status().is_success() && missed.status().is_success());

    copy(&rig, &ada, "/x", "a").await;
    let uri = format!("/v1/commits/finish?ref=default/a@{}", open.id);
    let _: Commit = rig.post(&ada, &uri, json!({})).await;
    let answer = rig.settle(&ada, set).await;

    for name in ["p", "q"] {
        let made = answer.commits.iter().find(|c| c.repo.as_str() == name).unwrap();
        let uri = format!("/v1/content?ref=default/{name}@{}&path=/x", made.id);
        assert_eq!(status(&rig, &ada, &uri).await, 200, "{name}");
        assert_eq!(status(&rig, &bob, &uri).await, 403, "{name}");
    }
    assert!(followed.text().await.unwrap().contains("seen"));
    assert_eq!(missed.text().await.unwrap(), "");
    let job = answer.jobs.iter().find(|j| j.pipeline.as_str() == "guarded").unwrap();
    assert_eq!(job.state, JobState::Failure);
    let reason = job.reason.as_deref().unwrap();
    assert!(
        reason.starts_with("OriginGuardViolated") && reason.contains("default/secret"),
        "{reason}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_of_a_path_does_not_compare_with_a_commit_that_is_hidden() {
    let rig = Rig::start().await;
    let (ada, bob) = (rig.member("ada").await, rig.member("bob").await);
    rig.repo(&ada, "secret").await;
    rig.put(&ada, "secret", &[("x", "2")]).await;
    rig.repo(&ada, "a").await;
    let first = rig.put(&ada, "a", &[("x", "1")]).await;
    let applied = rig.apply(&ada, vec![shell("p", "a", "/*", COPY)]).await;
    rig.settle(&ada, applied[0].commit_set.unwrap()).await;
    copy(&rig, &ada, "/x", "a").await;
    let hidden: Commit = rig.get(&ada, "/v1/commits?ref=default/a@main").await;
    rig.settle(&ada, hidden.commit_set).await;
    let to = json!({"to": format!("default/a@{}", first.id)});
    let moved = rig
        .send(&ada, "PATCH", "/v1/projects/default/repos/a/branches/main", Some(to))
        .await;
    assert_eq!(moved.0, 200, "{}", moved.1);
    let head: Value = rig.get(&ada, "/v1/jobs?pipeline=default/p&limit=1").await;
    rig.wait(&ada, head["items"][0]["id"].as_str().unwrap()).await;
    for repo in ["a", "p"] {
        rig.grant(&bob, Role::Viewer, repo);
    }
    let log = async |person: &Person, path: &str| {
        let page: Page<Commit> = rig.get(person, &format!("/v1/log?ref=default/p@main{path}")).await;
        page.items.len()
    };
    assert_eq!((log(&ada, "").await, log(&bob, "").await), (3, 2));
    assert_eq!(log(&ada, "&path=/x").await, 3);
    assert_eq!(log(&bob, "&path=/x").await, 1, "to bob the file never changed");
}
