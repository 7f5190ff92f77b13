//! Planning from what changed: indexes of keys follow whatever becomes of jobs and commits, and plans made of them are
//! those that a listing gives.

use contract::api::JobState;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::jobs_rig::{LIMIT, Person, Rig, succeeded};

async fn database(rig: &Rig) -> PgPool {
    PgPool::connect(&rig.config.database_url).await.unwrap()
}

/// The rows of indexes that are whole, and how many name that path.
async fn keys(pool: &PgPool, path: &str) -> (i64, i64) {
    sqlx::query_as(
        "select count(*), count(*) filter (where path = $1) from leaf_keys k join leaf_indexes i on i.id = k.index_id
          where i.whole",
    )
    .bind(path)
    .fetch_one(pool)
    .await
    .unwrap()
}

fn spec(name: &str, input: &Value, script: &str) -> Value {
    json!({
        "pipeline": { "name": name },
        "transform": { "cmd": ["/bin/sh", "-c", script] },
        "datum_tries": 1,
        "input": input,
    })
}

/// Two files of each of so many keys.
fn pairs(keys: u32) -> Vec<(String, String)> {
    let file = |n: u32| (format!("{:03}-{}", n / 2, n % 2), format!("{n} "));
    (0..2 * keys).map(file).collect()
}

async fn put(rig: &Rig, ada: &Person, repo: &str, files: &[(String, String)]) -> contract::api::Commit {
    let files: Vec<(&str, &str)> = files
        .iter()
        .map(|(path, text)| (path.as_str(), text.as_str()))
        .collect();
    rig.put(ada, repo, &files).await
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_followed_past_failed_jobs_and_go_with_what_they_name() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    put(&rig, &ada, "in", &pairs(50)).await;
    let input = json!({ "group": [{ "pfs": { "repo": "in", "glob": "/(*)-*", "group_by": "$1" } }] });
    let script = "if ls /pfs/in | grep -q bad; then exit 1; fi; cat /pfs/in/* > /pfs/out/$HOWDAH_GROUP_BY_in";
    let applied = rig.apply(&ada, vec![spec("sum", &input, script)]).await;
    succeeded(&rig.job(&ada, applied[0].commit_set.unwrap(), "sum").await, 50, 50, 0);
    let pool = database(&rig).await;
    assert_eq!(keys(&pool, "/007-0").await, (100, 1));

    let more = rig.put(&ada, "in", &[("007-new", "!")]).await;
    succeeded(&rig.job(&ada, more.commit_set, "sum").await, 50, 1, 49);
    assert_eq!(rig.cat(&ada, "sum@main", "/007").await, "14 15 !");
    let bad = rig.put(&ada, "in", &[("008-bad", ""), ("009-x", "x")]).await;
    assert_eq!(rig.job(&ada, bad.commit_set, "sum").await.state, JobState::Failure);
    // The index is ahead of the base now.
    assert_eq!(keys(&pool, "/008-bad").await, (103, 1));
    let less = rig.remove(&ada, "in", "/008-bad").await;
    succeeded(&rig.job(&ada, less.commit_set, "sum").await, 50, 0, 50);
    assert_eq!(rig.cat(&ada, "sum@main", "/009").await, "18 19 x");
    let last = rig.put(&ada, "in", &[("050-y", "y"), ("007-0", "changed ")]).await;
    succeeded(&rig.job(&ada, last.commit_set, "sum").await, 51, 2, 49);
    assert_eq!(rig.cat(&ada, "sum@main", "/007").await, "changed 15 !");
    assert_eq!(keys(&pool, "/050-y").await, (103, 1));

    // What is dropped takes the index along; the next job lists again.
    let body = json!({ "ref": format!("in@{}", last.id), "force": true });
    let _: Value = rig.post(&ada, "/v1/commits/drop", body).await;
    assert_eq!(keys(&pool, "/050-y").await.1, 0);
    let after = rig.put(&ada, "in", &[("001-z", "z")]).await;
    succeeded(&rig.job(&ada, after.commit_set, "sum").await, 50, 1, 49);
    assert_eq!(rig.cat(&ada, "sum@main", "/007").await, "14 15 !");
    assert_eq!(keys(&pool, "/001-z").await, (103, 1));

    let body = json!({ "repo": "in", "path": "/007-0", "force": true });
    let _: Value = rig.post(&ada, "/v1/purges", body).await;
    let newest = rig.jobs(&ada, "sum").await.remove(0);
    succeeded(&rig.job(&ada, newest.commit_set, "sum").await, 50, 1, 49);
    let named: i64 = sqlx::query_scalar("select count(*) from leaf_keys where path = '/007-0'")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!((named, keys(&pool, "").await.0), (0, 102));
    assert_eq!(rig.cat(&ada, "sum@main", "/007").await, "15 !");
}

#[tokio::test(flavor = "multi_thread")]
async fn indexes_that_nothing_reads_any_more_leave_no_rows() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    put(&rig, &ada, "in", &pairs(5)).await;
    let by = |by: &str| json!({ "group": [{ "pfs": { "repo": "in", "glob": "/(*)-(*)", "group_by": by } }] });
    let plain = json!({ "pfs": { "repo": "in", "glob": "/*" } });
    let pool = database(&rig).await;
    for (input, rows) in [(by("$1"), 10), (by("$2"), 10), (plain, 0)] {
        let script = "cat /pfs/in/* > /pfs/out/$(ls /pfs/in | head -1)";
        let applied = rig.apply(&ada, vec![spec("sum", &input, script)]).await;
        let job = rig.job(&ada, applied[0].commit_set.unwrap(), "sum").await;
        assert_eq!(job.state, JobState::Success, "{:?}", job.reason);
        testkit::wait::wait_until("the rows to go", LIMIT, async || {
            let all: i64 = sqlx::query_scalar("select count(*) from leaf_keys")
                .fetch_one(&pool)
                .await
                .unwrap();
            all == rows
        })
        .await;
        assert_eq!(keys(&pool, "").await.0, rows);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plans_of_changes_give_what_a_job_from_the_beginning_gives() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    for repo in ["a", "b"] {
        rig.repo(&ada, repo).await;
        put(&rig, &ada, repo, &pairs(20)).await;
    }
    let leaf = |repo: &str, outer: bool| json!({ "pfs": { "repo": repo, "glob": "/(*)-(*)", "join_on": "$1", "outer_join": outer, "group_by": "$1" } });
    let input = json!({ "union": [
        { "group": [{ "join": [leaf("a", true), leaf("b", false)] }] },
        { "pfs": { "repo": "a", "glob": "/*-1" } },
        { "pfs": { "repo": "a", "glob": "/00*" } },
    ] });
    let script = "cd /pfs; n=$(echo $(ls a b 2>/dev/null) | tr -c 'a-z0-9-' _); cat a/* $(ls b/* 2>/dev/null) > out/$n";
    let applied = rig.apply(&ada, vec![spec("p", &input, script)]).await;
    rig.job(&ada, applied[0].commit_set.unwrap(), "p").await;
    for (repo, files, removed) in [
        ("a", vec![("003-2", "new")], "/004-0"),
        ("b", vec![("005-1", "changed"), ("030-0", "alone")], "/006-1"),
        ("b", vec![("003-2", "x")], "/007-0"),
        ("b", vec![("001-1", "y")], "/007-1"),
        ("a", vec![("030-0", "not alone"), ("000-1", "z")], "/008-1"),
    ] {
        rig.put(&ada, repo, &files).await;
        let last = rig.remove(&ada, repo, removed).await;
        let job = rig.job(&ada, last.commit_set, "p").await;
        assert_eq!(job.state, JobState::Success, "{:?}", job.reason);
        assert!(job.datums.succeeded + job.datums.skipped == job.datums.total && job.datums.succeeded <= 4);
    }
    let job = rig.jobs(&ada, "p").await.remove(0);
    let applied = rig.apply(&ada, vec![spec("twin", &input, script)]).await;
    let twin = rig.job(&ada, applied[0].commit_set.unwrap(), "twin").await;
    assert_eq!((twin.state, twin.datums.total), (JobState::Success, job.datums.total));
    let digest = |repo: &str| {
        let path = format!("/v1/commits?ref={repo}@main");
        async { rig.get::<Value>(&ada, &{ path }).await["digest"].clone() }
    };
    assert!(digest("p").await.is_string());
    assert_eq!(digest("p").await, digest("twin").await);
}
