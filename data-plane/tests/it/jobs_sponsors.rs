//! R8: pipelines run on the `derive` grants of who applied them, and stand still while one is revoked.

use contract::api::{CommitState, Job, JobState, Pipeline, PipelineState};
use contract::ids::{GrantId, JobId};
use contract::policy::{Grant, Grantee, Principal, Resource, Role, Team};
use serde_json::{Value, json};

use crate::jobs_rig::{LIMIT, Person, Rig, finished, shell};

/// Copies at once; what is called `slow` takes for ever.
const COPY: &str = "if ls /pfs/*/slow; then sleep 1000; fi; cp /pfs/*/* /pfs/out/";

/// Ada's repo `in`, of which ben, who may derive from it, makes `out`.
async fn story(rig: &Rig) -> [Person; 2] {
    let (ada, ben) = (rig.member("ada").await, rig.member("ben").await);
    rig.repo(&ada, "in").await;
    rig.put(&ada, "in", &[("a", "first")]).await;
    rig.grant(&ben, Role::Deriver, "in");
    let applied = rig.apply(&ben, vec![shell("out", "in", "/*", COPY)]).await;
    rig.grant(&ada, Role::Viewer, "out");
    finished(&rig.settle(&ben, applied[0].commit_set.unwrap()).await);
    [ada, ben]
}

fn revoke(rig: &Rig, person: &Person) {
    let Principal::Account(account) = person.principal else {
        panic!("an account is wanted");
    };
    let theirs = Grantee::Account(account);
    rig.control
        .change(|s| s.grants.retain(|g| g.grantee != theirs || g.role != Role::Deriver));
}

async fn pipeline(rig: &Rig, person: &Person, name: &str) -> Pipeline {
    rig.get(person, &format!("/v1/pipelines/default/{name}")).await
}

async fn becomes(rig: &Rig, person: &Person, name: &str, state: PipelineState) -> Pipeline {
    testkit::wait::wait_until("the state of the pipeline", LIMIT, async || {
        pipeline(rig, person, name).await.state == state
    })
    .await;
    pipeline(rig, person, name).await
}

/// A job of `out` that runs for ever.
async fn running(rig: &Rig, ada: &Person, ben: &Person) -> JobId {
    rig.put(ada, "in", &[("slow", "second")]).await;
    let job = rig.jobs(ben, "out").await[0].id;
    runs(rig, ben, job).await;
    job
}

async fn runs(rig: &Rig, ben: &Person, job: JobId) {
    testkit::wait::wait_until("the command to run", LIMIT, async || {
        let lines = rig.logs(ben, job).await;
        lines.iter().any(|line| line.text.contains("slow"))
    })
    .await;
}

async fn conflict(rig: &Rig, person: &Person, path: &str, body: Value) -> String {
    let (status, text) = rig.send(person, "POST", path, Some(body)).await;
    assert_eq!(status, 409, "{path}: {text}");
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_input_suspends_its_pipeline_and_one_job_runs_when_the_right_is_back() {
    let rig = Rig::start().await;
    let [ada, ben] = story(&rig).await;
    let before: Vec<Job> = rig.jobs(&ben, "out").await;
    let job = running(&rig, &ada, &ben).await;
    revoke(&rig, &ben);

    // Who revoked it is told which input, who may not know of it is not.
    let shown = becomes(&rig, &ada, "out", PipelineState::Suspended).await;
    let reason = shown.reason.unwrap();
    assert!(reason.starts_with("input revoked: default/in;"), "{reason}");
    let carl = rig.member("carl").await;
    rig.grant(&carl, Role::Discoverer, "out");
    let told = pipeline(&rig, &carl, "out").await.reason.unwrap();
    assert!(told.starts_with("input revoked: restricted upstream #"), "{told}");
    assert!(!told.contains("default/in"), "{told}");

    // What ran was ended, and what it made was never there.
    let ended: Job = rig.get(&ada, &format!("/v1/jobs/{job}")).await;
    assert_eq!(ended.state, JobState::Killed);
    assert!(ended.reason.unwrap().contains("input revoked: default/in"));
    assert_eq!(
        rig.commit(&ada, "out", ended.output_commit).await.state,
        CommitState::Errored
    );
    assert_eq!(rig.cat(&ada, "out@main", "/a").await, "first");
    assert_eq!(rig.ls(&ada, "out@main").await, ["/a"]);

    // Nothing sets it in motion.
    rig.put(&ada, "in", &[("b", "third")]).await;
    rig.remove(&ada, "in", "/slow").await;
    rig.grant(&ada, Role::Contributor, "out");
    for verb in ["run", "start"] {
        let path = format!("/v1/pipelines/default/out/{verb}");
        let told = conflict(&rig, &ada, &path, json!({})).await;
        assert!(told.contains("input revoked: default/in"), "{told}");
    }
    conflict(&rig, &ada, "/v1/reproductions", json!({ "ref": "default/out@main" })).await;
    assert_eq!(rig.jobs(&ada, "out").await.len(), before.len() + 1);

    // It goes on by itself, on what is there now.
    rig.grant(&ben, Role::Deriver, "in");
    assert_eq!(becomes(&rig, &ada, "out", PipelineState::Running).await.reason, None);
    let jobs = rig.jobs(&ada, "out").await;
    assert_eq!(jobs.len(), before.len() + 2);
    finished(&rig.settle(&ada, jobs[0].commit_set).await);
    assert_eq!(rig.ls(&ada, "out@main").await, ["/a", "/b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_author_who_leaves_changes_nothing_until_what_his_team_was_given_is_revoked() {
    let rig = Rig::start().await;
    let [ada, ben] = story(&rig).await;
    // He may derive as one of a team.
    let (team, grant): (_, GrantId) = (rig.environment().id(), rig.environment().id());
    rig.control.change(|s| {
        let domain = s.domains.iter().find(|d| d.name.as_str() == "in").unwrap().id;
        s.teams.push(Team {
            id: team,
            name: "makers".to_owned(),
            members: vec![ben.principal],
        });
        s.grants.push(Grant {
            id: grant,
            grantee: Grantee::Team(team),
            role: Role::Deriver,
            resource: Resource::Domain(domain),
        });
    });
    revoke(&rig, &ben);
    let put = rig.put(&ada, "in", &[("b", "x")]).await;
    finished(&rig.settle(&ada, put.commit_set).await);
    // As the control plane takes somebody out.
    let Principal::Account(account) = ben.principal else {
        panic!("an account is wanted");
    };
    rig.control.change(|s| {
        s.members.retain(|m| m.principal != ben.principal);
        s.grants.retain(|g| g.grantee != Grantee::Account(account));
        for team in &mut s.teams {
            team.members.clear();
        }
    });
    let put = rig.put(&ada, "in", &[("c", "x")]).await;
    finished(&rig.settle(&ada, put.commit_set).await);
    assert_eq!(rig.ls(&ada, "out@main").await, ["/a", "/b", "/c"]);
    assert_eq!(pipeline(&rig, &ada, "out").await.state, PipelineState::Running);

    rig.control.change(|s| s.grants.retain(|g| g.id != grant));
    becomes(&rig, &ada, "out", PipelineState::Suspended).await;
    // Somebody who may derive takes it over.
    rig.grant(&ada, Role::Contributor, "out");
    let applied = rig.apply(&ada, vec![shell("out", "in", "/*", COPY)]).await;
    assert_eq!(
        (applied[0].change.as_str(), &applied[0].differences[..]),
        ("updated", &["/sponsor".to_owned()][..])
    );
    finished(&rig.settle(&ada, applied[0].commit_set.unwrap()).await);
    assert_eq!(pipeline(&rig, &ada, "out").await.state, PipelineState::Running);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_revoked_while_the_plane_is_dead_is_heeded_before_anything_is_published() {
    let mut rig = Rig::start().await;
    let [ada, ben] = story(&rig).await;
    let job = running(&rig, &ada, &ben).await;
    rig.kill9();
    revoke(&rig, &ben);
    rig.boot().await;
    becomes(&rig, &ada, "out", PipelineState::Suspended).await;
    let ended: Job = rig.get(&ada, &format!("/v1/jobs/{job}")).await;
    assert_eq!(ended.state, JobState::Killed);
    assert_eq!(rig.ls(&ada, "out@main").await, ["/a"]);
    // Killed again between the right's return and the job.
    rig.kill9();
    rig.grant(&ben, Role::Deriver, "in");
    rig.boot().await;
    becomes(&rig, &ada, "out", PipelineState::Running).await;
    let again = rig.jobs(&ada, "out").await[0].id;
    assert_ne!(again, job);
    runs(&rig, &ada, again).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_through_a_suspended_pipeline_stops_those_behind_it_too() {
    let rig = Rig::start().await;
    let [ada, ben] = story(&rig).await;
    // Carl reads what ben made, and another repo; he may derive from `out` alone of the two domains behind it.
    let carl = rig.member("carl").await;
    rig.repo(&carl, "side").await;
    rig.put(&carl, "side", &[("s", "1")]).await;
    rig.grant(&carl, Role::Deriver, "out");
    rig.grant(&carl, Role::Deriver, "in");
    let mut spec = shell("behind", "out", "/*", COPY);
    spec["input"] = json!({ "union": [
        { "pfs": { "repo": "out", "name": "made", "glob": "/*" } }, { "pfs": { "repo": "side", "glob": "/*" } },
    ] });
    let applied = rig.apply(&carl, vec![spec]).await;
    finished(&rig.settle(&carl, applied[0].commit_set.unwrap()).await);
    revoke(&rig, &ben);
    becomes(&rig, &carl, "out", PipelineState::Suspended).await;
    // Whose own right stands goes on with what is there.
    assert_eq!(pipeline(&rig, &carl, "behind").await.state, PipelineState::Running);
    let put = rig.put(&carl, "side", &[("t", "1")]).await;
    finished(&rig.settle(&carl, put.commit_set).await);
    assert_eq!(rig.ls(&carl, "behind@main").await, ["/a", "/s", "/t"]);

    let stopped: Pipeline = rig.post(&carl, "/v1/pipelines/default/behind/stop", json!({})).await;
    assert_eq!(stopped.state, PipelineState::Paused);
    revoke(&rig, &carl);
    let path = "/v1/pipelines/default/behind/start";
    testkit::wait::wait_until("the start to be refused", LIMIT, async || {
        rig.send(&carl, "POST", path, Some(json!({}))).await.0 == 409
    })
    .await;
    assert_eq!(pipeline(&rig, &carl, "behind").await.state, PipelineState::Paused);
    rig.grant(&carl, Role::Deriver, "in");
    rig.grant(&carl, Role::Deriver, "out");
    let _: Pipeline = rig.post(&carl, path, json!({})).await;
    let _ = ada;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_whose_input_has_nothing_yet_stands_still_with_its_right() {
    let rig = Rig::start().await;
    let (ada, ben) = (rig.member("ada").await, rig.member("ben").await);
    rig.repo(&ada, "in").await;
    rig.grant(&ben, Role::Deriver, "in");
    rig.apply(&ben, vec![shell("out", "in", "/*", COPY)]).await;
    rig.grant(&ada, Role::Viewer, "out");
    revoke(&rig, &ben);
    becomes(&rig, &ada, "out", PipelineState::Suspended).await;
    rig.put(&ada, "in", &[("a", "1")]).await;
    assert!(rig.jobs(&ada, "out").await.is_empty());
    rig.grant(&ben, Role::Deriver, "in");
    testkit::wait::wait_until("one job", LIMIT, async || !rig.jobs(&ada, "out").await.is_empty()).await;
    let jobs = rig.jobs(&ada, "out").await;
    finished(&rig.settle(&ada, jobs[0].commit_set).await);
    assert_eq!((jobs.len(), rig.ls(&ada, "out@main").await), (1, vec!["/a".to_owned()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_suspended_pipeline_brought_later_stops_those_behind_it_and_what_it_dropped_is_not_waited_for() {
    let rig = Rig::start().await;
    let [ada, ben] = story(&rig).await;
    let carl = rig.member("carl").await;
    for repo in ["out", "in"] {
        rig.grant(&carl, Role::Deriver, repo);
    }
    let mut spec = shell("behind", "out", "/*", COPY);
    spec["input"]["pfs"]["name"] = json!("made");
    let applied = rig.apply(&carl, vec![spec]).await;
    finished(&rig.settle(&carl, applied[0].commit_set.unwrap()).await);

    // What is left of the output is run on by who may still.
    running(&rig, &ada, &ben).await;
    revoke(&rig, &ben);
    becomes(&rig, &carl, "out", PipelineState::Suspended).await;
    testkit::wait::wait_until("a job for what is left", LIMIT, async || {
        let states: Vec<JobState> = rig.jobs(&carl, "behind").await.iter().map(|j| j.state).collect();
        states == [JobState::Success, JobState::Unrunnable, JobState::Success]
    })
    .await;
    assert_eq!(rig.ls(&carl, "behind@main").await, ["/a"]);
    rig.remove(&ada, "in", "/slow").await;
    rig.grant(&ben, Role::Deriver, "in");
    becomes(&rig, &carl, "out", PipelineState::Running).await;

    // Ben reads another one, for which he answers.
    rig.repo(&ada, "more").await;
    rig.put(&ada, "more", &[("m", "1")]).await;
    rig.grant(&ben, Role::Deriver, "more");
    let mut spec = shell("out", "in", "/*", COPY);
    spec["input"] = json!({ "union": [
        { "pfs": { "repo": "in", "glob": "/*" } }, { "pfs": { "repo": "more", "glob": "/*" } },
    ] });
    let applied = rig.apply(&ben, vec![spec]).await;
    finished(&rig.settle(&ben, applied[0].commit_set.unwrap()).await);
    assert_eq!(pipeline(&rig, &carl, "behind").await.state, PipelineState::Running);
    revoke(&rig, &ben);
    becomes(&rig, &carl, "out", PipelineState::Suspended).await;
    let stopped = becomes(&rig, &carl, "behind", PipelineState::Suspended).await;
    assert!(stopped.reason.unwrap().contains("carl"));
    for repo in ["in", "more"] {
        rig.grant(&ben, Role::Deriver, repo);
    }
    becomes(&rig, &carl, "out", PipelineState::Running).await;
    becomes(&rig, &carl, "behind", PipelineState::Running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_revoked_while_a_finished_job_waits_to_be_published_takes_its_output_along() {
    let rig = Rig::start().await;
    let (ada, ben) = (rig.member("ada").await, rig.member("ben").await);
    rig.repo(&ada, "in").await;
    rig.put(&ada, "in", &[("a", "first")]).await;
    rig.grant(&ben, Role::Deriver, "in");
    let slow = "if ls /pfs/*/slow; then sleep 2; fi; cp /pfs/*/* /pfs/out/";
    let applied = rig.apply(&ben, vec![shell("out", "in", "/*", slow)]).await;
    rig.grant(&ada, Role::Viewer, "out");
    finished(&rig.settle(&ben, applied[0].commit_set.unwrap()).await);
    let job = running(&rig, &ada, &ben).await;

    let pool = sqlx::PgPool::connect(&rig.config.database_url).await.unwrap();
    let mut dag = pool.begin().await.unwrap();
    data_plane::commits::lock::lock_dag(&mut dag).await.unwrap();
    let waiting = async |least: i64| {
        let query =
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event = 'advisory'";
        testkit::wait::wait_until("who waits for the lock", LIMIT, async || {
            let count: i64 = sqlx::query_scalar(query).fetch_one(&pool).await.unwrap();
            count >= least
        })
        .await;
    };
    waiting(1).await;
    revoke(&rig, &ben);
    waiting(2).await;
    dag.commit().await.unwrap();
    becomes(&rig, &ada, "out", PipelineState::Suspended).await;
    let ended: Job = rig.get(&ada, &format!("/v1/jobs/{job}")).await;
    assert_eq!(ended.state, JobState::Killed);
    assert_eq!(rig.ls(&ada, "out@main").await, ["/a"]);
}
