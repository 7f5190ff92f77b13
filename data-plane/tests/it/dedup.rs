//! What a put brings again under another path is found in the repo, by who may read it, and for as long as it stays.

use std::time::Duration;

use contract::api::{Commit, Purge, PurgeState};
use contract::policy::{OrganizationRole, Role};
use data_plane::garbage::collect;
use serde_json::json;

use crate::app::{App, Person};
use crate::room::{bucket, noise};

/// Bytes of all packs.
fn stored(app: &App) -> u64 {
    let packs = std::fs::read_dir(bucket(app).join("packs")).unwrap();
    packs.map(|pack| pack.unwrap().metadata().unwrap().len()).sum()
}

/// How much of what is put is stored anew, in percent.
async fn anew(app: &App, person: &Person, query: &str, files: &[(String, Vec<u8>)]) -> u64 {
    let borrowed: Vec<(&str, &[u8])> = files.iter().map(|(path, bytes)| (&path[..], &bytes[..])).collect();
    let before = stored(app);
    app.put_with(person, query, &borrowed).await.ok();
    let bytes: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
    (stored(app) - before) * 100 / bytes as u64
}

fn one(path: &str, seed: u64, length: usize) -> Vec<(String, Vec<u8>)> {
    vec![(path.to_owned(), noise(seed, length))]
}

/// A directory of small files.
fn many(directory: &str) -> Vec<(String, Vec<u8>)> {
    let file = |n: u64| (format!("{directory}/{n:04}"), noise(1000 + n, 4 << 10));
    (0..2000).map(file).collect()
}

async fn checked(app: &App) {
    let owner = app.member_as("checker", OrganizationRole::Owner).await;
    let lines = app.get(&owner, "/v1/fsck?deep=true").await.ok().text();
    assert!(lines.lines().count() == 1 && lines.contains("\"ok\""), "{lines}");
}

async fn rows(app: &App) -> i64 {
    let count = sqlx::query_scalar("select count(*) from chunk_samples");
    count.fetch_one(&app.plane.pool).await.unwrap()
}

async fn digest(app: &App, person: &Person, reference: &str) -> Option<String> {
    let commit: Commit = app.get(person, &format!("/v1/commits?ref={reference}")).await.json();
    assert!(commit.digest.is_some());
    commit.digest
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_directory_is_hardly_stored_again_and_its_tree_is_the_same_as_if_it_were() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    app.repo(&ada, "plain").await;
    let blind = app.scoped(&ada, &["write:default/plain"]);
    for (repo, person, most) in [("r", &ada, 0..10), ("plain", &blind, 100..200)] {
        assert!(anew(&app, person, &format!("repo={repo}"), &many("old")).await >= 100);
        let percent = anew(&app, person, &format!("repo={repo}"), &many("new")).await;
        assert!(most.contains(&percent), "{repo}: {percent} %");
    }
    assert_eq!(
        digest(&app, &ada, "r@main").await,
        digest(&app, &ada, "plain@main").await
    );
    let read = app.cat(&ada, "r@main", "new/1234").await.ok().body.clone();
    assert!(read == noise(2234, 4 << 10));
    checked(&app).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_a_large_file_is_hardly_stored_again_on_any_branch_and_in_no_other_repo() {
    const LENGTH: usize = 64 << 20;
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    app.repo(&ada, "other").await;
    assert!(anew(&app, &ada, "repo=r", &one("a", 1, LENGTH)).await >= 100);
    let percent = anew(&app, &ada, "repo=r&branch=side", &one("d/b", 1, LENGTH)).await;
    assert!(percent < 15, "{percent} %");
    let percent = anew(&app, &ada, "repo=other", &one("b", 1, LENGTH)).await;
    assert!(percent >= 100, "{percent} %");
    let read = app.cat(&ada, "r@side", "d/b").await.ok().body.clone();
    assert!(read == noise(1, LENGTH));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_read_a_commit_stores_what_is_in_it_again() {
    let app = App::start().await;
    let (ada, bob) = (app.member("ada").await, app.member("bob").await);
    app.repo(&ada, "secret").await;
    let shared = app.repo(&ada, "r").await;
    app.grant(&bob, Role::Contributor, &shared).await;
    let files = |path: &str| one(path, 5, 12 << 20);
    anew(&app, &ada, "repo=r", &files("a")).await;
    let blind = app.scoped(&ada, &["write:default/r"]);
    let percent = anew(&app, &blind, "repo=r", &files("blind")).await;
    assert!(percent >= 100, "{percent} %");
    let percent = anew(&app, &bob, "repo=r", &files("bob")).await;
    assert!(percent < 50, "{percent} %");

    // What is beside something that bob may not read is not his either.
    app.put(&ada, "secret", &[("s", b"secret")]).await.ok();
    let copy = json!({"from_ref": "secret@main", "from_path": "s", "repo": "r", "branch": "mixed", "path": "s"});
    app.post(&ada, "/v1/copies", copy).await.ok();
    let files = |path: &str| one(path, 6, 12 << 20);
    anew(&app, &ada, "repo=r&branch=mixed", &files("a")).await;
    let percent = anew(&app, &bob, "repo=r", &files("b")).await;
    assert!(percent >= 100, "{percent} %");
    let percent = anew(&app, &ada, "repo=r", &files("c")).await;
    assert!(percent < 50, "{percent} %");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_open_commit_was_given_is_found_when_it_is_finished() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    app.post(&ada, "/v1/commits", json!({"repo": "r"})).await.ok();
    let files = |path: &str| one(path, 5, 12 << 20);
    anew(&app, &ada, "repo=r", &files("a")).await;
    let percent = anew(&app, &ada, "repo=r&branch=side", &files("a")).await;
    assert!(percent >= 100, "{percent} %");
    sqlx::query("delete from chunk_samples s using commits c where c.id = s.commit_id and c.state = 'finished'")
        .execute(&app.plane.pool)
        .await
        .unwrap();
    app.post(&ada, "/v1/commits/finish?ref=r@main", json!({})).await.ok();
    let percent = anew(&app, &ada, "repo=r&branch=side", &files("b")).await;
    assert!(percent < 50, "{percent} %");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_put_is_led_to_a_pack_that_is_condemned_or_was_repacked_or_is_gone() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    let files = |path: &str| one(path, 5, 12 << 20);
    anew(&app, &ada, "repo=r", &files("a")).await;
    // As between the answer to a look-up and the next.
    sqlx::query("insert into condemned_packs select distinct pack, now() from chunk_samples")
        .execute(&app.plane.pool)
        .await
        .unwrap();
    assert!(anew(&app, &ada, "repo=r", &files("b")).await >= 100);
    sqlx::query("delete from condemned_packs")
        .execute(&app.plane.pool)
        .await
        .unwrap();
    assert!(anew(&app, &ada, "repo=r", &files("c")).await < 50);

    // Who had it goes: it is condemned, and with that forgotten.
    app.repo(&ada, "s").await;
    anew(&app, &ada, "repo=s", &files("kept")).await;
    let dropped = one("d", 9, 12 << 20);
    anew(&app, &ada, "repo=s", &dropped).await;
    let kept = rows(&app).await;
    app.post(&ada, "/v1/commits/drop", json!({"ref": "s@main"})).await.ok();
    collect(&app.plane, Duration::ZERO, false).await.unwrap();
    let left = rows(&app).await;
    assert!(left < kept, "{left} of {kept} rows");
    assert!(anew(&app, &ada, "repo=s", &dropped).await >= 100);
    collect(&app.plane, Duration::ZERO, false).await.unwrap();
    assert!(anew(&app, &ada, "repo=s", &one("e", 9, 12 << 20)).await < 50);
    checked(&app).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_leads_to_no_pack_does_no_harm() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    let files = |path: &str| one(path, 5, 12 << 20);
    anew(&app, &ada, "repo=r", &files("a")).await;
    sqlx::query("update chunk_samples set pack = decode(repeat('07', 32), 'hex'), next_pack = 'short'")
        .execute(&app.plane.pool)
        .await
        .unwrap();
    assert!(anew(&app, &ada, "repo=r", &files("b")).await >= 100);
    checked(&app).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_sparse_pack_that_is_repacked_nothing_is_found_any_more() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    let both = [one("large", 1, 8 << 20), one("small", 2, 2 << 20)].concat();
    anew(&app, &ada, "repo=r", &both).await;
    app.repo(&ada, "s").await;
    let copy = json!({"from_ref": "r@main", "from_path": "small", "repo": "s", "path": "small"});
    app.post(&ada, "/v1/copies", copy).await.ok();
    app.put(&ada, "r", &[("kept", b"kept")]).await.ok();
    app.delete(&ada, "/v1/files?repo=r&path=large").await.ok();
    for reference in ["r@main^", "r@main^"] {
        let body = json!({"ref": reference, "force": true});
        app.post(&ada, "/v1/commits/squash", body).await.ok();
    }
    // The samples are those of a commit that is still there.
    let head: Commit = app.get(&ada, "/v1/commits?ref=r@main").await.json();
    sqlx::query("update chunk_samples set commit_id = $1")
        .bind(head.id.uuid())
        .execute(&app.plane.pool)
        .await
        .unwrap();
    let execute = async |sql: &'static str| sqlx::query(sql).execute(&app.plane.pool).await.unwrap();
    execute("create table before as select * from chunk_samples").await;
    assert!(rows(&app).await > 0);
    let report = collect(&app.plane, Duration::ZERO, false).await.unwrap();
    assert!(report.repacked_packs > 0 && report.freed_packs == 0, "{report:?}");
    assert_eq!(rows(&app).await, 0);
    // Neither if rows of it were still there.
    execute("insert into chunk_samples select * from before").await;
    assert!(anew(&app, &ada, "repo=r", &one("again", 1, 8 << 20)).await >= 100);
    for _ in 0..2 {
        collect(&app.plane, Duration::ZERO, false).await.unwrap();
    }
    assert!(app.cat(&ada, "r@main", "again").await.ok().body == noise(1, 8 << 20));
    checked(&app).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_purged_is_stored_anew_and_the_receipt_ends() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    let files = |path: &str| one(path, 5, 12 << 20);
    anew(&app, &ada, "repo=r", &files("d/secret")).await;
    app.put(&ada, "r", &[("kept", b"kept")]).await.ok();
    let body = json!({"repo": "r", "path": "/d/secret"});
    let done: Purge = app.post(&ada, "/v1/purges", body).await.json();
    assert_eq!(rows(&app).await, 0);
    assert!(anew(&app, &ada, "repo=r", &files("e/again")).await >= 100);
    for _ in 0..3 {
        collect(&app.plane, Duration::ZERO, false).await.unwrap();
    }
    let receipt: Purge = app.get(&ada, &format!("/v1/purges/{}", done.id)).await.json();
    assert_eq!(receipt.state, PurgeState::Erased, "{receipt:?}");
    let read = app.cat(&ada, "r@main", "e/again").await.ok().body.clone();
    assert!(read == noise(5, 12 << 20));
    checked(&app).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn puts_at_once_of_the_same_content_share_what_was_there() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    anew(&app, &ada, "repo=r", &one("a", 5, 12 << 20)).await;
    let before = stored(&app);
    let bytes = noise(5, 12 << 20);
    let paths = ["b", "c", "d", "e"];
    let file = |path| [(path, &bytes[..])];
    let files = paths.map(file);
    let puts = files.each_ref().map(|file| app.put(&ada, "r", file));
    for put in futures::future::join_all(puts).await {
        put.ok();
    }
    let more = stored(&app) - before;
    assert!(more < 24 << 20, "{more} bytes");
    for path in paths {
        assert!(app.cat(&ada, "r@main", path).await.ok().body == bytes, "{path}");
    }
    checked(&app).await;
}
