//! Services and spouts in pods, with processes of this machine in the place of containers.

use contract::api::{Job, JobState, PipelineState};
use contract::policy::Role;
use serde_json::{Value, json};
use testkit::wait::wait_until;

use crate::jobs_pods::{Pod, Stranger, capability, database, pool_of, rig};
use crate::jobs_rig::{LIMIT, Person, Rig, finished, shell};
use crate::jobs_services::{answers, ask, echo, pipeline, spec_at};
use crate::jobs_spouts::{COUNT, KEYED, commits, log, printed, spout};

/// A service of Ada's in a pod.
async fn serving(rig: &Rig, ada: &Person) -> (Job, Pod) {
    let applied = rig.apply(ada, vec![spec_at(testkit::processes::free_port())]).await;
    let pool = pool_of(rig, applied[0].job.unwrap()).await;
    let pod = Pod::lasting(rig, "pod-1", pool);
    answers(rig, ada, "first").await;
    (rig.jobs(ada, "page").await.remove(0), pod)
}

/// The run of the one service that there is.
async fn run(rig: &Rig) -> i32 {
    let runs = sqlx::query_scalar("select run from services");
    runs.fetch_one(&database(rig).await).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_in_a_pod_is_reached_by_who_may_read_what_it_reads_and_replaced_at_new_commits() {
    let (rig, ada) = rig(&[("a", "first")]).await;
    let (job, _pod) = serving(&rig, &ada).await;
    assert_eq!(
        (job.state, job.serving, job.isolation.as_deref()),
        (JobState::Running, true, Some("pod"))
    );
    let environment = ask(&rig, &ada, "/environment").await.1;
    let port = pipeline(&rig, &ada).await.service.unwrap().internal_port;
    assert_eq!(environment, format!("{port}/"));
    drop(echo(&rig, &ada).await);

    let eve = rig.member("eve").await;
    assert_eq!(ask(&rig, &eve, "/").await.0, 404);
    rig.grant(&eve, Role::Viewer, "page");
    assert_ne!(ask(&rig, &eve, "/").await.0, 200);
    rig.grant(&eve, Role::Viewer, "in");
    assert_eq!(ask(&rig, &eve, "/").await, (200, "first".to_owned()));

    let put = rig.put(&ada, "in", &[("b", "second")]).await;
    finished(&rig.settle(&ada, put.commit_set).await);
    answers(&rig, &ada, "first second").await;
    let states: Vec<JobState> = rig.jobs(&ada, "page").await.iter().map(|job| job.state).collect();
    assert_eq!(states, [JobState::Running, JobState::Success]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_in_a_pod_is_started_again_whatever_ends_and_says_why() {
    let (rig, ada) = rig(&[("a", "first")]).await;
    let (_, mut pod) = serving(&rig, &ada).await;
    let crashing = async |because: &str| {
        wait_until("the pipeline to say why", LIMIT, async || {
            let shown = pipeline(&rig, &ada).await;
            shown.state == PipelineState::Crashing && shown.reason.is_some_and(|reason| reason.contains(because))
        })
        .await;
    };
    for _ in 0..3 {
        let _ = ask(&rig, &ada, "/end").await;
        answers(&rig, &ada, "first").await;
    }
    let _ = ask(&rig, &ada, "/end").await;
    crashing("exit code 7").await;
    answers(&rig, &ada, "first").await;
    pod.restart_shim();
    crashing("its container was killed").await;
    answers(&rig, &ada, "first").await;
    // Its agent is ours: that it dies is no failure of the service.
    let failures = pipeline(&rig, &ada).await.service.unwrap().restarts;
    pod.restart_agent();
    wait_until("a new run", LIMIT, async || run(&rig).await == 7).await;
    answers(&rig, &ada, "first").await;
    assert_eq!(pipeline(&rig, &ada).await.service.unwrap().restarts, failures);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_pods_one_keeps_a_service_until_it_leaves() {
    let (rig, ada) = rig(&[("a", "first")]).await;
    let (job, mut first) = serving(&rig, &ada).await;
    let pool = pool_of(&rig, job.id).await;
    let _second = Pod::lasting(&rig, "pod-2", pool);
    let second = Stranger {
        rig: &rig,
        pool: Some(pool),
        secret: Some(capability(&rig, pool)),
    };
    let asks = |services: Value| json!({ "worker": uuid::Uuid::from_u128(7), "services": services, "isolation": "pod", "wait_ms": 500 });
    let (status, told) = second.post("services", asks(json!([]))).await;
    assert_eq!((status, &told["services"]), (200, &json!([])), "it is the first one's");
    // Nor is anybody led elsewhere by what another one says, or to this machine.
    let report = |door: Value| json!([{ "job": job.id, "run": 1, "standing": { "kind": "answering", "door": door } }]);
    let elsewhere = asks(report(json!({ "agent": "127.0.0.1:9" })));
    assert_eq!(second.post("services", elsewhere).await.0, 200);
    let here = asks(report(json!({ "socket": "/etc/passwd" })));
    assert_eq!(second.post("services", here).await.0, 422);
    answers(&rig, &ada, "first").await;
    assert_eq!(run(&rig).await, 1);
    assert!(first.stop_agent().success());
    answers(&rig, &ada, "first").await;
    assert!(run(&rig).await > 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spout_in_a_pod_makes_commits_in_order_and_what_reads_them_runs() {
    let (rig, ada) = rig(&[]).await;
    let count = shell("count", "feed", "/", "ls /pfs/feed/numbers | wc -l > /pfs/out/n");
    let applied = rig.apply(&ada, vec![spout(COUNT), count]).await;
    let _feed = Pod::lasting(&rig, "feed", pool_of(&rig, applied[0].job.unwrap()).await);
    let made = commits(&rig, &ada, 3).await;
    let messages: Vec<&str> = made.iter().map(|commit| commit.message.as_str()).collect();
    assert_eq!(messages, ["number 1", "number 2", "number 3"]);
    assert_eq!((made[2].files, made[2].parent), (4, Some(made[1].id)));
    assert_eq!(rig.cat(&ada, "feed@main", "/newest").await, "3\n");
    let job: Job = rig.jobs(&ada, "feed").await.remove(0);
    printed(&rig, &ada, &job, "error: there is nothing in /pfs/out").await;
    let lines: Vec<String> = rig.logs(&ada, job.id).await.into_iter().map(|line| line.text).collect();
    let ids: Vec<String> = made.iter().map(|commit| commit.id.to_string()).collect();
    assert_eq!(lines[..3], ids[..]);
    assert!(!lines.contains(&"not empty".to_owned()));
    let counting = rig.jobs(&ada, "count").await.remove(0);
    let _count = Pod::start(&rig, "count", pool_of(&rig, counting.id).await);
    finished(&rig.settle(&ada, made[2].commit_set).await);
    assert_eq!(rig.cat(&ada, "count@main", "/n").await.trim(), "3");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spout_in_a_pod_goes_on_behind_its_last_key_whatever_is_killed() {
    let (mut rig, ada) = rig(&[]).await;
    let applied = rig.apply(&ada, vec![spout(KEYED)]).await;
    let mut pod = Pod::lasting(&rig, "feed", pool_of(&rig, applied[0].job.unwrap()).await);
    commits(&rig, &ada, 1).await;
    let job: Job = rig.jobs(&ada, "feed").await.remove(0);
    printed(&rig, &ada, &job, "same 1").await;
    pod.restart_agent();
    printed(&rig, &ada, &job, "same 2").await;
    pod.restart_shim();
    printed(&rig, &ada, &job, "same 3").await;
    // It does not even notice that its plane dies.
    rig.kill9();
    rig.boot().await;
    assert_eq!(log(&rig, &ada).await.len(), 3);
    assert_eq!(rig.ls(&ada, "feed@main").await, ["/1", "/2", "/3"]);
    pod.restart_agent();
    printed(&rig, &ada, &job, "same 4").await;
}
