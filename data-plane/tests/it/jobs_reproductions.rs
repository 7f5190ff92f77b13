//! Running again what made a commit: what is compared, what is left behind (nothing), and what cannot be.

use contract::api::{Commit, JobState, Lineage, Reproduction, ReproductionState};
use contract::policy::Role;
use serde_json::json;

use crate::jobs_rig::{LIMIT, Person, Rig, shell, succeeded};

const UPPER: &str = "for f in /pfs/in/*; do tr a-z A-Z < $f > /pfs/out/$(basename $f); done";

async fn ask(rig: &Rig, person: &Person, reference: &str) -> (u16, String) {
    let body = json!({ "ref": reference });
    rig.send(person, "POST", "/v1/reproductions", Some(body)).await
}

async fn begin(rig: &Rig, person: &Person, reference: &str) -> Reproduction {
    let (status, text) = ask(rig, person, reference).await;
    assert_eq!(status, 201, "{text}");
    serde_json::from_str(&text).unwrap()
}

async fn end(rig: &Rig, person: &Person, begun: &Reproduction) -> Reproduction {
    let path = format!("/v1/reproductions/{}", begun.id);
    testkit::wait::wait_until("the reproduction to end", LIMIT, async || {
        let now: Reproduction = rig.get(person, &path).await;
        now.state != ReproductionState::Running
    })
    .await;
    rig.get(person, &path).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deterministic_commit_is_reproduced_and_nothing_else_is_changed() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    rig.put(&ada, "in", &[("a", "one"), ("b", "two")]).await;
    let down = shell("down", "up", "/*", "cp /pfs/up/* /pfs/out/");
    let applied = rig.apply(&ada, vec![shell("up", "in", "/*", UPPER), down]).await;
    rig.settle(&ada, applied[0].commit_set.unwrap()).await;
    let first: Commit = rig.get(&ada, "/v1/commits?ref=up@main").await;
    // The code and the data of today are not those of then.
    let applied = rig
        .apply(&ada, vec![shell("up", "in", "/*", "cp /pfs/in/* /pfs/out/")])
        .await;
    rig.settle(&ada, applied[0].commit_set.unwrap()).await;
    let put = rig.put(&ada, "in", &[("c", "three")]).await;
    rig.settle(&ada, put.commit_set).await;
    let before = (rig.jobs(&ada, "up").await.len(), rig.jobs(&ada, "down").await.len());
    let head: Commit = rig.get(&ada, "/v1/commits?ref=up@main").await;
    let made: Lineage = rig.get(&ada, &format!("/v1/impact?ref=in@{}", put.id)).await;

    let begun = begin(&rig, &ada, &format!("up@{}", first.id)).await;
    assert_eq!(begun.commit, first.id);
    let found = end(&rig, &ada, &begun).await;
    assert_eq!(found.state, ReproductionState::Identical, "{found:?}");
    let comparison = found.comparison.unwrap();
    assert_eq!(comparison.expected, comparison.found);
    succeeded(&found.job, 2, 2, 0);
    assert_eq!(found.job.version, 1);

    let after = (rig.jobs(&ada, "up").await.len(), rig.jobs(&ada, "down").await.len());
    assert_eq!(before, after);
    let still: Commit = rig.get(&ada, "/v1/commits?ref=up@main").await;
    assert_eq!(still.id, head.id);
    let same: Lineage = rig.get(&ada, &format!("/v1/impact?ref=in@{}", put.id)).await;
    assert_eq!(same.upstream.len(), made.upstream.len());
    let scratch = rig.commit(&ada, "up", found.job.output_commit).await;
    assert_eq!((scratch.digest, scratch.files), (None, 0));
    // The pipeline goes on from its own last job.
    let more = rig.put(&ada, "in", &[("d", "four")]).await;
    succeeded(&rig.job(&ada, more.commit_set, "up").await, 4, 1, 3);
    let again = begin(&rig, &ada, "up@main").await;
    assert_eq!(end(&rig, &ada, &again).await.state, ReproductionState::Identical);
    // Once under one key, also when it has ended.
    let keyed = async || {
        let request = rig.request(&ada, "POST", "/v1/reproductions");
        let request = request
            .header("idempotency-key", "k")
            .json(&json!({ "ref": "up@main" }));
        request.send().await.unwrap().text().await.unwrap()
    };
    let text = keyed().await;
    let once: Reproduction = serde_json::from_str(&text).unwrap();
    assert_ne!(once.job.id, again.job.id);
    end(&rig, &ada, &once).await;
    assert_eq!(keyed().await, text);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_out_otherwise_is_named_by_its_first_path_and_replaces_no_result() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    rig.put(&ada, "in", &[("x", "1")]).await;
    let script = "echo same > /pfs/out/a; date +%s%N > /pfs/out/b; date +%s%N > /pfs/out/c";
    let applied = rig.apply(&ada, vec![shell("clock", "in", "/*", script)]).await;
    rig.settle(&ada, applied[0].commit_set.unwrap()).await;
    let before = rig.cat(&ada, "clock@main", "/b").await;

    let begun = begin(&rig, &ada, "clock@main").await;
    let found = end(&rig, &ada, &begun).await;
    assert_eq!(found.state, ReproductionState::Different, "{found:?}");
    let difference = found.comparison.unwrap().difference.unwrap();
    assert_eq!(
        (difference.change.as_str(), difference.path.as_str()),
        ("changed", "/b")
    );
    // The results of the pipeline are what they were.
    rig.remove(&ada, "in", "/x").await;
    let back = rig.put(&ada, "in", &[("x", "1")]).await;
    succeeded(&rig.job(&ada, back.commit_set, "clock").await, 1, 0, 1);
    assert_eq!(rig.cat(&ada, "clock@main", "/b").await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_after_a_reproduction_takes_no_more_than_one_without_it() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    rig.put(&ada, "in", &[("a", "1"), ("b", "2")]).await;
    let down = shell("down", "up", "/*", "cp /pfs/up/* /pfs/out/");
    let applied = rig.apply(&ada, vec![shell("up", "in", "/*", UPPER), down]).await;
    rig.settle(&ada, applied[0].commit_set.unwrap()).await;
    let begun = begin(&rig, &ada, "up@main").await;
    assert_eq!(end(&rig, &ada, &begun).await.state, ReproductionState::Identical);

    let body = json!({ "repo": "in", "path": "/a", "force": true });
    let done: contract::api::Purge = rig.post(&ada, "/v1/purges", body).await;
    assert_eq!(done.results, 2, "{done:?}");
    for pipeline in ["up", "down"] {
        let newest = rig.jobs(&ada, pipeline).await.remove(0);
        succeeded(&rig.job(&ada, newest.commit_set, pipeline).await, 1, 0, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reproduction_of_appended_outputs_leaves_alone_what_the_pipeline_keeps_of_them() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    rig.put(&ada, "in", &[("a", "1\n"), ("b", "2\n")]).await;
    let mut spec = shell("log", "in", "/*", "cat /pfs/in/* > /pfs/out/log");
    spec["path_collision"] = json!("append");
    let applied = rig.apply(&ada, vec![spec]).await;
    rig.settle(&ada, applied[0].commit_set.unwrap()).await;
    let pool = sqlx::PgPool::connect(&rig.config.database_url).await.unwrap();
    let states = async || -> Vec<(i64, bool, uuid::Uuid, i64)> {
        let all =
            "select id, whole, job_id, (select count(*) from appended where state_id = s.id) from append_states s";
        sqlx::query_as(all).fetch_all(&pool).await.unwrap()
    };
    let before = states().await;
    assert!(before.len() == 1 && before[0].1 && before[0].3 == 2, "{before:?}");

    let begun = begin(&rig, &ada, "log@main").await;
    assert_eq!(end(&rig, &ada, &begun).await.state, ReproductionState::Identical);
    assert_eq!(states().await, before);
    let more = rig.put(&ada, "in", &[("c", "3\n")]).await;
    succeeded(&rig.job(&ada, more.commit_set, "log").await, 3, 1, 2);
    assert_eq!(rig.cat(&ada, "log@main", "/log").await, "1\n2\n3\n");
    assert_eq!(states().await[0].0, before[0].0, "it was the base");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_reproduction_fails_alone() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    // Succeeds until a moment that its input names.
    let script = "[ $(date +%s) -lt $(cat /pfs/in/x) ] || exit 4; cp /pfs/in/x /pfs/out/x";
    let until = rig.environment().now().timestamp() + 45;
    rig.put(&ada, "in", &[("x", &until.to_string())]).await;
    let applied = rig.apply(&ada, vec![shell("timed", "in", "/*", script)]).await;
    let job = rig.job(&ada, applied[0].commit_set.unwrap(), "timed").await;
    succeeded(&job, 1, 1, 0);
    testkit::wait::wait_until("the time to pass", LIMIT, async || {
        rig.environment().now().timestamp() > until
    })
    .await;
    let begun = begin(&rig, &ada, "timed@main").await;
    let found = end(&rig, &ada, &begun).await;
    assert_eq!(
        (found.state, found.job.state),
        (ReproductionState::Failed, JobState::Failure)
    );
    let pipeline: contract::api::Pipeline = rig.get(&ada, "/v1/pipelines/default/timed").await;
    assert_eq!(pipeline.state, contract::api::PipelineState::Running);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reproduction_survives_the_end_of_the_plane_and_is_not_begun_twice() {
    let mut rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    rig.put(&ada, "in", &[("a", "one"), ("b", "two")]).await;
    let script = format!("sleep 1; {UPPER}");
    let applied = rig.apply(&ada, vec![shell("up", "in", "/*", &script)]).await;
    rig.settle(&ada, applied[0].commit_set.unwrap()).await;

    let begun = begin(&rig, &ada, "up@main").await;
    let (status, text) = ask(&rig, &ada, "up@main").await;
    let second: Reproduction = serde_json::from_str(&text).unwrap();
    assert_eq!((status, second.id), (200, begun.id));
    rig.kill9();
    rig.boot().await;
    let found = end(&rig, &ada, &begun).await;
    assert_eq!(found.state, ReproductionState::Identical, "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_or_may_not_be_reproduced_is_refused_with_the_reason() {
    let rig = Rig::start().await;
    let (ada, bob, eve) = (
        rig.member("ada").await,
        rig.member("bob").await,
        rig.member("eve").await,
    );
    rig.repo(&ada, "in").await;
    let first = rig.put(&ada, "in", &[("a", "one")]).await;
    let applied = rig.apply(&ada, vec![shell("up", "in", "/*", UPPER)]).await;
    rig.settle(&ada, applied[0].commit_set.unwrap()).await;
    let second = rig.put(&ada, "in", &[("b", "two")]).await;
    rig.settle(&ada, second.commit_set).await;

    let (status, why) = ask(&rig, &ada, "in@main").await;
    assert!(status == 422 && why.contains("not by a pipeline"), "{status} {why}");
    assert_eq!(ask(&rig, &eve, "up@main").await.0, 404);
    // Reading is not enough to have something computed.
    rig.grant(&bob, Role::Viewer, "in");
    rig.grant(&bob, Role::Viewer, "up");
    assert_eq!(ask(&rig, &bob, "up@main").await.0, 403);
    let begun = begin(&rig, &ada, "up@main").await;
    let path = format!("/v1/reproductions/{}", begun.id);
    assert_eq!(rig.send(&eve, "GET", &path, None).await.0, 404);
    end(&rig, &bob, &begun).await;
    let job = rig.jobs(&ada, "up").await[0].id;
    assert_eq!(
        rig.send(&ada, "GET", &format!("/v1/reproductions/{job}"), None).await.0,
        404
    );

    let body = json!({ "ref": format!("in@{}", first.id), "force": true });
    let (status, text) = rig.send(&ada, "POST", "/v1/commits/squash", Some(body)).await;
    assert!(status < 300, "{status} {text}");
    let (status, why) = ask(&rig, &ada, "up@main^").await;
    assert!(
        status == 410 && why.contains("cannot be reproduced because") && why.contains("squashed"),
        "{status} {why}"
    );
    let begun = begin(&rig, &ada, "up@main").await;
    assert_eq!(end(&rig, &ada, &begun).await.state, ReproductionState::Identical);
}
