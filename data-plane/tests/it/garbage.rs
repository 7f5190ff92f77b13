//! Collection of garbage: what is not needed goes, what is needed stays, whatever happens meanwhile.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use contract::api::{CollectionReport, JobState};
use contract::policy::OrganizationRole;
use contract::problem::ProblemKind;
use data_plane::failure::Answer;
use data_plane::garbage::collect;
use data_plane::plane::Plane;
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use storage::{Storage, Store};

use crate::app::App;
use crate::faulty::{Fault, Faulty};
use crate::jobs_rig::{Rig, shell};
use crate::room::{bucket, noise, packs};

/// Once to condemn, once to free.
async fn collect_twice(plane: &Plane) -> Answer<CollectionReport> {
    collect(plane, Duration::ZERO, false).await?;
    collect(plane, Duration::ZERO, false).await
}

/// A plane beside that of the rig, on what is its.
pub async fn plane_of(rig: &Rig) -> Plane {
    let system = chassis::Environment::system();
    let key = rig.config.data_key.as_deref();
    let storage = data_plane::stores::open_encrypted(&rig.config.store, key, &system);
    Plane::new(rig.config.clone(), storage.await.unwrap(), system).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_a_deleted_repo_needed_is_freed_and_nothing_else() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "kept").await;
    app.repo(&ada, "gone").await;
    app.put(&ada, "kept", &[("large", &noise(1, 5 << 20)), ("small", b"small")])
        .await
        .ok();
    app.put(&ada, "gone", &[("large", &noise(2, 5 << 20))]).await.ok();
    let first = collect(&app.plane, Duration::ZERO, false).await.unwrap();
    assert_eq!((first.freed_packs, first.condemned_packs), (0, 0), "{first:?}");
    let before = packs(&app);

    app.delete(&ada, "/v1/projects/default/repos/gone?force=true")
        .await
        .ok();
    let told = collect(&app.plane, Duration::ZERO, true).await.unwrap();
    assert_eq!(told.condemned_packs, 0, "a dry run lets go of nothing: {told:?}");
    let condemned = collect(&app.plane, Duration::ZERO, false).await.unwrap();
    assert!(condemned.condemned_bytes > 5 << 20, "{condemned:?}");
    assert_eq!(packs(&app), before, "condemned is not gone");
    let young = collect(&app.plane, Duration::from_secs(3600), false).await.unwrap();
    assert_eq!(young.freed_packs, 0, "{young:?}");
    let freed = collect(&app.plane, Duration::ZERO, false).await.unwrap();
    assert!(freed.freed_bytes > 5 << 20, "{freed:?}");
    assert_eq!(packs(&app) as u64, before as u64 - freed.freed_packs);

    assert_eq!(app.cat(&ada, "kept@main", "large").await.ok().body, noise(1, 5 << 20));
    assert_eq!(app.cat(&ada, "kept@main", "small").await.ok().text(), "small");
    let owner = app.member_as("owner", OrganizationRole::Owner).await;
    let checked = app.get(&owner, "/v1/fsck?deep=true").await.ok().text();
    assert!(checked.lines().count() == 1 && checked.contains("\"ok\""), "{checked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_open_commit_was_given_is_needed_and_what_was_given_back_is_not() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    app.post(&ada, "/v1/commits", serde_json::json!({"repo": "r", "branch": "main"}))
        .await
        .ok();
    app.put(
        &ada,
        "r",
        &[("large", &noise(1, 5 << 20)), ("small", &noise(2, 200_000))],
    )
    .await
    .ok();
    // What an interrupted process wrote and nobody knows of.
    let stray = app.plane.storage.writer();
    stray.write_file(&noise(3, 3 << 20)[..], false).await.unwrap();
    stray.flush().await.unwrap();

    let freed = collect_twice(&app.plane).await.unwrap();
    assert!(freed.freed_bytes >= 3 << 20 && freed.freed_bytes < 4 << 20, "{freed:?}");

    app.call(&ada, "POST", "/v1/commits/finish?ref=r@main", "".into())
        .await
        .ok();
    assert_eq!(app.cat(&ada, "r@main", "large").await.ok().body, noise(1, 5 << 20));
    assert_eq!(app.cat(&ada, "r@main", "small").await.ok().body, noise(2, 200_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_that_died_in_the_middle_is_taken_up_and_one_that_meets_damage_removes_nothing() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    app.repo(&ada, "r").await;
    // The note is still there, the pack is not.
    let gone = vec![7_u8; 32];
    sqlx::query("insert into condemned_packs (id, condemned_at) values ($1, $2)")
        .bind(&gone)
        .bind(app.plane.now())
        .execute(&app.plane.pool)
        .await
        .unwrap();
    collect(&app.plane, Duration::ZERO, false).await.unwrap();
    let notes: i64 = sqlx::query_scalar("select count(*) from condemned_packs")
        .fetch_one(&app.plane.pool)
        .await
        .unwrap();
    assert_eq!(notes, 0);

    app.put(&ada, "r", &[("f", b"something")]).await.ok();
    let stray = app.plane.storage.writer();
    stray.write_file(&noise(3, 3 << 20)[..], false).await.unwrap();
    stray.flush().await.unwrap();
    let before = packs(&app);
    for pack in std::fs::read_dir(bucket(&app).join("packs")).unwrap() {
        let path = pack.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        if bytes.len() < 100_000 {
            bytes.iter_mut().for_each(|b| *b ^= 1);
            std::fs::write(&path, bytes).unwrap();
        }
    }
    let refused = collect_twice(&app.plane).await.unwrap_err();
    assert_eq!(refused.kind(), ProblemKind::Corrupt, "{refused}");
    assert_eq!(packs(&app), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_pack_that_is_hardly_needed_what_is_needed_moves_and_the_rest_is_freed() {
    let app = App::start().await;
    let ada = app.member("ada").await;
    let owner = app.member_as("owner", OrganizationRole::Owner).await;
    app.repo(&ada, "kept").await;
    app.repo(&ada, "gone").await;
    app.put(
        &ada,
        "gone",
        &[("large", &noise(1, 5 << 20)), ("small", &noise(2, 500_000))],
    )
    .await
    .ok();
    let body = serde_json::json!({"from_ref": "gone", "from_path": "/small", "repo": "kept", "path": "/small"});
    app.post(&ada, "/v1/copies", body).await.ok();
    app.delete(&ada, "/v1/projects/default/repos/gone?force=true")
        .await
        .ok();
    // The repo is forgotten by a run that is no dry one; with a grace everything is too young to be touched.
    let young = collect(&app.plane, Duration::from_secs(3600), false).await.unwrap();
    assert_eq!((young.repacked_packs, young.sparse_packs), (0, 1), "{young:?}");
    let told = collect(&app.plane, Duration::ZERO, true).await.unwrap();
    let before = packs(&app);
    let repacked = collect(&app.plane, Duration::ZERO, false).await.unwrap();
    assert_eq!((told.repacked_packs, told.copied_bytes), (1, repacked.copied_bytes));
    assert_eq!((repacked.repacked_packs, repacked.sparse_packs), (1, 0), "{repacked:?}");
    assert!((500_000..600_000).contains(&repacked.copied_bytes), "{repacked:?}");
    assert!(repacked.repacked_bytes > 5 << 20 && packs(&app) == before + 1);
    let freed = collect_twice(&app.plane).await.unwrap();
    assert!(freed.freed_bytes > 5 << 20 && freed.repacked_packs == 0, "{freed:?}");

    assert_eq!(app.cat(&ada, "kept@main", "small").await.ok().body, noise(2, 500_000));
    app.put(&ada, "kept", &[("small", &noise(2, 500_000)), ("b", b"b")])
        .await
        .ok();
    let checked = app.get(&owner, "/v1/fsck?deep=true").await.ok().text();
    assert!(checked.lines().count() == 1 && checked.contains("\"ok\""), "{checked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn that_old_forwards_cannot_be_read_makes_a_collection_no_failure_and_is_told() {
    let app = App::start().await;
    let objects = Arc::new(InMemory::new());
    let forward = format!("forwards/{}", "ab".repeat(32));
    objects
        .put(&forward.as_str().into(), "unreadable".into())
        .await
        .unwrap();
    let mut outcomes = Vec::new();
    // One call more works each time; the last ones are about the forward.
    for calls_before in 0..100 {
        let faulty = Faulty::after(Arc::clone(&objects), calls_before, Fault::Refuse);
        let store = Store::from_object_store(faulty.clone());
        let storage = Storage::new(store, storage::Options::default());
        let plane = Plane::new(app.plane.config.clone(), storage, app.environment.clone()).unwrap();
        let collected = collect(&plane, Duration::ZERO, false).await;
        if faulty.struck() == 0 {
            assert_eq!(collected.unwrap().forwards_failed, None);
            break;
        }
        outcomes.push(collected.map(|report| report.forwards_failed));
    }
    let told = |outcome: &&Result<Option<String>, _>| matches!(outcome, Ok(Some(_)));
    assert_eq!(outcomes.iter().filter(told).count(), 2, "{outcomes:?}");
    assert!(
        outcomes.iter().rev().take(2).all(|outcome| told(&outcome)),
        "{outcomes:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_manages_the_organization_collects() {
    let app = App::start().await;
    let (ada, owner) = (
        app.member("ada").await,
        app.member_as("owner", OrganizationRole::Owner).await,
    );
    let refused = app.post(&ada, "/v1/gc", serde_json::json!({})).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    let report: CollectionReport = app
        .post(&owner, "/v1/gc?dry_run=true", serde_json::json!({}))
        .await
        .json();
    assert!(report.dry_run && report.grace_seconds == 24 * 3600);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_datums_gave_is_needed_as_long_as_their_pipeline_is_there() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    rig.put(&ada, "in", &[("a", "1"), ("b", "2")]).await;
    let script = "for f in /pfs/in/*; do head -c 3000000 /dev/urandom > /pfs/out/$(basename $f); done";
    let applied = rig.apply(&ada, vec![shell("p", "in", "/*", script)]).await;
    rig.settle(&ada, applied[0].commit_set.unwrap()).await;
    let kept = rig.cat(&ada, "p@main", "a").await.len();
    // Only the result of `b` refers to what it gave, since no commit of `p` will have it any more.
    let removed = rig.remove(&ada, "in", "b").await;
    rig.settle(&ada, removed.commit_set).await;

    let plane = plane_of(&rig).await;
    let report = collect_twice(&plane).await.unwrap();
    assert_eq!(report.condemned_bytes + report.freed_bytes, 0, "{report:?}");

    let put = rig.put(&ada, "in", &[("b", "2")]).await;
    let job = rig.job(&ada, put.commit_set, "p").await;
    assert_eq!(job.state, JobState::Success);
    assert_eq!((job.datums.succeeded, job.datums.skipped), (0, 2), "{job:?}");
    assert_eq!(rig.cat(&ada, "p@main", "a").await.len(), kept);
    rig.cat(&ada, "p@main", "b").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_that_was_deleted_and_applied_again_goes_on_from_what_it_had() {
    let rig = Rig::start().await;
    let ada = rig.member("ada").await;
    rig.repo(&ada, "in").await;
    rig.put(&ada, "in", &[("a", "1"), ("b", "2")]).await;
    let spec = shell("p", "in", "/*", "cp /pfs/in/* /pfs/out/");
    let applied = rig.apply(&ada, vec![spec.clone()]).await;
    rig.settle(&ada, applied[0].commit_set.unwrap()).await;
    let (status, text) = rig.send(&ada, "DELETE", "/v1/pipelines/default/p", None).await;
    assert!(status < 300, "{status} {text}");

    let plane = plane_of(&rig).await;
    collect_twice(&plane).await.unwrap();
    rig.apply(&ada, vec![spec]).await;
    rig.put(&ada, "in", &[("a", "changed")]).await;
    let put = rig.remove(&ada, "in", "b").await;

    let job = rig.job(&ada, put.commit_set, "p").await;
    assert_eq!(job.state, JobState::Success, "{:?}", job.reason);
    assert_eq!(rig.ls(&ada, "p@main").await, ["/a"]);
    assert_eq!(rig.cat(&ada, "p@main", "a").await, "changed");
}
