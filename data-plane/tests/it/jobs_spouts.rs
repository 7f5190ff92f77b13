//! Spouts: commits that a command makes of what it receives, in order, whole or not at all; and who may read them before
//! somebody attests them.

use contract::api::{Commit, Decision, Explanation, Job, JobState, Page, Pipeline, PipelineState};
use contract::policy::Role;
use serde_json::{Value, json};

use crate::jobs_rig::{LIMIT, Person, Rig, finished, shell};

/// Commits a file with each number of `$1..$2`, and prints what it is answered.
pub const COUNT: &str = r#"
say() { echo "$1" > /pfs/commit; read -r answer < /pfs/committed; echo "$answer"; }
for n in $(seq 1 3); do
  mkdir -p /pfs/out/numbers
  echo "$n" > /pfs/out/numbers/$n
  echo "$n" > /pfs/out/newest
  say "number $n"
  test -z "$(ls /pfs/out)" || echo "not empty"
done
say "nothing"
exec sleep 1000
"#;

pub fn spout(script: &str) -> Value {
    json!({
        "pipeline": { "name": "feed" },
        "transform": { "cmd": ["/bin/sh", "-c", script] },
        "spout": {},
    })
}

/// Finished commits of the branch, oldest first.
pub async fn log(rig: &Rig, person: &Person) -> Vec<Commit> {
    let (status, text) = rig.send(person, "GET", "/v1/log?ref=feed@main&limit=200", None).await;
    if status != 200 {
        return Vec::new();
    }
    let mut page: Page<Commit> = serde_json::from_str(&text).unwrap();
    page.items.reverse();
    page.items
}

pub async fn commits(rig: &Rig, person: &Person, count: usize) -> Vec<Commit> {
    testkit::wait::wait_until("the spout's commits", LIMIT, async || {
        log(rig, person).await.len() >= count
    })
    .await;
    log(rig, person).await
}

pub async fn printed(rig: &Rig, person: &Person, job: &Job, text: &str) {
    testkit::wait::wait_until("a line of the spout", LIMIT, async || {
        rig.logs(person, job.id)
            .await
            .iter()
            .any(|line| line.text.contains(text))
    })
    .await;
}

async fn state(rig: &Rig, person: &Person) -> PipelineState {
    rig.get::<Pipeline>(person, "/v1/pipelines/default/feed").await.state
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spout_makes_commits_in_order_and_what_reads_them_runs() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    let count = shell("count", "feed", "/", "ls /pfs/feed/numbers | wc -l > /pfs/out/n");
    rig.apply(&ada, vec![spout(COUNT), count]).await;
    let made = commits(&rig, &ada, 3).await;
    let messages: Vec<&str> = made.iter().map(|c| c.message.as_str()).collect();
    assert_eq!(messages, ["number 1", "number 2", "number 3"]);
    let last = made.last().unwrap();
    assert_eq!((last.files, last.parent), (4, Some(made[1].id)));
    assert_eq!(
        (last.pipeline.as_ref().unwrap().as_str(), last.pipeline_version),
        ("feed", Some(1))
    );
    assert!(last.unattested && last.attested.is_none());
    assert_eq!(rig.cat(&ada, "feed@main", "/newest").await, "3\n");
    assert_eq!(rig.ls(&ada, &format!("feed@{}", made[0].id)).await.len(), 2);
    finished(&rig.settle(&ada, last.commit_set).await);
    assert_eq!(rig.cat(&ada, "count@main", "/n").await.trim(), "3");
    // Its own answer to each, and an empty commit is refused.
    let job: Job = rig.jobs(&ada, "feed").await.remove(0);
    assert_eq!(job.state, JobState::Running);
    printed(&rig, &ada, &job, "error: there is nothing in /pfs/out").await;
    let lines: Vec<String> = rig.logs(&ada, job.id).await.into_iter().map(|l| l.text).collect();
    let ids: Vec<String> = made.iter().map(|c| c.id.to_string()).collect();
    assert_eq!(lines[..3], ids[..]);
    assert!(!lines.contains(&"not empty".to_owned()));
    let (status, text) = rig
        .send(&ada, "POST", "/v1/pipelines/default/feed/run", Some(json!({})))
        .await;
    assert!(status == 409 && text.contains("spout"), "{status} {text}");
    let (status, _) = rig
        .send(&ada, "DELETE", "/v1/projects/default/repos/feed_unattested", None)
        .await;
    assert_eq!(status, 409);
}

/// Commits a number under its key each time that it is started: the one after the last.
pub const KEYED: &str = r#"
n=$(( ${HOWDAH_LAST_KEY:-0} + 1 ))
echo "$n" > /pfs/out/$n
echo "key=$n start $n" > /pfs/commit; read -r first < /pfs/committed
echo "other" > /pfs/out/$n
echo "key=$n again" > /pfs/commit; read -r again < /pfs/committed
test "$first" = "$again" && echo "same $n"
echo lost > /pfs/out/lost
exec sleep 1000
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_spout_goes_on_behind_its_last_key_whatever_is_killed() {
    let mut rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.apply(&ada, vec![spout(KEYED)]).await;
    let job: Job = {
        commits(&rig, &ada, 1).await;
        rig.jobs(&ada, "feed").await.remove(0)
    };
    printed(&rig, &ada, &job, "same 1").await;
    testkit::processes::kill9(rig.worker_pid().unwrap());
    commits(&rig, &ada, 2).await;
    printed(&rig, &ada, &job, "same 2").await;
    rig.kill9();
    rig.boot().await;
    commits(&rig, &ada, 3).await;
    printed(&rig, &ada, &job, "same 3").await;
    assert_eq!(log(&rig, &ada).await.len(), 3);
    assert_eq!(rig.ls(&ada, "feed@main").await, ["/1", "/2", "/3"]);
    assert_eq!(rig.cat(&ada, "feed@main", "/1").await, "1\n");
    assert_eq!(rig.jobs(&ada, "feed").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_spout_ends_until_it_is_started_and_a_new_version_takes_its_place() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    let tick = "n=1; while echo $n > /pfs/out/f && echo \"$NAME $n\" > /pfs/commit && read -r a < /pfs/committed; do n=$((n + 1)); sleep 0.1; done";
    let mut spec = spout(tick);
    spec["transform"]["env"] = json!({ "NAME": "first" });
    rig.apply(&ada, vec![spec.clone()]).await;
    commits(&rig, &ada, 2).await;
    let _: Pipeline = rig.post(&ada, "/v1/pipelines/default/feed/stop", json!({})).await;
    let stopped = log(&rig, &ada).await.len();
    assert_eq!(state(&rig, &ada).await, PipelineState::Paused);
    let jobs = rig.jobs(&ada, "feed").await;
    assert_eq!(jobs.iter().map(|j| j.state).collect::<Vec<_>>(), [JobState::Success]);
    let _: Pipeline = rig.post(&ada, "/v1/pipelines/default/feed/start", json!({})).await;
    let again = commits(&rig, &ada, stopped + 1).await;
    // Nothing came between: the first one after the start begins to count anew.
    assert_eq!(again[stopped].message, "first 1");
    spec["transform"]["env"] = json!({ "NAME": "second" });
    spec["spout"] = json!({ "overwrite": true });
    rig.apply(&ada, vec![spec]).await;
    testkit::wait::wait_until("a commit of the second version", LIMIT, async || {
        log(&rig, &ada)
            .await
            .iter()
            .any(|c| c.message.starts_with("second") && c.pipeline_version == Some(2))
    })
    .await;
    let states: Vec<JobState> = rig.jobs(&ada, "feed").await.iter().map(|j| j.state).collect();
    assert_eq!(states, [JobState::Running, JobState::Success, JobState::Success]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spout_that_ends_by_itself_is_crashing() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.apply(&ada, vec![spout("echo hello; exit 3")]).await;
    testkit::wait::wait_until("the pipeline to be crashing", LIMIT, async || {
        let shown: Pipeline = rig.get(&ada, "/v1/pipelines/default/feed").await;
        shown.state == PipelineState::Crashing && shown.reason.is_some_and(|r| r.contains("exit code 3"))
    })
    .await;
}

async fn explained(rig: &Rig, person: &Person, reference: &str) -> Explanation {
    rig.get(person, &format!("/v1/access/explain?ref={reference}")).await
}

async fn status(rig: &Rig, person: &Person, reference: &str) -> u16 {
    rig.send(person, "GET", &format!("/v1/files?ref={reference}"), None)
        .await
        .0
}

async fn attest(rig: &Rig, person: &Person, reference: &str) -> (u16, String) {
    let body = json!({ "ref": reference, "message": "compared" });
    rig.send(person, "POST", "/v1/commits/attest", Some(body)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_received_after_a_pipeline_was_deleted_is_another_owners_and_keys_begin_anew() {
    let rig = Rig::start().await;
    let (ada, ben) = (rig.member("ada").await, rig.member("ben").await);
    rig.apply(&ada, vec![spout(KEYED)]).await;
    let first = commits(&rig, &ada, 1).await.remove(0);
    rig.grant(&ben, Role::Owner, "feed");
    rig.grant(&ben, Role::Viewer, "feed_unattested");
    let (code, text) = rig.send(&ada, "DELETE", "/v1/pipelines/default/feed", None).await;
    assert!(code < 300, "{code} {text}");
    rig.apply(&ben, vec![spout(KEYED)]).await;
    // The key of the first one is free again.
    let second = commits(&rig, &ben, 2).await.remove(1);
    assert_eq!((second.message.as_str(), second.parent), ("start 1", Some(first.id)));
    let of = |commit: &Commit| format!("feed@{}", commit.id);
    // It holds what ada received, for which ben cannot answer; nor ada for what ben received.
    assert_eq!(attest(&rig, &ben, &of(&second)).await.0, 403);
    rig.grant(&ada, Role::Viewer, "feed_unattested");
    assert_eq!(attest(&rig, &ada, &of(&second)).await.0, 403);
    let shown: Commit = rig.commit(&ada, "feed", first.id).await;
    assert!(shown.unattested);
    // Once she has answered for hers, he can for his.
    assert_eq!(attest(&rig, &ada, &of(&first)).await.0, 200);
    assert_eq!(attest(&rig, &ben, &of(&second)).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_dropped_can_be_received_again_under_its_key() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.apply(&ada, vec![spout(KEYED)]).await;
    let first = commits(&rig, &ada, 1).await.remove(0);
    let _: Pipeline = rig.post(&ada, "/v1/pipelines/default/feed/stop", json!({})).await;
    let drop = json!({ "ref": format!("feed@{}", first.id), "dry_run": false, "force": true });
    let (code, text) = rig.send(&ada, "POST", "/v1/commits/drop", Some(drop)).await;
    assert!(code < 300, "{code} {text}");
    let _: Pipeline = rig.post(&ada, "/v1/pipelines/default/feed/start", json!({})).await;
    testkit::wait::wait_until("the first key's commit again", LIMIT, async || {
        log(&rig, &ada)
            .await
            .iter()
            .any(|c| c.message == "start 1" && c.id != first.id && c.removed.is_none())
    })
    .await;
}

/// Each commit has one file, named by its number.
const ALONE: &str = r#"
for n in 1 2; do
  echo "$n" > /pfs/out/$n; echo "$n" > /pfs/commit; read -r answer < /pfs/committed
done
exec sleep 1000
"#;

#[tokio::test(flavor = "multi_thread")]
async fn attesting_a_commit_that_holds_none_of_those_before_it_answers_for_that_one_alone() {
    let rig = Rig::start().await;
    let (ada, ben) = (rig.member("ada").await, rig.member("ben").await);
    let mut spec = spout(ALONE);
    spec["spout"] = json!({ "overwrite": true });
    rig.apply(&ada, vec![spec]).await;
    let made = commits(&rig, &ada, 2).await;
    rig.grant(&ben, Role::Viewer, "feed");
    let of = |n: usize| format!("feed@{}", made[n].id);
    assert_eq!(rig.ls(&ada, &of(1)).await, ["/2"]);
    assert_eq!(attest(&rig, &ada, &of(1)).await.0, 200);
    let seen = (status(&rig, &ben, &of(0)).await, status(&rig, &ben, &of(1)).await);
    assert_eq!(seen, (403, 200));
}

/// A line that is no message, then one that is, then a key alone.
const REFUSED: &str = r#"
say() { echo "$1" > /pfs/commit; read -r answer < /pfs/committed; echo "$answer"; }
echo bad > /pfs/out/bad
say "key= bad"
echo good > /pfs/out/good
say "good"
say "key=unknown nothing"
exec sleep 1000
"#;

#[tokio::test(flavor = "multi_thread")]
async fn files_of_a_refused_line_are_in_no_later_commit_and_a_key_alone_makes_none() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.apply(&ada, vec![spout(REFUSED)]).await;
    commits(&rig, &ada, 1).await;
    assert_eq!(rig.ls(&ada, "feed@main").await, ["/good"]);
    let job: Job = rig.jobs(&ada, "feed").await.remove(0);
    printed(&rig, &ada, &job, "no commit was made under that key").await;
    assert_eq!(log(&rig, &ada).await.len(), 1);
}

/// Processes whose command holds a text.
fn running(text: &str) -> usize {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    all.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .filter(|command| String::from_utf8_lossy(command).contains(text))
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spout_that_fills_its_own_answers_can_be_stopped() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    let mark = format!("flood-{}", rig.pid());
    let flood = format!(
        ": {mark}; (while true; do cat /dev/zero; done) > /pfs/committed & echo 1 > /pfs/out/f; echo started; \
         while true; do echo x > /pfs/commit; sleep 0.05; done"
    );
    rig.apply(&ada, vec![spout(&flood)]).await;
    commits(&rig, &ada, 1).await;
    assert!(running(&mark) > 0);
    let _: Pipeline = rig.post(&ada, "/v1/pipelines/default/feed/stop", json!({})).await;
    testkit::wait::wait_until("the spout's processes to be gone", LIMIT, async || running(&mark) == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_spout_received_is_for_nobody_until_a_steward_attests_it() {
    let rig = Rig::start().await;
    let (ada, ben, eve) = (
        rig.member("ada").await,
        rig.member("ben").await,
        rig.member("eve").await,
    );
    rig.apply(
        &ada,
        vec![spout(COUNT), shell("copy", "feed", "/", "cp -r /pfs/feed/* /pfs/out/")],
    )
    .await;
    let made = commits(&rig, &ada, 3).await;
    for commit in &made {
        finished(&rig.settle(&ada, commit.commit_set).await);
    }
    rig.grant(&ben, Role::Viewer, "feed");
    rig.grant(&ben, Role::Viewer, "copy");
    rig.grant(&eve, Role::Viewer, "feed");
    rig.grant(&eve, Role::Viewer, "feed_unattested");
    let of = |n: usize| format!("feed@{}", made[n].id);
    assert_eq!(
        (status(&rig, &ben, &of(1)).await, status(&rig, &eve, &of(1)).await),
        (403, 200)
    );
    assert_eq!(status(&rig, &ben, "copy@main").await, 403);
    assert!(log(&rig, &ben).await.is_empty());
    let told = explained(&rig, &ben, "copy@main").await;
    assert_eq!(told.decision, Decision::Deny);
    let missing: Vec<&str> = told.missing.iter().map(|m| m.domain.as_str()).collect();
    assert_eq!(missing, ["unattested: what default/feed received from outside"]);
    assert!(told.missing[0].witness[0].starts_with("default/feed@"), "{told:?}");
    // Who reads it cannot attest it, nor who does not.
    let attest = async |person: &Person, reference: &str| attest(&rig, person, reference).await;
    assert_eq!(attest(&eve, &of(1)).await.0, 403);
    assert_eq!(attest(&ben, &of(1)).await.0, 403);
    let (code, text) = attest(&ada, &of(1)).await;
    let attested: Commit = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{code} {e}: {text}"));
    let by = attested.attested.unwrap();
    assert_eq!(
        (by.by.name.as_str(), by.message.as_str(), attested.unattested),
        ("ada", "compared", false)
    );
    // With those before it, whose files it holds, and what was made of it; not what came later.
    for (n, expected) in [(0, 200), (1, 200), (2, 403)] {
        assert_eq!(status(&rig, &ben, &of(n)).await, expected, "{n}");
        let derived = format!("copy@{}", made[n].commit_set);
        assert_eq!(status(&rig, &ben, &derived).await, expected, "{n}");
    }
    let job: Job = rig.jobs(&ada, "feed").await.remove(0);
    let logs = format!("/v1/jobs/{}/logs", job.id);
    assert_eq!(rig.send(&ben, "GET", &logs, None).await.0, 403);
    assert_eq!(attest(&ada, "copy@main").await.0, 409);
    let again: Commit = serde_json::from_str(&attest(&ada, &of(0)).await.1).unwrap();
    assert_eq!(again.attested.unwrap().message, "compared");
    // What nobody has looked at is not attested: a branch moves.
    let (code, text) = attest(&ada, "feed@main").await;
    assert!(code == 422 && text.contains(&of(2)), "{code} {text}");
    // Nor what the command is going to print.
    let carrier = format!("feed@{}", job.output_commit);
    let (code, text) = attest(&ada, &carrier).await;
    assert!(code == 409 && text.contains("prints"), "{code} {text}");
    assert_eq!(attest(&ada, &of(2)).await.0, 200);
    assert_eq!(explained(&rig, &ben, "copy@main").await.decision, Decision::Allow);
    assert_eq!(rig.cat(&ben, "copy@main", "/newest").await, "3\n");
    let (code, checked) = rig.send(&ada, "GET", "/v1/provenance?ref=copy@main", None).await;
    assert!(code == 200 && checked.contains(&made[2].id.to_string()), "{checked}");
}
