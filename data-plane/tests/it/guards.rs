//! What somebody may not know does not reach him by a detour: reasons, explanations, histories, waiting, pipelines that
//! read what was moved below them.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, header};
use contract::api::{Commit, Decision, Explanation, Job, Page, Pipeline, Project};
use contract::policy::{OrganizationRole, Release, Role};
use contract::problem::ProblemKind;
use futures::StreamExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::app::{App, Person, Reply, escape};

fn spec(name: &str, repo: &str, branch: &str) -> Value {
    json!({
        "pipeline": { "name": name },
        "description": format!("over {repo}"),
        "transform": { "cmd": ["/bin/sh", "-c", format!("cp /pfs/{repo}/* /pfs/out")] },
        "input": { "pfs": { "repo": repo, "branch": branch, "glob": "/*" } },
    })
}

async fn apply(app: &App, person: &Person, spec: Value) -> Reply {
    app.post(person, "/v1/pipelines", json!({ "specs": [spec] })).await
}

async fn copy(app: &App, person: &Person, from: &str, to: &str) -> Reply {
    let body = json!({"from_ref": from, "from_path": "/plan", "repo": to, "path": "/plan"});
    app.post(person, "/v1/copies", body).await
}

/// `secret` with a file that was copied into `shared`.
async fn secret_in_shared(app: &App, ada: &Person) -> (contract::api::Repo, contract::api::Repo) {
    let secret = app.repo(ada, "secret").await;
    let shared = app.repo(ada, "shared").await;
    app.put(ada, "secret", &[("plan", b"x")]).await.ok();
    app.put(ada, "shared", &[("a", b"1")]).await.ok();
    copy(app, ada, "secret", "shared").await.ok();
    (secret, shared)
}

async fn repo(app: &App, person: &Person, name: &str) -> contract::api::Repo {
    app.get(person, &format!("/v1/projects/default/repos/{name}"))
        .await
        .json()
}

#[tokio::test]
async fn a_pipelines_reason_is_told_to_readers_of_all_that_its_job_read() {
    let app = App::start().await;
    let (ada, bob) = (app.member("ada").await, app.member("bob").await);
    let (secret, shared) = secret_in_shared(&app, &ada).await;
    let mut guarded = spec("p", "shared", "main");
    guarded["max_origins"] = json!(["default/shared"]);
    apply(&app, &ada, guarded).await.ok();
    let p = repo(&app, &ada, "p").await;
    app.grant(&bob, Role::Viewer, &shared).await;
    app.grant(&bob, Role::Viewer, &p).await;
    let shown: Pipeline = app.get(&bob, "/v1/pipelines/default/p").await.json();
    assert_eq!(shown.reason, None);
    app.grant(&bob, Role::Viewer, &secret).await;
    let shown: Pipeline = app.get(&bob, "/v1/pipelines/default/p").await.json();
    let reason = shown.reason.unwrap();
    assert!(
        reason.starts_with("OriginGuardViolated") && reason.contains("default/secret;"),
        "{reason}"
    );
}

#[tokio::test]
async fn a_job_that_a_release_opened_does_not_tell_of_inputs_that_stay_closed() {
    let app = App::start().await;
    let (ada, bob) = (app.member("ada").await, app.member("bob").await);
    let images = app.repo(&ada, "images").await;
    app.put(&ada, "images", &[("x", b"1")]).await.ok();
    app.put(&ada, "images", &[("x", b"2")]).await.ok();
    let mut stopped = spec("p", "images", "absent");
    apply(&app, &ada, stopped.clone()).await.ok();
    let p = repo(&app, &ada, "p").await;
    app.grant(&bob, Role::Viewer, &p).await;
    stopped["input"]["pfs"]["branch"] = json!("main");
    apply(
        &app,
        &ada,
        json!({"pipeline": {"name": "q"}, "transform": {"cmd": ["true"]}, "input": stopped["input"]}),
    )
    .await
    .ok();
    let q = repo(&app, &ada, "q").await;
    app.grant(&bob, Role::Viewer, &q).await;
    let digest = app
        .get(&ada, "/v1/pipelines/default/q")
        .await
        .json::<Pipeline>()
        .spec_digest;
    let now = app.plane.now();
    let release = Release {
        id: app.environment.id(),
        domains: vec![images.id],
        pipeline: q.id,
        spec_digest: digest,
        purpose: "scores".to_owned(),
        approvers: Vec::new(),
        retroactive: false,
        created_at: now,
        expires_at: now + chrono::Duration::days(30),
        revoked_at: None,
    };
    app.control.change(|s| s.releases.push(release));
    app.caught_up().await;
    let put: Commit = app.put(&ada, "images", &[("x", b"3")]).await.json();
    let jobs: Page<Job> = app.get(&bob, "/v1/jobs?pipeline=q").await.json();
    let job = &jobs.items[0];
    assert_eq!((jobs.items.len(), job.commit_set), (1, put.commit_set));
    app.post(&ada, &format!("/v1/jobs/{}/stop", job.id), json!({}))
        .await
        .ok();

    let uri = format!("/v1/jobs/{}", job.id);
    let seen: Job = app.get(&bob, &uri).await.json();
    assert_eq!(seen.reason.as_deref(), Some("restricted"));
    let commit = format!("/v1/commits?ref=q@{}", job.output_commit);
    let seen: Commit = app.get(&bob, &commit).await.json();
    assert_eq!(seen.reason.as_deref(), Some("restricted"));
    let refused = app.cat(&bob, &format!("q@{}", job.output_commit), "x").await;
    assert!(!refused.text().contains("stopped by"), "{}", refused.text());
    let seen: Job = app.get(&ada, &uri).await.json();
    assert_eq!(seen.reason.as_deref(), Some("stopped by ada"));
}

#[tokio::test]
async fn a_branch_that_a_pipeline_reads_is_moved_only_by_who_could_apply_the_pipeline() {
    let app = App::start().await;
    let (ada, eve) = (app.member("ada").await, app.member("eve").await);
    let (secret, shared) = secret_in_shared(&app, &ada).await;
    app.grant(&eve, Role::Contributor, &shared).await;
    apply(&app, &eve, spec("mine", "shared", "x")).await.ok();
    let branches = "/v1/projects/default/repos/shared/branches";
    let from = |name: &str| json!({"name": name, "from": "shared@main"});
    app.post(&eve, branches, from("x"))
        .await
        .refused(ProblemKind::NotAllowed);
    app.grant(&eve, Role::Viewer, &secret).await;
    let problem = app
        .post(&eve, branches, from("x"))
        .await
        .refused(ProblemKind::NotAllowed);
    assert!(
        problem.detail.contains("`derive` on `default/secret`") && problem.hint.unwrap().contains("ada"),
        "{}",
        problem.detail
    );
    app.post(&eve, branches, json!({"name": "x"})).await.ok();
    app.patch(&eve, &format!("{branches}/x"), json!({"to": "shared@main"}))
        .await
        .refused(ProblemKind::NotAllowed);
    let jobs: Page<Job> = app.get(&eve, "/v1/jobs").await.json();
    assert!(jobs.items.is_empty(), "nothing ran on what eve may not derive from");

    app.post(&eve, branches, from("unread")).await.ok();
    app.grant(&eve, Role::Deriver, &secret).await;
    app.patch(&eve, &format!("{branches}/x"), json!({"to": "shared@main"}))
        .await
        .ok();
}

#[tokio::test]
async fn waiting_ends_with_the_right_to_read() {
    let app = App::start().await;
    let (ada, bob) = (app.member("ada").await, app.member("bob").await);
    let r = app.repo(&ada, "r").await;
    app.post(&ada, "/v1/commits", json!({"repo": "r"})).await.ok();
    app.put(&ada, "r", &[("f", b"1")]).await.ok();
    let grant = app.grant(&bob, Role::Viewer, &r).await;
    let mut waiting = std::pin::pin!(app.get(&bob, "/v1/wait?target=r@main&timeout_seconds=60"));
    let early = tokio::time::timeout(Duration::from_millis(500), &mut waiting).await;
    assert!(early.is_err(), "an open commit is waited for");
    app.revoke(grant).await;
    app.post(&ada, "/v1/commits/finish?ref=r@main", json!({})).await.ok();
    waiting.await.refused(ProblemKind::NotFound);
}

#[tokio::test]
async fn a_check_of_everything_breaks_off_when_its_caller_manages_no_more() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    let boss = app.member_as("boss", OrganizationRole::Owner).await;
    app.repo(&ada, "r").await;
    for content in [b"1", b"2", b"3"] {
        app.put(&ada, "r", &[("f", content)]).await.ok();
    }
    let request = Request::get("/v1/fsck")
        .header(header::AUTHORIZATION, format!("Bearer {}", boss.token))
        .body(Body::empty())
        .unwrap();
    let response = app.router.clone().oneshot(request).await.unwrap();
    let mut lines = response.into_body().into_data_stream();
    lines.next().await.unwrap().unwrap();
    app.control.change(|s| {
        let boss = s.members.iter_mut().find(|m| m.name == "boss").unwrap();
        boss.role = OrganizationRole::Member;
    });
    app.caught_up().await;
    let mut rest = String::new();
    while let Some(Ok(bytes)) = lines.next().await {
        rest.push_str(&String::from_utf8_lossy(&bytes));
    }
    assert!(rest.contains("broke off after 1 commits"), "{rest}");
}

#[tokio::test]
async fn older_versions_of_a_pipeline_do_not_name_inputs_that_are_hidden() {
    let app = App::start().await;
    let (ada, bob) = (app.member("ada").await, app.member("bob").await);
    app.repo(&ada, "hidden").await;
    let open = app.repo(&ada, "open").await;
    let mut telling = spec("p", "hidden", "main");
    telling["pod_patch"] = json!([{ "op": "add", "path": "/metadata/labels/of", "value": "hidden" }]);
    telling["scheduling_spec"] = json!({ "node_selector": { "for": "hidden" } });
    telling["tolerations"] = json!([{ "key": "hidden" }]);
    telling["salt"] = json!("hidden");
    apply(&app, &ada, telling).await.ok();
    apply(&app, &ada, spec("p", "open", "main")).await.ok();
    let p = repo(&app, &ada, "p").await;
    app.grant(&bob, Role::Viewer, &p).await;
    app.grant(&bob, Role::Viewer, &open).await;
    let uri = "/v1/pipelines/default/p/history";
    let text = app.get(&bob, uri).await.text();
    assert!(!text.contains("hidden"), "{text}");
    let seen: Page<Pipeline> = app.get(&bob, uri).await.json();
    assert_eq!(seen.items[0].spec["input"]["pfs"]["repo"], "open");
    assert_eq!(seen.items[1].spec["input"], "restricted");
    let seen: Page<Pipeline> = app.get(&ada, uri).await.json();
    assert_eq!(seen.items[1].spec["input"]["pfs"]["repo"], "hidden");
    // A repo that is not there any more cannot be told from one that is hidden.
    app.delete(&ada, "/v1/projects/default/repos/hidden?force=true")
        .await
        .ok();
    let seen: Page<Pipeline> = app.get(&ada, uri).await.json();
    assert_eq!(seen.items[1].spec["input"], "restricted");
}

#[tokio::test]
async fn an_explanation_and_the_read_agree_on_refs_in_every_state() {
    let app = App::start().await;
    let (ada, bob) = (app.member("ada").await, app.member("bob").await);
    let (_, shared) = secret_in_shared(&app, &ada).await;
    let open = app.repo(&ada, "open").await;
    app.post(&ada, "/v1/commits", json!({"repo": "open"})).await.ok();
    copy(&app, &ada, "secret", "open").await.ok();
    let plain = app.repo(&ada, "plain").await;
    app.post(&ada, "/v1/commits", json!({"repo": "plain"})).await.ok();
    let mut guarded = spec("errored", "shared", "main");
    guarded["max_origins"] = json!(0);
    apply(&app, &ada, guarded).await.ok();
    let errored = repo(&app, &ada, "errored").await;
    let empty = app.repo(&ada, "empty").await;
    for repo in [&shared, &open, &plain, &errored, &empty] {
        app.grant(&bob, Role::Viewer, repo).await;
    }
    let mut decided = Vec::new();
    for reference in [
        "shared",
        "shared@main^",
        "open",
        "plain",
        "errored",
        "shared@absent",
        "open@absent",
    ] {
        for person in [&ada, &bob] {
            let read = app.get(person, &format!("/v1/log?ref={}", escape(reference))).await;
            let told = app
                .get(person, &format!("/v1/access/explain?ref={}", escape(reference)))
                .await;
            if !told.status.is_success() {
                assert_eq!(told.status, read.status, "{reference}");
                continue;
            }
            let told: Explanation = told.json();
            let allowed = told.decision == Decision::Allow;
            assert_eq!(allowed, read.status.is_success(), "{reference}: {}", read.text());
            decided.push((reference, allowed));
        }
    }
    assert!(decided.contains(&("open", false)) && decided.contains(&("open", true)));
    assert!(decided.contains(&("errored", false)) && decided.contains(&("plain", true)));
    let told: Explanation = app.get(&bob, "/v1/access/explain?ref=empty").await.json();
    assert_eq!(
        told.decision,
        Decision::Allow,
        "the repo itself, where there is nothing else"
    );
}

#[tokio::test]
async fn code_that_reaches_the_network_needs_declassify_on_all_that_it_reads() {
    let app = App::start().await;
    let (ada, bob) = (app.member("ada").await, app.member("bob").await);
    let images = app.repo(&ada, "images").await;
    app.put(&ada, "images", &[("x", b"1")]).await.ok();
    app.grant(&bob, Role::Contributor, &images).await;
    let online = |name: &str| {
        let mut online = spec(name, "images", "main");
        online["network"] = json!("internet");
        online
    };
    let problem = apply(&app, &bob, online("bobs")).await.refused(ProblemKind::NotAllowed);
    assert!(
        problem.detail.contains("`declassify` on `default/images`"),
        "{}",
        problem.detail
    );
    apply(&app, &bob, spec("bobs", "images", "main")).await.ok();
    apply(&app, &ada, online("adas")).await.ok();

    // What comes into the input later was not ada's to send away.
    app.repo(&bob, "notes").await;
    app.put(&bob, "notes", &[("plan", b"x")]).await.ok();
    copy(&app, &bob, "notes", "images").await.ok();
    let jobs = sqlx::query_as::<_, (String, Option<String>)>(
        "select j.state, j.reason from jobs j join repos r on r.id = j.pipeline_id where r.name = 'adas' order by j.seq",
    )
    .fetch_all(&app.plane.pool)
    .await
    .unwrap();
    assert_eq!(jobs[0], ("created".to_owned(), None));
    assert_eq!(jobs[1].0, "failure");
    let reason = jobs[1].1.as_deref().unwrap();
    assert!(
        reason.starts_with("EgressNotAllowed") && !reason.contains("notes"),
        "{reason}"
    );
}

#[tokio::test]
async fn who_may_write_without_reading_learns_nothing_of_what_is_there() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    app.put(&ada, "r", &[("hidden/file", b"1"), ("other", b"22")])
        .await
        .ok();
    let writer = app.scoped(&ada, &["write:default/r"]);
    let made: Commit = app.put(&writer, "r", &[("mine", b"3")]).await.json();
    assert_eq!((made.files, made.size_bytes, made.digest), (0, 0, None));
    for path in ["absent", "other"] {
        let made: Commit = app
            .delete(&writer, &format!("/v1/files?repo=r&path={path}"))
            .await
            .json();
        assert_eq!((made.files, made.size_bytes, made.digest), (0, 0, None), "{path}");
    }
    let problem = app
        .put(&writer, "r", &[("hidden", b"4")])
        .await
        .refused(ProblemKind::Conflict);
    assert!(!format!("{problem:?}").contains("file`"), "{problem:?}");
    let problem = app
        .put(&ada, "r", &[("hidden", b"4")])
        .await
        .refused(ProblemKind::Conflict);
    assert!(problem.detail.contains("hidden"), "{}", problem.detail);
    app.delete(&ada, "/v1/files?repo=r&path=absent")
        .await
        .refused(ProblemKind::NotFound);
    let made: Commit = app.put(&ada, "r", &[("mine", b"3")]).await.json();
    assert_eq!(made.files, 2);
}

#[tokio::test]
async fn a_scoped_token_makes_no_pipelines_elsewhere_and_sees_no_other_projects() {
    let app = App::start().await;
    let ada = app.member_as("ada", OrganizationRole::Owner).await;
    app.post(&ada, "/v1/projects", json!({"name": "other"})).await.ok();
    app.repo(&ada, "images").await;
    let scoped = app.scoped(&ada, &["derive:default/images"]);
    apply(&app, &scoped, spec("p", "images", "main"))
        .await
        .refused(ProblemKind::NotAllowed);
    app.get(&ada, "/v1/projects/default/repos/p")
        .await
        .refused(ProblemKind::NotFound);
    let scoped_to_it = app.scoped(&ada, &["derive:default/images", "admin:default/p"]);
    apply(&app, &scoped_to_it, spec("p", "images", "main")).await.ok();

    let names = async |person: &Person| {
        let page: Page<Project> = app.get(person, "/v1/projects").await.json();
        page.items.into_iter().map(|p| p.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(&ada).await, ["default", "other"]);
    assert_eq!(names(&scoped).await, ["default"]);
    assert_eq!(names(&app.scoped(&ada, &["read:project:other"])).await, ["other"]);
    assert_eq!(names(&app.scoped(&ada, &["read:*"])).await, ["default", "other"]);
}

#[tokio::test]
async fn a_cursor_of_jobs_does_not_count_the_jobs_of_others() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "images").await;
    apply(&app, &ada, spec("p", "images", "main")).await.ok();
    for content in [b"1", b"2", b"3"] {
        app.put(&ada, "images", &[("x", content)]).await.ok();
    }
    let page: Page<Job> = app.get(&ada, "/v1/jobs?limit=1").await.json();
    let cursor = hex::decode(page.next_cursor.unwrap()).unwrap();
    let id = page.items[0].id.to_string();
    let readable = cursor.windows(id.len()).any(|bytes| bytes == id.as_bytes());
    assert!(!readable, "a cursor tells nothing");
    // Nonce and tag, and an id in quotation marks: no count of what was passed.
    assert_eq!(cursor.len(), 24 + 16 + id.len() + 2);
    let all: Vec<Job> = app.all(&ada, "/v1/jobs?limit=1").await;
    let at_once: Page<Job> = app.get(&ada, "/v1/jobs").await.json();
    let ids = |jobs: &[Job]| jobs.iter().map(|j| j.id).collect::<Vec<_>>();
    assert_eq!((all.len(), ids(&all)), (3, ids(&at_once.items)));
}

#[tokio::test]
async fn an_open_commit_holds_its_branch_and_ends_with_its_repo() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    let open: Commit = app.post(&ada, "/v1/commits", json!({"repo": "r"})).await.json();
    app.put(&ada, "r", &[("f", b"1")]).await.ok();
    app.delete(&ada, "/v1/projects/default/repos/r/branches/main")
        .await
        .refused(ProblemKind::Conflict);
    app.delete(&ada, "/v1/projects/default/repos/r").await.ok();
    let state: String = sqlx::query_scalar("select state from commits where id = $1")
        .bind(open.id.uuid())
        .fetch_one(&app.plane.pool)
        .await
        .unwrap();
    let left: i64 = sqlx::query_scalar("select count(*) from filesets")
        .fetch_one(&app.plane.pool)
        .await
        .unwrap();
    assert_eq!((state.as_str(), left), ("errored", 0));
}
