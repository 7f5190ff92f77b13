//! Cron inputs: a file a tick, whatever happened meanwhile.

use chrono::{DateTime, Duration, Utc};
use contract::api::{Job, Page, Repo};
use contract::policy::Role;
use contract::problem::ProblemKind;
use data_plane::cron;
use serde_json::{Value, json};

use crate::app::{App, Person, Reply};
use crate::jobs_rig::{LIMIT, Rig};

fn spec(name: &str, cron: &Value) -> Value {
    json!({"specs": [{"pipeline": {"name": name}, "transform": {"cmd": ["true"]}, "input": {"cron": cron}}]})
}

async fn apply(app: &App, person: &Person, cron: Value) -> Reply {
    app.post(person, "/v1/pipelines", spec("p", &cron)).await
}

async fn files(app: &App, person: &Person) -> Vec<String> {
    app.ls(person, "ref=p_tick@main").await
}

async fn jobs(app: &App, person: &Person) -> Vec<Job> {
    app.all(person, "/v1/jobs?pipeline=p").await
}

async fn tick(app: &App) {
    cron::tick(&app.plane).await.unwrap();
}

fn name(at: DateTime<Utc>) -> String {
    format!("/{}", provenance::ticks::file_name(at))
}

#[tokio::test]
async fn a_cron_input_gets_one_file_a_tick_and_missed_ones_are_caught_up() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    let made = app.environment.now();
    apply(&app, &ada, json!({"name": "tick", "spec": "@every 10s"}))
        .await
        .ok();
    tick(&app).await;
    assert!(jobs(&app, &ada).await.is_empty(), "no tick has come");
    app.pass(Duration::seconds(10)).await;
    tick(&app).await;
    tick(&app).await;
    assert_eq!(files(&app, &ada).await, [name(made + Duration::seconds(10))]);
    assert_eq!(jobs(&app, &ada).await.len(), 1);

    // The plane was away for three ticks and a half.
    app.pass(Duration::seconds(35)).await;
    tick(&app).await;
    let wanted: Vec<String> = (1..=4).map(|n| name(made + Duration::seconds(10 * n))).collect();
    assert_eq!(files(&app, &ada).await, wanted);
    assert_eq!(
        app.log(&ada, "p_tick@main").await.len(),
        2,
        "what was missed is one commit"
    );
    assert_eq!(jobs(&app, &ada).await.len(), 2);
    assert_eq!(
        cron::next_alarm(&app.plane).await.unwrap().map(name),
        Some(name(made + Duration::seconds(50)))
    );
}

#[tokio::test]
async fn with_overwrite_only_the_last_file_stays() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    let made = app.environment.now();
    let cron = json!({"name": "tick", "spec": "@every 1s", "overwrite": true});
    apply(&app, &ada, cron).await.ok();
    for seconds in [1, 40, 100_000] {
        app.pass(Duration::seconds(seconds)).await;
        tick(&app).await;
    }
    assert_eq!(files(&app, &ada).await, [name(made + Duration::seconds(100_041))]);
    assert_eq!(app.log(&ada, "p_tick@main").await.len(), 3);
}

#[tokio::test]
async fn more_missed_ticks_than_fit_in_a_commit_come_one_commit_after_the_other() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    apply(&app, &ada, json!({"name": "tick", "spec": "@every 1s"}))
        .await
        .ok();
    app.pass(Duration::seconds(1500)).await;
    for (sizes, ran) in [(1000, 0), (1500, 1), (1500, 1)] {
        tick(&app).await;
        let log = app.log(&ada, "p_tick@main").await;
        assert_eq!(log[0].files, sizes);
        assert_eq!(jobs(&app, &ada).await.len(), ran, "it runs when all are there");
    }
}

#[tokio::test]
async fn catching_up_has_a_bound() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    let long = json!({"name": "tick", "spec": "@every 1s", "start": "1970-01-01T00:00:00Z"});
    let refused = apply(&app, &ada, long.clone()).await;
    refused.refused(ProblemKind::Invalid);
    let mut last = long;
    last["overwrite"] = json!(true);
    apply(&app, &ada, last).await.ok();
    app.delete(&ada, "/v1/pipelines/default/p").await.ok();
    apply(&app, &ada, json!({"name": "tick", "spec": "@every 1s"}))
        .await
        .ok();
    app.pass(Duration::seconds(200_000)).await;
    tick(&app).await;
    let log = app.log(&ada, "p_tick@main").await;
    assert!(log[0].message.contains("left out"), "{:?}", log[0].message);
    let first = app.environment.now() - Duration::seconds(99_999);
    assert_eq!(files(&app, &ada).await[0], name(first));
}

#[tokio::test]
async fn inputs_that_tick_at_one_moment_are_one_change() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    let mut both = spec("p", &json!({}));
    both["specs"][0]["input"] = json!({"cross": [
        {"cron": {"name": "tick", "spec": "@every 10s"}}, {"cron": {"name": "other", "spec": "@every 10s"}},
    ]});
    app.post(&ada, "/v1/pipelines", both).await.ok();
    for ran in 1..=2 {
        app.pass(Duration::seconds(10)).await;
        tick(&app).await;
        assert_eq!(jobs(&app, &ada).await.len(), ran);
        let heads = [app.log(&ada, "p_tick@main").await, app.log(&ada, "p_other@main").await];
        assert_eq!(heads[0][0].commit_set, heads[1][0].commit_set);
    }
}

#[tokio::test]
async fn ticks_that_another_pipeline_reads_are_taken_up_again_by_a_pipeline_of_that_name() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    let cron = json!({"name": "tick", "spec": "@every 10s"});
    apply(&app, &ada, cron.clone()).await.ok();
    app.pass(Duration::seconds(10)).await;
    tick(&app).await;
    let reader = json!({"pipeline": {"name": "q"}, "transform": {"cmd": ["true"]},
        "input": {"pfs": {"repo": "p_tick", "glob": "/*"}}});
    app.post(&ada, "/v1/pipelines", json!({"specs": [reader]})).await.ok();
    app.delete(&ada, "/v1/pipelines/default/p").await.ok();
    assert_eq!(files(&app, &ada).await.len(), 1);
    app.pass(Duration::seconds(10)).await;
    tick(&app).await;
    assert_eq!(files(&app, &ada).await.len(), 1, "nobody's ticks come no more");
    apply(&app, &ada, cron).await.ok();
    app.pass(Duration::seconds(10)).await;
    tick(&app).await;
    assert_eq!(files(&app, &ada).await.len(), 2);
}

#[tokio::test]
async fn a_schedule_begins_at_its_start_and_goes_on_counting_when_the_pipeline_is_changed() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    let start = app.environment.now() - Duration::hours(3);
    let cron = json!({"name": "tick", "spec": "@every 1h", "start": start});
    apply(&app, &ada, cron.clone()).await.ok();
    app.pass(Duration::seconds(1)).await;
    tick(&app).await;
    assert_eq!(files(&app, &ada).await.len(), 3);
    // Something else of the spec changes.
    let mut again = spec("p", &cron);
    again["specs"][0]["description"] = json!("hourly");
    app.post(&ada, "/v1/pipelines", again).await.ok();
    app.pass(Duration::hours(1)).await;
    tick(&app).await;
    assert_eq!(files(&app, &ada).await.len(), 4);
    // Another schedule counts from now.
    apply(&app, &ada, json!({"name": "tick", "spec": "@every 1m"}))
        .await
        .ok();
    tick(&app).await;
    assert_eq!(files(&app, &ada).await.len(), 4);
    app.pass(Duration::minutes(1)).await;
    tick(&app).await;
    assert_eq!(files(&app, &ada).await.len(), 5);
}

#[tokio::test]
async fn a_stopped_pipeline_gets_no_ticks_and_catches_up_when_it_is_started() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    apply(&app, &ada, json!({"name": "tick", "spec": "@every 1m"}))
        .await
        .ok();
    app.post(&ada, "/v1/pipelines/default/p/stop", json!({})).await.ok();
    assert_eq!(cron::next_alarm(&app.plane).await.unwrap(), None);
    app.pass(Duration::minutes(3)).await;
    tick(&app).await;
    app.get(&ada, "/v1/files?ref=p_tick@main")
        .await
        .refused(ProblemKind::NotFound);
    app.post(&ada, "/v1/pipelines/default/p/start", json!({})).await.ok();
    tick(&app).await;
    assert_eq!(files(&app, &ada).await.len(), 3);
    assert_eq!(jobs(&app, &ada).await.len(), 1);
}

#[tokio::test]
async fn running_a_pipeline_makes_a_tick_of_this_moment_beside_a_branch_of_data() {
    let app = App::start().await;
    let (ada, bob) = (app.member("ada").await, app.member("bob").await);
    app.repo(&ada, "data").await;
    app.put(&ada, "data", &[("a", b"1")]).await.ok();
    let mut both = spec("p", &json!({}));
    both["specs"][0]["input"] = json!({"cross": [
        {"cron": {"name": "tick", "spec": "never"}}, {"pfs": {"repo": "data", "glob": "/*"}},
    ]});
    app.post(&ada, "/v1/pipelines", both).await.ok();
    let p: Repo = app.get(&ada, "/v1/projects/default/repos/p").await.json();
    app.grant(&bob, Role::Owner, &p).await;
    app.pass(Duration::days(400)).await;
    tick(&app).await;
    assert!(jobs(&app, &ada).await.is_empty(), "it never ticks by itself");
    for runs in 1..=2 {
        app.pass(Duration::seconds(1)).await;
        app.post(&bob, "/v1/pipelines/default/p/run", json!({})).await.ok();
        assert_eq!(
            app.log(&ada, "p_tick@main").await[0].actor.name,
            "bob",
            "who ran it made the tick"
        );
        assert_eq!(files(&app, &ada).await.len(), runs);
        assert_eq!(jobs(&app, &ada).await.len(), runs);
    }
}

#[tokio::test]
async fn the_repo_of_a_cron_input_is_made_and_deleted_with_the_pipeline_and_nobody_puts_into_it() {
    let app = App::start().await;
    let (ada, bob) = (app.member("ada").await, app.member("bob").await);
    let cron = json!({"name": "tick", "spec": "@daily"});
    let dry = json!({"specs": spec("p", &cron)["specs"], "dry_run": true});
    app.post(&ada, "/v1/pipelines", dry).await.ok();
    let names = async |person: &Person| -> Vec<String> {
        let page: Page<Repo> = app.get(person, "/v1/repos").await.json();
        page.items.into_iter().map(|r| r.name.to_string()).collect()
    };
    assert!(names(&ada).await.is_empty());
    apply(&app, &ada, cron.clone()).await.ok();
    assert_eq!(names(&ada).await, ["p", "p_tick"]);
    assert!(names(&bob).await.is_empty());
    let put = app.put(&ada, "p_tick", &[("x", b"")]).await;
    assert!(
        put.refused(ProblemKind::Conflict)
            .detail
            .contains("the ticks of a pipeline")
    );
    app.delete(&ada, "/v1/projects/default/repos/p_tick")
        .await
        .refused(ProblemKind::Conflict);
    let other = spec("p_tick", &json!({"name": "t", "spec": "never"}));
    app.post(&ada, "/v1/pipelines", other)
        .await
        .refused(ProblemKind::AlreadyExists);
    // Who changes the pipeline needs to be let derive from its ticks too (R4).
    let p: Repo = app.get(&ada, "/v1/projects/default/repos/p").await.json();
    app.grant(&bob, Role::Owner, &p).await;
    apply(&app, &bob, cron.clone()).await.refused(ProblemKind::NotAllowed);

    app.delete(&ada, "/v1/pipelines/default/p").await.ok();
    assert_eq!(names(&ada).await, ["p"]);
    apply(&app, &ada, cron).await.ok();
    assert_eq!(names(&ada).await, ["p", "p_tick"]);

    app.repo(&ada, "q_tick").await;
    let taken = spec("q", &json!({"name": "tick", "spec": "never"}));
    app.post(&ada, "/v1/pipelines", taken)
        .await
        .refused(ProblemKind::AlreadyExists);
}

#[tokio::test]
async fn a_dry_run_tells_who_would_lose_read_by_a_cron_input() {
    let app = App::start().await;
    let (ada, bob) = (app.member("ada").await, app.member("bob").await);
    let data = app.repo(&ada, "data").await;
    app.put(&ada, "data", &[("a", b"1")]).await.ok();
    let pfs = json!({"pfs": {"repo": "data", "glob": "/*"}});
    let mut plain = spec("p", &json!({}));
    plain["specs"][0]["input"] = pfs.clone();
    app.post(&ada, "/v1/pipelines", plain.clone()).await.ok();
    let p: Repo = app.get(&ada, "/v1/projects/default/repos/p").await.json();
    app.grant(&bob, Role::Viewer, &data).await;
    app.grant(&bob, Role::Viewer, &p).await;
    plain["specs"][0]["input"] = json!({"cross": [pfs, {"cron": {"name": "tick", "spec": "@daily"}}]});
    plain["dry_run"] = json!(true);
    let dry: Value = app.post(&ada, "/v1/pipelines", plain).await.json();
    let impact = dry["items"][0]["impact"].as_array().unwrap();
    assert_eq!(impact.len(), 1, "{impact:?}");
    let told = impact[0].as_str().unwrap();
    assert!(
        told.starts_with("bob ") && told.contains("`default/p_tick` (ask ada)"),
        "{told}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_plane_goes_on_without_losing_or_doubling_a_tick() {
    let mut rig = Rig::start().await;
    let ada = rig.member("ada").await;
    let applied = spec("p", &json!({"name": "tick", "spec": "@every 1s"}))["specs"][0].clone();
    rig.apply(&ada, vec![applied]).await;
    let mut seen = 0;
    for _ in 0..3 {
        testkit::wait::wait_until("more ticks", LIMIT, async || {
            let (status, _) = rig.send(&ada, "GET", "/v1/files?ref=p_tick@main", None).await;
            status == 200 && rig.ls(&ada, "p_tick@main").await.len() > seen + 1
        })
        .await;
        rig.kill9();
        rig.boot().await;
        // Until it has heard from the control plane it tells nobody anything.
        testkit::wait::wait_until("the policy", LIMIT, async || {
            rig.send(&ada, "GET", "/v1/files?ref=p_tick@main", None).await.0 == 200
        })
        .await;
        seen = rig.ls(&ada, "p_tick@main").await.len();
    }
    let ticks: Vec<DateTime<Utc>> = rig
        .ls(&ada, "p_tick@main")
        .await
        .iter()
        .map(|path| path.trim_start_matches('/').parse().unwrap())
        .collect();
    assert!(
        ticks.windows(2).all(|two| two[1] - two[0] == Duration::seconds(1)),
        "{ticks:?}"
    );
}
