//! `pipeline apply --dry-run`: what a spec would set in motion, told to whom may know, with nothing written.

use contract::api::{AppliedPipeline, DryRun};
use contract::policy::Role;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::jobs_rig::{Person, Rig, shell, succeeded};

async fn dry(rig: &Rig, person: &Person, specs: Vec<Value>) -> Vec<DryRun> {
    let body = json!({ "specs": specs, "dry_run": true });
    let answer: Value = rig.post(person, "/v1/pipelines", body).await;
    let items: Vec<AppliedPipeline> = serde_json::from_value(answer["items"].clone()).unwrap();
    items.into_iter().map(|item| item.dry_run.unwrap()).collect()
}

fn counts(found: &DryRun) -> (Option<u64>, Option<u64>, Option<u64>, bool) {
    (found.datums, found.to_run, found.known, found.at_least)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_counts_the_datums_that_would_run_and_those_that_are_known() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    let spec = |script: &str| shell("p", "in", "/*", script);
    let empty = &dry(&rig, &ada, vec![spec("true")]).await[0];
    assert_eq!(counts(empty), (None, None, None, false));
    assert!(empty.reason.clone().unwrap().contains("`in` has no commit yet"));
    rig.put(&ada, "in", &[("a", "1"), ("b", "2"), ("c", "3")]).await;

    let new = &dry(&rig, &ada, vec![spec("true")]).await[0];
    assert_eq!(counts(new), (Some(3), Some(3), Some(0), false));
    let estimate = new.estimate.clone().unwrap();
    assert!(estimate.reason.unwrap().contains("none of its datums ran yet"));
    assert_eq!((estimate.cpu_s, estimate.wall_s), (None, None));
    // Nothing was written.
    let pool = PgPool::connect(&rig.config.database_url).await.unwrap();
    let made: i64 = sqlx::query_scalar("select (select count(*) from pipelines) + (select count(*) from jobs)")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(made, 0);

    let set = rig.apply(&ada, vec![spec("true")]).await[0].commit_set.unwrap();
    succeeded(&rig.job(&ada, set, "p").await, 3, 3, 0);
    let same = &dry(&rig, &ada, vec![spec("true")]).await[0];
    assert_eq!(counts(same), (None, None, None, false));
    assert!(same.reason.clone().unwrap().contains("nothing changed"));
    // What the code is, makes all of it new; how many run at once, none.
    let other = &dry(&rig, &ada, vec![spec("false")]).await[0];
    assert_eq!(counts(other), (Some(3), Some(3), Some(0), false));
    let estimate = other.estimate.clone().unwrap();
    assert_eq!((estimate.from_datums, estimate.at_once), (3, 2));
    let (wall, each) = (estimate.wall_s.unwrap(), estimate.datum_s.unwrap());
    assert!(
        (wall - 2.0 * each).abs() < 1e-9,
        "three of them are two rounds of two: {estimate:?}"
    );
    let mut parallel = spec("true");
    parallel["parallelism_spec"] = json!({ "constant": 1 });
    let found = &dry(&rig, &ada, vec![parallel.clone()]).await[0];
    assert_eq!(counts(found), (Some(3), Some(0), Some(3), false));
    assert_eq!(found.estimate.clone().unwrap().cpu_s, Some(0.0));
    // The real thing does what was foretold.
    let set = rig.apply(&ada, vec![parallel]).await[0].commit_set.unwrap();
    succeeded(&rig.job(&ada, set, "p").await, 3, 0, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_names_what_follows_downstream_and_leaves_its_datums_open() {
    let rig = Rig::start().await;
    let (ada, bob) = (rig.member("ada").await, rig.member("bob").await);
    rig.repo(&ada, "in").await;
    rig.put(&ada, "in", &[("a", "1")]).await;
    let specs = vec![shell("p", "in", "/*", "true"), shell("q", "p", "/*", "true")];
    let new = dry(&rig, &ada, specs.clone()).await;
    assert_eq!(new[0].downstream, ["default/q"]);
    assert_eq!(
        (counts(&new[1]), new[1].downstream.len()),
        ((None, None, None, false), 0)
    );
    assert!(new[1].reason.clone().unwrap().contains("it reads `p`"));
    rig.apply(&ada, specs).await;
    rig.apply(&ada, vec![shell("r", "q", "/*", "true")]).await;
    let changed = &dry(&rig, &ada, vec![shell("p", "in", "/*", "false")]).await[0];
    assert_eq!(changed.downstream, ["default/q", "default/r"]);
    // Whom a pipeline may not be known to is not told of it.
    rig.grant(&bob, Role::Owner, "p");
    rig.grant(&bob, Role::Owner, "in");
    let told = &dry(&rig, &bob, vec![shell("p", "in", "/*", "false")]).await[0];
    assert_eq!((counts(told).0, told.downstream.len()), (Some(1), 0));
    let stopped: Value = rig.post(&ada, "/v1/pipelines/default/p/stop", json!({})).await;
    assert_eq!(stopped["state"], "paused");
    let told = &dry(&rig, &ada, vec![shell("p", "in", "/*", "false")]).await[0];
    assert_eq!(counts(told).1, Some(1));
    assert!(told.reason.clone().unwrap().contains("howdah pipeline start"));
    assert!(told.downstream.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn joins_groups_and_crosses_are_counted_by_the_planner_itself() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    for repo in ["left", "right"] {
        rig.repo(&ada, repo).await;
    }
    rig.put(&ada, "left", &[("a1", "1"), ("a2", "2"), ("b1", "3")]).await;
    rig.put(&ada, "right", &[("a1", "1"), ("c1", "2")]).await;
    let leaf = |repo: &str, more: Value| {
        let mut pfs = json!({ "repo": repo, "glob": "/(?)(?)" });
        for (name, value) in more.as_object().unwrap() {
            pfs[name] = value.clone();
        }
        json!({ "pfs": pfs })
    };
    let on = json!({ "join_on": "$1" });
    let by = json!({ "group_by": "$1" });
    for (input, expected) in [
        (
            json!({ "cross": [leaf("left", json!({})), leaf("right", json!({}))] }),
            6,
        ),
        (
            json!({ "union": [leaf("left", json!({})), leaf("right", json!({}))] }),
            5,
        ),
        (json!({ "join": [leaf("left", on.clone()), leaf("right", on)] }), 2),
        (json!({ "group": [leaf("left", by.clone()), leaf("right", by)] }), 3),
    ] {
        let mut spec = shell("p", "left", "/", "true");
        spec["input"] = input.clone();
        let found = &dry(&rig, &ada, vec![spec.clone()]).await[0];
        assert_eq!(found.datums, Some(expected), "{input}");
        let set = rig.apply(&ada, vec![spec]).await[0].commit_set.unwrap();
        assert_eq!(rig.job(&ada, set, "p").await.datums.total, expected, "{input}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_derive_from_an_input_is_told_no_counts() {
    let rig = Rig::start().await;
    let (ada, bob) = (rig.member("ada").await, rig.member("bob").await);
    rig.repo(&ada, "in").await;
    rig.put(&ada, "in", &[("a", "1"), ("b", "2")]).await;
    let set = rig
        .apply(&ada, vec![shell("p", "in", "/*", "cp /pfs/in/* /pfs/out/")])
        .await[0]
        .commit_set
        .unwrap();
    rig.settle(&ada, set).await;
    rig.grant(&bob, Role::Discoverer, "in");
    let body = json!({ "specs": [shell("mine", "in", "/*", "true")], "dry_run": true });
    let (status, text) = rig.send(&bob, "POST", "/v1/pipelines", Some(body)).await;
    assert!(status == 403 && !text.contains("datums"), "{status} {text}");
    rig.grant(&bob, Role::Deriver, "in");
    let found = &dry(&rig, &bob, vec![shell("mine", "in", "/*", "true")]).await[0];
    assert_eq!(counts(found), (Some(2), Some(2), Some(0), false));
}
