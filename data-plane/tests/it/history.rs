//! Squash and drop: what goes, what stays, what is refused, and that nothing that is gone comes back.

use contract::api::{Commit, CommitState, Job, JobState, Lineage, Page, RemovedCommits, RemovedHow};
use contract::policy::{OrganizationRole, Role};
use contract::problem::{Problem, ProblemKind};
use serde_json::{Value, json};

use crate::app::{App, Person, Reply, escape};
use crate::jobs_rig::{LIMIT, Rig, shell, succeeded};

async fn remove(app: &App, person: &Person, way: &str, reference: &str, more: Value) -> Reply {
    let mut body = json!({ "ref": reference });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    app.post(person, &format!("/v1/commits/{way}"), body).await
}

async fn drop_it(app: &App, person: &Person, reference: &str) -> Reply {
    remove(app, person, "drop", reference, json!({})).await
}

async fn squash(app: &App, person: &Person, reference: &str) -> Reply {
    remove(app, person, "squash", reference, json!({})).await
}

/// Commits of `r@main`, each with a file of its own.
async fn line(app: &App, ada: &Person, n: usize) -> Vec<Commit> {
    app.repo(ada, "r").await;
    let mut made = Vec::new();
    for n in 0..n {
        let (name, bytes) = (format!("f{n}"), [b'0' + u8::try_from(n).unwrap()]);
        made.push(app.put(ada, "r", &[(&name, &bytes)]).await.json());
    }
    made
}

async fn checked(app: &App) {
    let owner = app.member_as("checker", OrganizationRole::Owner).await;
    let lines = app.get(&owner, "/v1/fsck?deep=true").await.ok().text();
    assert!(lines.lines().count() == 1 && lines.contains("\"ok\""), "{lines}");
}

fn ids(commits: &[Commit]) -> Vec<String> {
    commits.iter().map(|c| c.id.to_string()).collect()
}

#[tokio::test]
async fn a_squashed_commit_is_passed_by_and_its_data_stays_in_what_comes_after() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    let made = line(&app, &ada, 4).await;
    let told: RemovedCommits = remove(&app, &ada, "squash", "r@main^", json!({"dry_run": true}))
        .await
        .json();
    assert_eq!(
        (told.dry_run, told.repos[0].count, told.repos[0].commits[0]),
        (true, 1, made[2].id)
    );
    assert_eq!(app.log(&ada, "r@main").await.len(), 4, "a dry run changes nothing");

    let done: RemovedCommits = squash(&app, &ada, "r@main^").await.json();
    assert_eq!(done.repos[0].commits, [made[2].id]);
    let left = ids(&app.log(&ada, "r@main").await);
    assert_eq!(left, ids(&[made[3].clone(), made[1].clone(), made[0].clone()]));
    assert_eq!(app.ls(&ada, "ref=r@main").await, ["/f0", "/f1", "/f2", "/f3"]);
    for (reference, id) in [("r@main^", 1), ("r@main^2", 0), ("r@main.2", 1), ("r@main.3", 3)] {
        let found: Commit = app
            .get(&ada, &format!("/v1/commits?ref={}", escape(reference)))
            .await
            .json();
        assert_eq!(found.id, made[id].id, "{reference}");
    }
    let gone = format!("r@{}", made[2].id);
    app.cat(&ada, &gone, "f0").await.refused(ProblemKind::Deleted);
    let below: Commit = app
        .get(&ada, &format!("/v1/commits?ref={}", escape(&format!("{gone}^"))))
        .await
        .json();
    assert_eq!(below.id, made[1].id);
    let shown: Commit = app.get(&ada, &format!("/v1/commits?ref={gone}")).await.json();
    let removed = shown.removed.unwrap();
    assert_eq!((shown.state, removed.how), (CommitState::Removed, RemovedHow::Squashed));
    assert_eq!(removed.by.name, "ada");
    squash(&app, &ada, &gone).await.refused(ProblemKind::Deleted);

    // The one after it was finished on its digest; one more goes on from there.
    squash(&app, &ada, &format!("r@{}", made[1].id)).await.ok();
    app.put(&ada, "r", &[("f4", b"4")]).await.ok();
    checked(&app).await;
}

#[tokio::test]
async fn what_nothing_keeps_is_not_squashed() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    let made = line(&app, &ada, 2).await;
    let refused = squash(&app, &ada, "r@main").await.refused(ProblemKind::Conflict);
    assert!(refused.detail.contains("`main` points at"), "{}", refused.detail);
    app.post(
        &ada,
        "/v1/projects/default/repos/r/branches",
        json!({"name": "old", "from": "r@main^"}),
    )
    .await
    .ok();
    let refused = squash(&app, &ada, "r@main^").await.refused(ProblemKind::Conflict);
    assert!(refused.detail.contains("`old` points at"), "{}", refused.detail);
    app.patch(
        &ada,
        "/v1/projects/default/repos/r/branches/main",
        json!({"to": "r@old"}),
    )
    .await
    .ok();
    let refused = squash(&app, &ada, &format!("r@{}", made[1].id))
        .await
        .refused(ProblemKind::Conflict);
    assert!(refused.detail.contains("no commit comes after"), "{}", refused.detail);

    app.put(&ada, "r", &[("x", b"x")]).await.ok();
    app.delete(&ada, "/v1/projects/default/repos/r/branches/old").await.ok();
    let open: Commit = app.post(&ada, "/v1/commits", json!({"repo": "r"})).await.json();
    squash(&app, &ada, &format!("r@{}", open.id))
        .await
        .refused(ProblemKind::Conflict);
    let refused = squash(&app, &ada, "r@main^0").await.refused(ProblemKind::Conflict);
    assert!(
        refused.detail.contains("points at") || refused.detail.contains("is open"),
        "{}",
        refused.detail
    );
    app.post(&ada, "/v1/commits/finish?ref=r@main", json!({})).await.ok();
    squash(&app, &ada, "r@main^").await.ok();
    assert_eq!(app.ls(&ada, "ref=r@main").await, ["/f0", "/x"]);
    checked(&app).await;
}

#[tokio::test]
async fn dropping_the_head_takes_the_branch_back_and_more_than_that_needs_force() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    let made = line(&app, &ada, 3).await;
    app.repo(&ada, "copies").await;
    let body = json!({"from_ref": "r@main", "from_path": "/f2", "repo": "copies", "path": "/"});
    let copied: Commit = app.post(&ada, "/v1/copies", body).await.json();

    let middle = format!("r@{}", made[1].id);
    let refused = drop_it(&app, &ada, &middle).await.refused(ProblemKind::Conflict);
    assert!(
        refused.detail.contains("1 in `default/r`") && refused.detail.contains("1 in `default/copies`"),
        "{}",
        refused.detail
    );
    assert_eq!(app.log(&ada, "r@main").await.len(), 3);
    let told: RemovedCommits = remove(&app, &ada, "drop", &middle, json!({"dry_run": true}))
        .await
        .json();
    assert!(told.needs_force && !told.restricted);
    let done: RemovedCommits = remove(&app, &ada, "drop", &middle, json!({"force": true})).await.json();
    assert_eq!(done.repos, told.repos, "a dry run tells what is done");
    let in_r = done.repos.iter().find(|r| r.repo.as_str() == "r").unwrap();
    assert_eq!((in_r.count, in_r.branches[0].head), (2, Some(made[0].id)));
    assert_eq!(app.ls(&ada, "ref=r@main").await, ["/f0"]);
    app.cat(&ada, &format!("copies@{}", copied.id), "f2")
        .await
        .refused(ProblemKind::Deleted);
    app.get(&ada, "/v1/files?ref=copies@main")
        .await
        .refused(ProblemKind::NotFound);

    // What is left goes on, and an open commit can be given up.
    app.put(&ada, "r", &[("g", b"g")]).await.ok();
    app.put(&ada, "copies", &[("g", b"g")]).await.ok();
    let open: Commit = app.post(&ada, "/v1/commits", json!({"repo": "r"})).await.json();
    app.put(&ada, "r", &[("h", b"h")]).await.ok();
    drop_it(&app, &ada, "r@main").await.ok();
    drop_it(&app, &ada, &format!("r@{}", open.id))
        .await
        .refused(ProblemKind::Deleted);
    assert_eq!(app.ls(&ada, "ref=r@main").await, ["/f0", "/g"]);
    app.put(&ada, "r", &[("i", b"i")]).await.ok();
    checked(&app).await;

    let lineage: Lineage = app
        .get(&ada, &format!("/v1/provenance?ref=copies@{}", copied.id))
        .await
        .json();
    assert!(lineage.upstream.iter().any(|c| c.commit == made[2].id && c.removed));
    assert!(lineage.upstream.iter().any(|c| c.commit == made[0].id && !c.removed));
}

#[tokio::test]
async fn very_many_commits_go_at_once_and_the_answer_names_the_newest() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    let commits = line(&app, &ada, 2).await;
    let many = 2_500;
    sqlx::query(
        "insert into commits overriding system value
         select (jsonb_populate_record(c, jsonb_build_object('id', gen_random_uuid(), 'commit_set', gen_random_uuid(),
                    'parent_id', c.id, 'seq', 1000000 + n))).*
           from commits c, generate_series(1, $2) n where c.id = $1",
    )
    .bind(commits[1].id.uuid())
    .bind(many)
    .execute(&app.plane.pool)
    .await
    .unwrap();
    let reference = format!("r@{}", commits[1].id);
    drop_it(&app, &ada, &reference).await.refused(ProblemKind::Conflict);
    let told: RemovedCommits = remove(&app, &ada, "drop", &reference, json!({"force": true}))
        .await
        .json();
    let repo = &told.repos[0];
    assert_eq!(
        (repo.count, repo.commits.len()),
        (u64::try_from(many).unwrap() + 1, 100)
    );
    assert!(!repo.commits.contains(&commits[1].id), "it is the oldest");
    assert_eq!(repo.branches[0].head, Some(commits[0].id));
    let left: i64 = sqlx::query_scalar("select count(*) from commits where state <> 'removed' or root is not null")
        .fetch_one(&app.plane.pool)
        .await
        .unwrap();
    assert_eq!(left, 1);
}

#[tokio::test]
async fn who_may_not_write_to_all_that_goes_removes_nothing_and_strangers_hear_nothing() {
    let app = App::start().await;
    let (ada, bob, eve) = (
        app.member("ada").await,
        app.member("bob").await,
        app.member("eve").await,
    );
    line(&app, &ada, 2).await;
    let r: contract::api::Repo = app.get(&ada, "/v1/projects/default/repos/r").await.json();
    let copies = app.repo(&bob, "copies").await;
    let viewer = app.grant(&bob, Role::Viewer, &r).await;
    let body = json!({"from_ref": "r@main", "from_path": "/f1", "repo": "copies", "path": "/"});
    app.post(&bob, "/v1/copies", body).await.ok();

    drop_it(&app, &bob, "r@main").await.refused(ProblemKind::NotAllowed);
    squash(&app, &bob, "r@main^").await.refused(ProblemKind::NotAllowed);
    app.revoke(viewer).await;
    for way in ["squash", "drop"] {
        let absent = remove(&app, &eve, way, "absent@main", json!({})).await;
        let hidden = remove(&app, &eve, way, "r@main", json!({})).await;
        hidden.refused(ProblemKind::NotFound);
        let without_id = |reply: &Reply| {
            let mut problem: Problem = serde_json::from_slice(&reply.body).unwrap();
            problem.instance = None;
            problem
        };
        assert_eq!(without_id(&hidden), without_id(&absent), "{way}");
        let set: Commit = app.get(&ada, "/v1/commits?ref=r@main").await.json();
        remove(&app, &eve, way, &set.commit_set.to_string(), json!({}))
            .await
            .refused(ProblemKind::NotFound);
    }

    // Ada may not know of the copy, and is told no more than that there is something.
    let refused = remove(&app, &ada, "drop", "r@main", json!({"force": true}))
        .await
        .refused(ProblemKind::NotAllowed);
    assert!(!format!("{refused:?}").contains("copies"), "{refused:?}");
    let told = remove(&app, &ada, "drop", "r@main", json!({"dry_run": true})).await;
    assert!(!told.text().contains("copies"), "{}", told.text());
    let told: RemovedCommits = told.json();
    assert!(told.restricted);
    app.grant(&ada, Role::Viewer, &copies).await;
    let refused = remove(&app, &ada, "drop", "r@main", json!({"force": true}))
        .await
        .refused(ProblemKind::NotAllowed);
    assert!(refused.detail.contains("copies"), "{refused:?}");
    assert_eq!(app.log(&ada, "r@main").await.len(), 2);
    app.grant(&ada, Role::Contributor, &copies).await;
    remove(&app, &ada, "drop", "r@main", json!({"force": true})).await.ok();
    assert_eq!(app.log(&ada, "r@main").await.len(), 1);
}

#[tokio::test]
async fn a_commit_set_is_squashed_whole_and_jobs_of_what_is_dropped_stop() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    for repo in ["a", "b"] {
        app.repo(&ada, repo).await;
        app.post(&ada, "/v1/commits", json!({"repo": repo})).await.ok();
        app.put(&ada, repo, &[("f", b"1")]).await.ok();
    }
    let together: Page<Commit> = app
        .post(
            &ada,
            "/v1/commits/finish-together",
            json!({"refs": ["a@main", "b@main"]}),
        )
        .await
        .json();
    let set = together.items[0].commit_set.to_string();
    squash(&app, &ada, &set).await.refused(ProblemKind::Conflict);
    app.put(&ada, "a", &[("g", b"1")]).await.ok();
    squash(&app, &ada, &set).await.refused(ProblemKind::Conflict);
    app.put(&ada, "b", &[("g", b"1")]).await.ok();
    let done: RemovedCommits = squash(&app, &ada, &set).await.json();
    assert_eq!(done.repos.iter().map(|r| r.count).collect::<Vec<_>>(), [1, 1]);

    // Nothing schedules here, so the job waits for ever.
    let spec = json!({"pipeline": {"name": "p"}, "transform": {"cmd": ["true"]},
        "input": {"pfs": {"repo": "a", "glob": "/*"}}});
    app.post(&ada, "/v1/pipelines", json!({"specs": [spec]})).await.ok();
    let put: Commit = app.put(&ada, "a", &[("h", b"1")]).await.json();
    app.put(&ada, "a", &[("i", b"1")]).await.ok();
    let refused = squash(&app, &ada, &format!("a@{}", put.id))
        .await
        .refused(ProblemKind::Conflict);
    assert!(refused.detail.contains("a job that reads"), "{}", refused.detail);
    let before: Page<Job> = app.get(&ada, "/v1/jobs?pipeline=p").await.json();
    assert_eq!(before.items.len(), 3);
    let done: RemovedCommits = remove(&app, &ada, "drop", &format!("a@{}", put.id), json!({"force": true}))
        .await
        .json();
    assert_eq!(done.jobs.len(), 2);
    let jobs: Page<Job> = app.get(&ada, "/v1/jobs?pipeline=p").await.json();
    let states: Vec<JobState> = jobs.items.iter().map(|j| j.state).collect();
    assert_eq!(states, [JobState::Killed, JobState::Killed, JobState::Created]);
    assert_eq!(jobs.items[0].reason.as_deref(), Some("its commit was dropped by ada"));
    checked(&app).await;
}

async fn drop_in(rig: &Rig, person: &crate::jobs_rig::Person, reference: &str) -> RemovedCommits {
    let body = json!({"ref": reference, "force": true});
    rig.post(person, "/v1/commits/drop", body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_dropped_does_not_come_back_by_what_pipelines_remember() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    rig.put(&ada, "in", &[("a", "1")]).await;
    // Each run of a datum gives something else.
    let script = "for f in /pfs/in/*; do cat /proc/sys/kernel/random/uuid > /pfs/out/$(basename $f); done";
    let applied = rig.apply(&ada, vec![shell("p", "in", "/*", script)]).await;
    rig.settle(&ada, applied[0].commit_set.unwrap()).await;
    let kept = rig.cat(&ada, "p@main", "a").await;
    let second = rig.put(&ada, "in", &[("b", "2")]).await;
    succeeded(&rig.job(&ada, second.commit_set, "p").await, 2, 1, 1);
    let gone = rig.cat(&ada, "p@main", "b").await;

    let done = drop_in(&rig, &ada, "in@main").await;
    assert_eq!(done.repos.len(), 2, "{done:?}");
    assert_eq!(
        rig.ls(&ada, "p@main").await,
        ["/a"],
        "the branch went back, nothing had to run"
    );
    assert_eq!(rig.cat(&ada, "p@main", "a").await, kept);
    assert_eq!(rig.jobs(&ada, "p").await.len(), 2);

    let again = rig.put(&ada, "in", &[("b", "2")]).await;
    succeeded(&rig.job(&ada, again.commit_set, "p").await, 2, 1, 1);
    assert_eq!(rig.cat(&ada, "p@main", "a").await, kept);
    assert_ne!(rig.cat(&ada, "p@main", "b").await, gone);
    let removed = rig.remove(&ada, "in", "b").await;
    succeeded(&rig.job(&ada, removed.commit_set, "p").await, 1, 0, 1);
    assert_eq!(rig.ls(&ada, "p@main").await, ["/a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_base_forgot_a_result_does_not_keep_its_files() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    let first = rig.put(&ada, "in", &[("a", "1")]).await;
    let applied = rig
        .apply(&ada, vec![shell("p", "in", "/*", "cp /pfs/in/* /pfs/out/")])
        .await;
    rig.settle(&ada, applied[0].commit_set.unwrap()).await;
    let second = rig.put(&ada, "in", &[("b", "2")]).await;
    rig.settle(&ada, second.commit_set).await;
    // Back to the first, and on to another line that has `b` too: its job takes the result of the second over.
    let to = json!({"to": format!("in@{}", first.id)});
    rig.send(&ada, "PATCH", "/v1/projects/default/repos/in/branches/main", Some(to))
        .await;
    let third = rig.put(&ada, "in", &[("b", "2"), ("c", "3")]).await;
    succeeded(&rig.job(&ada, third.commit_set, "p").await, 3, 1, 2);

    drop_in(&rig, &ada, &format!("in@{}", second.id)).await;
    assert_eq!(
        rig.ls(&ada, "p@main").await,
        ["/a", "/b", "/c"],
        "what it took over it keeps"
    );
    let removed = rig.remove(&ada, "in", "b").await;
    let job = rig.job(&ada, removed.commit_set, "p").await;
    assert_eq!(job.state, JobState::Success, "{:?}", job.reason);
    assert_eq!(rig.ls(&ada, "p@main").await, ["/a", "/c"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelines_of_several_inputs_run_again_on_what_is_left() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    for repo in ["a", "b"] {
        rig.repo(&ada, repo).await;
        rig.put(&ada, repo, &[("f", "1")]).await;
    }
    let mut spec = shell("p", "a", "/*", "cat /pfs/a/f /pfs/b/f > /pfs/out/f");
    spec["input"] = json!({"cross": [
        {"pfs": {"repo": "a", "glob": "/*"}}, {"pfs": {"repo": "b", "glob": "/*"}}]});
    let applied = rig.apply(&ada, vec![spec]).await;
    rig.settle(&ada, applied[0].commit_set.unwrap()).await;
    let wrong = rig.put(&ada, "a", &[("f", "wrong")]).await;
    rig.settle(&ada, wrong.commit_set).await;
    let right = rig.put(&ada, "b", &[("f", "2")]).await;
    rig.settle(&ada, right.commit_set).await;
    assert_eq!(rig.cat(&ada, "p@main", "f").await, "wrong2");

    drop_in(&rig, &ada, &format!("a@{}", wrong.id)).await;
    let newest = rig.jobs(&ada, "p").await.remove(0);
    succeeded(&rig.job(&ada, newest.commit_set, "p").await, 1, 1, 0);
    assert_eq!(rig.cat(&ada, "p@main", "f").await, "12");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_base_lost_an_input_by_a_squash_is_planned_from_the_start() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    let first = rig.put(&ada, "in", &[("a", "1"), ("b", "2")]).await;
    let applied = rig
        .apply(&ada, vec![shell("p", "in", "/*", "cp /pfs/in/* /pfs/out/")])
        .await;
    rig.settle(&ada, applied[0].commit_set.unwrap()).await;
    // Without a run in between, so that the first is still the base when it is squashed.
    let _: Value = rig.post(&ada, "/v1/pipelines/default/p/stop", json!({})).await;
    rig.remove(&ada, "in", "b").await;
    let _: RemovedCommits = rig
        .post(&ada, "/v1/commits/squash", json!({"ref": format!("in@{}", first.id)}))
        .await;
    let _: Value = rig.post(&ada, "/v1/pipelines/default/p/start", json!({})).await;
    let newest = rig.jobs(&ada, "p").await.remove(0);
    succeeded(&rig.job(&ada, newest.commit_set, "p").await, 1, 0, 1);
    assert_eq!(rig.ls(&ada, "p@main").await, ["/a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_runs_while_a_result_that_it_took_over_is_forgotten_makes_it_itself() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    let first = rig.put(&ada, "in", &[("a", "1")]).await;
    let script = "[ -e /pfs/in/slow ] && sleep 4; cp /pfs/in/* /pfs/out/";
    let applied = rig.apply(&ada, vec![shell("p", "in", "/*", script)]).await;
    rig.settle(&ada, applied[0].commit_set.unwrap()).await;
    let second = rig.put(&ada, "in", &[("b", "2")]).await;
    rig.settle(&ada, second.commit_set).await;
    let to = json!({"to": format!("in@{}", first.id)});
    rig.send(&ada, "PATCH", "/v1/projects/default/repos/in/branches/main", Some(to))
        .await;
    let third = rig.put(&ada, "in", &[("b", "2"), ("slow", "3")]).await;
    testkit::wait::wait_until("the job to run", LIMIT, async || {
        rig.jobs(&ada, "p").await[0].state == JobState::Running
    })
    .await;

    drop_in(&rig, &ada, &format!("in@{}", second.id)).await;
    succeeded(&rig.job(&ada, third.commit_set, "p").await, 3, 1, 2);
    assert_eq!(rig.ls(&ada, "p@main").await, ["/a", "/b", "/slow"]);
}
