//! Datums: what runs, what is skipped, what user code sees, and what becomes of its failures.

use contract::api::{CommitState, DatumState, JobState};
use serde_json::json;

use crate::jobs_rig::{Rig, shell, succeeded};

/// Copies each input in upper case.
const UPPER: &str = "for f in /pfs/in/*; do tr a-z A-Z < $f > /pfs/out/$(basename $f); done";

fn upper(name: &str) -> serde_json::Value {
    let mut spec = shell(name, "in", "/*", UPPER);
    spec["input"]["pfs"]["name"] = json!("in");
    spec
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_file_runs_one_datum_and_a_deleted_one_takes_its_output_along() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    rig.put(&ada, "in", &[("a", "one"), ("b", "two")]).await;

    let applied = rig.apply(&ada, vec![upper("up")]).await;
    assert_eq!((applied[0].change.as_str(), applied[0].version), ("created", 1));
    let job = rig.job(&ada, applied[0].commit_set.unwrap(), "up").await;
    succeeded(&job, 2, 2, 0);
    assert_eq!(rig.cat(&ada, "up@main", "/a").await, "ONE");

    let more = rig.put(&ada, "in", &[("c", "three")]).await;
    let job = rig.job(&ada, more.commit_set, "up").await;
    succeeded(&job, 3, 1, 2);
    assert_eq!(rig.ls(&ada, "up@main").await, ["/a", "/b", "/c"]);

    let less = rig.remove(&ada, "in", "/b").await;
    let job = rig.job(&ada, less.commit_set, "up").await;
    succeeded(&job, 2, 0, 2);
    assert_eq!(rig.ls(&ada, "up@main").await, ["/a", "/c"]);

    let back = rig.put(&ada, "in", &[("b", "two")]).await;
    let job = rig.job(&ada, back.commit_set, "up").await;
    succeeded(&job, 3, 0, 3);
    assert_eq!(rig.cat(&ada, "up@main", "/b").await, "TWO");

    let changed = rig.put(&ada, "in", &[("a", "other")]).await;
    let job = rig.job(&ada, changed.commit_set, "up").await;
    succeeded(&job, 3, 1, 2);
    assert_eq!(rig.cat(&ada, "up@main", "/a").await, "OTHER");
    assert_eq!(rig.jobs(&ada, "up").await.len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_code_runs_all_changed_parallelism_none_and_the_old_code_none_again() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    rig.put(&ada, "in", &[("a", "one"), ("b", "two")]).await;
    rig.apply(&ada, vec![upper("up")]).await;

    let same = rig.apply(&ada, vec![upper("up")]).await;
    assert_eq!(
        (same[0].change.as_str(), same[0].version, same[0].job),
        ("unchanged", 1, None)
    );

    let mut slower = upper("up");
    slower["parallelism_spec"] = json!({ "constant": 1 });
    let applied = rig.apply(&ada, vec![slower]).await;
    assert_eq!(applied[0].version, 2);
    assert_eq!(applied[0].differences, ["/parallelism_spec"]);
    succeeded(&rig.job(&ada, applied[0].commit_set.unwrap(), "up").await, 2, 0, 2);

    let mut other = upper("up");
    other["transform"]["cmd"][2] = json!("cp /pfs/in/* /pfs/out/");
    let applied = rig.apply(&ada, vec![other]).await;
    succeeded(&rig.job(&ada, applied[0].commit_set.unwrap(), "up").await, 2, 2, 0);
    assert_eq!(rig.cat(&ada, "up@main", "/a").await, "one");

    let applied = rig.apply(&ada, vec![upper("up")]).await;
    succeeded(&rig.job(&ada, applied[0].commit_set.unwrap(), "up").await, 2, 0, 2);
    assert_eq!(rig.cat(&ada, "up@main", "/a").await, "ONE");

    let mut always = upper("up");
    always["reprocess_spec"] = json!("every_job");
    let applied = rig.apply(&ada, vec![always]).await;
    succeeded(&rig.job(&ada, applied[0].commit_set.unwrap(), "up").await, 2, 2, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_datum_fails_the_job_after_the_others_ran_and_only_it_runs_when_it_is_fixed() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    let files: Vec<(String, String)> = (0..12)
        .map(|n| (format!("f{n}"), if n == 7 { "bad" } else { "good" }.to_owned()))
        .collect();
    let files: Vec<(&str, &str)> = files.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    rig.put(&ada, "in", &files).await;
    let script = "grep -q good /pfs/in/* || { echo no good >&2; exit 3; }; cp /pfs/in/* /pfs/out/";
    let mut spec = shell("check", "in", "/*", script);
    spec["datum_tries"] = json!(2);

    let applied = rig.apply(&ada, vec![spec]).await;
    let set = applied[0].commit_set.unwrap();
    let job = rig.job(&ada, set, "check").await;
    assert_eq!(job.state, JobState::Failure);
    assert_eq!((job.datums.succeeded, job.datums.failed), (11, 1));
    let reason = job.reason.unwrap();
    assert!(reason.contains("in:/f7") && reason.contains("exit code 3"), "{reason}");
    let failed: Vec<_> = rig
        .datums(&ada, job.id)
        .await
        .into_iter()
        .filter(|d| d.state == DatumState::Failed)
        .collect();
    assert_eq!((failed.len(), failed[0].attempts, failed[0].exit_code), (1, 2, Some(3)));
    let logs = rig.logs(&ada, job.id).await;
    let said: Vec<_> = logs
        .iter()
        .filter(|l| l.datum == failed[0].id)
        .map(|l| (l.stream.as_str(), l.text.as_str()))
        .collect();
    assert_eq!(said, [("stderr", "no good"), ("stderr", "no good")]);
    let of_datum = async |text: &str| {
        let path = format!("/v1/jobs/{}/logs?datum={text}", job.id);
        rig.send(&ada, "GET", &path, None).await
    };
    for beginning in [
        &failed[0].id[..],
        &failed[0].id[..16],
        &failed[0].id[..9].to_uppercase(),
    ] {
        let (status, lines) = of_datum(beginning).await;
        assert_eq!((status, lines.lines().count()), (200, 2), "{beginning}: {lines}");
    }
    let (status, why) = of_datum("00000000").await;
    assert!(status == 404 && why.contains("datum list"), "{status} {why}");
    assert_eq!(of_datum("abc").await.0, 422);
    assert_eq!(
        rig.commit(&ada, "check", job.output_commit).await.state,
        CommitState::Errored
    );

    let fixed = rig.put(&ada, "in", &[("f7", "good now")]).await;
    let job = rig.job(&ada, fixed.commit_set, "check").await;
    succeeded(&job, 12, 1, 11);
    assert_eq!(rig.ls(&ada, "check@main").await.len(), 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_errored_commit_is_no_base() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    rig.put(&ada, "in", &[("f1", "good")]).await;
    let mut spec = shell("check", "in", "/*", "grep -q good /pfs/in/* && cp /pfs/in/* /pfs/out/");
    spec["datum_tries"] = json!(1);
    rig.apply(&ada, vec![spec]).await;
    let bad = rig.put(&ada, "in", &[("f2", "bad")]).await;
    assert_eq!(rig.job(&ada, bad.commit_set, "check").await.state, JobState::Failure);
    assert_eq!(rig.ls(&ada, "check@main").await, ["/f1"]);

    rig.remove(&ada, "in", "/f2").await;
    let good = rig.put(&ada, "in", &[("f3", "good")]).await;
    rig.job(&ada, good.commit_set, "check").await;
    assert_eq!(rig.ls(&ada, "check@main").await, ["/f1", "/f3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_datums_on_one_path_fail_the_job_naming_both() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    rig.put(&ada, "in", &[("a", "1")]).await;
    rig.apply(&ada, vec![shell("one", "in", "/*", "cp /pfs/in/* /pfs/out/same")])
        .await;
    let set = rig.put(&ada, "in", &[("b", "2")]).await.commit_set;
    let job = rig.job(&ada, set, "one").await;
    assert_eq!(job.state, JobState::Failure);
    let reason = job.reason.unwrap();
    assert!(
        reason.contains("in:/a") && reason.contains("in:/b") && reason.contains("/same"),
        "{reason}"
    );

    // The same within one job.
    let applied = rig
        .apply(&ada, vec![shell("two", "in", "/*", "cp /pfs/in/* /pfs/out/same")])
        .await;
    let job = rig.job(&ada, applied[0].commit_set.unwrap(), "two").await;
    let reason = job.reason.unwrap();
    assert!(
        reason.contains("in:/a") && reason.contains("in:/b") && reason.contains("/same"),
        "{reason}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_matches_means_success_and_an_empty_output() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    rig.put(&ada, "in", &[("a", "1")]).await;
    let applied = rig.apply(&ada, vec![shell("none", "in", "/*.tif", "exit 1")]).await;
    let job = rig.job(&ada, applied[0].commit_set.unwrap(), "none").await;
    succeeded(&job, 0, 0, 0);
    assert!(rig.ls(&ada, "none@main").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn user_code_finds_its_inputs_in_its_environment_and_links_become_copies() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    let put = rig
        .put(
            &ada,
            "in",
            &[
                ("dir/a.txt", "content"),
                ("dir/b.txt", "more"),
                ("tool", "#!/bin/sh\necho run\n"),
            ],
        )
        .await;
    let spec = json!({
        "pipeline": { "name": "env" },
        "transform": {
            "cmd": ["/bin/sh", "-c", "env > /pfs/out/env; ln -s $data/a.txt /pfs/out/link; ln -s /pfs/data/dir /pfs/out/whole; cat > /pfs/out/stdin; ls -R /pfs > /pfs/out/ls; /pfs/code/tool > /pfs/out/ran"],
            "stdin": ["first", "second"],
            "env": { "COLOUR": "blue", "HOWDAH_JOB_ID": "mine" },
        },
        "input": { "cross": [
            { "pfs": { "repo": "in", "name": "data", "glob": "/dir" } },
            { "pfs": { "repo": "in", "name": "code", "glob": "/tool" } },
        ] },
    });
    let applied = rig.apply(&ada, vec![spec]).await;
    let job = rig.job(&ada, applied[0].commit_set.unwrap(), "env").await;
    succeeded(&job, 1, 1, 0);

    let env = rig.cat(&ada, "env@main", "/env").await;
    let datum = &rig.datums(&ada, job.id).await[0];
    for line in [
        "COLOUR=blue".to_owned(),
        "data=/pfs/data/dir".to_owned(),
        "code=/pfs/code/tool".to_owned(),
        format!("data_COMMIT={}", put.id),
        format!("HOWDAH_JOB_ID={}", job.id),
        format!("PACH_JOB_ID={}", job.id),
        format!("HOWDAH_DATUM_ID={}", datum.id),
        format!("HOWDAH_OUTPUT_COMMIT={}", job.output_commit),
        "HOWDAH_PIPELINE=default/env".to_owned(),
    ] {
        assert!(env.lines().any(|l| l == line), "{line} in {env}");
    }
    assert_eq!(rig.cat(&ada, "env@main", "/link").await, "content");
    assert_eq!(rig.cat(&ada, "env@main", "/stdin").await, "first\nsecond\n");
    assert_eq!(rig.cat(&ada, "env@main", "/ran").await, "run\n");
    let paths = rig.ls(&ada, "env@main").await;
    assert_eq!(
        paths,
        ["/env", "/link", "/ls", "/ran", "/stdin", "/whole/a.txt", "/whole/b.txt"]
    );
    assert_eq!(datum.inputs, ["code:/tool", "data:/dir"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn user_code_sees_nothing_of_the_service() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    rig.repo(&ada, "secret").await;
    rig.put(&ada, "secret", &[("s", "TOPSECRET")]).await;
    rig.put(&ada, "in", &[("a", "1")]).await;
    let home = rig.directory.path().display();
    let script = format!(
        "id -u > /pfs/out/id; ls {home} {home}/home {home}/bucket /root /home /run > /pfs/out/seen 2>/dev/null; \
         ls /proc | grep -c '^[0-9]' > /pfs/out/processes; cat /proc/*/environ 2>/dev/null | tr '\\0' '\\n' | grep -i -E 'secret|postgres' >> /pfs/out/seen; \
         touch /pfs/in/a 2>/dev/null && echo wrote >> /pfs/out/seen; ls /pfs >> /pfs/out/pfs; \
         (echo > /dev/tcp/127.0.0.1/5432) 2>/dev/null && echo net >> /pfs/out/seen; true"
    );
    let applied = rig.apply(&ada, vec![shell("spy", "in", "/*", &script)]).await;
    let job = rig.job(&ada, applied[0].commit_set.unwrap(), "spy").await;
    succeeded(&job, 1, 1, 0);
    assert_eq!(rig.cat(&ada, "spy@main", "/seen").await, "");
    assert_eq!(rig.cat(&ada, "spy@main", "/pfs").await, "in\nout\n");
    assert_ne!(rig.cat(&ada, "spy@main", "/id").await.trim(), "0");
    let processes: u32 = rig.cat(&ada, "spy@main", "/processes").await.trim().parse().unwrap();
    assert!(processes < 8, "{processes}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovered_datum_has_no_output_and_is_run_again_next_time() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    rig.put(&ada, "in", &[("a", "good"), ("b", "bad")]).await;
    let mut spec = shell("mend", "in", "/*", "grep -q good /pfs/in/* && cp /pfs/in/* /pfs/out/");
    spec["transform"]["err_cmd"] = json!(["/bin/true"]);
    let applied = rig.apply(&ada, vec![spec]).await;
    let job = rig.job(&ada, applied[0].commit_set.unwrap(), "mend").await;
    assert_eq!(
        (job.state, job.datums.recovered, job.datums.succeeded),
        (JobState::Success, 1, 1)
    );
    assert_eq!(rig.ls(&ada, "mend@main").await, ["/a"]);

    let next = rig.put(&ada, "in", &[("c", "good")]).await;
    let job = rig.job(&ada, next.commit_set, "mend").await;
    let counts = (
        job.datums.total,
        job.datums.recovered,
        job.datums.succeeded,
        job.datums.skipped,
    );
    assert_eq!(counts, (3, 1, 1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn timeouts_and_accepted_codes_and_a_stopped_job() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    rig.put(&ada, "in", &[("a", "1")]).await;
    let mut slow = shell("slow", "in", "/*", "sleep 60");
    slow["datum_timeout"] = json!("1s");
    slow["datum_tries"] = json!(1);
    let mut odd = shell("odd", "in", "/*", "exit 7");
    odd["transform"]["accept_return_code"] = json!([7]);
    let mut long = shell("long", "in", "/*", "sleep 60");
    long["job_timeout"] = json!("1s");
    let stopped = shell("stopped", "in", "/*", "echo begun; sleep 60");
    let applied = rig.apply(&ada, vec![slow, odd, long, stopped]).await;
    let job = applied[3].job.unwrap();
    testkit::wait::wait_until("the datum to run", crate::jobs_rig::LIMIT, async || {
        !rig.logs(&ada, job).await.is_empty()
    })
    .await;
    let killed: contract::api::Job = rig.post(&ada, &format!("/v1/jobs/{job}/stop"), json!({})).await;
    assert_eq!(killed.state, JobState::Killed);
    let set = applied[0].commit_set.unwrap();
    let timed_out = rig.job(&ada, set, "slow").await;
    assert!(
        timed_out.reason.as_deref().unwrap().contains("datum_timeout"),
        "{timed_out:?}"
    );
    assert_eq!(rig.job(&ada, set, "odd").await.state, JobState::Success);
    let overdue = rig.job(&ada, set, "long").await;
    assert!(
        overdue.reason.as_deref().unwrap().contains("job_timeout"),
        "{overdue:?}"
    );
    let commit = rig.commit(&ada, "stopped", killed.output_commit).await;
    assert!(commit.reason.unwrap().contains("stopped by ada"));
}

#[tokio::test(flavor = "multi_thread")]
async fn datums_of_several_pipelines_that_run_at_once_share_no_directory() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    let names: Vec<String> = (0..8).map(|n| format!("p{n}")).collect();
    // Each looks at its outputs twice, a moment apart, so that one that ends earlier would take them along.
    let spec = |name: &String| {
        let script = format!("echo {name} > /pfs/out/{name}; sleep 0.2; test $(ls /pfs/out) = {name}");
        let mut spec = shell(name, "in", "/", &script);
        spec["datum_tries"] = json!(1);
        spec
    };
    rig.apply(&ada, names.iter().map(spec).collect()).await;
    let put = rig.put(&ada, "in", &[("f", "1")]).await;
    for name in &names {
        succeeded(&rig.job(&ada, put.commit_set, name).await, 1, 1, 0);
        assert_eq!(rig.ls(&ada, &format!("{name}@main")).await, [format!("/{name}")]);
    }
}
