//! Logs: what is kept of much, and parts of them.

use contract::api::{Job, LogLine};

use crate::jobs_rig::{Person, Rig, shell, succeeded};

async fn lines(rig: &Rig, person: &Person, job: &Job, query: &str) -> Vec<LogLine> {
    let path = format!("/v1/jobs/{}/logs?{query}", job.id);
    let (status, text) = rig.send(person, "GET", &path, None).await;
    assert_eq!(status, 200, "{text}");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn texts(lines: &[LogLine]) -> Vec<&str> {
    lines.iter().map(|line| line.text.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_run_that_prints_much_the_first_and_the_last_lines_are_kept_and_the_rest_is_counted() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    rig.put(&ada, "in", &[("a", "1")]).await;
    // Binary rubbish, a line without end, and many lines.
    let script = "printf 'first \\377\\000\\n'; head -c 100000 /dev/zero | tr '\\0' x; echo; seq 1 50000; echo last";
    let applied = rig.apply(&ada, vec![shell("loud", "in", "/*", script)]).await;
    let job = rig.job(&ada, applied[0].commit_set.unwrap(), "loud").await;
    succeeded(&job, 1, 1, 0);

    let all = lines(&rig, &ada, &job, "").await;
    assert_eq!(all.len(), 8_000 + 1 + 2_000);
    assert_eq!(all[0].text, "first \u{fffd}\u{fffd}");
    assert!(all.iter().all(|line| line.text.len() <= 8 << 10));
    assert_eq!(all[10_000].text, "last");
    let note = &all[8_000];
    // 13 pieces of the long line, the first line and the last one; the numbers are the rest.
    let missing = 50_000 + 13 + 2 - 10_000;
    assert_eq!(note.stream, "system");
    assert!(note.text.starts_with(&format!("{missing} lines with")), "{}", note.text);

    assert_eq!(
        texts(&lines(&rig, &ada, &job, "tail=3").await),
        ["49999", "50000", "last"]
    );
    assert_eq!(lines(&rig, &ada, &job, "tail=20000").await.len(), all.len());
    assert_eq!(
        texts(&lines(&rig, &ada, &job, "tail=3&limit=2").await),
        ["49999", "50000"]
    );
    assert_eq!(lines(&rig, &ada, &job, "limit=1500").await.len(), 1500);
    assert!(lines(&rig, &ada, &job, "limit=0").await.is_empty());
    let datum = &all[0].datum;
    assert_eq!(
        texts(&lines(&rig, &ada, &job, &format!("datum={datum}&tail=1")).await),
        ["last"]
    );
    let time = all[5].at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
    let since = lines(&rig, &ada, &job, &format!("since={time}")).await;
    assert!(since.iter().all(|line| line.at >= all[5].at) && since.len() < all.len());
    assert!(lines(&rig, &ada, &job, "since=2999-01-01T00:00:00Z").await.is_empty());
}
