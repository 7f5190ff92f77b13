//! Many writers of one open commit: they do not wait for each other, make no object each, and nothing that was
//! acknowledged is missing, also when somebody finishes the commit meanwhile.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use contract::api::{Commit, CommitState, Page};
use contract::problem::ProblemKind;
use data_plane::garbage::collect;
use serde_json::json;

use crate::app::{App, Person};
use crate::jobs_rig::{Rig, succeeded};
use crate::room::packs;

const WRITERS: usize = 8;
const PUTS: usize = 25;

/// Puts of all writers at once; the paths that were acknowledged.
async fn put_all(app: &Arc<App>, ada: &Person) -> BTreeSet<String> {
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let (app, ada) = (Arc::clone(app), ada.clone());
        writers.spawn(async move {
            let mut done = Vec::new();
            for n in 0..PUTS {
                let path = format!("w{writer}/f{n:03}");
                app.put(&ada, "r", &[(&path, path.as_bytes())]).await.ok();
                done.push(format!("/{path}"));
            }
            done
        });
    }
    writers.join_all().await.into_iter().flatten().collect()
}

async fn begin() -> (Arc<App>, Person) {
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    app.post(&ada, "/v1/commits", serde_json::json!({"repo": "r", "branch": "main"}))
        .await
        .ok();
    (Arc::new(app), ada)
}

async fn listed(app: &App, ada: &Person) -> BTreeSet<String> {
    app.ls(ada, "ref=r@main&recursive=true&limit=200")
        .await
        .into_iter()
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn single_files_of_many_writers_are_rows_until_the_commit_is_finished() {
    let (app, ada) = begin().await;
    let before = packs(&app);
    let acknowledged = put_all(&app, &ada).await;
    assert_eq!(acknowledged.len(), WRITERS * PUTS);
    assert_eq!(packs(&app), before, "no object for any of them");

    app.call(&ada, "POST", "/v1/commits/finish?ref=r@main", "".into())
        .await
        .ok();
    assert!(packs(&app) <= before + 2);
    assert_eq!(listed(&app, &ada).await, acknowledged);
    assert_eq!(app.cat(&ada, "r@main", "w3/f007").await.ok().text(), "w3/f007");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_missing_when_the_commit_is_finished_meanwhile() {
    let (app, ada) = begin().await;
    let finishing = {
        let (app, ada) = (Arc::clone(&app), ada.clone());
        tokio::spawn(async move {
            for _ in 0..3 {
                // Later ones find no open commit, or the next one.
                app.call(&ada, "POST", "/v1/commits/finish?ref=r@main", "".into()).await;
                app.post(&ada, "/v1/commits", serde_json::json!({"repo": "r", "branch": "main"}))
                    .await;
            }
        })
    };
    let acknowledged = put_all(&app, &ada).await;
    finishing.await.unwrap();
    app.call(&ada, "POST", "/v1/commits/finish?ref=r@main", "".into()).await;
    assert_eq!(listed(&app, &ada).await, acknowledged);
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_of_several_repos_finished_together_are_one_set_and_make_one_job() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    for repo in ["a", "b"] {
        rig.repo(&ada, repo).await;
    }
    let both = json!({
        "pipeline": { "name": "both" },
        "transform": { "cmd": ["/bin/sh", "-c", "cat /pfs/a/f /pfs/b/f > /pfs/out/f"] },
        "input": { "cross": [{ "pfs": { "repo": "a", "glob": "/*" } }, { "pfs": { "repo": "b", "glob": "/*" } }] },
    });
    rig.apply(&ada, vec![both]).await;
    for repo in ["a", "b"] {
        let _: Commit = rig
            .post(&ada, "/v1/commits", json!({ "repo": repo, "branch": "main" }))
            .await;
        rig.put(&ada, repo, &[("f", repo)]).await;
    }
    assert!(rig.jobs(&ada, "both").await.is_empty());

    let refs = json!({ "refs": ["a@main", "b@main"] });
    let done: Page<Commit> = rig.post(&ada, "/v1/commits/finish-together", refs).await;
    let sets: BTreeSet<_> = done.items.iter().map(|c| c.commit_set).collect();
    assert_eq!((done.items.len(), sets.len()), (2, 1));
    assert!(done.items.iter().all(|c| c.state == CommitState::Finished));
    let job = rig.job(&ada, done.items[0].commit_set, "both").await;
    succeeded(&job, 1, 1, 0);
    assert_eq!(rig.jobs(&ada, "both").await.len(), 1);
    assert_eq!(rig.cat(&ada, "both@main", "f").await, "ab");
}

#[tokio::test]
async fn commits_that_cannot_all_be_finished_stay_open_all() {
    let (app, ada) = begin().await;
    app.repo(&ada, "other").await;
    app.post(&ada, "/v1/commits", json!({"repo": "other", "branch": "main"}))
        .await
        .ok();
    app.put(&ada, "r", &[("fine", b"1")]).await.ok();
    app.put(&ada, "other", &[("a", b"1")]).await.ok();
    app.put(&ada, "other", &[("a/b", b"1")]).await.ok();
    let finish = async |refs: serde_json::Value| {
        app.post(&ada, "/v1/commits/finish-together", json!({ "refs": refs }))
            .await
    };
    finish(json!(["r@main", "other@main"]))
        .await
        .refused(ProblemKind::Conflict);
    for wrong in [json!([]), json!(["r@main", "r@main"])] {
        finish(wrong).await.refused(ProblemKind::Invalid);
    }
    assert_eq!(
        finish(json!(["r@main", "nothing@main"])).await.status,
        StatusCode::NOT_FOUND
    );
    app.delete(&ada, "/v1/files?repo=other&path=/a").await.ok();
    let done: Page<Commit> = finish(json!(["r@main", "other@main"])).await.json();
    assert_eq!(done.items[0].commit_set, done.items[1].commit_set);
    finish(json!(["r@main"])).await.refused(ProblemKind::CommitFinished);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_of_very_many_files_is_put_into_an_open_commit_and_outlives_collections() {
    const FILES: usize = 33_000;
    let (app, ada) = begin().await;
    let named: Vec<String> = (0..FILES).map(|n| format!("d{}/{n}", n % 7)).collect();
    let files: Vec<(&str, &[u8])> = named.iter().map(|name| (name.as_str(), name.as_bytes())).collect();
    app.put(&ada, "r", &[("d0/0", b"old"), ("else", b"where")]).await.ok();
    app.put(&ada, "r", &files).await.ok();
    for _ in 0..2 {
        collect(&app.plane, Duration::ZERO, false).await.unwrap();
    }

    let finished: Commit = app
        .call(&ada, "POST", "/v1/commits/finish?ref=r@main", "".into())
        .await
        .json();

    assert_eq!(finished.files, FILES as u64 + 1);
    for (name, content) in [("d0/0", "d0/0"), ("d6/32997", "d6/32997"), ("else", "where")] {
        assert_eq!(app.cat(&ada, "r@main", name).await.ok().text(), content);
    }
}
