//! Purges and pipelines: what was made from a purged file goes with it, and what was not stays.

use std::time::Duration;

use contract::api::{JobState, Purge, RemovedHow};
use data_plane::garbage::collect;
use serde_json::{Value, json};
use storage::{FilePath, TreeRef};

use crate::garbage::plane_of;
use crate::jobs_rig::{self, LIMIT, Rig, shell, succeeded};

async fn purge_in(rig: &Rig, person: &jobs_rig::Person, path: &str) -> Purge {
    let body = json!({"repo": "in", "path": path, "force": true});
    rig.post(person, "/v1/purges", body).await
}

/// What a datum gives is another thing each time.
const RANDOM: &str = "for f in /pfs/in/*; do echo I saw $(basename $f); \
                      cat /proc/sys/kernel/random/uuid > /pfs/out/$(basename $f); done";

/// `/a` of that commit is answered as what was purged.
async fn is_gone(rig: &Rig, person: &jobs_rig::Person, commit: &str) {
    let path = format!("/v1/content?ref={commit}&path=a");
    let (status, text) = rig.send(person, "GET", &path, None).await;
    assert_eq!(status, 410, "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_made_from_a_purged_file_goes_all_the_way_down_and_nothing_else_runs_again() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    let first = rig.put(&ada, "in", &[("a", "1"), ("b", "2")]).await;
    let second = |name: &str| shell(name, "p", "/*", "cp /pfs/p/* /pfs/out/");
    let untouched = shell("other", "in", "/x*", "cp /pfs/in/* /pfs/out/");
    let applied = rig
        .apply(&ada, vec![shell("p", "in", "/*", RANDOM), second("q"), untouched])
        .await;
    rig.settle(&ada, applied[0].commit_set.unwrap()).await;
    let put = rig.put(&ada, "in", &[("xc", "3")]).await;
    let old = rig.job(&ada, put.commit_set, "p").await;
    let (a, b) = (rig.cat(&ada, "p@main", "a").await, rig.cat(&ada, "p@main", "b").await);
    let other = rig.jobs(&ada, "other").await;

    let (status, text) = rig
        .send(&ada, "POST", "/v1/purges", Some(json!({"repo": "in", "path": "/a"})))
        .await;
    assert_eq!(status, 409, "{text}");
    let done = purge_in(&rig, &ada, "/a").await;
    assert_eq!((done.rewritten, done.results), (2, 2), "{done:?}");
    let voided: Vec<(String, u64)> = done.voided.iter().map(|v| (v.repo.to_string(), v.count)).collect();
    assert!(
        voided.contains(&("p".to_owned(), 2)) && voided.contains(&("q".to_owned(), 2)),
        "{voided:?}"
    );
    assert_eq!(voided.len(), 2, "`other` never read it");
    assert!(done.log_lines > 0 && done.packs.len() > 1, "{done:?}");
    for pipeline in ["p", "q"] {
        let newest = rig.jobs(&ada, pipeline).await.remove(0);
        succeeded(&rig.job(&ada, newest.commit_set, pipeline).await, 2, 0, 2);
        assert_eq!(rig.ls(&ada, &format!("{pipeline}@main")).await, ["/b", "/xc"]);
        assert_eq!(rig.cat(&ada, &format!("{pipeline}@main"), "b").await, b);
    }
    assert_eq!(rig.jobs(&ada, "other").await.len(), other.len());
    is_gone(&rig, &ada, &format!("p@{}", old.output_commit)).await;
    let gone = rig.commit(&ada, "p", old.output_commit).await;
    assert_eq!(gone.removed.unwrap().how, RemovedHow::Purged);
    for job in rig.jobs(&ada, "p").await {
        let lines = rig.logs(&ada, job.id).await;
        assert!(lines.iter().all(|l| !l.text.ends_with("saw a")), "{lines:?}");
        let datums = rig.datums(&ada, job.id).await;
        assert!(datums.iter().all(|d| d.inputs != ["in:/a"]), "{datums:?}");
    }

    // The same content under the same name is made anew.
    let again = rig.put(&ada, "in", &[("a", "1")]).await;
    succeeded(&rig.job(&ada, again.commit_set, "p").await, 3, 1, 2);
    assert_ne!(rig.cat(&ada, "p@main", "a").await, a);
    // And an old commit that held it is read without it.
    let to = json!({"to": format!("in@{}", first.id)});
    rig.send(&ada, "PATCH", "/v1/projects/default/repos/in/branches/main", Some(to))
        .await;
    let newest = rig.jobs(&ada, "p").await.remove(0);
    succeeded(&rig.job(&ada, newest.commit_set, "p").await, 1, 0, 1);

    collect(&plane_of(&rig).await, Duration::ZERO, false).await.unwrap();
    assert_eq!(rig.cat(&ada, "p@main", "b").await, b);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_reads_a_file_while_it_is_purged_stops_and_one_without_it_runs() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    rig.put(&ada, "in", &[("a", "1"), ("b", "2")]).await;
    let script = "[ -e /pfs/in/a ] && { echo reading a; sleep 60; }; cp /pfs/in/* /pfs/out/";
    let applied = rig.apply(&ada, vec![shell("p", "in", "/*", script)]).await;
    let running = applied[0].job.unwrap();
    testkit::wait::wait_until("the datum to speak", LIMIT, async || {
        !rig.logs(&ada, running).await.is_empty()
    })
    .await;
    let done = purge_in(&rig, &ada, "a").await;
    assert_eq!((done.jobs, done.rewritten), (1, 1));
    let newest = rig.jobs(&ada, "p").await.remove(0);
    assert_ne!(newest.id, running);
    let job = rig.job(&ada, newest.commit_set, "p").await;
    assert_eq!(job.state, JobState::Success, "{:?}", job.reason);
    assert_eq!(rig.ls(&ada, "p@main").await, ["/b"]);
    let old: contract::api::Job = rig.get(&ada, &format!("/v1/jobs/{running}")).await;
    assert_eq!(old.state, JobState::Killed);
    assert!(rig.logs(&ada, running).await.iter().all(|l| l.text != "reading a"));
    let (status, text) = rig
        .send(
            &ada,
            "POST",
            "/v1/purges",
            Some(json!({"repo": "p", "path": "/b", "force": true})),
        )
        .await;
    assert_eq!(status, 409, "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_made_of_a_result_that_was_replaced_when_all_ran_again_is_found_too() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    rig.put(&ada, "in", &[("a", "1")]).await;
    // Each run gives a file of another name.
    let p = shell(
        "p",
        "in",
        "/*",
        "cp /pfs/in/a /pfs/out/$(cat /proc/sys/kernel/random/uuid)",
    );
    let q = shell("q", "p", "/*", "echo I saw it; cp /pfs/p/* /pfs/out/");
    let applied = rig.apply(&ada, vec![p.clone(), q]).await;
    rig.settle(&ada, applied[0].commit_set.unwrap()).await;
    let first = rig.jobs(&ada, "q").await.remove(0);
    let body = json!({"specs": [p], "reprocess": true});
    let _: Value = rig.post(&ada, "/v1/pipelines", body).await;
    let again = rig.jobs(&ada, "q").await.remove(0);
    assert_ne!(again.id, first.id);
    rig.settle(&ada, again.commit_set).await;

    let done = purge_in(&rig, &ada, "/a").await;
    assert_eq!(done.results, 3, "one of `p`, two of `q`: {done:?}");
    let lines = rig.logs(&ada, first.id).await;
    assert!(lines.iter().all(|l| l.text != "I saw it"), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_made_from_a_squashed_commit_is_found_too() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    let first = rig.put(&ada, "in", &[("a", "1"), ("b", "2")]).await;
    let applied = rig.apply(&ada, vec![shell("p", "in", "/*", RANDOM)]).await;
    let old = rig.job(&ada, applied[0].commit_set.unwrap(), "p").await;
    let a = rig.cat(&ada, "p@main", "a").await;
    let removed = rig.remove(&ada, "in", "a").await;
    rig.settle(&ada, removed.commit_set).await;
    let body = json!({"ref": format!("in@{}", first.id)});
    let _: Value = rig.post(&ada, "/v1/commits/squash", body).await;

    let done = purge_in(&rig, &ada, "/a").await;
    assert_eq!(
        (done.rewritten, done.results, done.voided[0].count),
        (0, 1, 1),
        "{done:?}"
    );
    is_gone(&rig, &ada, &format!("p@{}", old.output_commit)).await;
    assert_eq!(rig.ls(&ada, "p@main").await, ["/b"]);
    let again = rig.put(&ada, "in", &[("a", "1")]).await;
    succeeded(&rig.job(&ada, again.commit_set, "p").await, 2, 1, 1);
    assert_ne!(rig.cat(&ada, "p@main", "a").await, a);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_looks_at_datums_before_it_holds_anybody_up_and_finds_what_was_made_meanwhile() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    rig.repo(&ada, "beside").await;
    rig.put(&ada, "in", &[("a", "1"), ("b", "2")]).await;
    let applied = rig.apply(&ada, vec![shell("p", "in", "/*", RANDOM)]).await;
    rig.settle(&ada, applied[0].commit_set.unwrap()).await;
    let pool = sqlx::PgPool::connect(&rig.config.database_url).await.unwrap();
    let count = async |query: &'static str| -> i64 { sqlx::query_scalar(query).fetch_one(&pool).await.unwrap() };
    let late = shell("late", "in", "/*", "echo I saw it; sleep 3; cp /pfs/in/* /pfs/out/");
    let running = rig.apply(&ada, vec![late]).await[0].job.unwrap();
    testkit::wait::wait_until("both datums to run", LIMIT, async || {
        rig.logs(&ada, running).await.len() == 2
    })
    .await;
    let mut datums = pool.begin().await.unwrap();
    sqlx::query("lock table datums in access exclusive mode")
        .execute(&mut *datums)
        .await
        .unwrap();

    let purging = purge_in(&rig, &ada, "/a");
    let meanwhile = async {
        let reading = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query like 'select position, key, inputs%'";
        testkit::wait::wait_until("the purge to look at datums", LIMIT, async || count(reading).await == 1).await;
        // Nobody waits for it.
        rig.put(&ada, "beside", &[("f", "1")]).await;
        let mut dag = pool.begin().await.unwrap();
        data_plane::commits::lock::lock_dag(&mut dag).await.unwrap();
        datums.commit().await.unwrap();
        let gave = "select count(*) from datum_results d join repos r on r.id = d.pipeline_id where r.name = 'late'";
        testkit::wait::wait_until("its datums to be done", LIMIT, async || count(gave).await == 2).await;
        let waiting = "select count(*) from pg_stat_activity where wait_event = 'advisory' and query like 'select pg_advisory_xact_lock%'";
        testkit::wait::wait_until("the purge to be the next", LIMIT, async || count(waiting).await >= 1).await;
        dag.commit().await.unwrap();
    };
    let (done, ()) = tokio::join!(purging, meanwhile);

    assert_eq!((done.rewritten, done.results), (1, 2), "{done:?}");
    for pipeline in ["p", "late"] {
        let newest = rig.jobs(&ada, pipeline).await.remove(0);
        succeeded(&rig.job(&ada, newest.commit_set, pipeline).await, 1, 0, 1);
        assert_eq!(rig.ls(&ada, &format!("{pipeline}@main")).await, ["/b"]);
    }
    assert_eq!(count("select count(*) from datum_results").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_to_the_purged_repo_while_datums_are_looked_at_does_not_make_a_purge_look_at_them_again() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    rig.put(&ada, "in", &[("a", "1"), ("b", "2")]).await;
    let applied = rig.apply(&ada, vec![shell("p", "in", "/*", RANDOM)]).await;
    rig.settle(&ada, applied[0].commit_set.unwrap()).await;
    let side = json!({"name": "side", "from": "in@main"});
    let _: Value = rig.post(&ada, "/v1/projects/default/repos/in/branches", side).await;
    let pool = sqlx::PgPool::connect(&rig.config.database_url).await.unwrap();
    let count = async |query: &'static str| -> i64 { sqlx::query_scalar(query).fetch_one(&pool).await.unwrap() };
    let locked = async || {
        let mut datums = pool.begin().await.unwrap();
        sqlx::query("lock table datums in access exclusive mode")
            .execute(&mut *datums)
            .await
            .unwrap();
        datums
    };
    let datums = locked().await;

    let purging = purge_in(&rig, &ada, "/a");
    let meanwhile = async {
        let reading = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query like 'select position, key, inputs%'";
        testkit::wait::wait_until("the purge to look at datums", LIMIT, async || count(reading).await == 1).await;
        let uri = "/v1/files?repo=default/in&branch=side&path=b";
        let (status, text) = rig.send(&ada, "DELETE", uri, None).await;
        assert!(status < 300, "{status} {text}");
        let mut dag = pool.begin().await.unwrap();
        data_plane::commits::lock::lock_dag(&mut dag).await.unwrap();
        datums.commit().await.unwrap();
        let waiting = "select count(*) from pg_stat_activity where wait_event = 'advisory' and query like 'select pg_advisory_xact_lock%'";
        testkit::wait::wait_until("the purge to be the next", LIMIT, async || count(waiting).await >= 1).await;
        let datums = locked().await;
        dag.commit().await.unwrap();
        let deleting =
            "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query like 'delete from datums%'";
        testkit::wait::wait_until("the purge to delete datums", LIMIT, async || count(deleting).await == 1).await;
        datums.commit().await.unwrap();
    };
    let (done, ()) = tokio::join!(purging, meanwhile);

    assert_eq!((done.rewritten, done.results), (2, 1), "{done:?}");
    assert!(rig.ls(&ada, "in@side").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_waits_for_the_names_that_pipelines_gave_to_what_they_made_of_it() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    rig.put(&ada, "in", &[("a", "1"), ("b", "2")]).await;
    // What is this large does not stand in the trees.
    let script = "for f in /pfs/in/*; do head -c 300000 /dev/urandom > /pfs/out/of-$(basename $f)-that-tells; done";
    let applied = rig.apply(&ada, vec![shell("p", "in", "/*", script)]).await;
    rig.settle(&ada, applied[0].commit_set.unwrap()).await;
    let output = rig.jobs(&ada, "p").await.remove(0).output_commit;
    let pool = sqlx::PgPool::connect(&rig.config.database_url).await.unwrap();
    let root: Vec<u8> = sqlx::query_scalar("select root from commits where id = $1")
        .bind(output.uuid())
        .fetch_one(&pool)
        .await
        .unwrap();
    let mut naming = plane_of(&rig).await.storage.marking().await.unwrap();
    let path = FilePath::parse("of-a-that-tells").unwrap();
    naming.names(&TreeRef::from_bytes(&root).unwrap(), &path).await.unwrap();
    let naming: Vec<String> = naming.packs().iter().map(ToString::to_string).collect();
    assert!(!naming.is_empty());

    let done = purge_in(&rig, &ada, "/a").await;
    assert!(
        naming.iter().all(|pack| done.packs.contains(pack)),
        "{naming:?} {done:?}"
    );
}
