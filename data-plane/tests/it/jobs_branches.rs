//! Branches as inputs: two of one repo, heads that are moved, branches that are deleted.

use contract::api::{Branch, Commit, JobState};
use serde_json::{Value, json};

use crate::jobs_rig::{LIMIT, Person, Rig, shell, succeeded};

/// Copies every input's files, below the input's name.
const COPY: &str = "for f in /pfs/*/*; do case $f in /pfs/out/*) ;; *) d=/pfs/out/$(basename $(dirname $f)); \
                    mkdir -p $d; cp $f $d/;; esac; done";

/// A pipeline over both repos or branches.
fn both(name: &str, first: &Value, second: &Value) -> Value {
    let mut spec = shell(name, "unused", "/*", COPY);
    spec["input"] = json!({ "union": [{ "pfs": first }, { "pfs": second }] });
    spec
}

async fn branch(rig: &Rig, ada: &Person, name: &str, from: &str) -> Branch {
    let body = json!({ "name": name, "from": from });
    rig.post(ada, "/v1/projects/default/repos/in/branches", body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_input_branch_takes_its_outputs_along_and_comes_back() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    for (repo, file) in [("in", "a"), ("other", "o")] {
        rig.repo(&ada, repo).await;
        rig.put(&ada, repo, &[(file, file)]).await;
    }
    let inputs = [
        json!({ "repo": "in", "glob": "/*" }),
        json!({ "repo": "other", "glob": "/*" }),
    ];
    let applied = rig.apply(&ada, vec![both("all", &inputs[0], &inputs[1])]).await;
    succeeded(&rig.job(&ada, applied[0].commit_set.unwrap(), "all").await, 2, 2, 0);
    assert_eq!(rig.ls(&ada, "all@main").await, ["/in/a", "/other/o"]);

    let (status, text) = rig
        .send(&ada, "DELETE", "/v1/projects/default/repos/other/branches/main", None)
        .await;
    assert_eq!(status, 204, "{text}");
    let put = rig.put(&ada, "in", &[("b", "b")]).await;
    succeeded(&rig.job(&ada, put.commit_set, "all").await, 2, 1, 1);
    assert_eq!(rig.ls(&ada, "all@main").await, ["/in/a", "/in/b"]);

    let back = rig.put(&ada, "other", &[("o", "o"), ("p", "p")]).await;
    succeeded(&rig.job(&ada, back.commit_set, "all").await, 4, 1, 3);
    assert_eq!(
        rig.ls(&ada, "all@main").await,
        ["/in/a", "/in/b", "/other/o", "/other/p"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn two_branches_of_one_repo_are_two_inputs() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    rig.put(&ada, "in", &[("a", "1")]).await;
    branch(&rig, &ada, "fixed", "in@main").await;
    let inputs = [
        json!({ "repo": "in", "name": "moving", "glob": "/*" }),
        json!({ "repo": "in", "branch": "fixed", "name": "fixed", "glob": "/*" }),
    ];
    let applied = rig.apply(&ada, vec![both("pair", &inputs[0], &inputs[1])]).await;
    succeeded(&rig.job(&ada, applied[0].commit_set.unwrap(), "pair").await, 2, 2, 0);
    let put = rig.put(&ada, "in", &[("a", "2")]).await;
    succeeded(&rig.job(&ada, put.commit_set, "pair").await, 2, 1, 1);
    assert_eq!(rig.cat(&ada, "pair@main", "/moving/a").await, "2");
    assert_eq!(rig.cat(&ada, "pair@main", "/fixed/a").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_head_makes_a_job_of_what_it_points_at_and_nothing_runs_twice() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    let first = rig.put(&ada, "in", &[("a", "1")]).await;
    let applied = rig.apply(&ada, vec![shell("p", "in", "/*", COPY)]).await;
    rig.job(&ada, applied[0].commit_set.unwrap(), "p").await;
    let second = rig.put(&ada, "in", &[("b", "2")]).await;
    rig.job(&ada, second.commit_set, "p").await;
    assert_eq!(rig.ls(&ada, "p@main").await, ["/in/a", "/in/b"]);

    let (status, text) = rig
        .send(
            &ada,
            "PATCH",
            "/v1/projects/default/repos/in/branches/main",
            Some(json!({ "to": format!("in@{}", first.id) })),
        )
        .await;
    assert_eq!(status, 200, "{text}");
    let jobs = rig.jobs(&ada, "p").await;
    assert_eq!(jobs.len(), 3);
    succeeded(&rig.job(&ada, jobs[0].commit_set, "p").await, 1, 0, 1);
    assert_eq!(rig.ls(&ada, "p@main").await, ["/in/a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_waits_until_its_open_input_is_finished() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    let open: Commit = rig
        .post(&ada, "/v1/commits", json!({ "repo": "default/in", "branch": "main" }))
        .await;
    let applied = rig.apply(&ada, vec![shell("p", "in", "/*", COPY)]).await;
    rig.put(&ada, "in", &[("x", "1")]).await;
    let job = applied[0].job.unwrap();
    // Another pipeline's job passes the scheduler meanwhile, so it has looked at this one.
    rig.repo(&ada, "other").await;
    rig.put(&ada, "other", &[("o", "1")]).await;
    let other = rig.apply(&ada, vec![shell("q", "other", "/*", "true")]).await;
    succeeded(&rig.job(&ada, other[0].commit_set.unwrap(), "q").await, 1, 1, 0);
    let waits: contract::api::Job = rig.get(&ada, &format!("/v1/jobs/{job}")).await;
    assert_eq!((waits.state, waits.started_at), (JobState::Created, None));

    let done: Commit = rig
        .post(&ada, "/v1/commits/finish?ref=default/in@main", json!({}))
        .await;
    assert_eq!(done.id, open.id);
    let answer = rig.wait(&ada, &job.to_string()).await;
    succeeded(&answer.jobs[0], 1, 1, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn running_with_reprocess_runs_every_datum_of_that_pipeline_again() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    rig.put(&ada, "in", &[("a", "1"), ("b", "2")]).await;
    let down = shell("q", "p", "/*/*", "cp -r /pfs/p/* /pfs/out/");
    let applied = rig.apply(&ada, vec![shell("p", "in", "/*", COPY), down]).await;
    rig.settle(&ada, applied[0].commit_set.unwrap()).await;
    for (query, ran) in [("", 0), ("?reprocess=true", 2)] {
        let _: contract::api::Pipeline = rig
            .post(&ada, &format!("/v1/pipelines/default/p/run{query}"), json!({}))
            .await;
        let newest = rig.jobs(&ada, "p").await.remove(0);
        succeeded(&rig.job(&ada, newest.commit_set, "p").await, 2, ran, 2 - ran);
        // What came out is the same, so nothing has changed for who reads it.
        succeeded(&rig.job(&ada, newest.commit_set, "q").await, 2, 0, 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_files_show_names_without_content() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    rig.put(&ada, "in", &[("a", "content")]).await;
    let mut spec = shell(
        "names",
        "in",
        "/*",
        "ls /pfs/in > /pfs/out/names; cat /pfs/in/a > /pfs/out/content",
    );
    spec["input"]["pfs"]["empty_files"] = json!(true);
    let applied = rig.apply(&ada, vec![spec]).await;
    succeeded(&rig.job(&ada, applied[0].commit_set.unwrap(), "names").await, 1, 1, 0);
    assert_eq!(rig.cat(&ada, "names@main", "/names").await, "a\n");
    assert_eq!(rig.cat(&ada, "names@main", "/content").await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn datums_are_listed_by_state_in_pages_and_logs_by_datum_over_several_pages() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    let names: Vec<String> = (0..5).map(|n| format!("f{n}")).collect();
    let files: Vec<(&str, &str)> = names.iter().map(|n| (n.as_str(), n.as_str())).collect();
    rig.put(&ada, "in", &files).await;
    let mut spec = shell(
        "talks",
        "in",
        "/*",
        "[ -e /pfs/in/f2 ] && { seq 2500; exit 1; }; echo short",
    );
    spec["datum_tries"] = json!(1);
    let applied = rig.apply(&ada, vec![spec]).await;
    let id = applied[0].job.unwrap();
    let path = format!("/v1/jobs/{id}/logs?follow=true");
    // Followed from the beginning: it ends with the job.
    let (status, followed) = rig.send(&ada, "GET", &path, None).await;
    assert_eq!((status, followed.lines().count()), (200, 2504));
    rig.wait(&ada, &id.to_string()).await;

    type Page = contract::api::Page<contract::api::Datum>;
    let failed: Page = rig.get(&ada, &format!("/v1/jobs/{id}/datums?state=failed")).await;
    assert_eq!((failed.items.len(), failed.next_cursor.is_none()), (1, true));
    let mut found = Vec::new();
    let mut cursor = String::new();
    loop {
        let path = format!("/v1/jobs/{id}/datums?state=succeeded&limit=3{cursor}");
        let page: Page = rig.get(&ada, &path).await;
        found.extend(page.items.into_iter().flat_map(|d| d.inputs));
        let Some(next) = page.next_cursor else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(found, ["in:/f0", "in:/f1", "in:/f3", "in:/f4"]);

    let path = format!("/v1/jobs/{id}/logs?datum={}", failed.items[0].id);
    let (status, text) = rig.send(&ada, "GET", &path, None).await;
    assert_eq!(status, 200);
    let lines: Vec<contract::api::LogLine> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let numbers: Vec<String> = (1..=2500).map(|n| n.to_string()).collect();
    assert_eq!(lines.into_iter().map(|l| l.text).collect::<Vec<_>>(), numbers);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cross_that_cannot_be_planned_fails_its_job_with_the_numbers_and_the_plane_lives() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    let names: Vec<String> = (0..2100).map(|n| format!("f{n}")).collect();
    let files: Vec<(&str, &str)> = names.iter().map(|n| (n.as_str(), "1")).collect();
    rig.put(&ada, "in", &files).await;
    let leaf = |name: &str| json!({ "pfs": { "repo": "in", "name": name, "glob": "/*" } });
    let mut spec = shell("square", "in", "/*", "true");
    spec["input"] = json!({ "cross": [leaf("a"), leaf("b")] });
    let plane = rig.pid();
    let applied = rig.apply(&ada, vec![spec]).await;
    let job = rig.job(&ada, applied[0].commit_set.unwrap(), "square").await;
    let reason = job.reason.unwrap();
    assert_eq!(job.state, JobState::Failure);
    assert!(reason.contains("4410000 datums"), "{reason}");
    testkit::wait::wait_until("an answer", LIMIT, async || {
        rig.send(&ada, "GET", "/v1/repos", None).await.0 == 200
    })
    .await;
    assert_eq!(rig.pid(), plane);
}
