//! What workers do with outputs without bounds, datums that cannot be run, and jobs that end while code of theirs is on
//! its way: nothing of it holds up what others need.

use std::time::Duration;

use contract::api::{Datum, DatumState, Job, JobState};
use contract::ids::JobId;
use serde_json::json;
use sqlx::PgPool;

use crate::jobs_rig::{LIMIT, Person, Rig, shell, succeeded};

/// A rig with somebody and the repo `in` with these files.
async fn rig(files: &[(&str, &str)]) -> (Rig, Person) {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    rig.put(&ada, "in", files).await;
    (rig, ada)
}

/// Applies one spec and waits for its job.
async fn run(rig: &Rig, ada: &Person, spec: serde_json::Value) -> Job {
    let name = spec["pipeline"]["name"].as_str().unwrap().to_owned();
    let applied = rig.apply(ada, vec![spec]).await;
    rig.job(ada, applied[0].commit_set.unwrap(), &name).await
}

async fn fails(rig: &Rig, ada: &Person, mut spec: serde_json::Value, because: &str) {
    spec["datum_tries"] = json!(1);
    let job = run(rig, ada, spec).await;
    let reason = job.reason.unwrap_or_default();
    assert_eq!(job.state, JobState::Failure);
    assert!(reason.contains(because), "{reason}");
}

async fn database(rig: &Rig) -> PgPool {
    PgPool::connect(&rig.config.database_url).await.unwrap()
}

async fn stop(rig: &Rig, ada: &Person, job: JobId) {
    let killed: Job = rig.post(ada, &format!("/v1/jobs/{job}/stop"), json!({})).await;
    assert_eq!(killed.state, JobState::Killed);
}

async fn has_printed(rig: &Rig, ada: &Person, job: JobId, datums: usize) {
    testkit::wait::wait_until("the datums to print", LIMIT, async || {
        let lines = rig.logs(ada, job).await;
        lines
            .iter()
            .map(|l| &l.datum)
            .collect::<std::collections::HashSet<_>>()
            .len()
            == datums
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn datums_of_two_jobs_that_are_claimed_together_share_no_directory() {
    let (rig, ada) = rig(&[("a", "1")]).await;
    rig.repo(&ada, "four").await;
    rig.put(&ada, "four", &[("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")])
        .await;
    // Two run and two are queued, so that nothing more is claimed until this ends.
    let held = rig.apply(&ada, vec![shell("held", "four", "/*", "sleep 3600")]).await[0]
        .job
        .unwrap();
    let pool = database(&rig).await;
    testkit::wait::wait_until("the worker's queue to be full", LIMIT, async || {
        count(&pool, "select count(*) from datums where state = 'running'").await == 4
    })
    .await;
    let script = |name: &str| {
        format!(
            "ls /pfs/out > /pfs/out/seen; echo {name} > /pfs/out/name; sleep 0.5; cat /pfs/out/name > /pfs/out/later"
        )
    };
    let specs = ["left", "right"].map(|name| shell(name, "in", "/*", &script(name)));
    let set = rig.apply(&ada, specs.to_vec()).await[0].commit_set.unwrap();
    testkit::wait::wait_until("both plans", LIMIT, async || {
        count(&pool, "select count(*) from datums where state = 'pending'").await == 2
    })
    .await;
    stop(&rig, &ada, held).await;
    for name in ["left", "right"] {
        succeeded(&rig.job(&ada, set, name).await, 1, 1, 0);
        let branch = format!("{name}@main");
        assert_eq!(rig.ls(&ada, &branch).await, ["/later", "/name", "/seen"]);
        assert_eq!(rig.cat(&ada, &branch, "/seen").await, "seen\n");
        assert_eq!(rig.cat(&ada, &branch, "/later").await, format!("{name}\n"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn small_outputs_arrive_whole_where_some_travel_in_their_entries_and_some_do_not() {
    let (rig, ada) = rig(&[("a", "1")]).await;
    let script = "cd /pfs/out; seq -f %0999g 3000 | split -b 1000 -a 4 - f";
    let job = run(&rig, &ada, shell("many", "in", "/*", script)).await;
    succeeded(&job, 1, 1, 0);
    let commit = rig.commit(&ada, "many", job.output_commit).await;
    assert_eq!((commit.files, commit.size_bytes), (3000, 3_000_000));
    for (path, number) in [("/faaaa", "0001\n"), ("/faelj", "3000\n")] {
        let found = rig.cat(&ada, "many@main", path).await;
        assert!(found.ends_with(number), "{path}: {found}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_larger_than_the_disk_limit_fail_their_datum_and_say_so() {
    let (rig, ada) = rig(&[("a", "1")]).await;
    let huge = shell("huge", "in", "/*", "truncate -s 15T /pfs/out/x");
    fails(&rig, &ada, huge, "resource_limits.disk").await;
    let mut sum = shell("sum", "in", "/*", "truncate -s 8M /pfs/out/x /pfs/out/y");
    sum["resource_limits"] = json!({ "disk": "10M" });
    fails(&rig, &ada, sum, "resource_limits.disk").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_outputs_whose_names_are_the_same_in_composed_form_are_refused() {
    let (rig, ada) = rig(&[("a", "1")]).await;
    let script = r"cd /pfs/out; echo 1 > $(printf 'e\314\201'); echo 2 > $(printf '\303\251')";
    fails(
        &rig,
        &ada,
        shell("twins", "in", "/*", script),
        "two outputs are named `é`",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_job_starts_no_err_cmd_and_leaves_its_worker_free() {
    let (rig, ada) = rig(&[("a", "1"), ("b", "2")]).await;
    let mut endless = shell("endless", "in", "/*", "echo begun; sleep 3600");
    endless["transform"]["err_cmd"] = json!(["/bin/sh", "-c", "echo err_cmd; sleep 3600"]);
    let job = rig.apply(&ada, vec![endless]).await[0].job.unwrap();
    has_printed(&rig, &ada, job, 2).await;
    stop(&rig, &ada, job).await;
    let next = run(&rig, &ada, shell("next", "in", "/*", "true")).await;
    succeeded(&next, 2, 2, 0);
    assert!(rig.logs(&ada, job).await.iter().all(|l| l.text == "begun"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_datum_that_ends_its_workers_fails_in_the_end() {
    let (rig, ada) = rig(&[("a", "1")]).await;
    let killer = shell("killer", "in", "/*", "echo begun; sleep 3600");
    let applied = rig.apply(&ada, vec![killer]).await;
    has_printed(&rig, &ada, applied[0].job.unwrap(), 1).await;
    let pool = database(&rig).await;
    // As if it had been so nineteen times before.
    sqlx::query("update datums set lost = 19").execute(&pool).await.unwrap();
    testkit::processes::kill9(rig.worker_pid().unwrap());
    let job = rig.job(&ada, applied[0].commit_set.unwrap(), "killer").await;
    assert_eq!((job.state, job.datums.failed), (JobState::Failure, 1));
    let reason = job.reason.unwrap();
    assert!(reason.contains("its worker was lost"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn datums_that_may_end_their_workers_run_one_at_a_time() {
    let (rig, ada) = rig(&[("a", "1"), ("b", "2"), ("c", "3")]).await;
    rig.repo(&ada, "other").await;
    rig.put(&ada, "other", &[("o", "1")]).await;
    let held = shell("held", "in", "/*", "echo begun; sleep 3600");
    let held = rig.apply(&ada, vec![held]).await[0].job.unwrap();
    has_printed(&rig, &ada, held, 2).await;
    let pool = database(&rig).await;
    sqlx::query("update datums set deaths = 3")
        .execute(&pool)
        .await
        .unwrap();
    testkit::processes::kill9(rig.worker_pid().unwrap());
    let running = "select count(*) from datums where state = 'running' and deaths >= 3";
    testkit::wait::wait_until("the dead worker's datums to be freed", LIMIT, async || {
        count(&pool, "select count(*) from datums where deaths = 4").await >= 2
    })
    .await;
    testkit::wait::wait_until("a suspect to run", LIMIT, async || count(&pool, running).await > 0).await;
    let none = "update datums set not_before = null where state = 'pending'";
    sqlx::query(none).execute(&pool).await.unwrap();
    // The other slot goes on with what is not suspected.
    succeeded(&run(&rig, &ada, shell("next", "other", "/*", "true")).await, 1, 1, 0);
    assert_eq!(count(&pool, running).await, 1);
    stop(&rig, &ada, held).await;
}

async fn count(pool: &PgPool, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(pool).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storage_that_is_away_for_seconds_fails_no_datum() {
    let (rig, ada) = rig(&[("a", "1"), ("b", "2")]).await;
    let bucket = rig.directory.path().join("bucket");
    let (packs, away) = (bucket.join("packs"), rig.directory.path().join("away"));
    rig.repo(&ada, "other").await;
    rig.put(&ada, "other", &[("o", "other")]).await;
    // Both slots are taken while the job is planned, which needs the storage too.
    let held = rig
        .apply(&ada, vec![shell("held", "in", "/*", "echo begun; sleep 3600")])
        .await;
    has_printed(&rig, &ada, held[0].job.unwrap(), 2).await;
    let applied = rig
        .apply(&ada, vec![shell("waits", "other", "/*", "cp /pfs/other/o /pfs/out/")])
        .await;
    let path = format!("/v1/jobs/{}", applied[0].job.unwrap());
    testkit::wait::wait_until("the plan", LIMIT, async || {
        rig.get::<Job>(&ada, &path).await.state == JobState::Running
    })
    .await;
    std::fs::rename(&packs, &away).unwrap();
    stop(&rig, &ada, held[0].job.unwrap()).await;
    let pool = database(&rig).await;
    testkit::wait::wait_until("a few claims", LIMIT, async || {
        count(&pool, "select count(*) from datums where claims >= 4").await > 0
    })
    .await;
    std::fs::rename(&away, &packs).unwrap();
    succeeded(&rig.job(&ada, applied[0].commit_set.unwrap(), "waits").await, 1, 1, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn following_the_log_of_a_stopped_job_misses_no_line() {
    let (rig, ada) = rig(&[("a", "1")]).await;
    let ticks = shell("ticks", "in", "/*", "while :; do echo tick; sleep 0.01; done");
    let job = rig.apply(&ada, vec![ticks]).await[0].job.unwrap();
    has_printed(&rig, &ada, job, 1).await;
    stop(&rig, &ada, job).await;
    let (status, followed) = rig
        .send(&ada, "GET", &format!("/v1/jobs/{job}/logs?follow=true"), None)
        .await;
    assert_eq!(status, 200);
    // By the same worker, after what it had to say of the first job.
    succeeded(&run(&rig, &ada, shell("next", "in", "/*", "echo next")).await, 1, 1, 0);
    assert_eq!(followed.lines().count(), rig.logs(&ada, job).await.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_says_which_isolation_its_code_ran_under() {
    let (rig, ada) = rig(&[("a", "1")]).await;
    let job = run(&rig, &ada, shell("p", "in", "/*", "true")).await;
    let isolation = job.isolation.unwrap();
    assert_eq!(isolation, sandbox::probe(&rig.config.sandbox_binary).as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_err_cmd_that_fails_too_fails_its_datum_with_the_reason_of_the_command() {
    let (rig, ada) = rig(&[("a", "1")]).await;
    let mut spec = shell("both", "in", "/*", "exit 3");
    spec["transform"]["err_cmd"] = json!(["/bin/sh", "-c", "echo tried; exit 4"]);
    spec["datum_tries"] = json!(2);
    let job = run(&rig, &ada, spec).await;
    assert_eq!((job.state, job.datums.failed), (JobState::Failure, 1));
    let datum: &Datum = &rig.datums(&ada, job.id).await[0];
    let found = (datum.state, datum.attempts, datum.exit_code, datum.reason.as_deref());
    assert_eq!(found, (DatumState::Failed, 2, Some(3), Some("exit code 3")));
    assert_eq!(rig.logs(&ada, job.id).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_datums_run_at_once_than_parallelism_admits() {
    let names: Vec<String> = (0..6).map(|n| format!("f{n}")).collect();
    let files: Vec<(&str, &str)> = names.iter().map(|n| (n.as_str(), "1")).collect();
    let (rig, ada) = rig(&files).await;
    let mut spec = shell("single", "in", "/*", "date +%s%N; sleep 0.2; date +%s%N");
    spec["parallelism_spec"] = json!({ "constant": 1 });
    let job = run(&rig, &ada, spec).await;
    succeeded(&job, 6, 6, 0);
    let lines = rig.logs(&ada, job.id).await;
    let mut runs: Vec<(u128, u128)> = Vec::new();
    for pair in by_datum(&lines) {
        runs.push((pair[0], pair[1]));
    }
    runs.sort_unstable();
    assert_eq!(runs.len(), 6);
    assert!(runs.windows(2).all(|w| w[0].1 <= w[1].0), "{runs:?}");
    assert!(runs[0].1 - runs[0].0 >= Duration::from_millis(200).as_nanos());
    // The next one begins when one has ended, not when the worker asks again after a while.
    let longest = runs.windows(2).map(|w| w[1].0 - w[0].1).max().unwrap();
    assert!(longest < Duration::from_secs(8).as_nanos(), "{runs:?}");
}

/// The numbers that each datum printed.
fn by_datum(lines: &[contract::api::LogLine]) -> Vec<Vec<u128>> {
    let mut all: std::collections::BTreeMap<&str, Vec<u128>> = std::collections::BTreeMap::new();
    for line in lines {
        all.entry(&line.datum).or_default().push(line.text.parse().unwrap());
    }
    all.into_values().collect()
}
