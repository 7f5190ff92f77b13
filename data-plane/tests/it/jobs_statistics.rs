//! Where time went: sums of jobs, lists of datums by state and time, histories of pipelines, critical paths.

use contract::api::{CriticalPath, Datum, DatumState, Job, JobState, JobStatistics, Page, PipelineStatistics};
use serde_json::json;

use crate::jobs_rig::{Person, Rig, shell, succeeded};

/// Takes as long as its file says, and fails where that is `bad`.
const SLEEP: &str =
    "s=$(cat /pfs/in/*); [ $s = bad ] && exit 3; sleep $s; printf 12345 > /pfs/out/$(basename /pfs/in/*)";

fn sleeper(name: &str) -> serde_json::Value {
    let mut spec = shell(name, "in", "/*", SLEEP);
    spec["datum_tries"] = json!(1);
    spec["resource_requests"] = json!({ "cpu": 0.5, "memory": "64M" });
    spec
}

async fn statistics(rig: &Rig, person: &Person, job: &Job) -> JobStatistics {
    rig.get(person, &format!("/v1/jobs/{}/statistics", job.id)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_statistics_of_a_job_are_the_sums_of_its_datums_and_name_the_slowest() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    rig.put(&ada, "in", &[("a", "0"), ("b", "0.4"), ("c", "0.1")]).await;
    let applied = rig.apply(&ada, vec![sleeper("work")]).await;
    let job = rig.job(&ada, applied[0].commit_set.unwrap(), "work").await;
    succeeded(&job, 3, 3, 0);

    let found = statistics(&rig, &ada, &job).await;
    let datums = rig.datums(&ada, job.id).await;
    let sum = |of: fn(&Datum) -> f64| datums.iter().map(of).sum::<f64>();
    let near = |a: f64, b: f64| assert!((a - b).abs() < 0.001, "{a} {b}");
    near(found.timings.queue_s, sum(|d| d.queue_s));
    near(found.timings.download_s, sum(|d| d.download_s));
    near(found.timings.process_s, sum(|d| d.process_s));
    near(found.timings.upload_s, sum(|d| d.upload_s));
    near(found.cpu_s, sum(|d| d.cpu_s));
    assert!(found.timings.process_s >= 0.5, "{found:?}");
    assert_eq!(found.bytes_in, Some(1 + 3 + 3));
    assert_eq!(found.bytes_out, 15);
    assert_eq!(found.memory_bytes, datums.iter().map(|d| d.memory_bytes).max().unwrap());
    assert!(found.memory_bytes > 0);
    assert_eq!(
        (found.requested.cpu, found.requested.memory_bytes),
        (Some(0.5), Some(64_000_000))
    );
    assert_eq!((found.saved_s, found.slowest.len()), (0.0, 3));
    assert_eq!(found.slowest[0].inputs, ["in:/b"]);
    let names: Vec<_> = found.phases.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["upstream", "queue", "planning", "running", "finishing"]);
    near(found.wall_s, found.phases.iter().map(|p| p.seconds).sum());
    let running = found.phases[3].seconds;
    assert!(running >= 0.4 && running <= found.wall_s, "{found:?}");

    // One more: what the three took is saved, and passed on.
    for (file, ran) in [("d", 1), ("e", 1)] {
        let more = rig.put(&ada, "in", &[(file, "0")]).await;
        let next = rig.job(&ada, more.commit_set, "work").await;
        assert_eq!(next.datums.succeeded, ran);
        let saved = statistics(&rig, &ada, &next).await.saved_s;
        assert!(
            saved >= found.timings.process_s - 0.001 && saved < found.timings.process_s + 2.0,
            "{saved}"
        );
    }
    // Without the slowest one, less is.
    let less = rig.remove(&ada, "in", "/b").await;
    let last = rig.job(&ada, less.commit_set, "work").await;
    let before = found.slowest[0].process_s;
    let saved = statistics(&rig, &ada, &last).await.saved_s;
    assert!(saved < found.timings.process_s + 2.0 - before, "{saved} {before}");

    let history: PipelineStatistics = rig.get(&ada, "/v1/pipelines/default/work/statistics?limit=2").await;
    let runs: Vec<_> = history.runs.iter().map(|r| (r.job, r.datums.total)).collect();
    assert_eq!((runs.len(), runs[0]), (2, (last.id, 4)));
    let mut took: Vec<f64> = history.runs.iter().map(|r| r.ran_s).collect();
    took.sort_by(f64::total_cmp);
    near(history.median_s.unwrap(), (took[0] + took[1]) / 2.0);
    assert_eq!(history.longest_s, Some(took[1]));
    let no_pipeline = "/v1/pipelines/default/in/statistics";
    assert_eq!(rig.send(&ada, "GET", no_pipeline, None).await.0, 404);
}

async fn pages(rig: &Rig, person: &Person, path: &str) -> Vec<Datum> {
    let mut all = Vec::new();
    let mut cursor = String::new();
    loop {
        let page: Page<Datum> = rig.get(person, &format!("{path}&limit=2{cursor}")).await;
        all.extend(page.items);
        match page.next_cursor {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return all,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn datums_are_listed_by_state_and_by_time_in_pages_and_one_is_shown_by_the_beginning_of_its_id() {
    let rig = Rig::start().await;
    let (ada, eve) = (rig.member("ada").await, rig.member("eve").await);
    rig.repo(&ada, "in").await;
    let files = [("a", "0"), ("b", "bad"), ("c", "0.3"), ("d", "0"), ("e", "bad")];
    rig.put(&ada, "in", &files).await;
    let applied = rig.apply(&ada, vec![sleeper("work")]).await;
    let job = rig.job(&ada, applied[0].commit_set.unwrap(), "work").await;
    assert_eq!(job.state, JobState::Failure);

    let base = format!("/v1/jobs/{}/datums", job.id);
    let inputs = |datums: &[Datum]| datums.iter().map(|d| d.inputs[0].clone()).collect::<Vec<_>>();
    let all = pages(&rig, &ada, &format!("{base}?sort=position")).await;
    assert_eq!(inputs(&all), ["in:/a", "in:/b", "in:/c", "in:/d", "in:/e"]);
    let failed = pages(&rig, &ada, &format!("{base}?state=failed")).await;
    assert_eq!(inputs(&failed), ["in:/b", "in:/e"]);
    let good = pages(&rig, &ada, &format!("{base}?state=succeeded")).await;
    assert_eq!(inputs(&good), ["in:/a", "in:/c", "in:/d"]);
    assert!(pages(&rig, &ada, &format!("{base}?state=skipped")).await.is_empty());

    let slowest = pages(&rig, &ada, &format!("{base}?sort=slowest")).await;
    let took = |d: &Datum| (1000.0 * (d.download_s + d.process_s + d.upload_s)).round() as i64;
    assert_eq!(slowest[0].inputs, ["in:/c"]);
    assert!(slowest.is_sorted_by(|a, b| took(a) >= took(b)), "{slowest:?}");
    let ran: Vec<_> = all.iter().filter(|d| took(d) > 0).collect();
    assert_eq!(slowest.len(), ran.len());
    let slowest = pages(&rig, &ada, &format!("{base}?sort=slowest&state=failed")).await;
    assert!(slowest.iter().all(|d| d.state == DatumState::Failed));
    assert_eq!(rig.send(&ada, "GET", &format!("{base}?state=lost"), None).await.0, 400);

    let shown: Datum = rig.get(&ada, &format!("{base}/{}", &failed[0].id[..8])).await;
    assert_eq!((shown.id.as_str(), shown.exit_code), (failed[0].id.as_str(), Some(3)));
    assert_eq!((shown.bytes_in, shown.bytes_out), (Some(3), 0));
    assert!(shown.started_at.is_some() && shown.finished_at >= shown.started_at);
    assert_eq!(rig.send(&ada, "GET", &format!("{base}/00000000"), None).await.0, 404);

    // Who may not read the output is told what he is told of a job that is not there.
    let none = rig.environment().id::<contract::ids::JobId>();
    for rest in ["statistics", "datums", "datums/00000000"] {
        let hidden = rig
            .send(&eve, "GET", &format!("/v1/jobs/{}/{rest}", job.id), None)
            .await;
        let absent = rig.send(&eve, "GET", &format!("/v1/jobs/{none}/{rest}"), None).await;
        let told = |answer: &(u16, String)| {
            let problem: contract::problem::Problem = serde_json::from_str(&answer.1).unwrap();
            (answer.0, problem.detail)
        };
        assert_eq!(told(&hidden), told(&absent));
        assert_eq!(hidden.0, 404);
    }
    for path in [
        "/v1/pipelines/default/work/statistics",
        "/v1/critical-path?target=work@main",
    ] {
        assert_eq!(rig.send(&eve, "GET", path, None).await.0, 404, "{path}");
    }
    let path = format!("/v1/critical-path?target={}", job.id);
    assert_eq!(rig.send(&eve, "GET", &path, None).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_all_pipelines_are_listed_newest_first_and_by_state() {
    let rig = Rig::start().await;
    let (ada, eve) = (rig.member("ada").await, rig.member("eve").await);
    rig.repo(&ada, "in").await;
    rig.put(&ada, "in", &[("a", "0")]).await;
    let applied = rig.apply(&ada, vec![sleeper("one"), sleeper("two")]).await;
    rig.settle(&ada, applied[0].commit_set.unwrap()).await;
    rig.settle(&ada, applied[1].commit_set.unwrap()).await;
    let bad = rig.put(&ada, "in", &[("a", "bad")]).await;
    rig.settle(&ada, bad.commit_set).await;

    let list = async |who: &Person, query: &str| -> Page<Job> { rig.get(who, &format!("/v1/jobs?{query}")).await };
    let all = list(&ada, "limit=10").await.items;
    assert_eq!(all.len(), 4);
    assert!(all.is_sorted_by(|a, b| a.created_at >= b.created_at));
    let failed = list(&ada, "state=failure").await.items;
    assert_eq!(failed.len(), 2);
    assert!(failed.iter().all(|j| j.state == JobState::Failure));
    let of_one = list(&ada, "pipeline=default/one&state=success").await.items;
    assert_eq!((of_one.len(), of_one[0].pipeline.as_str()), (1, "one"));
    let first = list(&ada, "state=failure&limit=1").await;
    let second = list(
        &ada,
        &format!("state=failure&limit=1&cursor={}", first.next_cursor.unwrap()),
    )
    .await;
    assert_eq!((first.items[0].id, second.items[0].id), (failed[0].id, failed[1].id));
    assert!(second.next_cursor.is_none());
    assert_eq!(rig.send(&ada, "GET", "/v1/jobs?state=lost", None).await.0, 400);
    let hidden = list(&eve, "state=failure").await;
    assert!(hidden.items.is_empty() && hidden.next_cursor.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_critical_path_of_a_commit_set_is_the_chain_that_it_waited_for() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    let after = |name: &str, seconds: &str| {
        shell(
            name,
            "first",
            "/*",
            &format!("sleep {seconds}; cp /pfs/first/* /pfs/out/{name}"),
        )
    };
    let mut end = shell("end", "quick", "/*", "cp /pfs/*/* /pfs/out/");
    end["input"] = json!({ "cross": [
        { "pfs": { "repo": "quick", "glob": "/*" } }, { "pfs": { "repo": "slow", "glob": "/*" } } ] });
    let specs = vec![sleeper("first"), after("quick", "0"), after("slow", "0.8"), end];
    rig.apply(&ada, specs).await;
    let put = rig.put(&ada, "in", &[("a", "0")]).await;
    rig.settle(&ada, put.commit_set).await;

    let path: CriticalPath = rig.get(&ada, "/v1/critical-path?target=end@main").await;
    let names: Vec<_> = path.steps.iter().map(|s| s.pipeline.as_str()).collect();
    assert_eq!(names, ["first", "slow", "end"]);
    assert_eq!(path.commit_set, put.commit_set);
    let running = |at: usize| path.steps[at].phases[3].seconds;
    assert!(running(1) >= 0.8 && path.wall_s >= running(1), "{path:?}");
    // The last one waited for the slow one.
    assert!(path.steps[2].phases[0].seconds >= 0.8, "{path:?}");
    for target in [put.commit_set.to_string(), path.steps[0].job.to_string()] {
        let same: CriticalPath = rig.get(&ada, &format!("/v1/critical-path?target={target}")).await;
        assert_eq!(same.steps.len(), 3, "{target}");
    }
}
