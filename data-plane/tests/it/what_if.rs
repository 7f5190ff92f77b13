//! What a change would do to who can read what, and who did read what was made from something (R12).

use contract::api::{Exposed, Page, Pipeline, ReadingShift};
use contract::policy::{Grant, Grantee, Principal, Resource, Role};
use serde_json::{Value, json};

use crate::jobs_rig::{Person, Rig, shell};

const COPY: &str = "cp /pfs/*/x /pfs/out/";

/// images -> found -> score; bob may read `score` alone, by a grant that lacks the rest.
async fn story(rig: &Rig) -> (Person, Person) {
    let (ada, bob) = (rig.member("ada").await, rig.member("bob").await);
    rig.repo(&ada, "images").await;
    rig.put(&ada, "images", &[("x", "1")]).await;
    let specs = vec![
        shell("found", "images", "/*", COPY),
        shell("score", "found", "/*", COPY),
    ];
    let applied = rig.apply(&ada, specs).await;
    rig.settle(&ada, applied[0].commit_set.unwrap()).await;
    rig.grant(&bob, Role::Viewer, "score");
    (ada, bob)
}

async fn asked(rig: &Rig, person: &Person, question: Value) -> Vec<(String, Vec<String>, Vec<String>)> {
    let page: Page<ReadingShift> = rig.post(person, "/v1/access/what-if", question).await;
    let repos = |shifted: &[contract::api::ShiftedRepo]| {
        let one = |s: &contract::api::ShiftedRepo| match s.commits {
            Some(n) => format!("{} {n}", s.repo),
            None => format!("{} to come", s.repo),
        };
        shifted.iter().map(one).collect()
    };
    page.items
        .iter()
        .map(|s| (s.name.clone(), repos(&s.gains), repos(&s.loses)))
        .collect()
}

fn own_project(rig: &Rig, person: &Person) {
    let Principal::Account(account) = person.principal else {
        panic!("an account is wanted");
    };
    let id = rig.environment().id();
    rig.control.change(|s| {
        s.grants.push(Grant {
            id,
            grantee: Grantee::Account(account),
            role: Role::Owner,
            resource: Resource::Project("default".parse().unwrap()),
        });
    });
}

fn gains(name: &str, repos: &[&str]) -> (String, Vec<String>, Vec<String>) {
    let repos = repos.iter().map(|r| (*r).to_owned()).collect();
    (name.to_owned(), repos, Vec::new())
}

fn loses(name: &str, repos: &[&str]) -> (String, Vec<String>, Vec<String>) {
    let (name, repos, none) = gains(name, repos);
    (name, none, repos)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_is_asked_about_is_answered_with_who_gains_and_loses_and_changes_nothing() {
    let rig = Rig::start().await;
    let (ada, bob) = story(&rig).await;
    let epoch = rig.control.epoch();

    let all = json!({ "grant": { "subject": "user:bob", "role": "viewer", "resource": "project:default" } });
    let expected = ["default/found 1", "default/images 1", "default/score 1"];
    own_project(&rig, &ada);
    assert_eq!(asked(&rig, &ada, all).await, [gains("bob", &expected)]);

    // Without `images` and `found` he still lacks what `score` was made from.
    let one = json!({ "grant": { "subject": "user:bob", "role": "viewer", "resource": "found" } });
    assert!(asked(&rig, &ada, one).await.is_empty());

    let released = json!({ "release": { "domains": ["images", "found"], "pipeline": "score" } });
    assert_eq!(
        asked(&rig, &ada, released).await,
        [gains("bob", &["default/score to come"])]
    );
    let half = json!({ "release": { "domains": ["images"], "pipeline": "score" } });
    assert!(asked(&rig, &ada, half).await.is_empty());

    assert!(
        rig.control.epoch() <= epoch + 1,
        "only the test itself changed the policy"
    );
    let (status, _) = rig.send(&bob, "GET", "/v1/content?ref=score&path=/x", None).await;
    assert_eq!(status, 403, "asking gave bob nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_more_input_locks_out_of_outputs_to_come_who_may_not_read_it_also_downstream() {
    let rig = Rig::start().await;
    let (ada, bob) = story(&rig).await;
    for repo in ["images", "found"] {
        rig.grant(&bob, Role::Viewer, repo);
    }
    rig.repo(&ada, "secret").await;
    rig.put(&ada, "secret", &[("x", "2")]).await;
    let question = json!({ "input": { "pipeline": "found", "input": "secret@main" } });
    let expected = ["default/found to come", "default/score to come"];
    assert_eq!(asked(&rig, &ada, question.clone()).await, [loses("bob", &expected)]);
    // Bob may not know of `secret`, and manages nothing.
    let (status, text) = rig.send(&bob, "POST", "/v1/access/what-if", Some(question)).await;
    assert_eq!(status, 403, "{text}");
    assert!(!text.contains("secret"), "{text}");
    let score: Pipeline = rig.get(&ada, "/v1/pipelines/default/score").await;
    assert_eq!(score.version, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_could_not_make_the_change_learns_nothing_by_asking_about_it() {
    let rig = Rig::start().await;
    let (_, bob) = story(&rig).await;
    for (question, expected) in [
        (
            json!({ "grant": { "subject": "user:bob", "role": "viewer", "resource": "images" } }),
            404,
        ),
        (
            json!({ "grant": { "subject": "user:ada", "role": "viewer", "resource": "score" } }),
            403,
        ),
        (
            json!({ "grant": { "subject": "user:ada", "role": "viewer", "resource": "org" } }),
            403,
        ),
        (json!({ "leave": { "subject": "user:ada" } }), 403),
        (
            json!({ "revoke": { "grant": "grt_00000000000070008000000000000000" } }),
            404,
        ),
        (
            json!({ "release": { "domains": ["images"], "pipeline": "score" } }),
            404,
        ),
        (json!({ "release": { "domains": ["score"], "pipeline": "score" } }), 403),
        (
            json!({ "revoke_release": { "release": "rel_00000000000070008000000000000000" } }),
            404,
        ),
        (json!({ "input": { "pipeline": "score", "input": "images@main" } }), 403),
        (json!({ "input": { "pipeline": "found", "input": "score@main" } }), 404),
    ] {
        let (status, text) = rig
            .send(&bob, "POST", "/v1/access/what-if", Some(question.clone()))
            .await;
        assert_eq!(status, expected, "{question}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_read_what_was_made_from_a_repo_is_told_to_who_manages_it() {
    let rig = Rig::start().await;
    let (ada, bob) = story(&rig).await;
    let exposed = |since: &str| format!("/v1/access/exposure?repo=images{since}");
    for repo in ["images", "found"] {
        rig.grant(&bob, Role::Viewer, repo);
    }
    let before: Page<Exposed> = rig.get(&ada, &exposed("")).await;
    assert!(before.items.iter().all(|e| e.name != "bob"), "{before:?}");
    let commit: contract::api::Commit = rig.get(&bob, "/v1/commits?ref=score").await;
    rig.cat(&bob, "score", "/x").await;
    rig.cat(&bob, "score", "/x").await;

    let after: Page<Exposed> = rig.get(&ada, &exposed("")).await;
    let read: Vec<&str> = after
        .items
        .iter()
        .filter(|e| e.name == "bob")
        .map(|e| e.read.as_str())
        .collect();
    assert_eq!(read, [format!("default/score@{}", commit.id)]);
    let later = (rig.environment().now() + chrono::Duration::hours(2))
        .to_rfc3339()
        .replace('+', "%2B");
    let none: Page<Exposed> = rig.get(&ada, &exposed(&format!("&since={later}"))).await;
    assert!(none.items.is_empty(), "{none:?}");
    let (status, _) = rig.send(&bob, "GET", &exposed(""), None).await;
    assert_eq!(status, 403, "bob reads the repo and does not manage it");
}
