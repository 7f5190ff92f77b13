//! `path_collision: append`: what datums write to one path stands in it in their order, whoever ran them and when.

use contract::api::JobState;
use serde_json::{Value, json};

use crate::jobs_rig::{Person, Rig, shell, succeeded};

fn appending(name: &str, script: &str) -> Value {
    let mut spec = shell(name, "in", "/*", script);
    spec["path_collision"] = json!("append");
    spec["datum_tries"] = json!(1);
    spec
}

/// Each datum writes a path of its own, and to one or two of all.
const SCRIPT: &str = "cd /pfs/in; f=$(ls); cat $f > /pfs/out/own-$f; cat $f > /pfs/out/log.txt
    case $f in b*) echo $f > /pfs/out/of-b;; esac";

async fn same_as_from_the_beginning(rig: &Rig, ada: &Person, twin: &str) {
    let applied = rig.apply(ada, vec![appending(twin, SCRIPT)]).await;
    let job = rig.job(ada, applied[0].commit_set.unwrap(), twin).await;
    assert_eq!((job.state, job.datums.skipped), (JobState::Success, 0));
    let digest = |repo: &'static str, of: String| async move {
        let commit: Value = rig.get(ada, &format!("/v1/commits?ref={of}@main")).await;
        assert!(commit["digest"].is_string(), "{repo}: {commit}");
        commit["digest"].clone()
    };
    assert_eq!(digest("p", "p".to_owned()).await, digest("twin", twin.to_owned()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_several_datums_append_is_what_a_job_from_the_beginning_gives() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    let large: String = (0..300_000).map(|n| format!("{n:07}\n")).collect();
    rig.put(
        &ada,
        "in",
        &[("c", "3\n"), ("a", "1\n"), ("b1", "2\n"), ("large", &large)],
    )
    .await;
    let applied = rig.apply(&ada, vec![appending("p", SCRIPT)]).await;
    succeeded(&rig.job(&ada, applied[0].commit_set.unwrap(), "p").await, 4, 4, 0);
    assert_eq!(rig.cat(&ada, "p@main", "/log.txt").await, format!("1\n2\n3\n{large}"));

    // Each step: what is put, what is removed, then the log, the file of `b*`, and what ran.
    type Step<'a> = (&'a [(&'a str, &'a str)], Option<&'a str>, &'a str, Option<&'a str>, u64);
    let steps: [Step<'_>; 5] = [
        (&[("b2", "2.5\n")], None, "1\n2\n2.5\n3\n", Some("b1\nb2\n"), 1),
        (&[("a", "one\n")], None, "one\n2\n2.5\n3\n", Some("b1\nb2\n"), 1),
        (&[], Some("/b1"), "one\n2.5\n3\n", Some("b2\n"), 0),
        (&[], Some("/b2"), "one\n3\n", None, 0),
        (&[("b1", "2\n"), ("d", "4\n")], None, "one\n2\n3\n4\n", Some("b1\n"), 1),
    ];
    for (at, (put, removed, log, of_b, ran)) in steps.into_iter().enumerate() {
        let commit = match removed {
            Some(path) => rig.remove(&ada, "in", path).await,
            None => rig.put(&ada, "in", put).await,
        };
        let job = rig.job(&ada, commit.commit_set, "p").await;
        assert_eq!(
            (job.state, job.datums.succeeded),
            (JobState::Success, ran),
            "{at}: {:?}",
            job.reason
        );
        assert_eq!(
            rig.cat(&ada, "p@main", "/log.txt").await,
            format!("{log}{large}"),
            "{at}"
        );
        let listed = rig.ls(&ada, "p@main").await;
        assert_eq!(listed.contains(&"/of-b".to_owned()), of_b.is_some(), "{at}: {listed:?}");
        if let Some(of_b) = of_b {
            assert_eq!(rig.cat(&ada, "p@main", "/of-b").await, of_b, "{at}");
        }
    }
    same_as_from_the_beginning(&rig, &ada, "twin").await;

    // The file that was read is purged: nothing of it stays in what was put together.
    let body = json!({ "repo": "in", "path": "/d", "force": true });
    let _: Value = rig.post(&ada, "/v1/purges", body).await;
    let newest = rig.jobs(&ada, "p").await.remove(0);
    let job = rig.job(&ada, newest.commit_set, "p").await;
    succeeded(&job, 4, 0, 4);
    assert_eq!(rig.cat(&ada, "p@main", "/log.txt").await, format!("one\n2\n3\n{large}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_one_datum_that_is_a_directory_of_another_fails_the_job_all_the_same() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    rig.put(&ada, "in", &[("a", "1")]).await;
    let script = "case $(ls /pfs/in) in d*) mkdir /pfs/out/x; echo > /pfs/out/x/y;; *) echo > /pfs/out/x;; esac";
    let applied = rig.apply(&ada, vec![appending("p", script)]).await;
    succeeded(&rig.job(&ada, applied[0].commit_set.unwrap(), "p").await, 1, 1, 0);
    let both = rig.put(&ada, "in", &[("d", "2")]).await;
    let job = rig.job(&ada, both.commit_set, "p").await;
    let reason = job.reason.unwrap_or_default();
    assert_eq!(job.state, JobState::Failure);
    assert!(reason.contains("in:/a") && reason.contains("x"), "{reason}");
    let fixed = rig.remove(&ada, "in", "/d").await;
    succeeded(&rig.job(&ada, fixed.commit_set, "p").await, 1, 0, 1);
}
