//! Many writers of one open commit: they do not wait for each other, make no object each, and nothing that was
//! acknowledged is missing, also when somebody finishes the commit meanwhile.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::app::{App, Person};
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
