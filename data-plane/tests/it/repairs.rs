//! `fsck`: whatever is damaged is found, whatever refers to it, and what there is another copy of is repaired.

use std::path::PathBuf;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use contract::policy::OrganizationRole;
use data_plane::garbage::collect;
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStoreExt;
use serde_json::Value;
use storage::PackInfo;
use tower::ServiceExt;

use crate::app::{App, Person};
use crate::room::{bucket, noise, packs};
use crate::s3::Server;
use crate::s3_bucket::bucket_of;

/// Flips a byte of this content in the first pack that holds it.
fn damage(app: &App, content: &[u8]) -> PathBuf {
    let mut packs: Vec<PathBuf> = std::fs::read_dir(bucket(app).join("packs"))
        .unwrap()
        .map(|pack| pack.unwrap().path())
        .collect();
    packs.sort();
    for path in packs {
        let mut bytes = std::fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(64).position(|window| window == &content[..64]) {
            bytes[at] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            return path;
        }
    }
    panic!("no pack holds it");
}

async fn fsck(app: &App, person: &Person, method: &str) -> Vec<(String, String)> {
    let text = app
        .call(person, method, "/v1/fsck?deep=true", "".into())
        .await
        .ok()
        .text();
    let line = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        let field = |name: &str| line[name].as_str().unwrap().to_owned();
        (field("severity"), field("subject"))
    };
    text.lines().map(line).collect()
}

fn has(lines: &[(String, String)], severity: &str, subject: &str) -> bool {
    lines
        .iter()
        .any(|(found, about)| found == severity && about.starts_with(subject))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_pack_is_written_anew_from_a_copy_and_without_one_it_is_listed() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    let owner = app.member_as("owner", OrganizationRole::Owner).await;
    for repo in ["one", "other"] {
        app.repo(&ada, repo).await;
        app.put(&ada, repo, &[("twice", &noise(1, 300_000)), (repo, &noise(2, 9_000))])
            .await
            .ok();
    }
    assert!(has(&fsck(&app, &owner, "GET").await, "ok", "all"));

    let pack = damage(&app, &noise(1, 300_000));
    let damaged = std::fs::read(&pack).unwrap();
    let found = fsck(&app, &owner, "GET").await;
    assert!(
        has(&found, "error", "commit ") && has(&found, "error", "all"),
        "{found:?}"
    );
    assert_eq!(std::fs::read(&pack).unwrap(), damaged, "a check changes nothing");
    let repaired = fsck(&app, &owner, "POST").await;
    assert!(
        has(&repaired, "repaired", "packs/") && has(&repaired, "ok", "all"),
        "{repaired:?}"
    );
    for repo in ["one", "other"] {
        let content = app.cat(&ada, &format!("{repo}@main"), "twice").await.ok().body.clone();
        assert_eq!(content, noise(1, 300_000));
    }

    app.put(&ada, "one", &[("once", &noise(3, 300_000))]).await.ok();
    damage(&app, &noise(3, 300_000));
    let left = fsck(&app, &owner, "POST").await;
    assert!(
        has(&left, "warning", "packs/") && !has(&left, "repaired", ""),
        "{left:?}"
    );
    assert!(has(&left, "error", "commit ") && has(&left, "error", "all"), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn packs_that_are_gone_come_back_from_the_disk_cache_if_something_needs_them_and_else_are_listed() {
    let server = Server::start().await;
    let cache = tempfile::tempdir().unwrap();
    let app = App::on_store(bucket_of(&server, cache.path().join("packs"))).await;
    let ada = app.member("ada").await;
    let owner = app.member_as("owner", OrganizationRole::Owner).await;
    for (repo, seed) in [("kept", 1), ("lost", 2)] {
        app.repo(&ada, repo).await;
        app.put(&ada, repo, &[("f", &noise(seed, 300_000))]).await.ok();
    }
    let body = serde_json::json!({"repo": "kept", "branch": "main"});
    app.post(&ada, "/v1/commits", body).await.ok();
    app.put(&ada, "kept", &[("open", &noise(3, 300_000))]).await.ok();
    let writer = app.plane.storage.writer();
    let unneeded = writer.write_file(&noise(4, 300_000)[..], false).await.unwrap();
    writer.flush().await.unwrap();
    app.plane.storage.read_all(&unneeded).await.unwrap();
    app.cat(&ada, "kept@main", "f").await.ok();
    let mut held: Vec<PackInfo> = app.plane.storage.packs().try_collect().await.unwrap();
    held.sort_by_key(|pack| pack.id);
    for pack in &held {
        let place = format!("packs/{}", pack.id);
        server.client().delete(&place.as_str().into()).await.unwrap();
    }

    let told = fsck(&app, &owner, "GET").await;
    assert!(
        has(&told, "error", "commit ") && !has(&told, "repaired", ""),
        "{told:?}"
    );
    let told = fsck(&app, &owner, "POST").await;
    let count = |severity: &str| {
        let packs = told
            .iter()
            .filter(|(found, about)| found == severity && about.starts_with("packs/"));
        packs.count()
    };
    // What an open commit was given was never read, so nothing of it is kept.
    assert_eq!((count("repaired"), count("warning")), (1, 2), "{told:?}");
    assert!(
        has(&told, "error", "commit ") && has(&told, "error", "open commit "),
        "{told:?}"
    );
    let content = app.cat(&ada, "kept@main", "f").await.ok().body.clone();
    assert_eq!(content, noise(1, 300_000));
    let now: Vec<PackInfo> = app.plane.storage.packs().try_collect().await.unwrap();
    assert_eq!(now.len(), 1, "what nothing refers to stays gone");
    assert!(
        held.iter()
            .any(|pack| (pack.id, pack.size_bytes) == (now[0].id, now[0].size_bytes))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_that_a_client_put_is_not_repaired_before_it_is_known_to_be_what_it_said() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    let owner = app.member_as("owner", OrganizationRole::Owner).await;
    for repo in ["one", "other"] {
        app.repo(&ada, repo).await;
        app.put(&ada, repo, &[("twice", &noise(1, 300_000))]).await.ok();
    }
    let name = damage(&app, &noise(1, 300_000));
    let damaged = std::fs::read(&name).unwrap();
    let upload: contract::api::Upload = app
        .post(&ada, "/v1/uploads", serde_json::json!({"repo": "one"}))
        .await
        .json();
    let pack: storage::Digest = name.file_name().unwrap().to_str().unwrap().parse().unwrap();
    sqlx::query(
        "insert into upload_packs (pack, upload_id, key, path, from_byte, chunks, announced_at, state)
         values ($1, $2, '', 'f', 0, '', now(), 'taking')",
    )
    .bind(&pack.as_bytes()[..])
    .bind(upload.id.uuid())
    .execute(&app.plane.pool)
    .await
    .unwrap();
    let told = fsck(&app, &owner, "POST").await;
    assert!(
        !has(&told, "repaired", "") && !has(&told, "warning", "packs/"),
        "{told:?}"
    );
    assert_eq!(std::fs::read(&name).unwrap(), damaged);

    sqlx::query("update upload_packs set state = 'kept'")
        .execute(&app.plane.pool)
        .await
        .unwrap();
    let told = fsck(&app, &owner, "POST").await;
    assert!(has(&told, "repaired", "packs/") && has(&told, "ok", "all"), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_let_go_of_while_a_check_runs_is_no_damage() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    let owner = app.member_as("owner", OrganizationRole::Owner).await;
    for (repo, seed) in [("kept", 1), ("gone", 2)] {
        app.repo(&ada, repo).await;
        app.put(&ada, repo, &[("f", &noise(seed, 300_000))]).await.ok();
    }
    let before = packs(&app);
    let request =
        axum::http::Request::get("/v1/fsck?deep=true").header("authorization", format!("Bearer {}", owner.token));
    let answer = app.router.clone().oneshot(request.body(Body::empty()).unwrap()).await;
    let mut lines = answer.unwrap().into_body().into_data_stream();
    // It comes when all commits were read and the first was looked at.
    assert!(lines.next().await.unwrap().unwrap().is_empty());
    app.delete(&ada, "/v1/projects/default/repos/gone?force=true")
        .await
        .ok();
    for _ in 0..3 {
        collect(&app.plane, Duration::ZERO, false).await.unwrap();
    }
    assert!(packs(&app) < before);
    let rest: Vec<Bytes> = lines.try_collect().await.unwrap();
    let told = String::from_utf8(rest.concat()).unwrap();
    assert!(told.contains("2 commits checked, nothing is wrong"), "{told}");
}

/// Lets an upload have what the open commit was given.
async fn keep_part(app: &App, person: &Person) {
    app.repo(person, "u").await;
    let new = serde_json::json!({"repo": "u"});
    let upload: contract::api::Upload = app.post(person, "/v1/uploads", new).await.json();
    sqlx::query(
        "insert into upload_parts (upload_id, key, whole, from_byte, to_byte, changes, packs)
         select $1, $2, true, 0, 9, changes, '' from filesets limit 1",
    )
    .bind(upload.id.uuid())
    .bind(&[7_u8; 32][..])
    .execute(&app.plane.pool)
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_of_what_open_commits_and_results_refer_to_is_found() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    let owner = app.member_as("owner", OrganizationRole::Owner).await;
    app.repo(&ada, "r").await;
    let body = serde_json::json!({"repo": "r", "branch": "main"});
    app.post(&ada, "/v1/commits", body).await.ok();
    app.put(&ada, "r", &[("large", &noise(1, 300_000))]).await.ok();
    let pool = &app.plane.pool;
    sqlx::query("alter table datum_results drop constraint datum_results_job_id_fkey")
        .execute(pool)
        .await
        .unwrap();
    let writer = app.plane.storage.writer();
    let file = writer.write_file(&noise(2, 300_000)[..], false).await.unwrap();
    writer.flush().await.unwrap();
    keep_part(&app, &ada).await;
    let outputs = storage::encode_entries(&[("out".parse().unwrap(), file)]).unwrap();
    sqlx::query(
        "insert into datum_results (pipeline_id, key, job_id, outputs, created_at)
         values (gen_random_uuid(), 'key', gen_random_uuid(), $1, now())",
    )
    .bind(outputs)
    .execute(pool)
    .await
    .unwrap();
    assert!(has(&fsck(&app, &owner, "GET").await, "ok", "all"));

    damage(&app, &noise(1, 300_000));
    let found = fsck(&app, &owner, "GET").await;
    assert!(
        ["open commit ", "unfinished upload "]
            .iter()
            .all(|subject| has(&found, "error", subject))
            && !has(&found, "error", "a datum"),
        "{found:?}"
    );
    damage(&app, &noise(2, 300_000));
    let found = fsck(&app, &owner, "GET").await;
    assert!(has(&found, "error", "a datum's result of pipeline "), "{found:?}");

    sqlx::query("update filesets set changes = 'nonsense'")
        .execute(pool)
        .await
        .unwrap();
    sqlx::query("update upload_parts set changes = 'nonsense'")
        .execute(pool)
        .await
        .unwrap();
    sqlx::query("update datum_results set outputs = 'nonsense'")
        .execute(pool)
        .await
        .unwrap();
    std::fs::write(bucket(&app).join("forwards").join("ab".repeat(32)), b"nonsense").unwrap();
    let found = fsck(&app, &owner, "GET").await;
    for subject in ["open commit ", "unfinished upload ", "a datum's result", "forwards/"] {
        assert!(has(&found, "error", subject), "{subject} {found:?}");
    }
    let left = fsck(&app, &owner, "POST").await;
    assert!(has(&left, "warning", "forwards/"), "{left:?}");
}
