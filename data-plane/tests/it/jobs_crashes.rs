//! Killing anything in the middle of a job: nothing is lost, nothing is there twice, and the output is that of an
//! undisturbed run.

use contract::api::{Job, JobState};
use serde_json::Value;

use crate::jobs_rig::{LIMIT, Person, Rig, shell};

const FILES: usize = 24;

fn slow() -> Value {
    let mut spec = shell(
        "slow",
        "in",
        "/*",
        "sleep 0.15; f=$(ls /pfs/in); echo $f is done > /pfs/out/$f",
    );
    // A killed worker or plane must cost no try.
    spec["datum_tries"] = serde_json::json!(1);
    spec
}

async fn begin(rig: &Rig, ada: &Person) -> Job {
    rig.repo(ada, "in").await;
    let names: Vec<String> = (0..FILES).map(|n| format!("f{n:02}")).collect();
    let files: Vec<(&str, &str)> = names.iter().map(|n| (n.as_str(), n.as_str())).collect();
    rig.put(ada, "in", &files).await;
    let applied = rig.apply(ada, vec![slow()]).await;
    let job = applied[0].job.unwrap();
    ran(rig, ada, job, 4).await
}

/// Waits until so many datums have run.
async fn ran(rig: &Rig, ada: &Person, id: contract::ids::JobId, count: u64) -> Job {
    testkit::wait::wait_until("datums to run", LIMIT, async || {
        let job: Job = rig.get(ada, &format!("/v1/jobs/{id}")).await;
        job.datums.succeeded >= count || job.state.is_terminal()
    })
    .await;
    rig.get(ada, &format!("/v1/jobs/{id}")).await
}

async fn check(rig: &Rig, ada: &Person, job: &Job) {
    let done = rig.job(ada, job.commit_set, "slow").await;
    assert_eq!(done.state, JobState::Success, "{:?}", done.reason);
    assert_eq!((done.datums.total, done.datums.succeeded), (FILES as u64, FILES as u64));
    let expected: Vec<String> = (0..FILES).map(|n| format!("/f{n:02}")).collect();
    assert_eq!(rig.ls(ada, "slow@main").await, expected);
    for path in &expected {
        assert_eq!(
            rig.cat(ada, "slow@main", path).await,
            format!("{} is done\n", &path[1..])
        );
    }
    let datums = rig.datums(ada, job.id).await;
    assert!(datums.iter().all(|d| d.attempts == 1), "{datums:?}");
    assert_eq!(rig.jobs(ada, "slow").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_the_worker_loses_no_result_and_costs_no_try() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    let job = begin(&rig, &ada).await;
    assert_eq!(job.state, JobState::Running);
    let worker = rig.worker_pid().unwrap();
    testkit::processes::kill9(worker);
    ran(&rig, &ada, job.id, 12).await;
    if let Some(worker) = rig.worker_pid() {
        testkit::processes::kill9(worker);
    }
    check(&rig, &ada, &job).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_the_whole_plane_loses_no_result() {
    let mut rig = Rig::start().await;
    let ada = rig.member("ada").await;
    let job = begin(&rig, &ada).await;
    assert_eq!(job.state, JobState::Running);
    rig.kill9();
    rig.boot().await;
    ran(&rig, &ada, job.id, 14).await;
    rig.kill9();
    rig.boot().await;
    check(&rig, &ada, &job).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_postgresql_loses_no_result() {
    let server = testkit::postgres::dedicated().await;
    let pool = sqlx::PgPool::connect(&server.url).await.unwrap();
    data_plane::server::MIGRATIONS.run(&pool).await.unwrap();
    pool.close().await;
    let rig = Rig::on(&server.url, None).await;
    let ada = rig.member("ada").await;
    let job = begin(&rig, &ada).await;
    assert_eq!(job.state, JobState::Running);
    server.kill9();
    server.start();
    testkit::wait::wait_until("the plane to answer again", LIMIT, async || {
        rig.send(&ada, "GET", &format!("/v1/jobs/{}", job.id), None).await.0 == 200
    })
    .await;
    let done = rig.job(&ada, job.commit_set, "slow").await;
    assert_eq!(done.state, JobState::Success, "{:?}", done.reason);
    assert_eq!(done.datums.succeeded, FILES as u64);
    assert_eq!(rig.ls(&ada, "slow@main").await.len(), FILES);
}

#[tokio::test(flavor = "multi_thread")]
async fn results_of_a_lease_that_ran_out_are_refused_and_the_datums_run_again() {
    use nix::sys::signal::{Signal, kill};
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    let job = begin(&rig, &ada).await;
    assert_eq!(job.state, JobState::Running);
    let worker = nix::unistd::Pid::from_raw(i32::try_from(rig.worker_pid().unwrap()).unwrap());
    kill(worker, Signal::SIGSTOP).unwrap();
    let pool = sqlx::PgPool::connect(&rig.config.database_url).await.unwrap();
    testkit::wait::wait_until("the leases to run out", LIMIT, async || {
        let held: i64 = sqlx::query_scalar("select count(*) from leases")
            .fetch_one(&pool)
            .await
            .unwrap();
        held == 0
    })
    .await;
    let waiting: i64 = sqlx::query_scalar("select count(*) from datums where state = 'running'")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(waiting, 0);
    kill(worker, Signal::SIGCONT).unwrap();
    check(&rig, &ada, &job).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_queue_is_full_of_a_stopped_job_goes_on_with_the_next_one() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    let job = begin(&rig, &ada).await;
    assert_eq!(job.state, JobState::Running);
    let _: Job = rig
        .post(&ada, &format!("/v1/jobs/{}/stop", job.id), serde_json::json!({}))
        .await;
    let applied = rig.apply(&ada, vec![shell("next", "in", "/f00", "true")]).await;
    let next = rig.job(&ada, applied[0].commit_set.unwrap(), "next").await;
    assert_eq!(next.state, JobState::Success, "{:?}", next.reason);
}
