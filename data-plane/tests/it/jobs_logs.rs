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

#[tokio::test(flavor = "multi_thread")]
async fn lines_go_when_they_are_too_old_or_a_job_has_too_many_and_readers_are_told() {
    let mut rig = Rig::start().await;
    rig.kill9();
    rig.config.logs = contract::config::LogsConfig {
        keep_days: 7,
        job_bytes_max: 1 << 20,
    };
    rig.boot().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    rig.put(&ada, "in", &[("a", "1")]).await;
    let old = rig
        .apply(&ada, vec![shell("old", "in", "/*", "echo one; echo two")])
        .await;
    let old = rig.job(&ada, old[0].commit_set.unwrap(), "old").await;
    assert_eq!(texts(&lines(&rig, &ada, &old, "").await), ["one", "two"]);
    // The first of them is from last week, the second is not.
    let pool = sqlx::PgPool::connect(&rig.config.database_url).await.unwrap();
    for statement in [
        "update datum_logs set at = at - interval '8 days' where text = 'one'",
        "update job_logs set oldest_at = oldest_at - interval '8 days'",
    ] {
        sqlx::query(statement).execute(&pool).await.unwrap();
    }
    // Three runs with 8,000 lines each of more than 100 bytes.
    rig.put(&ada, "in", &[("b", "1"), ("c", "1")]).await;
    let script = "seq -f '%.0f of many, each as long as the others, so that they take much room' 8000; echo end";
    let loud = rig.apply(&ada, vec![shell("loud", "in", "/*", script)]).await;
    let loud = rig.job(&ada, loud[0].commit_set.unwrap(), "loud").await;
    succeeded(&loud, 3, 3, 0);
    testkit::wait::wait_until("the lines to go", crate::jobs_rig::LIMIT, async || {
        let kept = lines(&rig, &ada, &loud, "").await;
        kept[0].stream == "system" && lines(&rig, &ada, &old, "").await[0].stream == "system"
    })
    .await;
    let kept = lines(&rig, &ada, &loud, "").await;
    let bytes: usize = kept.iter().map(|line| line.text.len() + 64).sum();
    assert!(bytes < (1 << 20) + 1000 && bytes > (1 << 19), "{bytes}");
    assert!(
        kept[0]
            .text
            .contains("earlier lines of the job are gone: lines are kept for 7 days, and of a job the last 1 MiB"),
        "{}",
        kept[0].text
    );
    assert_eq!(kept.last().unwrap().text, "end");
    let gone: usize = kept[0].text.split(' ').next().unwrap().parse().unwrap();
    assert_eq!(gone + kept.len() - 1, 3 * 8_001);
    // Who asks for what is there is not told.
    assert_eq!(texts(&lines(&rig, &ada, &loud, "tail=1").await), ["end"]);
    let left = lines(&rig, &ada, &old, "").await;
    assert!(left[0].text.starts_with("1 earlier lines"), "{}", left[0].text);
    assert_eq!(texts(&left[1..]), ["two"]);
    let time = left[1].at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
    assert_eq!(texts(&lines(&rig, &ada, &old, &format!("since={time}")).await), ["two"]);
}
